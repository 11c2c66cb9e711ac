//! Comparing an answer with its checksums.

use std::ops::Range;

use protocol::checksum::bad_cells;
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Version};
use protocol::layout::cells_touched;
use protocol::limits::CELL_LOG2_ALLOWED;
use protocol::message::chunk::ReadReply;

/// What came back for a read, after its checksums were compared; only
/// [`ReadOp::check`](super::ReadOp::check) makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRead {
    /// The part of the wanted range that the payload holds, when all of it is good.
    pub(super) found: Result<Range<usize>, Fault>,
    /// What of it is good, while a read is put together from several answers.
    pub(super) kept: Option<Kept>,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) text: String,
    /// Cells that do not match their checksums, ascending, and their version; none when the answer
    /// itself makes no sense.
    pub(super) damage: Option<(Version, Vec<u32>)>,
}

/// Good bytes of one answer, copied out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) version: Version,
    pub(super) chunk_len: u32,
    pub(super) cell_log2: u8,
    /// Each with its first byte inside the chunk.
    pub(super) parts: Vec<(u32, Vec<u8>)>,
}

/// The part of the wanted range that the payload holds, verified.
pub(super) fn check(
    key: ChunkKey,
    wanted: &Range<u32>,
    reply: &ReadReply,
    payload: &[u8],
) -> Result<Range<usize>, Fault> {
    let senseless = |text: String| Fault { text, damage: None };
    if !CELL_LOG2_ALLOWED.contains(&reply.cell_log2) {
        return Err(senseless(format!("answer with cells of 2^{} bytes", reply.cell_log2)));
    }
    let end = wanted.end.min(reply.chunk_len);
    if end <= wanted.start {
        return Ok(0..0);
    }
    let (first, count) = cells_touched(reply.cell_log2, wanted.start, end - wanted.start);
    let start = first << reply.cell_log2;
    let stop = (u64::from(first + count) << reply.cell_log2).min(u64::from(reply.chunk_len));
    let covered = stop - u64::from(start);
    if reply.first_cell != first
        || payload.len() as u64 != covered
        || reply.sums.len() != count as usize
    {
        return Err(senseless("answer does not cover the cells that were asked for".into()));
    }
    let bad = bad_cells(key, first, reply.cell_log2, payload, &reply.sums);
    let cells: Vec<u32> = bad.collect();
    match cells.first() {
        Some(cell) if guard::holds(Guard::ReadSums) => Err(Fault {
            text: format!("cell {cell} does not match its checksum"),
            damage: Some((reply.version, cells)),
        }),
        _ => Ok((wanted.start - start) as usize..(end - start) as usize),
    }
}

/// Copies out of a payload what [`check`] found to be good.
pub(super) fn keep(
    wanted: &Range<u32>,
    found: &Result<Range<usize>, Fault>,
    reply: &ReadReply,
    payload: &[u8],
) -> Option<Kept> {
    let bad: &[u32] = match found {
        Ok(_) => &[],
        Err(Fault { damage: Some((_, cells)), .. }) => cells,
        Err(_) => return None,
    };
    let start = reply.first_cell << reply.cell_log2;
    let end = wanted.end.min(reply.chunk_len);
    let mut parts = Vec::new();
    let mut at = wanted.start;
    let mut take = |until: u32, next: u32| {
        if at < until {
            let bytes = &payload[(at - start) as usize..(until - start) as usize];
            parts.push((at, bytes.to_vec()));
        }
        at = at.max(next);
    };
    for cell in bad {
        let first = cell << reply.cell_log2;
        take(first.min(end), first.saturating_add(1 << reply.cell_log2));
    }
    take(end, end);
    let (version, chunk_len, cell_log2) = (reply.version, reply.chunk_len, reply.cell_log2);
    Some(Kept { version, chunk_len, cell_log2, parts })
}
