//! Who of a group holds a chunk otherwise than is right, and when the primary's turn to leave comes.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::GroupRecord;
use protocol::ids::{ChunkKey, Epoch, TargetId, Version};

/// What a member holds of a chunk: version and content hash; `None` when it has none.
pub(super) type Held = Option<(Version, u64)>;
/// Chunks that members hold differently, and what each of them holds.
pub(super) type Differences = BTreeMap<ChunkKey, BTreeMap<TargetId, Held>>;

/// A primary that is wrong itself, and has had somebody else removed first.
///
/// Who comes back is made equal to the primary, so the primary leaves while those that serve beside
/// it are right: one of them leads the next epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Epoch in which the others were asked to be removed.
    pub(super) since: Epoch,
    /// Members that were right about every chunk.
    pub(super) right: BTreeSet<TargetId>,
}

impl Turn {
    /// What a newer epoch makes of it: `None` while it has not begun, then whether the primary
    /// leaves; it stays where somebody else could follow it who is wrong, or nobody.
    pub(super) fn is_now(&self, me: TargetId, record: &GroupRecord) -> Option<bool> {
        let begun = record.epoch > self.since && record.active;
        let mut others = record.serving().map(|entry| entry.target).filter(|it| *it != me);
        let mut right = 0;
        let only_right = others.all(|target| {
            right += 1;
            self.right.contains(&target)
        });
        begun.then_some(only_right && right > 0)
    }
}

/// Who holds a chunk otherwise than is right.
pub(super) fn wrong(
    me: TargetId,
    serving: &[TargetId],
    holders: &BTreeMap<TargetId, Held>,
) -> Vec<TargetId> {
    let own = holders.get(&me).copied().flatten();
    // Who is not listed holds what the primary holds.
    let of = |target: &TargetId| holders.get(target).copied().unwrap_or(own);
    let newest = serving.iter().filter_map(&of).map(|(version, _)| version).max();
    let mut votes: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for (version, hash) in serving.iter().filter_map(&of) {
        if Some(version) == newest {
            let vote = votes.entry(hash).or_default();
            *vote = (vote.0 + 1, own == Some((version, hash)));
        }
    }
    let right = votes.into_iter().max_by_key(|(hash, vote)| (*vote, *hash)).map(|(hash, _)| hash);
    let right: Held = newest.zip(right);
    serving.iter().copied().filter(|target| of(target) != right).collect()
}

#[cfg(test)]
mod tests {
    use protocol::cluster_map::{Member, Role};
    use protocol::ids::Generation;

    use super::*;

    const ALL: [TargetId; 3] = [TargetId(1), TargetId(2), TargetId(3)];

    fn at(counter: u32, hash: u64) -> Held {
        Some((Version { epoch: Epoch(1), counter }, hash))
    }

    /// Who is wrong when the first of three leads, and they hold this.
    fn verdict(held: [Held; 3]) -> Vec<u32> {
        let listed = ALL
            .into_iter()
            .zip(held)
            .filter(|(target, held2)| *target == ALL[0] || *held2 != held[0]);
        wrong(ALL[0], &ALL, &listed.collect()).into_iter().map(|target| target.0).collect()
    }

    #[test]
    fn the_newest_version_is_right_then_what_most_hold_then_what_the_primary_holds() {
        assert_eq!(verdict([at(2, 5), at(2, 5), None]), [3], "it lost the chunk");
        assert_eq!(verdict([None, at(2, 5), at(2, 5)]), [1], "the primary lost it");
        assert_eq!(verdict([None, None, at(2, 5)]), [1, 2], "one has what was acknowledged");
        assert_eq!(verdict([at(2, 5), at(1, 5), at(2, 5)]), [2], "it is older");
        assert_eq!(verdict([at(2, 5), at(2, 6), at(2, 5)]), [2]);
        assert_eq!(verdict([at(2, 5), at(2, 6), at(2, 6)]), [1], "two against the primary");
        assert_eq!(verdict([at(2, 5), at(2, 6), at(2, 7)]), [2, 3], "nobody knows");
        let two = [(ALL[0], at(2, 5)), (ALL[1], at(2, 9))].into_iter().collect();
        assert_eq!(wrong(ALL[0], &ALL[..2], &two), [ALL[1]]);
    }

    #[test]
    fn the_primary_leaves_only_to_those_who_are_right() {
        let member = |target, role| Member { target, generation: Generation(1), role };
        let record = |epoch, active, second: &[TargetId]| GroupRecord {
            epoch: Epoch(epoch),
            active,
            members: [member(ALL[0], Role::Primary)]
                .into_iter()
                .chain(second.iter().map(|target| member(*target, Role::Backup)))
                .collect(),
            ..GroupRecord::default()
        };
        let turn = Turn { since: Epoch(4), right: BTreeSet::from([ALL[2]]) };
        assert_eq!(turn.is_now(ALL[0], &record(4, true, &ALL[2..])), None, "nobody left yet");
        assert_eq!(turn.is_now(ALL[0], &record(5, false, &ALL[2..])), None, "not active");
        assert_eq!(turn.is_now(ALL[0], &record(5, true, &ALL[2..])), Some(true));
        assert_eq!(turn.is_now(ALL[0], &record(6, true, &ALL[1..])), Some(false), "one is back");
        assert_eq!(turn.is_now(ALL[0], &record(6, true, &[])), Some(false), "nobody else");
    }
}
