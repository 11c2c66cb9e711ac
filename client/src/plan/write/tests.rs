//! Each class and each rule of a write, one table or story a test.

use std::time::Duration;

use super::*;
use crate::limits::{BUDGET_FLOOR, DOUBT_AFTER_MS, LEAVE_AFTER_MS};
use crate::plan::fixture::{DEADLINE, GROUP, KEY, PRIMARY, map, map_of};
use protocol::cluster_map::Role;
use protocol::ids::{Epoch, Seq, SessionId, TargetId, Version};
use protocol::time::Nanos;

const OP: OpId = OpId { session: SessionId(4), seq: Seq(17) };

fn task() -> WriteTask {
    WriteTask {
        group: GROUP,
        key: KEY,
        op: OP,
        class: WriteClass::Growth,
        offset: 0,
        len: 5,
        expect_len: 5,
        trunc_gen: 0,
        cell_log2: 14,
        chunk_log2: 22,
        handle: Handle(0),
        sums: vec![CellSum(3)],
    }
}

fn reply(chunk_len: u32) -> WriteReply {
    WriteReply { version: Version { epoch: Epoch(5), counter: 1 }, chunk_len, free: 1 << 20 }
}

struct Driver {
    op: WriteOp,
    map: ClusterMap,
    conditions: Conditions,
    now: Nanos,
    refreshed: u32,
}

fn driver() -> Driver {
    Driver {
        op: WriteOp::new(task(), DEADLINE, 2),
        map: map(),
        conditions: Conditions::default(),
        now: Nanos(0),
        refreshed: 0,
    }
}

impl Driver {
    fn attempt(&mut self) -> Result<Attempt<WriteRequest>, Failure> {
        for _ in 0..100_000 {
            match self.op.next(self.now, &self.map, &mut self.conditions) {
                Next::Send(attempt) => return Ok(attempt),
                Next::Fail(failure) => return Err(failure),
                Next::RefreshMap => self.refreshed += 1,
                Next::WaitUntil(at) => {
                    assert!(at > self.now || at == DEADLINE, "a wait must pass time");
                    self.now = at;
                }
            }
        }
        panic!("the plan spins");
    }

    fn stands(&mut self, map: &ClusterMap) -> bool {
        self.op.stands(self.now, map, &mut self.conditions)
    }

    fn ended(&mut self, outcome: Outcome<&WriteReply>) -> Step<WriteReply> {
        let step = self.op.on_outcome(self.now, outcome, &mut self.conditions);
        if let Step::WaitUntil(at) = step {
            self.now = at.max(self.now);
        }
        step
    }
}

#[test]
fn writes_go_to_the_primary_of_the_epoch_in_the_map() {
    let mut driver = driver();
    let attempt = driver.attempt().expect("a primary serves");
    assert_eq!((attempt.target, attempt.epoch), (PRIMARY, Epoch(5)));
    assert_eq!(driver.ended(Outcome::Answered(&reply(5))), Step::Done(reply(5)));
}

#[test]
fn every_attempt_carries_the_same_operation_id() {
    let mut driver = driver();
    let outcomes = [
        Outcome::Link(LinkFailure::Broken),
        Outcome::Refused(Refusal::of(Status::Busy)),
        Outcome::Refused(Refusal::of(Status::StaleEpoch)),
        Outcome::Refused(Refusal::of(Status::Unknown)),
        Outcome::Link(LinkFailure::TimedOut),
    ];
    for (number, outcome) in (0u8..).zip(outcomes) {
        let request = driver.attempt().expect("a primary serves").request;
        assert_eq!((request.op, request.attempt), (OP, number));
        assert_eq!(request.sums, [CellSum(3)]);
        driver.ended(outcome);
    }
}

