//! Each class and each rule of a read, one table or story a test.

use super::*;
use std::time::Duration;

use crate::limits::{
    BUDGET_FLOOR, DOUBT_AFTER_MS, HEDGE_AFTER_MIN_MS, HEDGE_SAMPLES, PROBE_ATTEMPT_MS,
    PROBE_INTERVAL_MS, READ_ATTEMPT_MS, SILENT_AFTER_MS, UNREADABLE_ROUNDS,
};
use crate::plan::fixture::{DEADLINE, GROUP, KEY, PRIMARY, map, map_of};
use protocol::checksum::cell_sums;
use protocol::ids::{Epoch, NodeId, Version};
use protocol::time::Nanos;

const CELL_LOG2: u8 = 14;
const LEN: u32 = 40_000;

fn task() -> ReadTask {
    ReadTask {
        group: GROUP,
        key: KEY,
        offset: 20_000,
        len: LEN,
        chunk_len: 100_000,
        trunc_gen: 0,
        handle: Handle(0),
        growth_only: true,
        stamp: MapVersion(10),
    }
}

fn content() -> Vec<u8> {
    (0..100_000u32).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect()
}

/// What a member with the first `chunk_len` bytes answers to [`task`].
fn answer(chunk_len: u32) -> (ReadReply, Vec<u8>) {
    answer_to_range(20_000..20_000 + LEN, chunk_len)
}

fn answer_to(request: &ReadRequest, chunk_len: u32) -> (ReadReply, Vec<u8>) {
    answer_to_range(request.offset..request.offset + request.len, chunk_len)
}

fn answer_to_range(range: Range<u32>, chunk_len: u32) -> (ReadReply, Vec<u8>) {
    let first_cell = range.start >> CELL_LOG2;
    let start = first_cell << CELL_LOG2;
    let end = range.end.next_multiple_of(1 << CELL_LOG2).min(chunk_len).max(start);
    let payload = content()[start as usize..end as usize].to_vec();
    let reply = ReadReply {
        version: Version { epoch: Epoch(5), counter: 1 },
        chunk_len,
        cell_log2: CELL_LOG2,
        first_cell,
        sums: cell_sums(KEY, first_cell, CELL_LOG2, &payload),
        aux: Vec::new(),
    };
    (reply, payload)
}

/// One operation, its clock and what it shares with others.
struct Driver {
    op: ReadOp,
    map: ClusterMap,
    conditions: Conditions,
    now: Nanos,
    waited: u32,
    refreshed: u32,
}

fn driver(task: ReadTask) -> Driver {
    Driver {
        op: ReadOp::new(task, DEADLINE, 1, 2),
        map: map(),
        conditions: Conditions::default(),
        now: Nanos(0),
        waited: 0,
        refreshed: 0,
    }
}

impl Driver {
    /// The same read by a client that asks a backup first.
    fn starting_at_a_backup(mut self) -> Driver {
        let of_group = &self.map.groups[&GROUP];
        for spread in 0..64 {
            let op = ReadOp::new(self.op.task.clone(), DEADLINE, spread, 2);
            if op.open_members(of_group)[0].target != PRIMARY {
                self.op = op;
                return self;
            }
        }
        panic!("every client asks the primary first");
    }

    /// Does what the plan says until it sends something; the target it asks.
    fn asked(&mut self) -> Result<TargetId, Failure> {
        self.attempt().map(|attempt| attempt.target)
    }

    fn attempt(&mut self) -> Result<Attempt<ReadRequest>, Failure> {
        for _ in 0..100_000 {
            match self.op.next(self.now, &self.map, &mut self.conditions) {
                Next::Send(attempt) => return Ok(attempt),
                Next::Fail(failure) => return Err(failure),
                Next::RefreshMap => self.refreshed += 1,
                Next::WaitUntil(at) => {
                    assert!(at > self.now || at == DEADLINE, "a wait must pass time");
                    self.waited += 1;
                    self.now = at;
                }
            }
        }
        panic!("the plan spins");
    }

    fn answered(&mut self, reply: &ReadReply, payload: &[u8]) -> Step<ReadDone> {
        let checked = self.op.check(reply, payload);
        self.ended(Outcome::Answered(checked))
    }

