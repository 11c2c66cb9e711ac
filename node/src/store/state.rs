//! What the store knows of one version of one chunk, in memory and in bytes.

use protocol::checksum::{CellSum, cell_sum};
use protocol::ids::{ChunkKey, Lsn, OpId, Version};
use protocol::limits::{CELL_LOG2_ALLOWED, CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, CHUNK_OP_SESSIONS_MAX};

use super::bytes::{Reader, Writer};
use super::extent::{Extent, units_for};
use super::plan::slack;

/// Chunks of at most this many cells keep sums and places in the index, without a page.
pub(super) const INLINE_CELLS_MAX: u32 = 8;
/// Cells that one descriptor page describes.
pub(super) const CELLS_PER_PAGE: u32 = 256;

/// Fields of an encoded state before its lists, in order, with their sizes in bytes.
pub(super) const STATE_FIELDS: &[(&str, usize)] = &[
    ("version", 8),
    ("len", 4),
    ("op", 16),
    ("trunc_gen", 4),
    ("cell_log2", 1),
    ("chunk_log2", 1),
    ("flags", 1),
    ("ops", 1),
    ("places", 2),
    ("extents", 2),
    ("content", 8),
    ("reserve", 8),
];
/// Items of the lists after those fields, in order, with their sizes in bytes.
#[cfg(test)]
pub(super) const STATE_ITEMS: &[(&str, usize)] =
    &[("op", 28), ("cell", 13), ("page", 13), ("extent", 8)];

const FLAG_MUTATED: u8 = 1;
const FLAG_SUSPECT: u8 = 2;
const FLAG_PAGES: u8 = 4;

/// Where one cell lies and what its bytes sum to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) sum: CellSum,
    /// First unit; 0 for a hole.
    pub(super) place: u64,
}

/// Where one descriptor page lies and the hash of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageRef {
    pub(super) place: u64,
    pub(super) hash: u64,
}

/// The cells of a chunk, here or in descriptor pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cells {
    Inline(Box<[Cell]>),
    Pages(Box<[PageRef]>),
}

/// Newest operation of one session on a chunk and what it produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpEntry {
    pub(super) op: OpId,
    pub(super) version: Version,
    pub(super) len: u32,
}

/// One version of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChunkState {
    pub(super) version: Version,
    pub(super) len: u32,
    pub(super) op: OpId,
    pub(super) trunc_gen: u32,
    pub(super) cell_log2: u8,
    pub(super) chunk_log2: u8,
    /// Ever changed other than by growth.
    pub(super) mutated: bool,
    /// Not trusted: recovery could not verify it.
    pub(super) suspect: bool,
    /// Hash of all cells' sums: equal on replicas with equal bytes.
    pub(super) content: u64,
    pub(super) ops: Box<[OpEntry]>,
    pub(super) cells: Cells,
    /// Every unit this version refers to, its reservation included; ascending.
    pub(super) owned: Box<[Extent]>,
    /// Space for growth, part of `owned`, without committed bytes.
    pub(super) reserve: Extent,
    /// Journal batch that recorded it; not part of the record itself.
    pub(super) lsn: Lsn,
}

impl ChunkState {
    /// Number of cells.
    pub(super) fn cell_count(&self) -> u32 {
        cell_count(self.len, self.cell_log2)
    }

    /// Committed bytes of one cell.
    pub(super) fn cell_len(&self, cell: u32) -> u32 {
        cell_len(self.len, self.cell_log2, cell)
    }

    /// Units behind the chunk's end that fill its last step.
    pub(super) fn slack(&self) -> u32 {
        slack(units_for(self.len), self.cell_log2)
    }

    /// Space that one cell takes when it is not a hole.
    pub(super) fn cell_extent(&self, cell: u32, place: u64) -> Extent {
        if place == 0 {
            return Extent::NONE;
        }
        Extent { start: place, units: units_for(self.cell_len(cell)) }
    }

    /// Appends everything but `lsn`.
    pub(super) fn encode(&self, out: &mut Writer) {
        let (flag, places) = match &self.cells {
            Cells::Inline(cells) => (0, cells.len()),
            Cells::Pages(pages) => (FLAG_PAGES, pages.len()),
        };
        let flags = flag
            | if self.mutated { FLAG_MUTATED } else { 0 }
            | if self.suspect { FLAG_SUSPECT } else { 0 };
        out.version(self.version).u32(self.len).op(self.op).u32(self.trunc_gen);
        out.u8(self.cell_log2).u8(self.chunk_log2).u8(flags).u8(count8(self.ops.len()));
        out.u16(count16(places)).u16(count16(self.owned.len()));
        out.u64(self.content).extent(self.reserve);
        for entry in &self.ops {
            out.op(entry.op).version(entry.version).u32(entry.len);
        }
        match &self.cells {
            Cells::Inline(cells) => {
                for cell in cells {
                    out.u64(cell.sum.0).u40(cell.place);
                }
            }
            Cells::Pages(pages) => {
                for page in pages {
                    out.u64(page.hash).u40(page.place);
                }
            }
        }
        for &extent in &self.owned {
            out.extent(extent);
        }
    }