#[test]
fn what_each_status_leads_to() {
    type Expected = fn(&Step<WriteReply>) -> bool;
    let cases: [(Status, Expected); 14] = [
        (Status::Busy, |step| matches!(step, Step::WaitUntil(_))),
        (Status::PayloadCorrupt, |step| matches!(step, Step::WaitUntil(_))),
        (Status::Unknown, |step| matches!(step, Step::WaitUntil(_))),
        (Status::NotActive, |step| matches!(step, Step::WaitUntil(_))),
        (Status::Frozen, |step| matches!(step, Step::WaitUntil(_))),
        (Status::StaleEpoch, |step| *step == Step::RefreshMap),
        (Status::NewerEpoch, |step| *step == Step::RefreshMap),
        (Status::NotPrimary, |step| *step == Step::RefreshMap),
        (Status::NotWritable, |step| *step == Step::RefreshMap),
        (Status::Fenced, |step| *step == Step::RefreshMap),
        (Status::DeviceError, |step| *step == Step::RefreshMap),
        (Status::NoSpace, |step| matches!(step, Step::Fail(_))),
        (Status::StaleFile, |step| matches!(step, Step::Fail(_))),
        (Status::Expired, |step| matches!(step, Step::Fail(_))),
    ];
    for (status, expected) in cases {
        let mut driver = driver();
        driver.attempt().expect("a primary serves");
        let step = driver.ended(Outcome::Refused(Refusal::of(status)));
        assert!(expected(&step), "{status:?} led to {step:?}");
    }
}

#[test]
fn a_dead_primary_is_followed_by_the_one_of_the_next_epoch() {
    let mut driver = driver();
    for _ in 0..20 {
        assert_eq!(driver.attempt().expect("a primary serves").target, PRIMARY);
        assert_eq!(driver.ended(Outcome::Link(LinkFailure::Refused)), Step::RefreshMap);
    }
    driver.map = map_of(11, 6, &[(2, Role::Primary), (3, Role::Backup)]);
    let attempt = driver.attempt().expect("a primary serves");
    assert_eq!((attempt.target, attempt.epoch), (TargetId(2), Epoch(6)));
    assert_eq!(attempt.request.op, OP);
    let budget = &mut driver.conditions.budget;
    assert!((0..BUDGET_FLOOR).all(|_| budget.try_spend(driver.now)), "fail-over is no retry");
}

#[test]
fn waiting_for_an_epoch_neither_spins_nor_sleeps_long() {
    let mut driver = driver();
    while driver.now < Nanos::from_ms(1_000) {
        driver.attempt().expect("a primary serves");
        driver.ended(Outcome::Link(LinkFailure::Refused));
    }
    let attempts = driver.op.attempts();
    assert!((5..=60).contains(&attempts), "{attempts} attempts in a second of fail-over");
}

#[test]
fn a_group_without_a_primary_is_waited_for_until_the_deadline() {
    let mut driver = driver();
    driver.map = map_of(10, 5, &[(2, Role::Backup)]);
    let failure = driver.attempt().expect_err("nobody takes the write");
    assert!(matches!(failure, Failure::Deadline { attempts: 0, .. }), "{failure:?}");
    assert!(driver.now >= DEADLINE && driver.refreshed > 10);
    assert!(driver.refreshed < 2_000, "{} refreshes in 30 s", driver.refreshed);
}

#[test]
fn busy_storms_are_bounded_by_the_budget() {
    let mut conditions = Conditions::default();
    let mut requests = 0;
    for seed in 0..10 {
        let mut driver = driver();
        driver.op = WriteOp::new(task(), Nanos::from_ms(9_000), seed);
        driver.conditions = conditions;
        while driver.attempt().is_ok() {
            requests += 1;
            driver.ended(Outcome::Refused(Refusal::of(Status::Busy)));
        }
        conditions = driver.conditions;
    }
    assert!(requests <= 10 + BUDGET_FLOOR + 1, "{requests} requests of 10 operations");
}

#[test]
fn an_acknowledgement_of_fewer_bytes_is_no_success() {
    let mut driver = driver();
    driver.attempt().expect("a primary serves");
    assert!(matches!(driver.ended(Outcome::Answered(&reply(4))), Step::Fail(_)));
}

#[test]
fn an_attempt_ends_with_the_operation() {
    let mut driver = driver();
    driver.now = Nanos::from_ms(29_990);
    assert_eq!(driver.attempt().expect("a primary serves").give_up_at, DEADLINE);
}