    fn refused(&mut self, status: Status) -> Step<ReadDone> {
        self.ended(Outcome::Refused(Refusal::of(status)))
    }

    fn ended(&mut self, outcome: Outcome<CheckedRead>) -> Step<ReadDone> {
        let step = self.op.on_outcome(self.now, outcome, &mut self.conditions);
        if let Step::WaitUntil(at) = step {
            self.now = at.max(self.now);
        }
        step
    }
}

#[test]
fn a_slow_target_is_asked_after_the_others() {
    let mut slow = driver(task());
    slow.map.targets.get_mut(&PRIMARY).expect("a target").state = TargetState::Slow;
    for spread in 0..16 {
        slow.op = ReadOp::new(task(), DEADLINE, spread, 2);
        assert_ne!(slow.asked().expect("a member serves"), PRIMARY);
        slow.refused(Status::Corrupt);
        assert_ne!(slow.asked().expect("a member serves"), PRIMARY);
        slow.refused(Status::Corrupt);
        assert_eq!(slow.asked().expect("a member serves"), PRIMARY);
    }
}

#[test]
fn good_bytes_are_cut_to_what_was_asked() {
    let mut driver = driver(task());
    let attempt = driver.attempt().expect("a member serves");
    assert_eq!((attempt.epoch, attempt.node), (Epoch(5), NodeId(attempt.target.0)));
    assert_eq!(u32::from(attempt.address.port()), 7000 + attempt.target.0);
    assert_eq!(attempt.request.expect_len, 100_000);
    let (reply, payload) = answer(100_000);
    let Step::Done(done) = driver.answered(&reply, &payload) else { panic!("not done") };
    assert_eq!(&payload[done.range], &content()[20_000..60_000]);
    assert_eq!(done.zeros, 0);
}

#[test]
fn a_corrupt_cell_moves_the_read_to_another_member_and_is_remembered() {
    let mut driver = driver(task());
    let first = driver.asked().expect("a member serves");
    let (reply, mut payload) = answer(100_000);
    payload[30_000] ^= 1;
    assert_eq!(driver.answered(&reply, &payload), Step::TryNow);
    let second = driver.asked().expect("another member serves");
    assert_ne!(first, second);
    payload[30_000] ^= 1;
    assert!(matches!(driver.answered(&reply, &payload), Step::Done(_)));
}

#[test]
fn bytes_of_another_place_do_not_verify() {
    let (reply, payload) = answer(100_000);
    type Edit = fn(&mut ReadReply, &mut Vec<u8>);
    let edits: [(&str, Edit); 6] = [
        ("another first cell", |reply, _| reply.first_cell = 2),
        ("a sum missing", |reply, _| reply.sums.truncate(1)),
        ("a sum too many", |reply, _| reply.sums.push(reply.sums[0])),
        ("a short payload", |_, payload| payload.truncate(100)),
        ("an unknown cell size", |reply, _| reply.cell_log2 = 63),
        ("cells swapped", |reply, payload| {
            payload[..32_768].rotate_left(16_384);
            reply.sums.swap(0, 1);
        }),
    ];
    for (what, edit) in edits {
        let mut driver = driver(task());
        driver.asked().expect("a member serves");
        let (mut reply, mut payload) = (reply.clone(), payload.clone());
        edit(&mut reply, &mut payload);
        assert_eq!(driver.answered(&reply, &payload), Step::TryNow, "{what}");
    }
}

#[test]
fn when_no_replica_verifies_the_error_says_what_each_said() {
    let mut driver = driver(task());
    let failure = loop {
        let attempt = match driver.attempt() {
            Ok(attempt) => attempt,
            Err(failure) => break failure,
        };
        if attempt.target == TargetId(3) {
            assert_eq!(driver.refused(Status::Corrupt), Step::TryNow);
            continue;
        }
        let (reply, mut payload) = answer_to(&attempt.request, 100_000);
        payload[0] ^= u8::from(reply.first_cell == 1);
        assert_eq!(driver.answered(&reply, &payload), Step::TryNow);
    };
    let Failure::Unreadable { detail } = failure else { panic!("{failure:?}") };
    for expected in ["target 1: ", "target 2: ", "target 3: ", "cell 1 does not match"] {
        assert!(detail.contains(expected), "{detail}");
    }
    // As a whole, then for what is good, and then in every round for the one cell.
    assert_eq!(driver.op.attempts(), 3 * (2 + UNREADABLE_ROUNDS), "a member is asked once a round");
    assert!(driver.refreshed > 0, "members may have changed");
}

