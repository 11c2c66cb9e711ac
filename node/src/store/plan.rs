//! What a write does to each cell of its chunk.
//!
//! Pure: it looks at lengths only. Committed bytes are never changed in place, so every touched
//! cell gets a new place.

use super::extent::{UNIT, units_for};
use super::state::cell_len;

/// Where the bytes of a touched cell come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// All of them from the payload.
    Payload,
    /// The old bytes, then zeros, with a piece of payload over them; either may be absent.
    Merge,
}

/// One touched cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) cell: u32,
    /// Bytes of the cell after the write.
    pub(super) len: u32,
    pub(super) source: Source,
}

/// Everything one write changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) new_len: u32,
    /// Consecutive cells, ascending.
    pub(super) touched: Vec<Touched>,
    /// True when the payload can go to the device as it lies in memory.
    pub(super) aligned: bool,
}

/// A write as the plan sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) base_len: u32,
    pub(super) cell_log2: u8,
    pub(super) offset: u32,
    pub(super) len: u32,
    /// Put the whole chunk together again.
    pub(super) rewrite: bool,
}

impl Plan {
    /// Plans a write; the caller has checked that it ends within the chunk.
    pub(super) fn new(shape: Shape) -> Plan {
        let Shape { base_len, cell_log2, offset, len, rewrite } = shape;
        let end = offset + len;
        let new_len = base_len.max(end);
        // A write after the end changes the cells between: the partial last one gets zeros.
        let gap = if offset > base_len { base_len } else { offset };
        let (first, last) = if rewrite { (0, new_len) } else { (gap >> cell_log2, end) };
        let touched: Vec<Touched> = (first..last.div_ceil(1 << cell_log2))
            .map(|cell| {
                let len = cell_len(new_len, cell_log2, cell);
                let start = cell << cell_log2;
                let covered = offset <= start && start + len <= end;
                let source = if covered { Source::Payload } else { Source::Merge };
                Touched { cell, len, source }
            })
            .collect();
        let aligned = len > 0
            && offset.is_multiple_of(1 << cell_log2)
            && touched.iter().all(|cell| cell.source == Source::Payload);
        Plan { new_len, touched, aligned }
    }
}

/// Units a chunk reserves in all, when it is expected to reach `expect_len` bytes.
///
/// Small cells are reserved exactly, others in steps of 16 KiB, so that small files leave no
/// splinters behind.
pub(super) fn reservation(expect_len: u32, cell_log2: u8) -> u32 {
    let step = if cell_log2 == 12 { 1 } else { (16 << 10) / UNIT };
    units_for(expect_len).next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(base_len: u32, offset: u32, len: u32) -> Vec<(u32, u32, bool)> {
        let shape = Shape { base_len, cell_log2: 12, offset, len, rewrite: false };
        let plan = Plan::new(shape);
        let payload = |cell: &Touched| cell.source == Source::Payload;
        plan.touched.iter().map(|cell| (cell.cell, cell.len, payload(cell))).collect()
    }

    #[test]
    fn growth_of_whole_cells_takes_the_payload_as_it_is() {
        assert_eq!(plan(0, 0, 5000), [(0, 4096, true), (1, 904, true)]);
        assert_eq!(plan(4096, 4096, 4096), [(1, 4096, true)]);
    }

    #[test]
    fn a_partial_last_cell_is_merged_when_it_grows() {
        assert_eq!(plan(5000, 5000, 4000), [(1, 4096, false), (2, 808, true)]);
        assert_eq!(plan(5000, 4096, 4000), [(1, 4000, true)]);
    }

    #[test]
    fn a_write_after_the_end_touches_the_cells_between() {
        let expected = [(1, 4096, false), (2, 4096, false), (3, 4096, true)];
        assert_eq!(plan(5000, 12288, 4096), expected);
        assert_eq!(plan(4096, 12288, 1), [(1, 4096, false), (2, 4096, false), (3, 1, true)]);
    }

    #[test]
    fn an_overwrite_takes_whole_cells_when_it_covers_them() {
        assert_eq!(plan(9000, 100, 8192), [(0, 4096, false), (1, 4096, true), (2, 808, false)]);
        assert_eq!(plan(9000, 8192, 808), [(2, 808, true)]);
    }

    #[test]
    fn a_rewrite_touches_everything() {
        let shape = Shape { base_len: 9000, cell_log2: 12, offset: 4096, len: 1, rewrite: true };
        assert_eq!(Plan::new(shape).touched.len(), 3);
    }

    #[test]
    fn small_files_do_not_reserve_whole_chunks() {
        assert_eq!(reservation(10 << 10, 14), 4);
        assert_eq!(reservation(17 << 10, 14), 8);
        assert_eq!(reservation(17 << 10, 12), 5);
        assert_eq!(reservation(4 << 20, 14), 1024);
    }
}
