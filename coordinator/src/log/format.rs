//! Byte layout of the log. Pure; knows nothing of files.
//!
//! A segment is a header page and batches. Every batch starts on a page, is padded with zeros to
//! the next one, and is covered by one checksum, padding included. A batch names the checksum of
//! the batch before it, so a batch that was lost, moved or replaced breaks the chain.
//!
//! ```text
//! segment header, one page            batch, whole pages              record
//!   0  magic "LNCS"           4         0  magic "LNCB"          4      0  term         8
//!   4  format version         2         4  format version        2      8  index        8
//!   6  zero                   2         6  records               2     16  kind         1
//!   8  sequence               8         8  length, unpadded      4     17  zero         3
//!  16  cluster               16        12  zero                  4     20  length       4
//!  32  term, index before    16        16  cluster              16     24  bytes
//!  48  vote: term             8        32  chain: sum before    16
//!  56  vote: coordinator      4        48  sum                  16
//!  60  vote: committed        1        64  records
//!  61  zero                   3
//!  64  chain: sum before     16
//!  80  zero                4000
//! 4080 sum                   16
//! ```

use protocol::checksum::sum128;
use protocol::ids::{ClusterId, CoordinatorId};

use super::{Entry, LogId, Payload, Vote};
use crate::limits::{LOG_BATCH_LEN_MAX, LOG_BATCH_RECORDS_MAX, LOG_PAGE};

/// Version of this layout.
pub const FORMAT_VERSION: u16 = 1;
/// Length of a batch before its first record.
pub const BATCH_HEADER_LEN: usize = 64;
/// Length of a record before its bytes.
pub const RECORD_HEADER_LEN: usize = 24;

const SEGMENT_MAGIC: [u8; 4] = *b"LNCS";
const BATCH_MAGIC: [u8; 4] = *b"LNCB";
const SEGMENT_SUM_AT: usize = LOG_PAGE - 16;
const BATCH_SUM_AT: usize = 48;

const KIND_NOOP: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
const KIND_VOTE: u8 = 3;

/// First page of a segment: everything that came before it, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Position of the segment, from 1 without gaps.
    pub sequence: u64,
    /// Cluster the log belongs to.
    pub cluster: ClusterId,
    /// Place of the last entry before this segment.
    pub previous: LogId,
    /// Newest vote before this segment, so that older segments can be purged.
    pub vote: Vote,
    /// Checksum of the last batch before this segment.
    pub chain: u128,
}

/// One record of a batch: an entry, or a vote that stands between entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry with its own index.
    Entry(Entry),
    /// A vote.
    Vote(Vote),
}

/// A batch whose checksum holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its records, in order.
    pub records: Vec<Record>,
    /// Checksum of the batch before it.
    pub chain: u128,
    /// Its own checksum.
    pub sum: u128,
    /// Length with padding, in bytes.
    pub len: usize,
}