#[test]
fn bytes_that_one_member_misread_once_are_no_lost_bytes() {
    let mut driver = driver(task());
    let (reply, good) = answer(100_000);
    let mut bad = good.clone();
    bad[0] ^= 1;
    for _ in 0..3 {
        driver.asked().expect("a member is left");
        assert_eq!(driver.answered(&reply, &bad), Step::TryNow);
    }
    driver.asked().expect("everybody is asked again");
    assert!(matches!(driver.answered(&reply, &good), Step::Done(_)));
}

#[test]
fn what_each_status_leads_to() {
    type Expected = fn(&Step<ReadDone>) -> bool;
    let cases: [(Status, Expected); 12] = [
        (Status::Busy, |step| matches!(step, Step::WaitUntil(_))),
        (Status::NotReady, |step| matches!(step, Step::WaitUntil(_))),
        (Status::Frozen, |step| matches!(step, Step::WaitUntil(_))),
        (Status::StaleEpoch, |step| *step == Step::RefreshMap),
        (Status::NotMember, |step| *step == Step::RefreshMap),
        (Status::WrongShard, |step| *step == Step::RefreshMap),
        (Status::Dirty, |step| *step == Step::TryNow),
        (Status::Corrupt, |step| *step == Step::TryNow),
        (Status::DeviceError, |step| *step == Step::TryNow),
        (Status::NotGrowthOnly, |step| *step == Step::TryNow),
        (Status::Invalid, |step| matches!(step, Step::Fail(_))),
        (Status::BadCapability, |step| matches!(step, Step::Fail(_))),
    ];
    for (status, expected) in cases {
        let mut driver = driver(task());
        driver.asked().expect("a member serves");
        let step = driver.refused(status);
        assert!(expected(&step), "{status:?} led to {step:?}");
    }
}

#[test]
fn a_broken_connection_moves_the_read_at_once_and_costs_no_budget() {
    let mut driver = driver(task());
    let mut asked = Vec::new();
    for failure in [LinkFailure::Refused, LinkFailure::Broken, LinkFailure::TimedOut] {
        asked.push(driver.asked().expect("a member is left"));
        assert_eq!(driver.ended(Outcome::Link(failure)), Step::TryNow);
    }
    asked.sort();
    assert_eq!(asked, [TargetId(1), TargetId(2), TargetId(3)]);
    assert_eq!((driver.waited, driver.refreshed), (0, 0), "no pause before each was asked");
    driver.asked().expect("then again, with a newer map");
    assert!(driver.refreshed > 0);
    let budget = &mut driver.conditions.budget;
    assert!((0..BUDGET_FLOOR).all(|_| budget.try_spend(driver.now)), "the budget is untouched");
}

#[test]
fn a_group_that_never_serves_ends_at_the_deadline_and_not_before() {
    let mut driver = driver(task());
    let failure = loop {
        match driver.asked() {
            Ok(_) => assert_eq!(driver.ended(Outcome::Link(LinkFailure::Refused)), Step::TryNow),
            Err(failure) => break failure,
        }
    };
    assert!(driver.now >= DEADLINE);
    let Failure::Deadline { attempts, last } = failure else { panic!("{failure:?}") };
    assert!((100..2_000).contains(&attempts), "{attempts} attempts in 30 s");
    assert!(last.starts_with("connection refused (target "), "{last}");
}

