//! The unit of the journal: a header, then records, padded to 4 KiB.

use protocol::checksum::{sum64, sum128};
use protocol::ids::{Generation, Lsn, TargetId};
use protocol::limits::IO_ALIGN;

use super::bytes::{Reader, Writer};

/// Fields of the header, in order, with their sizes in bytes.
#[cfg(test)]
pub(super) const BATCH_FIELDS: &[(&str, usize)] = &[
    ("magic", 8),
    ("target", 4),
    ("generation", 4),
    ("lsn", 8),
    ("position", 8),
    ("durable_lsn", 8),
    ("prev_batch_hash", 16),
    ("body_hash", 16),
    ("body_len", 4),
    ("records", 4),
    ("reserved", 8),
    ("header_sum", 8),
];
/// Bytes of the header; records follow at once.
pub(super) const BATCH_HEADER_LEN: usize = 96;
/// First bytes of every batch.
pub(super) const BATCH_MAGIC: u64 = u64::from_le_bytes(*b"lanejrnl");

/// Header of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) target: TargetId,
    pub(super) generation: Generation,
    pub(super) lsn: Lsn,
    /// Bytes of journal before this batch, counted since format and never wrapped.
    pub(super) position: u64,
    /// Newest batch whose flush had returned when this one was written.
    pub(super) durable_lsn: Lsn,
    pub(super) prev_batch_hash: u128,
    pub(super) body_hash: u128,
    pub(super) body_len: u32,
    pub(super) records: u32,
}

impl BatchHeader {
    /// The header's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u64(BATCH_MAGIC).u32(self.target.0).u32(self.generation.0).u64(self.lsn.0);
        out.u64(self.position).u64(self.durable_lsn.0);
        out.u128(self.prev_batch_hash).u128(self.body_hash);
        out.u32(self.body_len).u32(self.records).u64(0);
        let sum = sum64(out.bytes());
        out.u64(sum);
        out.finish()
    }

    /// Reads a header and checks its own sum; `None` when these bytes are not one.
    pub(super) fn decode(bytes: &[u8]) -> Option<BatchHeader> {
        let mut from = Reader::new(bytes.get(..BATCH_HEADER_LEN)?);
        if from.u64()? != BATCH_MAGIC {
            return None;
        }
        let header = BatchHeader {
            target: TargetId(from.u32()?),
            generation: Generation(from.u32()?),
            lsn: Lsn(from.u64()?),
            position: from.u64()?,
            durable_lsn: Lsn(from.u64()?),
            prev_batch_hash: from.u128()?,
            body_hash: from.u128()?,
            body_len: from.u32()?,
            records: from.u32()?,
        };
        let (reserved, sum) = (from.u64()?, from.u64()?);
        let sound = reserved == 0 && sum == sum64(bytes.get(..BATCH_HEADER_LEN - 8)?);
        sound.then_some(header)
    }

    /// What the next batch names as its predecessor.
    pub(super) fn chain_hash(&self) -> u128 {
        sum128(&self.encode())
    }

    /// Bytes the batch takes in the ring.
    pub(super) fn padded_len(&self) -> u64 {
        padded_len(self.body_len as usize)
    }
}

/// Bytes a batch with a body of `body_len` bytes takes in the ring.
pub(super) fn padded_len(body_len: usize) -> u64 {
    (BATCH_HEADER_LEN + body_len).next_multiple_of(IO_ALIGN) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: BatchHeader = BatchHeader {
        target: TargetId(101),
        generation: Generation(3),
        lsn: Lsn(9),
        position: 4096,
        durable_lsn: Lsn(8),
        prev_batch_hash: 5,
        body_hash: 6,
        body_len: 40,
        records: 2,
    };

    #[test]
    fn a_header_reads_back_and_every_bit_of_it_counts() {
        let bytes = HEADER.encode();
        assert_eq!(bytes.len(), BATCH_HEADER_LEN);
        assert_eq!(BatchHeader::decode(&bytes), Some(HEADER));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&bad), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(BatchHeader::decode(&bytes[..len]), None, "length {len}");
        }
    }

    #[test]
    fn a_batch_fills_whole_pages() {
        assert_eq!(padded_len(0), 4096);
        assert_eq!(padded_len(4000), 4096);
        assert_eq!(padded_len(4001), 8192);
    }
}
