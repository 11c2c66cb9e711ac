//! What an operation wants done on the side, while it goes on itself.
//!
//! Pure. Nobody waits for an errand and nothing depends on how it ends, so what is too much of one
//! kind at a time is simply not done: [`Recently`] remembers what was.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, GroupRecord, Member};
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, GroupId, TargetId};
use protocol::message::chunk::ShardStatsRequest;
use protocol::message::heal::ReportCorruptRequest;
use protocol::message::operate::UnreachableRequest;
use protocol::time::Nanos;

use crate::limits::{DOUBT_AGAIN_MS, DOUBTS_MAX, PROBE_ATTEMPT_MS, REPORT_AGAIN_MS, REPORTS_MAX};
use crate::plan::Attempt;

/// Something to do on the side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Tell a member which of its cells do not match their checksums.
    Report(Attempt<ReportCorruptRequest>),
    /// Ask whether a target that reads avoid is back.
    Probe(Attempt<ShardStatsRequest>),
    /// Find out whether a primary is unreachable for this client alone, and tell the coordinator.
    Doubt(Doubt),
}

/// A primary that does not answer, and the members that may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    group: GroupId,
    primary: TargetId,
    /// To be asked from the end: the primary itself comes first.
    left: Vec<Attempt<ShardStatsRequest>>,
    asked: Option<TargetId>,
}

/// What a doubt leads to next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// Ask this member whether it is there.
    Ask(Attempt<ShardStatsRequest>),
    /// Tell the coordinator.
    Accuse(UnreachableRequest),
    /// Nothing to tell: the primary is only slow, or this client reaches nobody.
    Drop,
}

/// Errands of the last seconds.
#[derive(Clone, Debug)]
pub struct Recently {
    /// Damage that was reported.
    pub(super) reports: Recent<(TargetId, ChunkKey)>,
    /// Groups whose primary was doubted.
    pub(super) doubts: Recent<GroupId>,
}

/// What was done lately, each thing once in a while and not too much in all.
#[derive(Clone, Debug)]
pub(super) struct Recent<K> {
    done: BTreeMap<K, Nanos>,
    again_ms: u64,
    most: usize,
}

impl Doubt {
    pub(super) fn new(map: &ClusterMap, group: &GroupRecord, primary: &Member) -> Doubt {
        let others = group.serving().filter(|member| member.target != primary.target);
        let left = others.chain([primary]).filter_map(|member| question(map, group, member));
        Doubt { group: group.id, primary: primary.target, left: left.collect(), asked: None }
    }

    /// Says what to do now; `answered` tells whether the member asked last is there.
    pub fn next(&mut self, now: Nanos, answered: bool) -> Inquiry {
        match self.asked {
            Some(target) if answered && target == self.primary => return Inquiry::Drop,
            // Another member answers: then it is not this client that is cut off from everybody.
            Some(_) if answered || !guard::holds(Guard::AccuserReaches) => {
                return Inquiry::Accuse(UnreachableRequest {
                    group: self.group,
                    target: self.primary,
                });
            }
            _ => {}
        }
        match self.left.pop() {
            Some(question) => {
                self.asked = Some(question.target);
                Inquiry::Ask(Attempt { give_up_at: give_up_at(now), ..question })
            }
            None => Inquiry::Drop,
        }
    }
}

impl<K: Ord> Recent<K> {
    fn new(again_ms: u64, most: usize) -> Recent<K> {
        Recent { done: BTreeMap::new(), again_ms, most }
    }

    /// True when it may be done now; it then counts as done.
    pub(super) fn admit(&mut self, what: K, now: Nanos) -> bool {
        let again = Duration::from_millis(self.again_ms);
        self.done.retain(|_, at| now.since(*at) < again);
        let admitted = self.done.len() < self.most && !self.done.contains_key(&what);
        if admitted {
            self.done.insert(what, now);
        }
        admitted
    }
}