#[test]
fn an_avoided_target_is_probed_while_others_are_read() {
    let mut conditions = Conditions::default();
    let first_asked = |conditions: &mut Conditions, now: Nanos| {
        let mut op = ReadOp::new(task(), DEADLINE, 1, 2);
        match op.next(now, &map(), conditions) {
            Next::Send(attempt) => (attempt.target, attempt.give_up_at.since(now)),
            other => panic!("{other:?}"),
        }
    };
    let probed = |conditions: &mut Conditions, now: Nanos| {
        let mut op = ReadOp::new(task(), DEADLINE, 1, 2);
        let asked = match op.next(now, &map(), conditions) {
            Next::Send(attempt) => attempt.target,
            other => panic!("{other:?}"),
        };
        let probes = op.take_errands().into_iter().map(|errand| match errand {
            Errand::Probe(probe) => {
                let patience = Duration::from_millis(PROBE_ATTEMPT_MS);
                assert_eq!(probe.give_up_at, now.after(patience));
                probe.target
            }
            other => panic!("{other:?}"),
        });
        let probes: Vec<TargetId> = probes.collect();
        assert!(!probes.contains(&asked));
        probes
    };
    let (favourite, patience) = first_asked(&mut conditions, Nanos(0));
    assert_eq!(patience, Duration::from_millis(READ_ATTEMPT_MS));
    conditions.health.on_failed(favourite, Nanos(0));
    assert_ne!(first_asked(&mut conditions, Nanos(1)).0, favourite);
    let later = Nanos::from_ms(PROBE_INTERVAL_MS);
    assert_eq!(probed(&mut conditions, later), [favourite], "on the side");
    assert_eq!(probed(&mut conditions, later), [], "one probe an interval");
}

#[test]
fn damage_is_reported_once_with_every_cell() {
    let mut conditions = Conditions::default();
    let (mut reply, payload) = answer(100_000);
    reply.sums[0].0 ^= 1;
    reply.sums[2].0 ^= 1;
    for times in [1, 0] {
        let mut op = ReadOp::new(task(), DEADLINE, 1, 2);
        let Next::Send(attempt) = op.next(Nanos(0), &map(), &mut conditions) else {
            panic!("a member serves")
        };
        let checked = op.check(&reply, &payload);
        let step = op.on_outcome(Nanos(1), Outcome::Answered(checked), &mut conditions);
        assert_eq!(step, Step::TryNow);
        let errands = op.take_errands();
        assert_eq!(errands.len(), times, "{errands:?}");
        for errand in errands {
            let Errand::Report(report) = errand else { panic!("{errand:?}") };
            assert_eq!((report.target, report.request.key), (attempt.target, KEY));
            assert_eq!((report.request.version, report.request.cells), (reply.version, vec![1, 3]));
        }
    }
}

#[test]
fn a_primary_that_must_answer_and_does_not_is_doubted() {
    let mut driver = driver(ReadTask { growth_only: false, ..task() }).starting_at_a_backup();
    let mut first_asked = None;
    loop {
        let asked = driver.asked().expect("a member serves");
        let errands = driver.op.take_errands();
        if errands.iter().any(|errand| matches!(errand, Errand::Doubt(_))) {
            break;
        }
        if asked == PRIMARY {
            first_asked.get_or_insert(driver.now);
            driver.now = driver.now.after(Duration::from_millis(DOUBT_AFTER_MS / 4));
            driver.ended(Outcome::Link(LinkFailure::TimedOut));
        } else {
            driver.refused(Status::Dirty);
        }
    }
    let silent = driver.now.since(first_asked.expect("the primary was asked"));
    assert!(silent >= Duration::from_millis(DOUBT_AFTER_MS), "{silent:?}");
    assert!(silent < Duration::from_millis(2 * DOUBT_AFTER_MS), "{silent:?}");
}

#[test]
fn busy_storms_are_bounded_by_the_budget() {
    let mut conditions = Conditions::default();
    let mut requests = 0;
    for seed in 0..10 {
        let mut driver = driver(task());
        driver.op = ReadOp::new(task(), Nanos::from_ms(9_000), 1, seed);
        driver.conditions = conditions;
        while driver.asked().is_ok() {
            requests += 1;
            driver.refused(Status::Busy);
        }
        conditions = driver.conditions;
    }
    assert!(requests <= 10 + BUDGET_FLOOR + 1, "{requests} requests of 10 operations");
}

#[test]
fn dirty_goes_to_the_primary() {
    let mut driver = driver(task()).starting_at_a_backup();
    assert_ne!(driver.asked(), Ok(PRIMARY));
    assert_eq!(driver.refused(Status::Dirty), Step::TryNow);
    assert_eq!(driver.asked(), Ok(PRIMARY));
}

