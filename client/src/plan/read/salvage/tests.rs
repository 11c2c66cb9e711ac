//! Reads of a group whose members have damage in other places.

use std::collections::BTreeSet;

use protocol::checksum::cell_sums;
use protocol::cluster_map::{ClusterMap, Role};
use protocol::ids::{Epoch, Handle, MapVersion, Version};
use protocol::limits::READ_LEN_MAX;
use protocol::message::chunk::{ReadReply, ReadRequest};
use protocol::status::Status;
use protocol::time::Nanos;

use super::*;
use crate::limits::UNREADABLE_ROUNDS;
use crate::plan::fixture::{DEADLINE, GROUP, KEY, map_of};
use crate::plan::{
    Conditions, Failure, LinkFailure, Next, Outcome, ReadDone, ReadOp, ReadTask, Refusal, Step,
};
use crate::retry::mix;

const CELL_LOG2: u8 = 12;
const CELL: u32 = 1 << CELL_LOG2;
const CHUNK: u32 = 20 * CELL + 777;

/// What one target has of the chunk.
#[derive(Clone, Debug, Default)]
struct Replica {
    damaged: BTreeSet<u32>,
    /// It refuses what it knows to be damaged; else it sends it.
    knows: bool,
    dead: bool,
    version: u32,
    /// Bytes of the chunk; 0 for all.
    short: u32,
}

/// A byte of a version of the chunk.
fn byte(version: u32, at: u32) -> u8 {
    u8::try_from(mix(u64::from(version) << 32 | u64::from(at)) & 0xff).unwrap_or(0)
}

fn content(version: u32, range: Range<u32>) -> Vec<u8> {
    range.map(|at| byte(version, at)).collect()
}

impl Replica {
    fn len(&self) -> u32 {
        if self.short == 0 { CHUNK } else { self.short }
    }

    /// As a data node answers.
    fn answer(&self, request: &ReadRequest, leads: bool) -> Result<(ReadReply, Vec<u8>), Status> {
        let chunk_len = self.len();
        let mut end = request.offset + request.len;
        if end > chunk_len {
            match (request.growth_only, leads, request.expect_len) {
                (false, true, 0) if request.offset < chunk_len => end = chunk_len,
                (false, false, _) => return Err(Status::Dirty),
                _ => return Err(Status::ChunkShort),
            }
        }
        let (first, last) = (request.offset / CELL, (end - 1) / CELL);
        let damaged = || self.damaged.range(first..=last);
        if self.knows && damaged().next().is_some() {
            return Err(Status::Corrupt);
        }
        let covered = first * CELL..((last + 1) * CELL).min(chunk_len);
        let mut payload = content(self.version, covered.clone());
        let reply = ReadReply {
            version: Version { epoch: Epoch(5), counter: self.version },
            chunk_len,
            cell_log2: CELL_LOG2,
            first_cell: first,
            sums: cell_sums(KEY, first, CELL_LOG2, &payload),
            aux: Vec::new(),
        };
        damaged().for_each(|cell| payload[(cell * CELL - covered.start) as usize] ^= 1);
        Ok((reply, payload))
    }
}

/// One read of a group.
struct Read {
    op: ReadOp,
    map: ClusterMap,
    now: Nanos,
    conditions: Conditions,
    asked: Vec<(TargetId, Range<u32>)>,
}

fn task(range: Range<u32>, growth_only: bool) -> ReadTask {
    ReadTask {
        group: GROUP,
        key: KEY,
        offset: range.start,
        len: range.end - range.start,
        chunk_len: CHUNK,
        trunc_gen: 0,
        handle: Handle(0),
        growth_only,
        stamp: MapVersion(10),
    }
}

impl Read {
    fn new(task: ReadTask, roles: &[(u32, Role)], seed: u64) -> Read {
        Read {
            op: ReadOp::new(task, DEADLINE, seed, seed),
            map: map_of(10, 5, roles),
            now: Nanos(0),
            conditions: Conditions::default(),
            asked: Vec::new(),
        }
    }

