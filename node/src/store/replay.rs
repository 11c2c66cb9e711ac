//! Reading the journal back: which batches are valid, and where it ends.
//!
//! A damaged batch that was durable is corruption, and is reported; only one that cannot have
//! been acknowledged is the torn end of the journal, and is cut. What the device cannot read may have
//! been acknowledged.

use futures_lite::future::zip;
use protocol::checksum::sum128;
use protocol::guard::{self, Guard};
use protocol::ids::{Generation, Lsn, TargetId};
use protocol::limits::IO_ALIGN;

use super::batch::{BATCH_HEADER_LEN, BATCH_MAGIC, BatchHeader, padded_len};
use super::bytes::Reader;
use super::geometry::Geometry;
use super::journal::Point;
use super::record::Record;
use super::ring::RingReader;
use super::wait::join_all;
use crate::io::{Disk, DiskError};
use crate::limits::{DEVICE_READS_MAX, DEVICE_TRANSFER_MAX, TAIL_SCAN_LEN};

/// Pieces that are read at once; as many again are looked through meanwhile, and all fit the arena.
const SCAN_READS: usize = DEVICE_READS_MAX / 2;

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
        let mut ring = RingReader::new(self.disk, self.geometry);
        self.read_all(&mut ring, &mut replay).await;
        replay.intact &= !ring.unreadable() || !guard::holds(Guard::JournalDamage);
        replay
    }

    async fn read_all(&self, ring: &mut RingReader<'_, D>, replay: &mut Replay) {
        loop {
            while self.take_batch(ring, replay).await.is_some() {}
            if self.clean > Lsn(0) && replay.end.lsn == self.clean {
                return;
            }
            let damaged = Lsn(replay.end.lsn.0 + 1);
            let later = self.next_header(&replay.end).await;
            let Some(later) = later.filter(|_| guard::holds(Guard::JournalDamage)) else {
                // A durable batch is damaged and nothing valid follows it.
                let torn = replay.durable < damaged && guard::holds(Guard::TornTail);
                replay.intact &= torn || !guard::holds(Guard::JournalDamage);
                return;
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
            if self.take_batch(ring, replay).await.is_none() {
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
    async fn take_batch(&self, ring: &mut RingReader<'_, D>, replay: &mut Replay) -> Option<()> {
        let end = replay.end;
        let header = self.header(ring.bytes(end.position, IO_ALIGN).await?)?;
        let next = header.lsn.0 == end.lsn.0 + 1
            && header.position == end.position
            && header.prev_batch_hash == end.chain_hash;
        let body_len = usize::try_from(header.body_len).ok()?;
        if !next || padded_len(body_len) > self.geometry.journal_size {
            return None;
        }
        let batch = ring.bytes(end.position, BATCH_HEADER_LEN + body_len).await?;
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

    /// The first batch after a damaged one.
    ///
    /// Batches lie one after the other, so a later one has overwritten everything from the damaged one
    /// to itself. The search ends where something lies that was certainly not overwritten, but not
    /// before [`TAIL_SCAN_LEN`]: a device may have lost a few writes, or have put them elsewhere. The
    /// next pieces are read while these are looked through.
    async fn next_header(&self, end: &Point) -> Option<BatchHeader> {
        let mut pieces = self.pieces(end.position).peekable();
        let mut several = || {
            let numbers: Vec<_> = pieces.by_ref().take(SCAN_READS).collect();
            join_all(numbers.into_iter().map(|(at, len)| self.piece(at, len)).collect())
        };
        let mut best: Option<BatchHeader> = None;
        let (mut looked, mut untouched) = (0, false);
        let mut ready = several().await;
        while !ready.is_empty() {
            let looking = async {
                for (offset, len, read) in ready {
                    looked += len as u64;
                    best = match read {
                        Ok(bytes) => {
                            untouched |= looked > TAIL_SCAN_LEN && self.is_untouched(end, &bytes);
                            self.first_after(end, &bytes, best)
                        }
                        Err(_) => self.page_by_page(offset, len, end, best).await,
                    };
                }
            };
            let (more, ()) = zip(several(), looking).await;
            if best.is_some() || untouched {
                return best;
            }
            ready = more;
        }
        best
    }

    /// The whole ring from a position on: where each piece lies, and its length.
    fn pieces(&self, from: u64) -> impl Iterator<Item = (u64, usize)> {
        let ring = self.geometry.journal_size;
        let mut looked = 0;
        std::iter::from_fn(move || {
            let at = (from + looked) % ring;
            let len = (ring - at).min(ring - looked).min(u64::from(DEVICE_TRANSFER_MAX));
            looked += len;
            let offset = self.geometry.journal_offset + at;
            Some((offset, usize::try_from(len).ok()?)).filter(|_| len > 0)
        })
    }

    /// Where a piece of the ring lies, how long it is, and what was read.
    async fn piece(&self, offset: u64, len: usize) -> (u64, usize, Result<D::Read, DiskError>) {
        (offset, len, self.disk.read(offset, len).await)
    }

    /// True when nothing was written here after `end`: there is a batch from before it, or nothing yet.
    fn is_untouched(&self, end: &Point, bytes: &[u8]) -> bool {
        let mut headers = bytes.chunks(IO_ALIGN).filter_map(|page| self.header(page));
        headers.any(|header| header.lsn <= end.lsn)
            || bytes.chunks(IO_ALIGN).all(|page| *page == [0; IO_ALIGN][..page.len()])
    }

    /// Where the device fails, every other page may still be good.
    async fn page_by_page(
        &self,
        offset: u64,
        len: usize,
        end: &Point,
        mut best: Option<BatchHeader>,
    ) -> Option<BatchHeader> {
        for page in (0..len).step_by(IO_ALIGN) {
            if let Ok(bytes) = self.disk.read(offset + page as u64, IO_ALIGN).await {
                best = self.first_after(end, &bytes, best);
            }
        }
        best
    }

    fn first_after(
        &self,
        end: &Point,
        bytes: &[u8],
        best: Option<BatchHeader>,
    ) -> Option<BatchHeader> {
        let headers = bytes.chunks(IO_ALIGN).filter_map(|page| self.header(page));
        let later =
            headers.filter(|header| header.lsn.0 > end.lsn.0 + 1 && header.position > end.position);
        later.chain(best).min_by_key(|header| header.lsn)
    }

    fn header(&self, page: &[u8]) -> Option<BatchHeader> {
        if page.get(..8)? != BATCH_MAGIC.to_le_bytes() {
            return None;
        }
        let header = BatchHeader::decode(page)?;
        let ours = header.target == self.target && header.generation <= self.generation;
        ours.then_some(header)
    }
}

#[cfg(test)]
mod tests;
