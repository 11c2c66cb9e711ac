//! Ending all writing: after a device error for ever, or at shutdown.

use super::Store;
use super::types::StoreError;
use crate::io::Disk;

/// Whether the store takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not yet: recovery is under way and nothing may be recorded.
    Opening,
    /// Yes.
    Open,
    /// Only what is already here is finished.
    Closing,
    /// No, and its tasks end.
    Closed,
}

impl<D: Disk> Store<D> {
    /// Drains, writes a checkpoint and marks the target as cleanly closed; then [`Store::run`]
    /// ends.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the target was fenced: nothing is marked, [`Store::run`] ends
    /// all the same.
    ///
    /// # Durability
    /// On success the next open replays nothing.
    ///
    /// # Cancel safety
    /// The store stays closing; call it again.
    pub async fn close(&self) -> Result<(), StoreError> {
        if self.phase.get() == Phase::Closed {
            return Ok(());
        }
        self.phase.set(Phase::Closing);
        let result = self.drain_and_mark().await;
        self.phase.set(Phase::Closed);
        self.work.ring();
        result
    }

    async fn drain_and_mark(&self) -> Result<(), StoreError> {
        self.work.until(|| (self.writes_in_flight.get() == 0).then_some(())).await;
        self.journal.borrow_mut().seal();
        self.work.ring();
        self.work.until(|| (self.fenced() || self.journal.borrow().is_idle()).then_some(())).await;
        if self.fenced() {
            // The note may still be on its way; the tasks end when this returns.
            self.record_fence().await;
            return Err(StoreError::Fenced);
        }
        self.checkpoint().await?;
        let last = self.journal.borrow().durable().lsn;
        self.write_superblock(|superblock| superblock.clean_lsn = last).await
    }

    /// Ends all writing in this generation.
    pub(super) fn fence(&self, reason: &str) {
        if self.fence_reason.borrow().is_some() {
            return;
        }
        tracing::error!(target_id = self.identity.target.0, reason, "target fenced");
        *self.fence_reason.borrow_mut() = Some(reason.to_owned());
        for batch in self.journal.borrow_mut().take_all() {
            batch.done.set(Err(StoreError::Fenced));
        }
        self.work.ring();
    }

    /// Tries to leave a note for the next open; the device may well refuse it.
    pub(super) async fn record_fence(&self) {
        let reason = self.fence_reason.borrow().clone();
        if let Err(error) = self.write_superblock(|superblock| superblock.fence = reason).await {
            tracing::warn!(target_id = self.identity.target.0, %error, "fence not recorded");
        }
    }

    /// Refuses work after a fence or while closing.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        if self.fenced() {
            return Err(StoreError::Fenced);
        }
        if self.phase.get() == Phase::Open { Ok(()) } else { Err(StoreError::Busy) }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase.get() == Phase::Closed
    }
}
