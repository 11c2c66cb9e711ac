//! What is believed of a segment at start.
//!
//! Pure over the segment's bytes. The rule: one batch is written at a time and the next one only
//! after the device has confirmed it, so only the very last batch can be torn by a crash. Damage
//! with anything valid after it is not a torn write, and cutting there would drop entries that
//! were acknowledged.

use protocol::ids::ClusterId;

use super::format::{Record, SegmentHeader, decode_batch};
use super::{Entry, LogId, Vote};
use crate::limits::LOG_PAGE;

/// Where the believed part of the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Place of the last entry.
    pub last: LogId,
    /// Newest vote.
    pub vote: Vote,
    /// Checksum of the last batch.
    pub chain: u128,
}

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its last batch.
    Clean,
    /// With a batch that a crash left incomplete; nothing valid follows it.
    Torn {
        /// First byte to cut.
        offset: usize,
    },
    /// Damaged where a crash cannot have been the cause.
    Corrupt {
        /// First byte that is not believed.
        offset: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Position at the start of a segment.
pub fn start_of(header: &SegmentHeader) -> Position {
    Position { last: header.previous, vote: header.vote, chain: header.chain }
}

/// Walks the batches of a segment whose header was checked and passes on its entries.
///
/// # Shape
/// `bytes` is the whole file, header page included.
pub fn scan<E>(
    cluster: ClusterId,
    bytes: &[u8],
    start: Position,
    visit: &mut dyn FnMut(Entry) -> Result<(), E>,
) -> Result<(Position, End), E> {
    let mut at = LOG_PAGE;
    let mut position = start;
    while at < bytes.len() {
        let what = match decode_batch(cluster, &bytes[at..]) {
            Ok(batch) if batch.chain != position.chain => "batch does not follow the one before it",
            Ok(batch) => match follow(position, batch.sum, &batch.records) {
                Some(next) => {
                    position = next;
                    at += batch.len;
                    for record in batch.records {
                        if let Record::Entry(entry) = record {
                            visit(entry)?;
                        }
                    }
                    continue;
                }
                None => "entries are out of order",
            },
            Err(what) if any_batch_after(cluster, bytes, at) => what,
            Err(_) => return Ok((position, End::Torn { offset: at })),
        };
        return Ok((position, End::Corrupt { offset: at, what }));
    }
    Ok((position, End::Clean))
}

/// The position after a batch, or `None` when its records do not continue the log.
fn follow(mut position: Position, sum: u128, records: &[Record]) -> Option<Position> {
    for record in records {
        match record {
            Record::Vote(vote) if vote.term < position.vote.term => return None,
            Record::Vote(vote) => position.vote = *vote,
            Record::Entry(entry) => {
                let next = position.last.index + 1;
                if entry.id.index != next || entry.id.term < position.last.term {
                    return None;
                }
                position.last = entry.id;
            }
        }
    }
    position.chain = sum;
    Some(position)
}

fn any_batch_after(cluster: ClusterId, bytes: &[u8], at: usize) -> bool {
    (at + LOG_PAGE..bytes.len())
        .step_by(LOG_PAGE)
        .any(|offset| decode_batch(cluster, &bytes[offset..]).is_ok())
}
