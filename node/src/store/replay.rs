//! Reading the journal back: which batches are valid, and where it ends.
//!
//! A damaged batch that was durable is corruption, and is reported; only one that cannot have
//! been acknowledged is the torn end of the journal, and is cut.

use protocol::checksum::sum128;
use protocol::guard::{self, Guard};
use protocol::ids::{Generation, Lsn, TargetId};
use protocol::limits::IO_ALIGN;

use super::batch::{BATCH_HEADER_LEN, BATCH_MAGIC, BatchHeader, padded_len};
use super::bytes::Reader;
use super::geometry::Geometry;
use super::journal::Point;
use super::record::Record;
use crate::io::Disk;
use crate::limits::DEVICE_TRANSFER_MAX;

/// What the journal says after a checkpoint.
pub(super) struct Replay {
    /// Records in order.
    pub(super) records: Vec<Record>,
    /// Where the next batch goes.
    pub(super) end: Point,
    /// Every batch up to here was certainly durable.
    pub(super) durable: Lsn,
    /// False when a durable batch is damaged.
    pub(super) intact: bool,
}

/// Reads the journal of one target.
pub(super) struct Scan<'a, D: Disk> {
    pub(super) disk: &'a D,
    pub(super) geometry: &'a Geometry,
    pub(super) target: TargetId,
    /// Newest generation that can have written.
    pub(super) generation: Generation,
    /// Last batch of a clean shutdown, after which nothing was written; 0 when there was none.
    pub(super) clean: Lsn,
}

impl<D: Disk> Scan<'_, D> {
    /// Reads everything after `start`; every batch up to `durable` is known to have been durable.
    pub(super) async fn run(&self, start: Point, durable: Lsn) -> Replay {
        let mut replay = Replay { records: Vec::new(), end: start, durable, intact: true };
        loop {
            while self.take_batch(&mut replay).await.is_some() {}
            if self.clean > Lsn(0) && replay.end.lsn == self.clean {
                return replay;
            }
            let damaged = Lsn(replay.end.lsn.0 + 1);
            let later = self.next_header(&replay.end).await;
            let Some(later) = later.filter(|_| guard::holds(Guard::JournalDamage)) else {
                // A durable batch is damaged and nothing valid follows it.
                let torn = replay.durable < damaged && guard::holds(Guard::TornTail);
                replay.intact &= torn || !guard::holds(Guard::JournalDamage);
                return replay;
            };
            // A batch is written only after the one before is durable: this one was, so the
            // damage is corruption. What follows is kept, and the target is not trusted.
            replay.intact = false;
            replay.durable = replay.durable.max(later.durable_lsn);
            replay.end = Point {
                lsn: Lsn(later.lsn.0 - 1),
                position: later.position,
                chain_hash: later.prev_batch_hash,
            };
            if self.take_batch(&mut replay).await.is_none() {
                // Its header is whole, its body is not: step over it.
                replay.end = Point {
                    lsn: later.lsn,
                    position: later.position + later.padded_len(),
                    chain_hash: later.chain_hash(),
                };
            }
        }
    }

    /// Takes the batch at the end of what was read, if it is the valid next one.
    async fn take_batch(&self, replay: &mut Replay) -> Option<()> {
        let end = replay.end;
        let page = self.read_ring(end.position, IO_ALIGN).await?;
        let header = self.header(&page)?;
        let next = header.lsn.0 == end.lsn.0 + 1
            && header.position == end.position
            && header.prev_batch_hash == end.chain_hash;
        let body_len = usize::try_from(header.body_len).ok()?;
        if !next || padded_len(body_len) > self.geometry.journal_size {
            return None;
        }
        let batch = self.read_ring(end.position, BATCH_HEADER_LEN + body_len).await?;
        let body = batch.get(BATCH_HEADER_LEN..BATCH_HEADER_LEN + body_len)?;
        if sum128(body) != header.body_hash {
            return None;
        }
        let mut from = Reader::new(body);
        let mut records = Vec::new();
        while !from.is_empty() {
            records.push(Record::decode(&mut from, header.lsn)?);
        }
        if records.len() != header.records as usize {
            return None;
        }
        replay.records.append(&mut records);
        replay.durable = replay.durable.max(header.durable_lsn);
        replay.end = Point {
            lsn: header.lsn,
            position: end.position + header.padded_len(),
            chain_hash: header.chain_hash(),
        };
        Some(())
    }

    /// The first batch after a damaged one, anywhere in the ring.
    async fn next_header(&self, end: &Point) -> Option<BatchHeader> {
        let mut best: Option<BatchHeader> = None;
        let mut at = 0;
        while at < self.geometry.journal_size {
            let left = self.geometry.journal_size - at;
            let len = left.min(u64::from(DEVICE_TRANSFER_MAX));
            let len = usize::try_from(len).ok()?;
            if let Ok(bytes) = self.disk.read(self.geometry.journal_offset + at, len).await {
                let headers = bytes.chunks(IO_ALIGN).filter_map(|page| self.header(page));
                let later = headers.filter(|header| {
                    header.lsn.0 > end.lsn.0 + 1 && header.position > end.position
                });
                best = later.chain(best).min_by_key(|header| header.lsn);
            }
            at += len as u64;
        }
        best
    }

    fn header(&self, page: &[u8]) -> Option<BatchHeader> {
        if page.get(..8)? != BATCH_MAGIC.to_le_bytes() {
            return None;
        }
        let header = BatchHeader::decode(page)?;
        let ours = header.target == self.target && header.generation <= self.generation;
        ours.then_some(header)
    }

    /// Reads from a position of the ring, around its end; `None` when the device cannot.
    async fn read_ring(&self, position: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len.next_multiple_of(IO_ALIGN));
        while bytes.len() < len {
            let at = (position + bytes.len() as u64) % self.geometry.journal_size;
            let before_end = self.geometry.journal_size - at;
            let wanted = (len - bytes.len()).next_multiple_of(IO_ALIGN) as u64;
            let take = wanted.min(before_end).min(u64::from(DEVICE_TRANSFER_MAX));
            let take = usize::try_from(take).ok()?;
            let read = self.disk.read(self.geometry.journal_offset + at, take).await.ok()?;
            bytes.extend_from_slice(&read);
        }
        Some(bytes)
    }
}
