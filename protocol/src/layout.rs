//! How the bytes of a file map to chunks, groups and cells.

use std::ops::Range;

use crate::ids::GroupId;
use crate::limits::{
    CELL_LOG2_ALLOWED, CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, SEGMENT_GROUPS_MAX, SEGMENTS_MAX,
};

/// The layout stored in a file's inode: an explicit list of groups, segment by segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Ascending by `first_chunk`; the first segment starts at chunk 0.
    pub segments: Vec<Segment>,
    /// Cell size of every chunk of the file, as a power of two.
    pub cell_log2: u8,
}

/// A run of chunks that are spread over one list of groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// First chunk of the segment; it ends where the next one starts.
    pub first_chunk: u32,
    /// Chunk size, as a power of two.
    pub chunk_log2: u8,
    /// Chunk `i` lives on `groups[(i - first_chunk) % groups.len()]`.
    pub groups: Vec<GroupId>,
}

/// Where one byte range of a file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    /// Chunk index in the file.
    pub index: u32,
    /// Group that holds the chunk.
    pub group: GroupId,
    /// Size of the chunk, as a power of two.
    pub chunk_log2: u8,
    /// First byte inside the chunk.
    pub offset: u32,
    /// Bytes inside the chunk, at least 1.
    pub len: u32,
}

/// Why a layout is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No segment, too many, or the first does not start at chunk 0.
    #[error("layout must have 1 to {SEGMENTS_MAX} segments, the first at chunk 0")]
    Segments,
    /// Segments are not in ascending order.
    #[error("layout segments must ascend")]
    Order,
    /// A segment's chunk size is out of range, or two segments differ.
    #[error("chunk size out of range")]
    ChunkSize,
    /// The cell size is none of 4, 16 and 64 KiB.
    #[error("cell size must be 4, 16 or 64 KiB")]
    CellSize,
    /// A segment has no group, or too many.
    #[error("a segment must have 1 to {SEGMENT_GROUPS_MAX} groups")]
    Groups,
    /// The range lies beyond the last chunk that an index can name.
    #[error("offset beyond the largest file")]
    Range,
}

impl Layout {
    /// Checks everything the arithmetic below relies on.
    pub fn validate(&self) -> Result<(), LayoutError> {
        let first = self.segments.first().ok_or(LayoutError::Segments)?;
        if self.segments.len() > SEGMENTS_MAX || first.first_chunk != 0 {
            return Err(LayoutError::Segments);
        }
        if !self.segments.windows(2).all(|pair| pair[0].first_chunk < pair[1].first_chunk) {
            return Err(LayoutError::Order);
        }
        if !CELL_LOG2_ALLOWED.contains(&self.cell_log2) {
            return Err(LayoutError::CellSize);
        }
        for segment in &self.segments {
            // One chunk size a file keeps the byte arithmetic a shift; segments differ in groups.
            if !(CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&segment.chunk_log2)
                || segment.chunk_log2 != first.chunk_log2
            {
                return Err(LayoutError::ChunkSize);
            }
            if segment.groups.is_empty() || segment.groups.len() > SEGMENT_GROUPS_MAX {
                return Err(LayoutError::Groups);
            }
        }
        Ok(())
    }

    /// Size of every chunk of the file, as a power of two.
    pub fn chunk_log2(&self) -> u8 {
        self.segments.first().map_or(crate::limits::CHUNK_LOG2_DEFAULT, |first| first.chunk_log2)
    }

    /// The group that holds chunk `index`; `None` for a layout without segments.
    pub fn group_of(&self, index: u32) -> Option<GroupId> {
        let segment = self.segments.iter().rev().find(|segment| segment.first_chunk <= index)?;
        let turn = (index - segment.first_chunk) as usize % segment.groups.len().max(1);
        segment.groups.get(turn).copied()
    }

