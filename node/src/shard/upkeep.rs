//! What a shard does in the background to keep replicas good: budgets, and what happened.

use crate::group::pace::Pace;

/// Background work of one shard, all groups together.
#[derive(Clone, Debug)]
pub struct Upkeep {
    /// Byte budget of copies to syncing members.
    pub resync: Pace,
    /// What happened since the start.
    pub counts: UpkeepCounts,
}

/// What background work did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpkeepCounts {
    /// Copies that a syncing member had no room for.
    pub resync_refused: u64,
}

impl Default for Upkeep {
    fn default() -> Upkeep {
        Upkeep { resync: Pace::new(0), counts: UpkeepCounts::default() }
    }
}
