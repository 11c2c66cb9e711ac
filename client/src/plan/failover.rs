//! What every operation on a group keeps while it looks for a member that serves it.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, GroupRecord, Member};
use protocol::ids::{Epoch, Generation, GroupId, NodeId, TargetId};
use protocol::time::Nanos;

use crate::limits::{BACKOFF_MAX_MS, DOUBT_AFTER_MS, FAILOVER_PAUSE_MAX_MS};
use crate::plan::errand::{Doubt, Errand, Recently};
use crate::plan::{Failure, LinkFailure, Next, Refusal};
use crate::retry::{Backoff, RetryBudget};

/// Deadline, pauses and the memory of how the last attempt ended.
#[derive(Clone, Debug)]
pub(super) struct Failover {
    deadline: Nanos,
    attempts: u32,
    last: String,
    busy: Backoff,
    pauses: Backoff,
    /// View of the group that did not serve; the same view is asked again only after a pause.
    failed: Option<View>,
    /// Port that a shard named as the right one for a target.
    redirect: Option<(TargetId, u16)>,
    /// A retry that waits for the budget.
    owes_retry: bool,
    /// A map was asked for since the last pause.
    refreshed: bool,
    /// Primary that must answer and has not yet, and since when it was asked.
    unanswered: Option<(TargetId, Nanos)>,
}

/// What an attempt relied on: when it is the same again, so will be the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    epoch: Epoch,
    active: bool,
    primary: Option<(TargetId, Generation)>,
}

/// Where a member is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) node: NodeId,
    pub(super) address: SocketAddr,
}

impl View {
    pub(super) fn of(group: &GroupRecord) -> View {
        let primary = group.primary().map(|member| (member.target, member.generation));
        View { epoch: group.epoch, active: group.active, primary }
    }

    pub(super) fn epoch(self) -> Epoch {
        self.epoch
    }
}

impl Failover {
    pub(super) fn new(deadline: Nanos, seed: u64) -> Failover {
        Failover {
            deadline,
            attempts: 0,
            last: "no member of the group serves".into(),
            busy: Backoff::new(seed, BACKOFF_MAX_MS),
            pauses: Backoff::new(!seed, FAILOVER_PAUSE_MAX_MS),
            failed: None,
            redirect: None,
            owes_retry: false,
            refreshed: false,
            unanswered: None,
        }
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The end of the operation's time, as a failure.
    pub(super) fn expired(&self, now: Nanos) -> Option<Failure> {
        (now >= self.deadline)
            .then(|| Failure::Deadline { attempts: self.attempts, last: self.last.clone() })
    }

    /// When an attempt of at most `attempt_ms` must end.
    pub(super) fn give_up_at(&self, now: Nanos, attempt_ms: u64) -> Nanos {
        now.after(Duration::from_millis(attempt_ms)).min(self.deadline)
    }

    /// Counts an attempt that goes out now.
    pub(super) fn on_sent(&mut self) -> u32 {
        let attempt = self.attempts;
        self.attempts = self.attempts.saturating_add(1);
        attempt
    }

    /// Remembers since when a primary is asked whom nobody can stand in for.
    pub(super) fn on_primary_asked(&mut self, primary: TargetId, now: Nanos) {
        if self.unanswered.is_none_or(|(target, _)| target != primary) {
            self.unanswered = Some((primary, now));
        }
    }

    /// Forgets that when it answered.
    pub(super) fn on_answered(&mut self, target: TargetId) {
        self.unanswered = self.unanswered.filter(|(primary, _)| *primary != target);
    }

    /// A doubt about the group's primary, once it has been silent for long.
    pub(super) fn doubt(
        &self,
        now: Nanos,
        map: &ClusterMap,
        group: &GroupRecord,
        recently: &mut Recently,
    ) -> Option<Errand> {
        let (target, since) = self.unanswered?;
        let primary = group.primary().filter(|primary| primary.target == target)?;
        let late = now.since(since) >= Duration::from_millis(DOUBT_AFTER_MS);
        (late && recently.doubts.admit(group.id, now))
            .then(|| Errand::Doubt(Doubt::new(map, group, primary)))
    }

    /// A pause, when the group looks as it did when it could not serve.
    pub(super) fn pause_for(&mut self, view: View, now: Nanos) -> Option<Nanos> {
        let failed = self.failed.take()?;
        (failed == view).then(|| self.pause(now))
    }

    /// A pause of fail-over, never beyond the deadline.
    pub(super) fn pause(&mut self, now: Nanos) -> Nanos {
        now.after(self.pauses.pause(1)).min(self.deadline)
    }

    /// A map refresh, and the next time a pause, so a map that does not change costs no spin.
    pub(super) fn alternate<R>(&mut self, now: Nanos) -> Next<R> {
        self.refreshed = !self.refreshed;
        if self.refreshed { Next::RefreshMap } else { Next::WaitUntil(self.pause(now)) }
    }

    /// Remembers that a view of the group did not serve.
    pub(super) fn on_view_failed(&mut self, view: View) {
        self.failed = Some(view);
    }

    pub(super) fn on_link(&mut self, place: &str, failure: LinkFailure) {
        self.last = format!("{} ({place})", failure.text());
    }

    pub(super) fn on_refused(&mut self, place: &str, target: TargetId, refusal: &Refusal) {
        self.last = format!("{} ({place})", refusal.text);
        if refusal.port != 0 {
            self.redirect = Some((target, refusal.port));
        }
    }

    /// The end of an operation that need not wait for this group.
    pub(super) fn left(&self) -> Failure {
        Failure::Left { last: self.last.clone() }
    }

    pub(super) fn note(&mut self, text: String) {
        self.last = text;
    }

    /// Asks the budget for a retry; the pause before it, or before asking again.
    pub(super) fn busy(
        &mut self,
        now: Nanos,
        retry_after_ms: u32,
        budget: &mut RetryBudget,
    ) -> Nanos {
        self.owes_retry = !budget.try_spend(now);
        now.after(self.busy.pause(u64::from(retry_after_ms).max(1))).min(self.deadline)
    }

    /// While a retry is not paid for yet: the pause before the budget is asked again.
    pub(super) fn unpaid(&mut self, now: Nanos, budget: &mut RetryBudget) -> Option<Nanos> {
        if !self.owes_retry {
            return None;
        }
        self.owes_retry = !budget.try_spend(now);
        self.owes_retry.then(|| now.after(self.busy.pause(1)).min(self.deadline))
    }

    /// Where a member listens, as the map says or as a shard of its node corrected it.
    pub(super) fn place(&self, map: &ClusterMap, member: &Member) -> Option<Place> {
        let (node, mut address) = map.endpoint(member.target)?;
        if let Some((target, port)) = self.redirect
            && target == member.target
        {
            address.set_port(port);
        }
        Some(Place { node, address })
    }
}

/// The group of an operation, as the map knows it.
pub(super) fn group_of(map: &ClusterMap, group: GroupId) -> Option<&GroupRecord> {
    map.groups.get(&group)
}
