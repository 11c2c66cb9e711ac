//! What a write does to each cell of its chunk.
//!
//! Pure: it looks at lengths only. Committed bytes are never changed in place, so every touched
//! cell gets a new place.

use std::ops::Range;

use super::extent::{UNIT, units_for};
use super::state::{cell_count, cell_len};

/// Where the bytes of a touched cell come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// All of them from the payload.
    Payload,
    /// The old bytes as far as they stay, then zeros, with a piece of payload over them; either
    /// may be absent.
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
    /// Consecutive cells, ascending, that get new bytes or a new sum.
    pub(super) touched: Vec<Touched>,
    /// Cells that end with the version before.
    pub(super) dropped: Range<u32>,
    /// Cells that the payload covers, wholly or in part.
    pub(super) payload: Range<u32>,
    /// True when the payload can go to the device as it lies in memory.
    pub(super) aligned: bool,
}

/// A write as the plan sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) base_len: u32,
    pub(super) cell_log2: u8,
    pub(super) offset: u32,
    /// Bytes of payload; none for a truncation.
    pub(super) len: u32,
    /// The chunk ends at `offset` afterwards, whatever its length was.
    pub(super) truncate: bool,
    /// Put the whole chunk together again.
    pub(super) rewrite: bool,
}

impl Plan {
    /// Plans a write; the caller has checked that it ends within the chunk.
    pub(super) fn new(shape: Shape) -> Plan {
        let Shape { base_len, cell_log2, offset, len, truncate, .. } = shape;
        let end = offset + len;
        let new_len = if truncate { offset } else { base_len.max(end) };
        let cells = |len| cell_count(len, cell_log2);
        let touched: Vec<Touched> = shape
            .touched(new_len)
            .map(|cell| {
                let len = cell_len(new_len, cell_log2, cell);
                let start = cell << cell_log2;
                let covered = !truncate && offset <= start && start + len <= end;
                let source = if covered { Source::Payload } else { Source::Merge };
                Touched { cell, len, source }
            })
            .collect();
        let aligned = len > 0
            && offset.is_multiple_of(1 << cell_log2)
            && touched.iter().all(|cell| cell.source == Source::Payload);
        let payload = if len == 0 { 0..0 } else { offset >> cell_log2..cells(end) };
        Plan { new_len, touched, dropped: cells(new_len)..cells(base_len), payload, aligned }
    }

    /// The first cell that is not as it was, if there is one.
    pub(super) fn first_changed(&self) -> Option<u32> {
        let dropped = (!self.dropped.is_empty()).then_some(self.dropped.start);
        self.touched.first().map(|touched| touched.cell).or(dropped)
    }
}

impl Shape {
    fn touched(&self, new_len: u32) -> Range<u32> {
        let cells = |len| cell_count(len, self.cell_log2);
        if self.rewrite {
            return 0..cells(new_len);
        }
        if new_len < self.base_len {
            // Of what is cut only the cell that keeps a part needs a new sum.
            return new_len >> self.cell_log2..cells(new_len);
        }
        // What lies between the end and a later write changes too: the partial last cell gets
        // zeros, and whole cells begin to exist.
        let from = self.offset.min(self.base_len);
        let changes = self.len > 0 || new_len > self.base_len;
        if changes { from >> self.cell_log2..cells(self.offset + self.len) } else { 0..0 }
    }
}

/// Units a chunk reserves in all, when it is expected to reach `expect_len` bytes.
///
/// Small cells are reserved exactly, others in steps of 16 KiB, so that small files leave no
/// splinters behind.
pub(super) fn reservation(expect_len: u32, cell_log2: u8) -> u32 {
    units_for(expect_len).next_multiple_of(step(cell_log2))
}

/// Units that remain of the last step behind so many units of cells.
///
/// A chunk keeps them on every replica, whatever its history: so a copy takes what the original
/// takes, and what either leaves behind has room for cells of others.
pub(super) fn slack(units: u32, cell_log2: u8) -> u32 {
    units.next_multiple_of(step(cell_log2)) - units
}

/// Space is taken in multiples of so many units.
fn step(cell_log2: u8) -> u32 {
    if cell_log2 == 12 { 1 } else { (16 << 10) / UNIT }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape =
        Shape { base_len: 9000, cell_log2: 12, offset: 0, len: 0, truncate: false, rewrite: false };

    type Cells = Vec<(u32, u32, bool)>;

    fn plan(base_len: u32, offset: u32, len: u32) -> Cells {
        cells(&Plan::new(Shape { base_len, offset, len, ..SHAPE }))
    }

    fn cells(plan: &Plan) -> Cells {
        let payload = |cell: &Touched| cell.source == Source::Payload;
        plan.touched.iter().map(|cell| (cell.cell, cell.len, payload(cell))).collect()
    }

    fn truncate(base_len: u32, len: u32) -> (Cells, Range<u32>) {
        let plan = Plan::new(Shape { base_len, offset: len, truncate: true, ..SHAPE });
        assert_eq!((plan.new_len, plan.aligned, plan.payload.len()), (len, false, 0));
        (cells(&plan), plan.dropped)
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
        let shape = Shape { offset: 4096, len: 1, rewrite: true, ..SHAPE };
        assert_eq!(Plan::new(shape).touched.len(), 3);
        let shape = Shape { offset: 5000, truncate: true, rewrite: true, ..SHAPE };
        assert_eq!(cells(&Plan::new(shape)), [(0, 4096, false), (1, 904, false)]);
    }

    #[test]
    fn a_truncation_touches_only_the_cell_it_cuts() {
        assert_eq!(truncate(9000, 5000), (vec![(1, 904, false)], 2..3));
        assert_eq!(truncate(9000, 8192), (vec![], 2..3));
        assert_eq!(truncate(9000, 8193), (vec![(2, 1, false)], 3..3));
        assert_eq!(truncate(9000, 0), (vec![], 0..3));
        assert_eq!(truncate(9000, 9000), (vec![], 3..3));
        assert_eq!(truncate(0, 0), (vec![], 0..0));
    }

    #[test]
    fn a_truncation_that_grows_makes_a_hole() {
        let (touched, dropped) = truncate(5000, 9000);
        assert_eq!(touched, [(1, 4096, false), (2, 808, false)]);
        assert!(dropped.is_empty());
        assert_eq!(truncate(4096, 5000).0, [(1, 904, false)]);
    }

    #[test]
    fn small_files_do_not_reserve_whole_chunks() {
        assert_eq!(reservation(10 << 10, 14), 4);
        assert_eq!(reservation(17 << 10, 14), 8);
        assert_eq!(reservation(17 << 10, 12), 5);
        assert_eq!(reservation(4 << 20, 14), 1024);
    }
}