    /// Follows the plan to its end; `replicas[n]` is target `n + 1`, and may change as it is asked.
    fn run(
        &mut self,
        mut replica: impl FnMut(&[(TargetId, Range<u32>)]) -> Replica,
    ) -> Result<(Vec<u8>, bool), Failure> {
        for _ in 0..100_000 {
            let attempt = match self.op.next(self.now, &self.map, &mut self.conditions) {
                Next::Send(attempt) => attempt,
                Next::Fail(failure) => return Err(failure),
                Next::RefreshMap => continue,
                Next::WaitUntil(at) => {
                    self.now = at;
                    continue;
                }
            };
            let request = attempt.request;
            self.asked.push((attempt.target, request.offset..request.offset + request.len));
            let replica = replica(&self.asked);
            let leads = self.map.groups[&GROUP].primary().map(|it| it.target);
            let mut payload = Vec::new();
            let outcome = match replica.answer(&request, leads == Some(attempt.target)) {
                _ if replica.dead => Outcome::Link(LinkFailure::Refused),
                Err(status) => Outcome::Refused(Refusal::of(status)),
                Ok((reply, bytes)) => {
                    payload = bytes;
                    Outcome::Answered(self.op.check(&reply, &payload))
                }
            };
            match self.op.on_outcome(self.now, outcome, &mut self.conditions) {
                Step::Done(done) => return Ok(bytes_of(done, &payload)),
                Step::Fail(failure) => return Err(failure),
                Step::WaitUntil(at) => self.now = self.now.max(at),
                Step::TryNow | Step::RefreshMap => {}
            }
        }
        panic!("the plan spins");
    }

    fn of(&mut self, replicas: &[Replica]) -> Result<(Vec<u8>, bool), Failure> {
        self.run(|asked| {
            let (target, _) = asked.last().expect("somebody is asked");
            replicas[target.0 as usize - 1].clone()
        })
    }
}

/// The bytes, and whether they were put together from several answers.
fn bytes_of(done: ReadDone, payload: &[u8]) -> (Vec<u8>, bool) {
    let patched = done.patched.is_some();
    let mut bytes = done.patched.as_deref().unwrap_or(payload)[done.range].to_vec();
    bytes.resize(bytes.len() + done.zeros, 0);
    (bytes, patched)
}

fn roles(count: u32) -> Vec<(u32, Role)> {
    let role = |id| if id == 1 { Role::Primary } else { Role::Backup };
    (1..=count).map(|id| (id, role(id))).collect()
}

fn replica(damaged: &[u32], knows: bool) -> Replica {
    Replica { damaged: damaged.iter().copied().collect(), knows, version: 1, ..Replica::default() }
}

#[test]
fn what_one_member_has_is_copied_out_of_no_answer() {
    for knows in [false, true] {
        let replicas = [replica(&[1], knows), replica(&[2], knows), replica(&[], knows)];
        for seed in 0..8 {
            let mut read = Read::new(task(0..CHUNK, true), &roles(3), seed);
            let (bytes, patched) = read.of(&replicas).expect("one is good");
            assert!(bytes == content(1, 0..CHUNK) && !patched);
            assert!(read.asked.len() <= 3);
        }
    }
}

#[test]
fn a_few_cells_are_asked_for_and_not_everything_again() {
    let replicas = [replica(&[1], false), replica(&[2], false), replica(&[9], false)];
    let mut read = Read::new(task(5..CHUNK, false), &roles(3), 3);
    let (bytes, patched) = read.of(&replicas).expect("each cell is good somewhere");
    assert!(bytes == content(1, 5..CHUNK) && patched);
    assert_eq!(read.asked.len(), 5, "each as a whole, one for what is good, one for the rest");
    assert_eq!(read.asked[4].1.len(), CELL as usize);
}

#[test]
fn a_read_succeeds_when_and_only_when_each_cell_is_good_on_a_member_that_lives() {
    let (mut good, mut lost) = (0, 0);
    for seed in 0..800 {
        let mut draws = 0;
        let mut dice = |sides: u64| {
            draws += 1;
            mix(seed << 16 | draws) % sides
        };
        let count = 1 + u32::try_from(dice(4)).expect("small");
        let odds = 2 + dice(12);
        let mut replicas = Vec::new();
        for _ in 0..count {
            let cells = (0..=CHUNK / CELL).filter(|_| dice(odds) == 0).collect();
            let (knows, dead) = (dice(2) == 0, dice(8) == 0);
            replicas.push(Replica { damaged: cells, knows, dead, version: 1, short: 0 });
        }
        let start = u32::try_from(dice(u64::from(CHUNK))).expect("short");
        let end = start + 1 + u32::try_from(dice(u64::from(CHUNK - start))).expect("short");
        let growth_only = dice(2) == 0;
        let mut roles = roles(count);
        if count > 1 && dice(4) == 0 {
            // It has what only grew, but serves nothing else.
            roles[count as usize - 1].1 = Role::Syncing;
        }
        let asked = |id: &u32| growth_only || roles[*id as usize - 1].1 != Role::Syncing;
        let has = |id: u32, cell| {
            let replica = &replicas[id as usize - 1];
            !replica.dead && !replica.damaged.contains(&cell)
        };
        let whole = (start / CELL..=(end - 1) / CELL)
            .all(|cell| (1..=count).filter(asked).any(|id| has(id, cell)));
        let mut read = Read::new(task(start..end, growth_only), &roles, seed);
        match read.of(&replicas) {
            Ok((bytes, _)) => {
                assert!(whole, "seed {seed} reads what nobody has");
                assert!(bytes == content(1, start..end), "seed {seed} reads other bytes");
                good += 1;
            }
            Err(failure) => {
                assert!(!whole, "seed {seed}: {failure:?} of {replicas:?}");
                lost += 1;
            }
        }
    }
    assert!(good > 50 && lost > 50, "{good} good, {lost} lost");
}

