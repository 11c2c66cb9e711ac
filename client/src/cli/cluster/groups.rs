//! How many placement groups are in which state.

use protocol::cluster_map::{GroupRecord, GroupState};

/// How many groups are in which state; each group is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    pub(super) total: usize,
    pub(super) healthy: usize,
    pub(super) degraded: usize,
    pub(super) unwritable: usize,
    pub(super) down: usize,
    /// Those with one serving member, whatever else they are.
    pub(super) endangered: usize,
}

/// The state of a group in one word.
pub(crate) fn word(group: &GroupRecord) -> &'static str {
    group.state().word()
}

impl Groups {
    pub(super) fn count<'a>(groups: impl Iterator<Item = &'a GroupRecord>) -> Groups {
        let mut count = Groups::default();
        for group in groups {
            count.total += 1;
            let serving = group.serving().count();
            count.endangered += usize::from(serving == 1 && group.replicas > 1);
            *match group.state() {
                GroupState::Healthy => &mut count.healthy,
                GroupState::Degraded => &mut count.degraded,
                GroupState::Unwritable => &mut count.unwritable,
                GroupState::Down => &mut count.down,
            } += 1;
        }
        count
    }

    pub(super) fn state(self) -> &'static str {
        if self.total == 0 || self.down + self.unwritable > 0 {
            "unavailable"
        } else if self.degraded > 0 {
            "degraded"
        } else {
            "healthy"
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::cluster_map::{Member, Role};
    use protocol::ids::{Epoch, Generation, GroupId, TargetId};

    use super::*;

    fn group(members: u32, active: bool, down: bool) -> GroupRecord {
        let member = |target| Member {
            target: TargetId(target),
            generation: Generation(1),
            role: if target == 1 { Role::Primary } else { Role::Backup },
        };
        GroupRecord {
            id: GroupId(1),
            kind: 0,
            epoch: Epoch(1),
            last_writable_epoch: Epoch(1),
            active,
            down,
            replicas: 3,
            min_write: 2,
            members: (1..=members).map(member).collect(),
            evicted: vec![],
            mutations: true,
            ..GroupRecord::default()
        }
    }

    #[test]
    fn each_group_is_counted_once_in_its_worst_state() {
        let groups = [
            group(3, true, false),
            group(2, true, false),
            group(1, true, false),
            group(3, false, false),
            group(3, true, true),
        ];
        let count = Groups::count(groups.iter());
        let expected =
            Groups { total: 5, healthy: 1, degraded: 1, unwritable: 2, down: 1, endangered: 1 };
        assert_eq!(count, expected);
    }

    #[test]
    fn the_state_is_the_worst_that_matters() {
        let state = |groups: &[GroupRecord]| Groups::count(groups.iter()).state();
        assert_eq!(state(&[]), "unavailable");
        assert_eq!(state(&[group(3, true, false)]), "healthy");
        assert_eq!(state(&[group(3, true, false), group(2, true, false)]), "degraded");
        assert_eq!(state(&[group(3, true, false), group(1, true, false)]), "unavailable");
    }
}
