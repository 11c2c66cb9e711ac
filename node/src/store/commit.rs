//! Group commit: one batch at a time goes to the ring and is flushed; then its writers are told.
//!
//! The pages of a batch are submitted only after the flush of the batch before has returned, so
//! at most one batch can be torn, and every header says which batch is durable.

use std::rc::Rc;

use futures_lite::future::zip;
use protocol::checksum::sum128;
use protocol::guard::{self, Guard};

use super::Store;
use super::batch::BatchHeader;
use super::checkpoint::WHOLE;
use super::journal::{Batch, Done, Point, Room};
use super::record::Record;
use super::types::StoreError;
use crate::io::{Buffer, Disk};
use protocol::ids::Lsn;

impl<D: Disk> Store<D> {
    /// Runs group commit and checkpoints until [`Store::close`] has ended.
    ///
    /// # Cancel safety
    /// Dropping it is like losing power: what was not acknowledged may or may not be there.
    pub async fn run(self: Rc<Self>) {
        let upkeep = zip(self.checkpoint_when_due(), self.give_up_reserves_when_full());
        zip(self.commit_batches(), upkeep).await;
    }

    /// Queues a record and changes the index, in one step that nothing can come between.
    pub(super) fn stage(&self, record: Record, room: Room) -> Result<(Lsn, Done), StoreError> {
        self.check_writable()?;
        let len = super::record::RECORD_LEN_MAX;
        if !self.journal.borrow_mut().admit(len, room) {
            self.work.ring();
            return Err(StoreError::Busy);
        }
        let (lsn, done) = self.journal.borrow_mut().enqueue(&record);
        self.apply(record.at(lsn), lsn);
        self.work.ring();
        Ok((lsn, done))
    }

    /// Changes the index; what nobody refers to any more is free once batch `lsn` is durable.
    pub(super) fn apply(&self, record: Record, lsn: Lsn) {
        let freed = self.index.borrow_mut().apply(record);
        if !freed.is_empty() {
            self.space.borrow_mut().free_later(freed, lsn);
        }
    }

    /// Stages one record and waits until it is durable.
    pub(super) async fn commit(&self, record: Record) -> Result<Lsn, StoreError> {
        let (lsn, done) = self.stage(record, Room::Reserved)?;
        done.wait().await?;
        Ok(lsn)
    }

    async fn commit_batches(&self) {
        while let Some(batch) = self.next_batch().await {
            let result = if self.fenced() {
                Err(StoreError::Fenced)
            } else {
                self.write_batch(&batch).await
            };
            match result {
                Ok(point) => {
                    self.journal.borrow_mut().completed(point);
                    self.space.borrow_mut().settle(point.lsn);
                    batch.done.set(Ok(()));
                }
                Err(error) => {
                    // Who waits is told of the fence, not of the device: nothing of this store may
                    // be believed from here on, while a failed data write concerns one chunk.
                    self.fence(&error.to_string());
                    batch.done.set(Err(StoreError::Fenced));
                    self.record_fence().await;
                }
            }
            self.work.ring();
        }
    }

    async fn next_batch(&self) -> Option<Batch> {
        self.work
            .until(|| match self.journal.borrow_mut().take() {
                Some(batch) => Some(Some(batch)),
                None => self.has_ended().then_some(None),
            })
            .await
    }

    async fn write_batch(&self, batch: &Batch) -> Result<Point, StoreError> {
        let before = self.journal.borrow().durable();
        let body = batch.body();
        let header = BatchHeader {
            target: self.identity.target,
            generation: self.generation,
            lsn: batch.lsn,
            position: before.position,
            durable_lsn: before.lsn,
            prev_batch_hash: before.chain_hash,
            body_hash: sum128(body),
            body_len: u32::try_from(body.len()).map_err(|_| StoreError::Refused("batch length"))?,
            records: batch.records(),
        };
        let len = header.padded_len();
        self.write_ring(before.position, &[&header.encode(), body]).await?;
        if guard::holds(Guard::FlushBeforeAck) {
            self.flush().await?;
        }
        Ok(Point {
            lsn: batch.lsn,
            position: before.position + len,
            chain_hash: header.chain_hash(),
        })
    }

    /// Writes parts, one after the other and padded with zeros, at a position of the ring.
    async fn write_ring(&self, position: u64, parts: &[&[u8]]) -> Result<(), StoreError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let padded = len.next_multiple_of(protocol::limits::IO_ALIGN);
        let ring = self.geometry.journal_size;
        let at = position % ring;
        let start = self.geometry.journal_offset;
        let before_end = usize::try_from(ring - at).unwrap_or(usize::MAX);
        if padded <= before_end {
            return self.write_parts(start + at, parts, padded).await;
        }
        let bytes = parts.concat();
        let (front, back) = bytes.split_at(before_end.min(len));
        let first = self.write_bytes(start + at, front, before_end);
        let second = self.write_bytes(start, back, padded - before_end);
        let (first, second) = zip(first, second).await;
        first.and(second)
    }

    /// Writes bytes that lie in ordinary memory, padded with zeros to `padded` bytes.
    pub(super) async fn write_bytes(
        &self,
        offset: u64,
        bytes: &[u8],
        padded: usize,
    ) -> Result<(), StoreError> {
        self.write_parts(offset, &[bytes], padded).await
    }

    async fn write_parts(
        &self,
        offset: u64,
        parts: &[&[u8]],
        padded: usize,
    ) -> Result<(), StoreError> {
        let mut buffer = self.disk.allocate(padded);
        let mut rest = &mut buffer.bytes_mut()[..padded];
        for part in parts {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        rest.fill(0);
        Ok(self.device_write(offset, Rc::new(buffer), padded).await?)
    }

    /// Flushes the device; an error ends all writing in this generation.
    ///
    /// One at a time, and none after one that failed: the system may have dropped what others
    /// wrote too, tells only one caller, and would call the next flush a success.
    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        let _turn = self.flush_turn.enter(WHOLE).await;
        if self.fenced() {
            return Err(StoreError::Fenced);
        }
        self.flushes.set(self.flushes.get() + 1);
        match self.device_flush().await {
            Ok(()) => Ok(()),
            Err(_) if !guard::holds(Guard::FlushFence) => Ok(()),
            Err(error) => {
                self.fence(&error.to_string());
                Err(error.into())
            }
        }
    }
}