    /// Splits the byte range `offset..offset + len` of the file at chunk boundaries, in order.
    ///
    /// # Errors
    /// [`LayoutError::Range`] when the range reaches beyond chunk `u32::MAX`.
    pub fn split(&self, offset: u64, len: u64) -> Result<Vec<ChunkRange>, LayoutError> {
        let chunk_log2 = self.chunk_log2();
        let end = offset.checked_add(len).ok_or(LayoutError::Range)?;
        let mut ranges = Vec::new();
        let mut at = offset;
        while at < end {
            let index = u32::try_from(at >> chunk_log2).map_err(|_| LayoutError::Range)?;
            let group = self.group_of(index).ok_or(LayoutError::Segments)?;
            let start = u64::from(index) << chunk_log2;
            let stop = end.min(start + (1 << chunk_log2));
            ranges.push(ChunkRange {
                index,
                group,
                chunk_log2,
                offset: u32::try_from(at - start).map_err(|_| LayoutError::Range)?,
                len: u32::try_from(stop - at).map_err(|_| LayoutError::Range)?,
            });
            at = stop;
        }
        Ok(ranges)
    }
}

/// Cells that the bytes `offset..offset + len` of a chunk touch: first cell and count.
pub fn cells_touched(cell_log2: u8, offset: u32, len: u32) -> (u32, u32) {
    let first = offset >> cell_log2;
    if len == 0 {
        return (first, 0);
    }
    let last = (u64::from(offset) + u64::from(len) - 1) >> cell_log2;
    (first, u32::try_from(last - u64::from(first) + 1).unwrap_or(u32::MAX))
}

/// The bytes of a chunk of `chunk_len` bytes that `cells` cells from `first` on cover, half-open.
pub fn cells_covered(cell_log2: u8, first: u32, cells: usize, chunk_len: u32) -> Range<usize> {
    let start = |index: usize| index.checked_shl(cell_log2.into()).unwrap_or(usize::MAX);
    let (first, len) = (first as usize, chunk_len as usize);
    start(first).min(len)..start(first.saturating_add(cells)).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let segment = |first_chunk, groups: &[u32]| Segment {
            first_chunk,
            chunk_log2: 22,
            groups: groups.iter().map(|&id| GroupId(id)).collect(),
        };
        Layout { segments: vec![segment(0, &[9]), segment(4, &[1, 2, 3])], cell_log2: 14 }
    }

    #[test]
    fn chunks_follow_the_segment_they_fall_in() {
        let groups: Vec<_> =
            (0..9).filter_map(|index| layout().group_of(index)).map(|group| group.0).collect();
        assert_eq!(groups, [9, 9, 9, 9, 1, 2, 3, 1, 2]);
    }

    #[test]
    fn a_range_is_split_at_chunk_boundaries_and_nothing_is_lost() {
        let ranges = layout().split((4 << 22) - 10, (1 << 22) + 20).expect("in range");
        let got: Vec<_> = ranges.iter().map(|r| (r.index, r.group.0, r.offset, r.len)).collect();
        assert_eq!(got, [(3, 9, (1 << 22) - 10, 10), (4, 1, 0, 1 << 22), (5, 2, 0, 10)]);
        assert_eq!(layout().split(5, 0), Ok(vec![]));
        assert_eq!(layout().split(u64::MAX - 5, 2), Err(LayoutError::Range));
    }

    #[test]
    fn unusable_layouts_are_refused() {
        assert_eq!(layout().validate(), Ok(()));
        let broken = |edit: fn(&mut Layout)| {
            let mut layout = layout();
            edit(&mut layout);
            layout.validate()
        };
        assert_eq!(broken(|l| l.segments.clear()), Err(LayoutError::Segments));
        assert_eq!(broken(|l| l.segments[0].first_chunk = 1), Err(LayoutError::Segments));
        assert_eq!(broken(|l| l.segments[1].first_chunk = 0), Err(LayoutError::Order));
        assert_eq!(broken(|l| l.segments[1].chunk_log2 = 19), Err(LayoutError::ChunkSize));
        assert_eq!(broken(|l| l.segments[1].groups.clear()), Err(LayoutError::Groups));
        assert_eq!(broken(|l| l.cell_log2 = 13), Err(LayoutError::CellSize));
    }

    #[test]
    fn touched_cells_are_counted_at_both_ends() {
        assert_eq!(cells_touched(12, 0, 4096), (0, 1));
        assert_eq!(cells_touched(12, 4095, 2), (0, 2));
        assert_eq!(cells_touched(12, 8192, 0), (2, 0));
    }
}
