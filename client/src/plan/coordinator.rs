//! Asking the coordinators: which one, how often, how long.
//!
//! Pure. Requests to a coordinator are safe to repeat: reads by nature, changes by the session's
//! sequence numbers.

use std::time::Duration;

use protocol::status::{Class, Status};
use protocol::time::Nanos;

use crate::limits::{BACKOFF_MAX_MS, COORDINATOR_ATTEMPT_MS, FAILOVER_PAUSE_MAX_MS};
use crate::plan::{Failure, LinkFailure, Refusal};
use crate::retry::{Backoff, RetryBudget};

/// A request to whichever coordinator answers.
#[derive(Clone, Debug)]
pub struct CoordinatorOp {
    deadline: Nanos,
    count: usize,
    current: usize,
    /// Coordinators that failed since the last pause.
    failed: usize,
    /// Coordinators in a row that do not accept this client.
    rejected: usize,
    attempts: u32,
    last: String,
    owes_retry: bool,
    /// Ends when each coordinator has failed once.
    one_round: bool,
    busy: Backoff,
    pauses: Backoff,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorNext {
    /// Ask this coordinator, by its position in the configuration.
    Ask {
        /// Its position.
        position: usize,
        /// When to give the attempt up.
        give_up_at: Nanos,
    },
    /// Ask again at this time.
    WaitUntil(Nanos),
    /// The request has failed.
    Fail(Failure),
}

/// How an attempt that brought no answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorFault {
    /// An answer that is not `Ok`.
    Refused(Refusal),
    /// No answer.
    Link(LinkFailure),
    /// The peer does not accept this client, or is not the coordinator it should be.
    Rejected(String),
}

impl CoordinatorOp {
    /// Starts a request to one of `count` coordinators, at `first` to begin with.
    pub fn new(count: usize, first: usize, deadline: Nanos, seed: u64) -> CoordinatorOp {
        CoordinatorOp {
            deadline,
            count: count.max(1),
            current: first % count.max(1),
            failed: 0,
            rejected: 0,
            attempts: 0,
            last: "no coordinator was asked".into(),
            owes_retry: false,
            one_round: false,
            busy: Backoff::new(seed, BACKOFF_MAX_MS),
            pauses: Backoff::new(!seed, FAILOVER_PAUSE_MAX_MS),
        }
    }

    /// Gives up when each coordinator has failed once.
    #[must_use]
    pub fn in_one_round(mut self) -> CoordinatorOp {
        self.one_round = true;
        self
    }

    /// Says what to do now.
    pub fn next(&mut self, now: Nanos, budget: &mut RetryBudget) -> CoordinatorNext {
        if now >= self.deadline || (self.one_round && self.failed >= self.count) {
            let last = self.last.clone();
            return CoordinatorNext::Fail(Failure::Deadline { attempts: self.attempts, last });
        }
        if self.owes_retry {
            self.owes_retry = !budget.try_spend(now);
            if self.owes_retry {
                return CoordinatorNext::WaitUntil(self.until(now, 1));
            }
        }
        if self.failed >= self.count {
            self.failed = 0;
            return CoordinatorNext::WaitUntil(now.after(self.pauses.pause(1)).min(self.deadline));
        }
        if self.attempts == 0 {
            budget.on_request(now);
        }
        self.attempts += 1;
        let give_up_at =
            now.after(Duration::from_millis(COORDINATOR_ATTEMPT_MS)).min(self.deadline);
        CoordinatorNext::Ask { position: self.current, give_up_at }
    }

    /// Notes a fault; a failure when asking on cannot help.
    pub fn on_fault(
        &mut self,
        now: Nanos,
        place: &str,
        fault: CoordinatorFault,
        budget: &mut RetryBudget,
    ) -> Option<Failure> {
        match fault {
            CoordinatorFault::Refused(refusal) => self.on_refused(now, place, refusal, budget),
            CoordinatorFault::Link(failure) => {
                self.last = format!("{} by coordinator {place}", link_text(failure));
                self.rejected = 0;
                self.turn();
                None
            }
            CoordinatorFault::Rejected(detail) => {
                self.last = format!("coordinator {place}: {detail}");
                self.rejected += 1;
                self.turn();
                (self.rejected >= self.count)
                    .then(|| Failure::Rejected { detail: self.last.clone() })
            }
        }
    }

    fn on_refused(
        &mut self,
        now: Nanos,
        place: &str,
        refusal: Refusal,
        budget: &mut RetryBudget,
    ) -> Option<Failure> {
        self.rejected = 0;
        self.last = format!("{} (coordinator {place})", refusal.text);
        match (refusal.status, refusal.status.class()) {
            (Status::Busy | Status::PayloadCorrupt, _) => {
                self.owes_retry = !budget.try_spend(now);
                self.failed = self.count;
                None
            }
            (_, Some(Class::Retry | Class::Elsewhere | Class::Refresh)) => {
                self.turn();
                None
            }
            (status, _) => Some(Failure::Refused { status, text: refusal.text }),
        }
    }