#[test]
fn missing_bytes_of_a_growth_only_file_are_asked_of_every_member() {
    for status in [Status::ChunkNotFound, Status::ChunkShort] {
        let mut driver = driver(task());
        let mut asked = Vec::new();
        let failure = loop {
            match driver.asked() {
                Ok(target) => asked.push(target),
                Err(failure) => break failure,
            }
            assert_eq!(driver.refused(status), Step::TryNow);
        };
        assert!(matches!(failure, Failure::Unreadable { .. }), "{failure:?}");
        for target in 1..=3 {
            assert!(asked.contains(&TargetId(target)), "{asked:?}");
        }
        let most = 6 * (1 + UNREADABLE_ROUNDS as usize);
        assert!(asked.len() <= most && driver.now < DEADLINE, "{asked:?}");
    }
}

#[test]
fn one_member_that_has_the_bytes_is_enough() {
    for holder in 1..=3 {
        let mut driver = driver(task());
        let (reply, payload) = answer(100_000);
        loop {
            let target = driver.asked().expect("the holder is asked in the end");
            if target == TargetId(holder) {
                assert!(matches!(driver.answered(&reply, &payload), Step::Done(_)));
                break;
            }
            assert_eq!(driver.refused(Status::ChunkNotFound), Step::TryNow);
        }
    }
}

#[test]
fn a_primary_is_not_believed_under_a_map_older_than_the_stamp() {
    let mut driver = driver(ReadTask { stamp: MapVersion(11), growth_only: false, ..task() });
    while driver.asked().expect("a member serves") != PRIMARY {
        assert_eq!(driver.refused(Status::ChunkNotFound), Step::TryNow);
    }
    assert_eq!(driver.refused(Status::ChunkNotFound), Step::RefreshMap);
    driver.map = map_of(11, 6, &[(2, Role::Primary), (3, Role::Backup)]);
    while driver.asked().expect("a member serves") != TargetId(2) {
        assert_eq!(driver.refused(Status::ChunkNotFound), Step::TryNow);
    }
    let done = ReadDone { range: 0..0, patched: None, zeros: LEN as usize };
    assert_eq!(driver.refused(Status::ChunkNotFound), Step::Done(done));
}

#[test]
fn a_hole_is_believed_of_the_primary_alone_and_reads_as_zeros() {
    let task = ReadTask { growth_only: false, ..task() };
    let mut driver = driver(task).starting_at_a_backup();
    let (reply, payload) = answer(30_000);
    assert_ne!(driver.asked(), Ok(PRIMARY));
    assert_eq!(driver.answered(&reply, &payload), Step::TryNow, "a backup is not believed");
    assert_eq!(driver.asked(), Ok(PRIMARY));
    let Step::Done(done) = driver.answered(&reply, &payload) else { panic!("not done") };
    assert_eq!(&payload[done.range.clone()], &content()[20_000..30_000]);
    assert_eq!(done.range.len() + done.zeros, LEN as usize);
}

#[test]
fn a_chunk_of_unknown_length_is_asked_of_the_primary_as_it_is() {
    let task = ReadTask { growth_only: false, ..task() };
    let mut driver = driver(task).starting_at_a_backup();
    assert_ne!(driver.asked(), Ok(PRIMARY));
    assert_eq!(driver.refused(Status::ChunkShort), Step::TryNow);
    let attempt = driver.attempt().expect("the primary serves");
    assert_eq!((attempt.target, attempt.request.expect_len), (PRIMARY, 0));
    let (reply, payload) = answer(30_000);
    assert!(matches!(driver.answered(&reply, &payload), Step::Done(done) if done.zeros == 30_000));
}

#[test]
fn a_newer_epoch_is_used_as_soon_as_the_map_has_it() {
    let mut driver = driver(task());
    driver.asked().expect("a member serves");
    assert_eq!(driver.refused(Status::StaleEpoch), Step::RefreshMap);
    driver.map = map_of(11, 6, &[(2, Role::Primary), (3, Role::Backup)]);
    let attempt = driver.attempt().expect("a member serves");
    assert_eq!((attempt.epoch, driver.waited), (Epoch(6), 0));
}