/// Writes the first page of a segment.
pub fn encode_segment_header(header: &SegmentHeader) -> Vec<u8> {
    let mut page = vec![0u8; LOG_PAGE];
    page[0..4].copy_from_slice(&SEGMENT_MAGIC);
    page[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    page[8..16].copy_from_slice(&header.sequence.to_le_bytes());
    page[16..32].copy_from_slice(&header.cluster.0.to_le_bytes());
    page[32..40].copy_from_slice(&header.previous.term.to_le_bytes());
    page[40..48].copy_from_slice(&header.previous.index.to_le_bytes());
    page[48..56].copy_from_slice(&header.vote.term.to_le_bytes());
    page[56..60].copy_from_slice(&header.vote.voted_for.0.to_le_bytes());
    page[60] = u8::from(header.vote.committed);
    page[64..80].copy_from_slice(&header.chain.to_le_bytes());
    let sum = sum128(&page[..SEGMENT_SUM_AT]);
    page[SEGMENT_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
    page
}

/// Reads the first page of a segment.
///
/// # Errors
/// What is wrong with it, for people.
pub fn decode_segment_header(page: &[u8]) -> Result<SegmentHeader, &'static str> {
    if page.len() < LOG_PAGE {
        return Err("segment header is cut short");
    }
    if page[0..4] != SEGMENT_MAGIC {
        return Err("not a log segment");
    }
    if u16_at(page, 4) != FORMAT_VERSION {
        return Err("log format of another release");
    }
    if sum128(&page[..SEGMENT_SUM_AT]) != u128_at(page, SEGMENT_SUM_AT) {
        return Err("segment header does not match its checksum");
    }
    Ok(SegmentHeader {
        sequence: u64_at(page, 8),
        cluster: ClusterId(u128_at(page, 16)),
        previous: LogId { term: u64_at(page, 32), index: u64_at(page, 40) },
        vote: Vote {
            term: u64_at(page, 48),
            voted_for: CoordinatorId(u32_at(page, 56)),
            committed: page[60] == 1,
        },
        chain: u128_at(page, 64),
    })
}

/// Writes a batch with padding and returns it with its checksum.
///
/// # Errors
/// What does not fit, for people.
pub fn encode_batch(
    cluster: ClusterId,
    chain: u128,
    records: &[RecordRef<'_>],
) -> Result<(Vec<u8>, u128), &'static str> {
    if records.is_empty() || records.len() > LOG_BATCH_RECORDS_MAX {
        return Err("a batch holds at least one record and at most LOG_BATCH_RECORDS_MAX");
    }
    let mut out = vec![0u8; BATCH_HEADER_LEN];
    for record in records {
        encode_record(record, &mut out)?;
    }
    let len = u32::try_from(out.len()).map_err(|_| "batch too long")?;
    let count = u16::try_from(records.len()).map_err(|_| "too many records")?;
    out.resize(out.len().next_multiple_of(LOG_PAGE), 0);
    if out.len() > LOG_BATCH_LEN_MAX {
        return Err("batch is longer than LOG_BATCH_LEN_MAX");
    }
    out[0..4].copy_from_slice(&BATCH_MAGIC);
    out[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[6..8].copy_from_slice(&count.to_le_bytes());
    out[8..12].copy_from_slice(&len.to_le_bytes());
    out[16..32].copy_from_slice(&cluster.0.to_le_bytes());
    out[32..48].copy_from_slice(&chain.to_le_bytes());
    // The sum's own bytes are still zero here, and are taken as zero when it is checked.
    let sum = sum128(&out);
    out[BATCH_SUM_AT..BATCH_HEADER_LEN].copy_from_slice(&sum.to_le_bytes());
    Ok((out, sum))
}

/// Reads the batch at the start of `bytes`, which may hold more after it.
///
/// # Errors
/// What is wrong with it, for people.
///
/// # Cost
/// Copies the records' bytes; the checksum makes one more pass over a copy of the batch.
pub fn decode_batch(cluster: ClusterId, bytes: &[u8]) -> Result<Batch, &'static str> {
    if bytes.len() < LOG_PAGE || bytes[0..4] != BATCH_MAGIC {
        return Err("no batch");
    }
    if u16_at(bytes, 4) != FORMAT_VERSION {
        return Err("log format of another release");
    }
    if u128_at(bytes, 16) != cluster.0 {
        return Err("batch of another cluster");
    }
    let used = u32_at(bytes, 8) as usize;
    let len = used.next_multiple_of(LOG_PAGE);
    if used < BATCH_HEADER_LEN || len > LOG_BATCH_LEN_MAX || len > bytes.len() {
        return Err("batch is cut short");
    }
    let sum = u128_at(bytes, BATCH_SUM_AT);
    let mut image = bytes[..len].to_vec();
    image[BATCH_SUM_AT..BATCH_HEADER_LEN].fill(0);
    if sum128(&image) != sum {
        return Err("batch does not match its checksum");
    }
    let records = decode_records(&image[BATCH_HEADER_LEN..used], u16_at(bytes, 6))?;
    Ok(Batch { records, chain: u128_at(bytes, 32), sum, len })
}

/// A record on its way into a batch.
#[derive(Clone, Copy, Debug)]
pub enum RecordRef<'a> {
    /// An entry.
    Entry(&'a Entry),
    /// A vote, standing after the entry of this index.
    Vote(Vote, u64),
}

fn encode_record(record: &RecordRef<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut vote_bytes = [0u8; 8];
    let (id, kind, bytes): (LogId, u8, &[u8]) = match record {
        RecordRef::Entry(Entry { id, payload }) => match payload {
            Payload::Noop => (*id, KIND_NOOP, &[]),
            Payload::Command(bytes) => (*id, KIND_COMMAND, bytes),
            Payload::Membership(bytes) => (*id, KIND_MEMBERSHIP, bytes),
        },
        RecordRef::Vote(vote, index) => {
            vote_bytes[0..4].copy_from_slice(&vote.voted_for.0.to_le_bytes());
            vote_bytes[4] = u8::from(vote.committed);
            (LogId { term: vote.term, index: *index }, KIND_VOTE, &vote_bytes)
        }
    };
    let len = u32::try_from(bytes.len()).map_err(|_| "record too long")?;
    out.extend_from_slice(&id.term.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn decode_records(mut bytes: &[u8], count: u16) -> Result<Vec<Record>, &'static str> {
    let mut records = Vec::with_capacity(usize::from(count).min(LOG_BATCH_RECORDS_MAX));
    for _ in 0..count {
        let (header, rest) =
            bytes.split_at_checked(RECORD_HEADER_LEN).ok_or("record is cut short")?;
        let (payload, rest) =
            rest.split_at_checked(u32_at(header, 20) as usize).ok_or("record is cut short")?;
        records.push(decode_record(header, payload)?);
        bytes = rest;
    }
    if bytes.is_empty() { Ok(records) } else { Err("batch holds more than its records") }
}

fn decode_record(header: &[u8], bytes: &[u8]) -> Result<Record, &'static str> {
    let id = LogId { term: u64_at(header, 0), index: u64_at(header, 8) };
    let payload = match header[16] {
        KIND_NOOP => Payload::Noop,
        KIND_COMMAND => Payload::Command(bytes.to_vec()),
        KIND_MEMBERSHIP => Payload::Membership(bytes.to_vec()),
        KIND_VOTE if bytes.len() == 8 => {
            return Ok(Record::Vote(Vote {
                term: id.term,
                voted_for: CoordinatorId(u32_at(bytes, 0)),
                committed: bytes[4] == 1,
            }));
        }
        _ => return Err("record of an unknown kind"),
    };
    Ok(Record::Entry(Entry { id, payload }))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | (u32::from(u16_at(bytes, at + 2)) << 16)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | (u64::from(u32_at(bytes, at + 4)) << 32)
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from(u64_at(bytes, at)) | (u128::from(u64_at(bytes, at + 8)) << 64)
}