#[test]
fn bytes_of_two_versions_are_not_mixed() {
    // Whoever is asked after the first parts were taken has a newer version already.
    let mut read = Read::new(task(0..CHUNK, false), &roles(3), 3);
    let (bytes, patched) = read
        .run(|asked| {
            let (target, _) = asked.last().expect("somebody is asked");
            let version = if asked.len() > 4 { 2 } else { 1 };
            Replica { version, ..replica(&[target.0], false) }
        })
        .expect("each cell is good somewhere");
    assert!(bytes == content(2, 0..CHUNK) && patched);
}

#[test]
fn growth_that_ended_drops_what_was_kept() {
    // The chunk was changed: it is read under leases from now on, and bytes of before do not count.
    let mut read = Read::new(task(0..CHUNK, true), &roles(3), 3);
    let mut refused = false;
    let mut kept = Vec::new();
    for _ in 0..100 {
        let attempt = match read.op.next(read.now, &read.map, &mut read.conditions) {
            Next::Send(attempt) => attempt,
            Next::WaitUntil(at) => {
                read.now = at;
                continue;
            }
            Next::RefreshMap => continue,
            Next::Fail(failure) => panic!("{failure:?}"),
        };
        kept.push(attempt.target);
        let outcome = match (kept.len(), attempt.request.growth_only) {
            (5, _) => {
                refused = true;
                Outcome::Refused(Refusal::of(Status::NotGrowthOnly))
            }
            (asked, growth_only) => {
                assert_eq!(growth_only, asked < 5);
                let version = if asked < 5 { 1 } else { 2 };
                let replica = Replica { version, ..replica(&[attempt.target.0], false) };
                let leads = attempt.target == TargetId(1);
                let (reply, payload) = replica.answer(&attempt.request, leads).expect("it is sent");
                let checked = read.op.check(&reply, &payload);
                let outcome = Outcome::Answered(checked);
                let step = read.op.on_outcome(read.now, outcome, &mut read.conditions);
                if let Step::Done(done) = step {
                    assert!(refused && bytes_of(done, &payload).0 == content(2, 0..CHUNK));
                    return;
                }
                continue;
            }
        };
        read.op.on_outcome(read.now, outcome, &mut read.conditions);
    }
    panic!("the plan does not end");
}

#[test]
fn the_end_of_a_chunk_is_found_beside_its_damage() {
    let short = 9 * CELL + 10;
    for knows in [false, true] {
        let primary = Replica { short, ..replica(&[2, 3], knows) };
        let backup = Replica { short, ..replica(&[5], knows) };
        let mut read = Read::new(task(0..CHUNK, false), &roles(2), 3);
        let (bytes, patched) = read.of(&[primary, backup]).expect("each cell is good somewhere");
        let mut expected = content(1, 0..short);
        expected.resize(CHUNK as usize, 0);
        assert!(bytes == expected && patched);
    }
}

#[test]
fn what_everybody_refuses_is_halved_only_so_often() {
    let roles = roles(8);
    let mut map = map_of(10, 5, &roles[..4]);
    // Four more targets, where the first ones are.
    let group = map.groups.get_mut(&GROUP).expect("the group");
    for id in 5..=8 {
        let twin = group.members[1];
        group.members.push(protocol::cluster_map::Member { target: TargetId(id), ..twin });
        let record = map.targets[&TargetId(2)].clone();
        map.targets.insert(TargetId(id), record);
    }
    let mut task = task(0..READ_LEN_MAX, true);
    task.chunk_len = READ_LEN_MAX;
    let mut read = Read { map, ..Read::new(task, &roles[..4], 1) };
    let everything = Replica { short: READ_LEN_MAX, ..replica(&[], true) };
    let everything = Replica { damaged: (0..READ_LEN_MAX / CELL).collect(), ..everything };
    let failure = read.run(|_| everything.clone()).expect_err("nobody has anything");
    assert!(matches!(failure, Failure::Unreadable { .. }), "{failure:?}");
    // As a whole; as a whole again for what may be good; halved; and in every later round once.
    let wholes = 8 * (3 + UNREADABLE_ROUNDS);
    assert_eq!(read.asked.len(), (wholes + NARROWING_ASKS_MAX) as usize);
}