#[test]
fn the_same_map_again_is_a_pause_and_not_a_spin() {
    let mut driver = driver(task());
    driver.asked().expect("a member serves");
    assert_eq!(driver.refused(Status::StaleEpoch), Step::RefreshMap);
    driver.asked().expect("a member serves");
    assert_eq!(driver.waited, 1);
}

#[test]
fn syncing_members_come_last_and_only_for_growth_only_files() {
    let members = [(1, Role::Primary), (4, Role::Syncing)];
    for growth_only in [true, false] {
        let mut driver = driver(ReadTask { growth_only, ..task() });
        driver.map = map_of(10, 5, &members);
        assert_eq!(driver.asked(), Ok(PRIMARY));
        assert_eq!(driver.ended(Outcome::Link(LinkFailure::Broken)), Step::TryNow);
        let next = driver.asked().expect("some member");
        assert_eq!(next == TargetId(4), growth_only);
    }
}

#[test]
fn a_wrong_shard_names_the_right_port() {
    let mut driver = driver(task());
    driver.map = map_of(10, 5, &[(1, Role::Primary)]);
    driver.asked().expect("a member serves");
    let refusal = Refusal { port: 7099, ..Refusal::of(Status::WrongShard) };
    assert_eq!(driver.ended(Outcome::Refused(refusal)), Step::RefreshMap);
    assert_eq!(driver.attempt().expect("a member serves").address.port(), 7099);
}

#[test]
fn chunks_are_spread_over_the_members() {
    let mut counts = BTreeMap::new();
    for index in 0..300 {
        let key = ChunkKey { index, ..KEY };
        let mut op = ReadOp::new(ReadTask { key, ..task() }, DEADLINE, 1, 2);
        if let Next::Send(attempt) = op.next(Nanos(0), &map(), &mut Conditions::default()) {
            *counts.entry(attempt.target).or_insert(0) += 1;
        }
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [100, 100, 100]);
}

#[test]
fn an_attempt_at_a_target_that_fell_silent_is_left_for_another_replica() {
    let mut driver = driver(task());
    let target = driver.asked().expect("a replica serves");
    let now = Nanos::from_ms(5_000);
    driver.now = now;
    for _ in 0..3 {
        driver.conditions.health.on_sent(target, now);
    }
    let early = now.after(Duration::from_millis(SILENT_AFTER_MS - 1));
    assert!(driver.op.stands(early, &driver.map, &mut driver.conditions));
    let late = now.after(Duration::from_millis(SILENT_AFTER_MS));
    assert!(!driver.op.stands(late, &driver.map, &mut driver.conditions));
    driver.now = late;
    driver.ended(Outcome::Link(LinkFailure::TimedOut));
    assert_ne!(driver.asked(), Ok(target), "the next one asked is another");
}

#[test]
fn a_read_left_for_its_hedge_counts_as_one_that_took_long() {
    let mut reads = driver(task());
    let target = reads.asked().expect("a member serves");
    let quick = |reads: &mut Driver, number| {
        for _ in 0..number {
            reads.conditions.hedges.on_answer(target, Duration::from_millis(1));
        }
    };
    quick(&mut reads, HEDGE_SAMPLES);
    for _ in 0..2 {
        reads.op = ReadOp::new(task(), DEADLINE, 1, 2);
        assert_eq!(reads.asked().expect("a member serves"), target);
        reads.now = reads.now.after(Duration::from_millis(HEDGE_AFTER_MIN_MS + 3));
        reads.op.abandon(reads.now, &mut reads.conditions);
    }
    quick(&mut reads, HEDGE_SAMPLES - 2);
    let long = Duration::from_millis(HEDGE_AFTER_MIN_MS + 3);
    assert_eq!(reads.conditions.hedges.after(target), long);
}

#[test]
fn a_silent_target_is_waited_for_when_every_other_is_silent_too() {
    let mut driver = driver(task());
    driver.asked().expect("a replica serves");
    for target in 1..=3 {
        driver.conditions.health.on_failed(TargetId(target), Nanos(0));
    }
    assert!(driver.op.stands(Nanos::from_ms(1), &driver.map, &mut driver.conditions));
}
