//! Cuts byte ranges of a file into requests.

use protocol::ids::GroupId;
use protocol::layout::{Layout, LayoutError};
use protocol::limits::{READ_LEN_MAX, WRITE_LEN_MAX};

/// One request's share of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte inside the file.
    pub at: u64,
    /// Chunk index in the file.
    pub index: u32,
    /// Group that holds the chunk.
    pub group: GroupId,
    /// First byte inside the chunk.
    pub offset: u32,
    /// Bytes, at least 1.
    pub len: u32,
    /// Bytes the chunk has in a file of the given size.
    pub chunk_len: u32,
}

/// The piece of a read that starts at `at`; `None` when nothing is left before `end` or `size`.
///
/// # Shape
/// A piece ends at a multiple of [`READ_LEN_MAX`] inside its chunk (so at a cell boundary), at the
/// end of the chunk, or at the end of the range.
///
/// # Errors
/// [`LayoutError`] when the layout does not cover the range.
pub fn read_piece(
    layout: &Layout,
    size: u64,
    at: u64,
    end: u64,
) -> Result<Option<Piece>, LayoutError> {
    piece(layout, size, at, end.min(size), READ_LEN_MAX)
}

/// The piece of a write that starts at `at`; `None` when nothing is left before `end`.
///
/// # Shape
/// A whole chunk where one request can carry it; else a run of [`WRITE_LEN_MAX`] of it.
/// `chunk_len` is the length the chunk has when the file ends at `end`.
///
/// # Errors
/// [`LayoutError`] when the layout does not cover the range.
pub fn write_piece(layout: &Layout, at: u64, end: u64) -> Result<Option<Piece>, LayoutError> {
    piece(layout, end, at, end, WRITE_LEN_MAX)
}

fn piece(
    layout: &Layout,
    size: u64,
    at: u64,
    end: u64,
    len_max: u32,
) -> Result<Option<Piece>, LayoutError> {
    if at >= end {
        return Ok(None);
    }
    let chunk_log2 = layout.chunk_log2();
    let index = u32::try_from(at >> chunk_log2).map_err(|_| LayoutError::Range)?;
    let group = layout.group_of(index).ok_or(LayoutError::Segments)?;
    let start = u64::from(index) << chunk_log2;
    let chunk_end = start.saturating_add(1 << chunk_log2);
    let stop = (at - start) / u64::from(len_max) * u64::from(len_max) + u64::from(len_max) + start;
    let stop = stop.min(chunk_end).min(end);
    let narrow = |value: u64| u32::try_from(value).map_err(|_| LayoutError::Range);
    Ok(Some(Piece {
        at,
        index,
        group,
        offset: narrow(at - start)?,
        len: narrow(stop - at)?,
        chunk_len: narrow(size.min(chunk_end) - start)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::layout::Segment;

    fn layout(chunk_log2: u8) -> Layout {
        let groups = vec![GroupId(1), GroupId(2)];
        Layout { segments: vec![Segment { first_chunk: 0, chunk_log2, groups }], cell_log2: 14 }
    }

    type Cut = fn(&Layout, u64, u64, u64) -> Result<Option<Piece>, LayoutError>;

    fn cut(layout: &Layout, size: u64, mut at: u64, end: u64, next: Cut) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while let Some(piece) = next(layout, size, at, end).unwrap() {
            assert_eq!(piece.at, at, "pieces follow each other");
            assert!(piece.offset + piece.len <= piece.chunk_len);
            at += u64::from(piece.len);
            pieces.push(piece);
        }
        assert_eq!(at, end.min(size).max(at), "nothing is left out");
        pieces
    }

    #[test]
    fn reads_end_at_multiples_of_the_longest_read() {
        let pieces = cut(&layout(22), 9 << 20, 100, 9 << 20, read_piece);
        let got: Vec<_> = pieces.iter().map(|p| (p.index, p.offset, p.len)).collect();
        assert_eq!(got[0], (0, 100, (1 << 20) - 100));
        assert_eq!(got[1], (0, 1 << 20, 1 << 20));
        assert_eq!(got[4], (1, 0, 1 << 20));
        assert_eq!(got.len(), 9);
        assert_eq!(pieces[8].chunk_len, 1 << 20, "the last chunk is as long as the file says");
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        assert_eq!(cut(&layout(22), 5, 0, 100, read_piece)[0].len, 5);
        assert_eq!(read_piece(&layout(22), 5, 5, 100), Ok(None));
        assert_eq!(read_piece(&layout(22), 0, 0, 100), Ok(None));
    }

    #[test]
    fn writes_are_whole_chunks_or_runs_of_large_ones() {
        let write: Cut = |layout, _, at, end| write_piece(layout, at, end);
        let lens = |log2, len| {
            cut(&layout(log2), len, 0, len, write).iter().map(|p| p.len).collect::<Vec<_>>()
        };
        assert_eq!(lens(22, (4 << 20) + 5), [4 << 20, 5]);
        assert_eq!(lens(20, 3 << 20), [1 << 20, 1 << 20, 1 << 20]);
        assert_eq!(lens(23, 9 << 20), [4 << 20, 4 << 20, 1 << 20]);
        assert_eq!(lens(22, 7), [7]);
    }

    #[test]
    fn a_file_too_long_for_an_index_is_refused() {
        assert_eq!(
            read_piece(&layout(20), u64::MAX, u64::MAX - 5, u64::MAX),
            Err(LayoutError::Range)
        );
    }
}