impl Default for Recently {
    fn default() -> Recently {
        Recently {
            reports: Recent::new(REPORT_AGAIN_MS, REPORTS_MAX),
            doubts: Recent::new(DOUBT_AGAIN_MS, DOUBTS_MAX),
        }
    }
}

/// The question whether an avoided target is back.
pub(super) fn probe(
    map: &ClusterMap,
    group: &GroupRecord,
    member: &Member,
    now: Nanos,
) -> Option<Errand> {
    let question = question(map, group, member)?;
    Some(Errand::Probe(Attempt { give_up_at: give_up_at(now), ..question }))
}

/// Asks a member for something that any shard answers at once, without its device.
fn question(
    map: &ClusterMap,
    group: &GroupRecord,
    member: &Member,
) -> Option<Attempt<ShardStatsRequest>> {
    let (node, address) = map.endpoint(member.target)?;
    let (target, epoch) = (member.target, group.epoch);
    let request = ShardStatsRequest;
    Some(Attempt { target, node, address, epoch, give_up_at: Nanos(0), request })
}

fn give_up_at(now: Nanos) -> Nanos {
    now.after(Duration::from_millis(PROBE_ATTEMPT_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture::{GROUP, KEY, PRIMARY, map};

    fn doubt() -> Doubt {
        let map = map();
        let group = &map.groups[&GROUP];
        Doubt::new(&map, group, group.primary().expect("the fixture has one"))
    }

    fn asked(inquiry: Inquiry) -> TargetId {
        match inquiry {
            Inquiry::Ask(attempt) => attempt.target,
            other => panic!("expected a question, got {other:?}"),
        }
    }

    #[test]
    fn a_primary_that_answers_is_only_slow() {
        let mut doubt = doubt();
        assert_eq!(asked(doubt.next(Nanos(0), false)), PRIMARY);
        assert_eq!(doubt.next(Nanos(0), true), Inquiry::Drop);
    }

    #[test]
    fn a_primary_is_accused_when_another_member_answers() {
        let mut doubt = doubt();
        assert_eq!(asked(doubt.next(Nanos(0), false)), PRIMARY);
        assert_ne!(asked(doubt.next(Nanos(0), false)), PRIMARY);
        let accusation = UnreachableRequest { group: GROUP, target: PRIMARY };
        assert_eq!(doubt.next(Nanos(0), true), Inquiry::Accuse(accusation));
    }

    #[test]
    fn who_reaches_nobody_accuses_nobody() {
        let mut doubt = doubt();
        for member in 0..3 {
            let target = asked(doubt.next(Nanos(0), false));
            assert_eq!(target == PRIMARY, member == 0);
        }
        assert_eq!(doubt.next(Nanos(0), false), Inquiry::Drop);
    }

    #[test]
    fn errands_are_bounded_in_number_and_not_repeated_soon() {
        let mut recently = Recently::default();
        let now = Nanos::from_ms(50_000);
        let chunk = |index| (TargetId(1), ChunkKey { index, ..KEY });
        assert!(recently.reports.admit(chunk(0), now));
        assert!(!recently.reports.admit(chunk(0), now), "the same damage again");
        let more = (1..1_000).filter(|index| recently.reports.admit(chunk(*index), now));
        assert_eq!(more.count(), REPORTS_MAX - 1);
        let groups = (0..1_000).filter(|group| recently.doubts.admit(GroupId(*group), now));
        assert_eq!(groups.count(), DOUBTS_MAX);
        let soon = now.after(Duration::from_millis(DOUBT_AGAIN_MS - 1));
        assert!(!recently.doubts.admit(GroupId(0), soon));
        let later = now.after(Duration::from_millis(DOUBT_AGAIN_MS));
        assert!(recently.doubts.admit(GroupId(0), later));
        assert!(
            recently.reports.admit(chunk(0), now.after(Duration::from_millis(REPORT_AGAIN_MS)))
        );
    }
}
