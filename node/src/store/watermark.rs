//! How full a target is, and what it takes at that point.
//!
//! A pure function of used and whole space. Deletes, discards, adoptions and checkpoints need no
//! space of the arena, so they work at every level.

use protocol::guard::{self, Guard};

use super::Store;
use super::types::StoreError;
use crate::io::Disk;
use crate::limits::{FREES_ONLY_PERCENT, FULL_PERCENT, NEAR_FULL_PERCENT, RESYNC_STOP_PERCENT};

/// How full a target is: each level refuses what the one before refuses, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fullness {
    /// Everything is taken.
    #[default]
    Ample,
    /// No new group should be placed here.
    NearFull,
    /// No resync into this target should start.
    NoResync,
    /// A primary refuses growth and mutation; what other members already have is still stored.
    Full,
    /// Only what frees space is taken.
    FreesOnly,
}

impl Fullness {
    /// The level at which `used` of `capacity` bytes are.
    pub fn of(used: u64, capacity: u64) -> Fullness {
        let reached =
            |percent: u64| u128::from(used) * 100 >= u128::from(capacity) * u128::from(percent);
        match () {
            () if reached(FREES_ONLY_PERCENT) => Fullness::FreesOnly,
            () if reached(FULL_PERCENT) => Fullness::Full,
            () if reached(RESYNC_STOP_PERCENT) => Fullness::NoResync,
            () if reached(NEAR_FULL_PERCENT) => Fullness::NearFull,
            () => Fullness::Ample,
        }
    }

    /// True when new groups may be placed here.
    pub fn takes_groups(self) -> bool {
        self < Fullness::NearFull
    }

    /// True when chunks may be copied here that this target never had.
    pub fn takes_resync(self) -> bool {
        self < Fullness::NoResync
    }

    /// True when chunks may keep room for their growth.
    pub(super) fn takes_reserves(self) -> bool {
        self < Fullness::NoResync
    }

    /// True when a primary may accept growth and mutation that need this target.
    pub fn takes_writes(self) -> bool {
        self < Fullness::Full
    }
}

impl<D: Disk> Store<D> {
    /// How full the target is now.
    pub fn fullness(&self) -> Fullness {
        self.fullness_with(0)
    }

    /// How full it would be with so many bytes more.
    pub(super) fn fullness_with(&self, more: u64) -> Fullness {
        let capacity = self.capacity();
        Fullness::of(capacity.saturating_sub(self.free()) + more, capacity)
    }

    /// Refuses what takes space when only frees are taken.
    ///
    /// A primary stops earlier, so that what it accepted still finds room here.
    pub(super) fn check_fullness(&self) -> Result<(), StoreError> {
        let room = self.fullness() < Fullness::FreesOnly || !guard::holds(Guard::FullRefusal);
        if room { Ok(()) } else { Err(StoreError::NoSpace) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_exactly_at_their_share() {
        let levels = [
            (NEAR_FULL_PERCENT, Fullness::Ample, Fullness::NearFull),
            (RESYNC_STOP_PERCENT, Fullness::NearFull, Fullness::NoResync),
            (FULL_PERCENT, Fullness::NoResync, Fullness::Full),
            (FREES_ONLY_PERCENT, Fullness::Full, Fullness::FreesOnly),
        ];
        for capacity in [100, 4096 * 100, 8 << 40] {
            for (percent, below, at) in levels {
                let edge = (capacity * percent).div_ceil(100);
                assert_eq!(Fullness::of(edge, capacity), at, "{percent} % of {capacity}");
                assert_eq!(Fullness::of(edge - 1, capacity), below, "{percent} % of {capacity}");
            }
            assert_eq!(Fullness::of(0, capacity), Fullness::Ample);
            assert_eq!(Fullness::of(capacity, capacity), Fullness::FreesOnly);
        }
        assert_eq!(Fullness::of(u64::MAX, u64::MAX), Fullness::FreesOnly);
    }

    #[test]
    fn each_level_refuses_more() {
        let takes =
            |level: Fullness| (level.takes_groups(), level.takes_resync(), level.takes_writes());
        assert_eq!(takes(Fullness::Ample), (true, true, true));
        assert_eq!(takes(Fullness::NearFull), (false, true, true));
        assert_eq!(takes(Fullness::NoResync), (false, false, true));
        assert_eq!(takes(Fullness::Full), (false, false, false));
        assert_eq!(takes(Fullness::FreesOnly), (false, false, false));
    }
}