#[test]
fn an_attempt_stands_until_the_map_names_another_primary() {
    let mut driver = driver();
    driver.attempt().expect("a primary serves");
    assert!(driver.stands(&map()));
    let without_backup = map_of(11, 6, &[(1, Role::Primary), (2, Role::Backup)]);
    assert!(driver.stands(&without_backup), "the primary goes on with what it has");
    let moved = map_of(11, 6, &[(2, Role::Primary), (3, Role::Backup)]);
    assert!(!driver.stands(&moved));
    driver.map = moved;
    driver.ended(Outcome::Link(LinkFailure::TimedOut));
    let attempt = driver.attempt().expect("the new primary serves");
    assert_eq!((attempt.target, attempt.request.op), (TargetId(2), OP), "the same operation");
}

#[test]
fn a_primary_that_restarted_does_not_answer_what_it_was_asked_before() {
    let mut driver = driver();
    driver.attempt().expect("a primary serves");
    let mut restarted = map();
    let group = restarted.groups.get_mut(&GROUP).expect("the group");
    group.members[0].generation = protocol::ids::Generation(2);
    assert!(!driver.stands(&restarted));
}

#[test]
fn a_primary_that_stays_silent_is_doubted_and_a_slow_one_is_not() {
    let doubts = |op: &mut WriteOp| op.take_errands().len();
    let mut driver = driver();
    driver.attempt().expect("a primary serves");
    driver.now = Nanos::from_ms(DOUBT_AFTER_MS - 1);
    assert!(driver.stands(&map()));
    assert_eq!(doubts(&mut driver.op), 0);
    driver.now = Nanos::from_ms(DOUBT_AFTER_MS);
    assert!(driver.stands(&map()), "the doubt changes nothing by itself");
    assert_eq!(doubts(&mut driver.op), 1);
    assert!(driver.stands(&map()));
    assert_eq!(doubts(&mut driver.op), 0, "not again soon");
    driver.ended(Outcome::Refused(Refusal::of(Status::NotActive)));
    driver.attempt().expect("a primary serves");
    driver.now = driver.now.after(Duration::from_millis(DOUBT_AFTER_MS - 1));
    assert!(driver.stands(&map()));
    assert_eq!(doubts(&mut driver.op), 0, "it has answered");
}

fn leaving() -> Driver {
    let driver = driver();
    Driver { op: driver.op.or_leave(), ..driver }
}

fn left(result: Result<Attempt<WriteRequest>, Failure>) -> bool {
    matches!(result, Err(Failure::Left { .. }))
}

#[test]
fn a_group_with_too_few_members_is_left_at_once() {
    let mut driver = leaving();
    driver.attempt().expect("a primary serves");
    driver.map = map_of(11, 6, &[(1, Role::Primary)]);
    let map = driver.map.clone();
    assert!(!driver.stands(&map));
    driver.ended(Outcome::Link(LinkFailure::TimedOut));
    assert!(left(driver.attempt()));
    let mut staying = self::driver();
    staying.map = map;
    assert!(staying.attempt().is_ok(), "who cannot go elsewhere waits");
}

#[test]
fn a_group_that_nobody_answers_for_is_left_when_fail_over_has_not_helped() {
    let mut driver = leaving();
    loop {
        let before = driver.now;
        if left(driver.attempt()) {
            break;
        }
        assert!(before < Nanos::from_ms(LEAVE_AFTER_MS + 500), "still there at {before:?}");
        driver.ended(Outcome::Link(LinkFailure::Refused));
    }
    assert!(driver.now >= Nanos::from_ms(LEAVE_AFTER_MS));
}

#[test]
fn a_group_that_is_only_slow_or_busy_is_not_left() {
    let mut driver = leaving();
    driver.attempt().expect("a primary serves");
    driver.now = Nanos::from_ms(7 * LEAVE_AFTER_MS);
    assert!(driver.stands(&map()), "it may still answer");
    driver.ended(Outcome::Refused(Refusal::of(Status::Busy)));
    driver.attempt().expect("a primary serves");
    assert!(driver.stands(&map()));
    driver.conditions.health.on_failed(PRIMARY, driver.now);
    assert!(!driver.stands(&map()), "it is not there any more");
}