    /// Reads what [`ChunkState::encode`] wrote; `None` when it is not sound.
    pub(super) fn decode(from: &mut Reader<'_>, lsn: Lsn) -> Option<ChunkState> {
        let (version, len, op, trunc_gen) = (from.version()?, from.u32()?, from.op()?, from.u32()?);
        let (cell_log2, chunk_log2, flags) = (from.u8()?, from.u8()?, from.u8()?);
        let ops = usize::from(from.u8()?);
        let (places, extents) = (usize::from(from.u16()?), usize::from(from.u16()?));
        let (content, reserve) = (from.u64()?, from.extent()?);
        let ops = from.list(ops, |from| {
            Some(OpEntry { op: from.op()?, version: from.version()?, len: from.u32()? })
        })?;
        let cells = if flags & FLAG_PAGES == 0 {
            Cells::Inline(from.list(places, |from| {
                Some(Cell { sum: CellSum(from.u64()?), place: from.u40()? })
            })?)
        } else {
            Cells::Pages(
                from.list(places, |from| Some(PageRef { hash: from.u64()?, place: from.u40()? }))?,
            )
        };
        let state = ChunkState {
            version,
            len,
            op,
            trunc_gen,
            cell_log2,
            chunk_log2,
            mutated: flags & FLAG_MUTATED != 0,
            suspect: flags & FLAG_SUSPECT != 0,
            content,
            ops,
            cells,
            owned: from.list(extents, Reader::extent)?,
            reserve,
            lsn,
        };
        state.is_sound().then_some(state)
    }

    /// Length of what [`ChunkState::encode`] writes.
    pub(super) fn encoded_len(&self) -> usize {
        let places = match &self.cells {
            Cells::Inline(cells) => cells.len(),
            Cells::Pages(pages) => pages.len(),
        };
        let fixed: usize = STATE_FIELDS.iter().map(|(_, size)| size).sum();
        fixed + 28 * self.ops.len() + 13 * places + 8 * self.owned.len()
    }

    /// True when every field is one that the store may write, so that recovery reads it back.
    pub(super) fn is_sound(&self) -> bool {
        let sizes = CELL_LOG2_ALLOWED.contains(&self.cell_log2)
            && (CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&self.chunk_log2)
            && self.len <= 1 << self.chunk_log2;
        let cells = cell_count(self.len, self.cell_log2.min(31));
        let places = match &self.cells {
            Cells::Inline(list) => cells <= INLINE_CELLS_MAX && list.len() == cells as usize,
            Cells::Pages(list) => {
                cells > INLINE_CELLS_MAX && list.len() == cells.div_ceil(CELLS_PER_PAGE) as usize
            }
        };
        sizes && places && self.ops.len() <= CHUNK_OP_SESSIONS_MAX
    }
}

/// Number of cells of a chunk of `len` bytes.
pub(super) fn cell_count(len: u32, cell_log2: u8) -> u32 {
    len.div_ceil(1 << cell_log2)
}

/// Committed bytes of one cell of a chunk of `len` bytes.
pub(super) fn cell_len(len: u32, cell_log2: u8, cell: u32) -> u32 {
    let size = 1u32 << cell_log2;
    len.saturating_sub(cell.saturating_mul(size)).min(size)
}

/// What one cell adds to the content hash of its chunk.
///
/// The hash is a sum over cells, so that a write needs only the cells it changes. Sums are bound
/// to their cell, so equal bytes in another cell add something else.
pub(super) fn content_share(cell: u32, sum: CellSum) -> u64 {
    let mut bytes = [0u8; 12];
    bytes[..8].copy_from_slice(&sum.0.to_le_bytes());
    bytes[8..].copy_from_slice(&cell.to_le_bytes());
    protocol::checksum::sum64(&bytes)
}

/// The checksum of a hole: of as many zeros as the cell has bytes.
pub(super) fn hole_sum(key: ChunkKey, cell: u32, len: u32) -> CellSum {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    cell_sum(key, cell, &ZEROS[..(len as usize).min(ZEROS.len())])
}

/// Adds an operation to a chunk's table: one entry a session, the newest sessions kept.
pub(super) fn remember_op(ops: &[OpEntry], entry: OpEntry) -> Box<[OpEntry]> {
    let mut kept: Vec<OpEntry> =
        ops.iter().filter(|have| have.op.session != entry.op.session).copied().collect();
    kept.push(entry);
    kept.sort_by_key(|have| have.version);
    let surplus = kept.len().saturating_sub(CHUNK_OP_SESSIONS_MAX);
    kept.drain(..surplus);
    kept.into_boxed_slice()
}

fn count8(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

fn count16(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
