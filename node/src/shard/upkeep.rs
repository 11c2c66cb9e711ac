//! What a shard does in the background to keep replicas good: budgets, and what happened.

use std::collections::BTreeMap;

use protocol::ids::{GroupId, RequestId};

use crate::group::pace::Pace;
use crate::group::repair::Fetch;
use crate::group::scrub::Scrub;
use crate::io::Nanos;

/// Background work of one shard, all groups together.
#[derive(Clone, Debug)]
pub struct Upkeep {
    /// Byte budget of copies to syncing members.
    pub resync: Pace,
    /// Progress of the scrub.
    pub scrub: Scrub,
    /// Requests for cells that have no answer yet.
    pub fetches: BTreeMap<RequestId, (GroupId, Fetch)>,
    /// When the groups were last looked at for damage.
    pub looked: Nanos,
    /// Rechecks under way.
    pub rechecks: usize,
    /// When the coordinator is asked next about what is set aside.
    pub census_at: Option<Nanos>,
    /// When files of groups that were left are freed next.
    pub forget_at: Nanos,
    /// When the next group may be compared with its members.
    pub compare_at: Nanos,
    /// What happened since the start.
    pub counts: UpkeepCounts,
}

/// What background work did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpkeepCounts {
    /// Copies that a syncing member had no room for.
    pub resync_refused: u64,
    /// Cells found damaged; a version whose descriptor is damaged counts as one.
    pub cells_damaged: u64,
    /// Cells repaired, counted in the same way.
    pub cells_repaired: u64,
    /// Times that two replicas held other bytes under one version, each with good checksums.
    pub divergent: u64,
    /// Chunks that members hold differently although each calls its own good.
    pub differing: u64,
    /// Versions that a primary lacked and took over from another member.
    pub taken_over: u64,
    /// Files freed in groups that this target left; one with a failed batch counts again.
    pub files_forgotten: u64,
}

impl Default for Upkeep {
    fn default() -> Upkeep {
        Upkeep {
            resync: Pace::new(0),
            scrub: Scrub::default(),
            fetches: BTreeMap::new(),
            looked: Nanos(0),
            rechecks: 0,
            census_at: None,
            forget_at: Nanos(0),
            compare_at: Nanos(0),
            counts: UpkeepCounts::default(),
        }
    }
}
