//! Giving back what chunks keep for their growth, when the target is nearly full.
//!
//! A chunk that is expected to grow owns a run for it, so that it lies in one piece. That is worth
//! nothing any more when somebody else finds no room: the version is recorded again without its run,
//! as a repair that changes no place. A chunk that is being written, or whose newest version is not
//! committed, may be growing into its run and is left alone.

use std::rc::Rc;

use super::Store;
use super::entry::Name;
use super::extent::ExtentSet;
use super::journal::Room;
use super::record::Record;
use super::state::ChunkState;
use crate::io::Disk;
use crate::limits::RESERVES_GIVEN_UP_AT_ONCE;

impl<D: Disk> Store<D> {
    /// Gives up the reserves of some chunks, as many as the journal takes now; their units are free
    /// once the next batch is durable.
    pub(super) fn give_up_reserves(&self) {
        for (name, state) in self.reserves(RESERVES_GIVEN_UP_AT_ONCE) {
            let record = Record::Repair { group: name.0, key: name.1, state: without(&state) };
            if self.stage(record, Room::Ordinary).is_err() {
                return;
            }
        }
    }

    /// Gives up reserves as soon as the target is too full for any.
    pub(super) async fn give_up_reserves_when_full(&self) {
        loop {
            let due = || !self.fenced() && self.fullness_is_short() && self.has_reserves();
            let go =
                self.work.until(|| self.has_ended().then_some(false).or(due().then_some(true)));
            if !go.await {
                return;
            }
            let before = self.durable_lsn();
            self.give_up_reserves();
            // Also when the journal was full: something else must end first.
            self.work
                .until(|| {
                    let moved = self.durable_lsn() > before || self.fenced() || self.has_ended();
                    moved.then_some(())
                })
                .await;
        }
    }

    fn fullness_is_short(&self) -> bool {
        !self.fullness().takes_reserves()
    }

    fn has_reserves(&self) -> bool {
        !self.reserves(1).is_empty()
    }

    fn reserves(&self, limit: usize) -> Vec<(Name, Rc<ChunkState>)> {
        let index = self.index.borrow();
        let idle = index.reserves().filter(|(name, _)| self.gates.is_idle(*name));
        idle.take(limit).map(|(name, state)| (name, Rc::clone(state))).collect()
    }
}

/// The same version with the room it needs and no more.
fn without(state: &ChunkState) -> ChunkState {
    let mut owned = ExtentSet::of(&state.owned);
    owned.remove(state.reserve.without(state.slack()));
    ChunkState {
        owned: owned.into_runs().into_boxed_slice(),
        reserve: state.reserve.first(state.slack()),
        ..state.clone()
    }
}