    fn until(&mut self, now: Nanos, least_ms: u64) -> Nanos {
        now.after(self.busy.pause(least_ms)).min(self.deadline)
    }

    fn turn(&mut self) {
        self.current = (self.current + 1) % self.count;
        self.failed += 1;
    }
}

fn link_text(failure: LinkFailure) -> &'static str {
    match failure {
        LinkFailure::Refused => "connection refused",
        LinkFailure::Broken => "connection closed",
        LinkFailure::TimedOut => "not answered in time",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BUDGET_FLOOR;

    fn ms(ms: u64) -> Nanos {
        Nanos::from_ms(ms)
    }

    fn asked(next: CoordinatorNext) -> usize {
        match next {
            CoordinatorNext::Ask { position, .. } => position,
            other => panic!("expected a request, got {other:?}"),
        }
    }

    fn refused(status: Status) -> CoordinatorFault {
        CoordinatorFault::Refused(Refusal::of(status))
    }

    #[test]
    fn each_coordinator_is_tried_before_the_first_pause() {
        let mut budget = RetryBudget::default();
        let mut op = CoordinatorOp::new(3, 1, ms(30_000), 1);
        for expected in [1, 2, 0] {
            assert_eq!(asked(op.next(ms(1), &mut budget)), expected);
            let fault = CoordinatorFault::Link(LinkFailure::Refused);
            assert_eq!(op.on_fault(ms(1), "a:1", fault, &mut budget), None);
        }
        assert!(
            matches!(op.next(ms(1), &mut budget), CoordinatorNext::WaitUntil(at) if at > ms(1))
        );
        assert_eq!(asked(op.next(ms(300), &mut budget)), 1);
    }

    #[test]
    fn a_coordinator_that_does_not_lead_costs_no_budget() {
        let mut budget = RetryBudget::default();
        let mut op = CoordinatorOp::new(1, 0, ms(30_000), 1);
        let mut now = ms(0);
        for _ in 0..100 {
            match op.next(now, &mut budget) {
                CoordinatorNext::Ask { .. } => {
                    assert_eq!(
                        op.on_fault(now, "a:1", refused(Status::NotLeader), &mut budget),
                        None
                    );
                }
                CoordinatorNext::WaitUntil(at) => now = at,
                CoordinatorNext::Fail(failure) => panic!("{failure:?}"),
            }
        }
        assert!((0..BUDGET_FLOOR).all(|_| budget.try_spend(now)));
    }

    #[test]
    fn a_busy_coordinator_is_asked_no_more_than_the_budget_allows() {
        let mut budget = RetryBudget::default();
        let mut op = CoordinatorOp::new(1, 0, ms(8_000), 1);
        let (mut now, mut requests) = (ms(0), 0);
        let failure = loop {
            match op.next(now, &mut budget) {
                CoordinatorNext::Ask { .. } => {
                    requests += 1;
                    assert_eq!(op.on_fault(now, "a:1", refused(Status::Busy), &mut budget), None);
                }
                CoordinatorNext::WaitUntil(at) => now = at.max(now.after(Duration::from_nanos(1))),
                CoordinatorNext::Fail(failure) => break failure,
            }
        };
        assert!(matches!(failure, Failure::Deadline { .. }));
        assert!(requests <= 1 + BUDGET_FLOOR, "{requests} requests");
    }

    #[test]
    fn one_round_ends_without_a_pause() {
        let mut budget = RetryBudget::default();
        let mut op = CoordinatorOp::new(2, 0, ms(30_000), 1).in_one_round();
        for expected in [0, 1] {
            assert_eq!(asked(op.next(ms(1), &mut budget)), expected);
            let fault = CoordinatorFault::Link(LinkFailure::Broken);
            assert_eq!(op.on_fault(ms(1), "a:1", fault, &mut budget), None);
        }
        let failure = op.next(ms(1), &mut budget);
        assert!(matches!(failure, CoordinatorNext::Fail(Failure::Deadline { attempts: 2, .. })));
    }

    #[test]
    fn a_client_that_nobody_accepts_fails_at_once() {
        let mut budget = RetryBudget::default();
        let mut op = CoordinatorOp::new(2, 0, ms(30_000), 1);
        let rejected = || CoordinatorFault::Rejected("unknown authority".into());
        assert_eq!(op.on_fault(ms(0), "a:1", rejected(), &mut budget), None);
        let failure = op.on_fault(ms(0), "b:1", rejected(), &mut budget);
        assert!(matches!(failure, Some(Failure::Rejected { .. })), "{failure:?}");
    }

    #[test]
    fn a_fatal_answer_ends_the_request() {
        let mut budget = RetryBudget::default();
        let mut op = CoordinatorOp::new(2, 0, ms(30_000), 1);
        let failure = op.on_fault(ms(0), "a:1", refused(Status::NotFound), &mut budget);
        assert!(matches!(failure, Some(Failure::Refused { status: Status::NotFound, .. })));
    }
}
