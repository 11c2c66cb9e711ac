//! Rules of a single member, one each: what it refuses because of what the chunk shows, what the
//! lease says or what the sender is.
//!
//! The member is the primary of a group of its own, and the facts about its one chunk are made up.

use std::rc::Rc;

use node::group::ChunkIndex;
use node::io::Nanos;
use node::limits::{
    ADOPTS_WAITING_MAX, RECHECKS_PER_SHARD_MAX, SHARD_CLIENT_REQUESTS_MAX, SHARD_PEER_BYTES_MAX,
    SHARD_PEER_REQUESTS_MAX, VERSION_WAITERS_MAX,
};
use node::shard::control::{ControlEvent, ShardConfig, ShardReport, Timeouts};
use node::shard::effect::{Effect, Task};
use node::shard::event::{Asked, ConnId, Event, JobId, ReplyTo, Request};
use node::shard::heal::HealOrder;
use node::shard::state::ShardState;
use node::shard::step::step;
use node::store::{ChunkInfo, Damage, Durable, GroupDigest};
use protocol::cluster_map::Role;
use protocol::ids::{
    ChunkKey, ClusterId, Epoch, Fid, Generation, GroupId, Handle, Lsn, NodeId, OpId, RequestId,
    Seq, SessionId, ShardId, TargetId, Version,
};
use protocol::limits::CHUNK_OP_SESSIONS_MAX;
use protocol::limits::RECHECK_CELLS_MAX;
use protocol::message::Kind;
use protocol::message::chunk::{
    AdoptRequest, InventoryEntry, Pending, ReadRequest, ReplicateMode, ReplicateRequest, WriteClass,
};
use protocol::message::heal::{FetchRequest, ReportCorruptRequest};
use protocol::status::Status;

use super::clients::write_request;
use super::coordinator::{Coordinator, GROUP};
use super::fake_store::Bytes;

const KEY: ChunkKey = ChunkKey { fid: Fid(5), index: 0 };

/// What is known of the one chunk, and the free bytes.
pub(super) struct Facts(pub(super) ChunkInfo, u64);

impl ChunkIndex for Facts {
    fn info(&self, _: GroupId, key: ChunkKey) -> Option<ChunkInfo> {
        (key == KEY).then(|| self.0.clone())
    }

    fn pendings(&self, _: GroupId) -> Vec<Pending> {
        Vec::new()
    }

    fn inventory(&self, _: GroupId, _: Option<ChunkKey>, _: usize) -> (Vec<InventoryEntry>, bool) {
        (Vec::new(), false)
    }

    fn digest(&self, _: GroupId) -> GroupDigest {
        GroupDigest::default()
    }

    fn files(&self, _: GroupId, limit: usize) -> Vec<Fid> {
        (0..limit.min(1)).map(|_| KEY.fid).collect()
    }

    fn free(&self) -> u64 {
        self.1
    }

    fn capacity(&self) -> u64 {
        1 << 30
    }

    fn damaged(&self, _: GroupId) -> Vec<Damage> {
        Vec::new()
    }
}

/// A chunk of 100 committed bytes that only ever grew, of an epoch before.
pub(super) fn sound() -> ChunkInfo {
    let version = Version { epoch: Epoch(0), counter: 1 };
    ChunkInfo {
        version,
        chunk_len: 100,
        committed: Some((version, 100)),
        mutated: false,
        suspect: false,
        committed_suspect: false,
        trunc_gen: 0,
        cell_log2: 14,
        chunk_log2: 22,
        ops: Vec::new(),
    }
}

/// An active primary whose lease ends at 1 s.
pub(super) struct Primary {
    pub(super) state: ShardState<Bytes>,
    pub(super) facts: Facts,
    pub(super) now: Nanos,
}

impl Primary {
    pub(super) fn of(info: ChunkInfo) -> Primary {
        Primary::in_group(info, true)
    }

    /// The primary of a group whose changes of existing bytes may be acknowledged, or not yet.
    fn in_group(info: ChunkInfo, mutations: bool) -> Primary {
        let (mut primary, mut coordinator) = Primary::new(info, 1, Coordinator::new(1, 1));
        if let Some(record) = coordinator.map.groups.get_mut(&GROUP) {
            record.mutations = mutations;
        }
        let orders = primary.adopt(&coordinator);
        let reports = orders.iter().filter_map(|order| match order {
            Effect::Report(report @ ShardReport::Activated(_)) => Some(report),
            _ => None,
        });
        assert!(reports.fold(false, |_, report| coordinator.on_report(report)), "active");
        primary.step(Event::Control(ControlEvent::Map(coordinator.map.to_delta())));
        primary
    }

    /// The second of two members, which is no primary at all.
    fn second(info: ChunkInfo, role: Role) -> Primary {
        let (mut second, mut coordinator) = Primary::new(info, 2, Coordinator::new(2, 1));
        if let Some(record) = coordinator.map.groups.get_mut(&GROUP) {
            record.members[1].role = role;
        }
        second.adopt(&coordinator);
        second
    }

    pub(super) fn new(
        info: ChunkInfo,
        id: u32,
        coordinator: Coordinator,
    ) -> (Primary, Coordinator) {
        let config = ShardConfig {
            node: NodeId(id),
            shard: ShardId(0),
            target: TargetId(id),
            generation: Generation(1),
            port: 7001,
            core: u16::MAX,
            cluster: ClusterId(1),
            timeouts: Timeouts::default(),
        };
        let state = ShardState::new(config, Vec::new());
        let facts = Facts(info, 1 << 30);
        let mut member = Primary { state, facts, now: Nanos(1) };
        let expires = Nanos(1_000_000_000);
        member.step(Event::Control(ControlEvent::Lease { expires }));
        (member, coordinator)
    }

    /// Hears of the group and adopts its epoch.
    fn adopt(&mut self, coordinator: &Coordinator) -> Vec<Effect<Bytes>> {
        let job = self.begin_to_adopt(coordinator);
        self.step(Event::Stored { job, result: Ok(None) })
    }

    /// Hears of the group; the job that makes its epoch durable.
    fn begin_to_adopt(&mut self, coordinator: &Coordinator) -> JobId {
        let map = ControlEvent::Map(coordinator.map.to_delta());
        let orders = self.step(Event::Control(map));
        let adopt = orders.iter().find_map(|order| match order {
            Effect::Store { job, task: Task::Adopt(..) } => Some(*job),
            _ => None,
        });
        adopt.unwrap()
    }

    pub(super) fn step(&mut self, event: Event<Bytes>) -> Vec<Effect<Bytes>> {
        let mut out = Vec::new();
        step(&mut self.state, &self.facts, self.now, event, &mut out);
        out
    }

    /// The refusal of a request; `None` when it was admitted.
    fn ask(&mut self, kind: Kind, request: Request<Bytes>) -> Option<Status> {
        let reply = ReplyTo { conn: ConnId(1 << 40), request: RequestId(1), kind };
        let asked = Asked { reply, epoch: Epoch(1), deadline: None, node: None };
        let orders = self.step(Event::Asked(asked, request));
        orders.iter().find_map(|order| match order {
            Effect::Reply { answer: Err(refusal), .. } => Some(refusal.status),
            _ => None,
        })
    }

    fn read(&mut self, growth_only: bool, trunc_gen: u32) -> Option<Status> {
        let request = ReadRequest {
            group: GROUP,
            key: KEY,
            offset: 0,
            len: 10,
            expect_len: 100,
            trunc_gen,
            handle: Handle(0),
            growth_only,
            verify: false,
        };
        self.ask(Kind::Read, Request::Read(request))
    }

    fn write(&mut self, session: u64, attempt: u8, intact: bool) -> Option<Status> {
        let op = OpId { session: SessionId(session), seq: Seq(1) };
        let mut request = write_request(KEY, op, 100, 10);
        request.attempt = attempt;
        let payload = Rc::new(vec![7; 10]);
        self.ask(Kind::Write, Request::Write(request, payload, intact))
    }
}

#[test]
fn a_leased_read_needs_a_lease_that_still_runs() {
    let mut primary = Primary::of(sound());
    assert_eq!(primary.read(false, 0), None);
    primary.now = Nanos(1_000_000_000);
    assert_eq!(primary.read(false, 0), Some(Status::LeaseExpired));
    assert_eq!(primary.read(true, 0), None, "what only grew is read without");
}

#[test]
fn a_reader_who_does_not_know_the_length_is_given_what_there_is_by_the_primary() {
    let read = |member: &mut Primary, offset, expect_len| {
        let request = ReadRequest {
            group: GROUP,
            key: KEY,
            offset,
            len: 4_000,
            expect_len,
            trunc_gen: 0,
            handle: Handle(0),
            growth_only: false,
            verify: false,
        };
        let reply = ReplyTo { conn: ConnId(1 << 40), request: RequestId(1), kind: Kind::Read };
        let asked = Asked { reply, epoch: Epoch(1), deadline: None, node: None };
        let orders = member.step(Event::Asked(asked, Request::Read(request)));
        let answer = orders.iter().find_map(|order| match order {
            Effect::ServeRead { read, .. } => Some(Ok((read.offset, read.len))),
            Effect::Reply { answer: Err(refusal), .. } => Some(Err(refusal.status)),
            _ => None,
        });
        answer.unwrap()
    };
    let mut primary = Primary::of(sound());
    assert_eq!(read(&mut primary, 30, 0), Ok((30, 70)));
    assert_eq!(read(&mut primary, 30, 5_000), Err(Status::ChunkShort));
    assert_eq!(read(&mut primary, 100, 0), Err(Status::ChunkShort));
    let mut backup = Primary::second(sound(), Role::Backup);
    assert_eq!(read(&mut backup, 30, 0), Err(Status::Dirty));
}

#[test]
fn a_growth_read_of_a_chunk_that_was_changed_is_sent_back() {
    let mut primary = Primary::of(ChunkInfo { mutated: true, ..sound() });
    assert_eq!(primary.read(true, 0), Some(Status::NotGrowthOnly));
    assert_eq!(primary.read(false, 0), None);
}

#[test]
fn requests_of_before_a_truncation_are_refused() {
    let mut primary = Primary::of(ChunkInfo { trunc_gen: 2, ..sound() });
    assert_eq!(primary.read(true, 1), Some(Status::StaleFile));
    assert_eq!(primary.read(true, 2), None);
    assert_eq!(primary.write(9, 0, true), Some(Status::StaleFile));
}

#[test]
fn a_write_whose_bytes_do_not_match_its_sums_is_refused() {
    let mut primary = Primary::of(sound());
    assert_eq!(primary.write(9, 0, false), Some(Status::PayloadCorrupt));
    assert_eq!(primary.write(9, 0, true), None);
}

#[test]
fn a_repeat_that_a_full_table_may_have_forgotten_has_an_unknown_fate() {
    let version = sound().version;
    let entry = |session| (OpId { session: SessionId(session), seq: Seq(1) }, version, 100);
    let ops = (1..=CHUNK_OP_SESSIONS_MAX as u64).map(entry).collect();
    let mut primary = Primary::of(ChunkInfo { ops, ..sound() });
    assert_eq!(primary.write(99, 1, true), Some(Status::Unknown));
    assert_eq!(primary.write(99, 0, true), None, "a first attempt was never here");
}

#[test]
fn a_syncing_member_reads_nothing_under_a_lease() {
    let mut syncing = Primary::second(sound(), Role::Syncing);
    assert_eq!(syncing.read(false, 0), Some(Status::NotMember));
}

#[test]
fn a_change_waits_while_a_member_that_left_may_still_answer_reads() {
    for (mutations, answered) in [(true, true), (false, false)] {
        let mut primary = Primary::in_group(sound(), mutations);
        let op = OpId { session: SessionId(9), seq: Seq(1) };
        let mut request = write_request(KEY, op, 0, 10);
        request.class = WriteClass::Mutation;
        let reply = ReplyTo { conn: ConnId(1 << 40), request: RequestId(1), kind: Kind::Write };
        let asked = Asked { reply, epoch: Epoch(1), deadline: None, node: None };
        let write = Request::Write(request, Rc::new(vec![7; 10]), true);
        let orders = primary.step(Event::Asked(asked, write));
        let job = orders.iter().find_map(|order| match order {
            Effect::Store { job, task: Task::Write(_) } => Some(*job),
            _ => None,
        });
        let durable = Durable { lsn: Lsn(1), free: 1 << 30, chunk_len: 100 };
        let stored = Event::Stored { job: job.unwrap(), result: Ok(Some(durable)) };
        let orders = primary.step(stored);
        let told = orders.iter().any(|order| matches!(order, Effect::Reply { answer: Ok(_), .. }));
        assert_eq!(told, answered);
    }
}

#[test]
fn a_write_is_refused_where_a_member_is_full() {
    let mut primary = Primary::of(sound());
    primary.facts.1 = 0;
    assert_eq!(primary.write(9, 0, true), Some(Status::NoSpace));
}

/// The first target's request to hold a version of a chunk that nobody has yet.
fn replicate(key: ChunkKey, version: Version, len: u32) -> ReplicateRequest {
    ReplicateRequest {
        group: GROUP,
        primary: TargetId(1),
        key,
        mode: ReplicateMode::Write,
        version,
        base: Version::ZERO,
        op: OpId::default(),
        class: WriteClass::Growth,
        offset: 0,
        len,
        chunk_len: len,
        expect_len: len,
        trunc_gen: 0,
        cell_log2: 14,
        chunk_log2: 22,
        sums: vec![Default::default()],
        aux: Vec::new(),
        ops: Vec::new(),
        mutated: false,
        committed_through: Version::ZERO,
    }
}

#[test]
fn a_version_that_is_suspect_here_is_not_vouched_for() {
    let mut backup = Primary::second(ChunkInfo { suspect: true, ..sound() }, Role::Backup);
    let body = replicate(KEY, sound().version, 100);
    let reply = ReplyTo { conn: ConnId(1), request: RequestId(1), kind: Kind::Replicate };
    let asked = Asked { reply, epoch: Epoch(1), deadline: None, node: Some(NodeId(1)) };
    let request = Request::Replicate(body, Rc::new(vec![7; 100]), true);
    let orders = backup.step(Event::Asked(asked, request));
    let vouched = orders.iter().any(|order| matches!(order, Effect::Reply { answer: Ok(_), .. }));
    assert!(!vouched, "{orders:?}");
}

#[test]
fn cells_are_sent_only_to_members_of_the_group() {
    let version = sound().version;
    let fetch = |member, version| FetchRequest {
        group: GROUP,
        member,
        key: KEY,
        version,
        first_cell: 0,
        cells: 0,
    };
    let mut primary = Primary::of(sound());
    let mut ask = |node: Option<NodeId>, request: FetchRequest| {
        let reply = ReplyTo { conn: ConnId(2), request: RequestId(1), kind: Kind::Fetch };
        let asked = Asked { reply, epoch: Epoch(1), deadline: None, node };
        let orders = primary.step(Event::Asked(asked, Request::Fetch(request)));
        orders.into_iter().find_map(|order| match order {
            Effect::Reply { answer: Err(refusal), .. } => Some(Err(refusal.status)),
            Effect::Heal(HealOrder::ServeFetch(_, _, fetch)) => Some(Ok(fetch.len)),
            _ => None,
        })
    };
    let (one, stranger) = (Some(NodeId(1)), Some(NodeId(9)));
    assert_eq!(ask(one, fetch(TargetId(1), version)), Some(Ok(100)));
    assert_eq!(ask(one, fetch(TargetId(1), Version::ZERO)), Some(Ok(100)), "the committed one");
    assert_eq!(ask(stranger, fetch(TargetId(1), version)), Some(Err(Status::BadRole)));
    assert_eq!(ask(stranger, fetch(TargetId(9), version)), Some(Err(Status::BadRole)));
    let other = Version { counter: version.counter + 1, ..version };
    assert_eq!(ask(one, fetch(TargetId(1), other)), Some(Err(Status::ChunkNotFound)));
    let beyond = FetchRequest { first_cell: 1, ..fetch(TargetId(1), version) };
    assert_eq!(ask(one, beyond), Some(Err(Status::Invalid)));
}

#[test]
fn rechecks_that_clients_cause_are_bounded() {
    let mut primary = Primary::of(sound());
    let report =
        |cells| ReportCorruptRequest { group: GROUP, key: KEY, version: sound().version, cells };
    let mut ask = |cells| primary.ask(Kind::ReportCorrupt, Request::ReportCorrupt(report(cells)));
    assert_eq!(ask(vec![0; RECHECK_CELLS_MAX + 1]), Some(Status::Invalid));
    for _ in 0..RECHECKS_PER_SHARD_MAX {
        assert_eq!(ask(vec![0]), None);
    }
    assert_eq!(ask(vec![0]), Some(Status::Busy));
}

#[test]
fn requests_of_clients_beyond_the_bound_are_answered_busy() {
    let mut primary = Primary::of(sound());
    for number in 0..SHARD_CLIENT_REQUESTS_MAX {
        assert_eq!(primary.read(true, 0), None, "{number}");
    }
    assert_eq!(primary.read(true, 0), Some(Status::Busy));
    assert_eq!(primary.write(9, 0, true), Some(Status::Busy), "there is one bound for all");
    primary.step(Event::Served { bytes: 10 });
    assert_eq!(primary.read(true, 0), None);
    assert_eq!(primary.read(true, 0), Some(Status::Busy));
}

/// Asks a backup to hold versions of new chunks until it refuses; how many it took, the job of
/// one of them, and the refusal.
fn fill(backup: &mut Primary, len: u32) -> (usize, JobId, Status) {
    let mut last = None;
    for number in 0.. {
        let key = ChunkKey { fid: Fid(1000 + number), index: 0 };
        let orders = send(backup, key, len);
        match answer(&orders) {
            Some(Err(status)) => return (number as usize, last.unwrap(), status),
            other => assert_eq!(other, None, "nothing is durable yet"),
        }
        last = orders.iter().find_map(|order| match order {
            Effect::Store { job, .. } => Some(*job),
            _ => None,
        });
    }
    panic!("a backup without bound");
}

fn send(backup: &mut Primary, key: ChunkKey, len: u32) -> Vec<Effect<Bytes>> {
    send_as(backup, key, len, RequestId(key.fid.0))
}

fn send_as(
    backup: &mut Primary,
    key: ChunkKey,
    len: u32,
    request: RequestId,
) -> Vec<Effect<Bytes>> {
    let version = Version { epoch: Epoch(1), counter: 1 + key.fid.0 as u32 };
    let reply = ReplyTo { conn: ConnId(1), request, kind: Kind::Replicate };
    let asked = Asked { reply, epoch: Epoch(1), deadline: None, node: Some(NodeId(1)) };
    let payload = Rc::new(b"stands for all of it".to_vec());
    let request = Request::Replicate(replicate(key, version, len), payload, true);
    backup.step(Event::Asked(asked, request))
}

fn answer(orders: &[Effect<Bytes>]) -> Option<Result<(), Status>> {
    orders.iter().find_map(|order| match order {
        Effect::Reply { answer, .. } => Some(answer.as_ref().map(|_| ()).map_err(|r| r.status)),
        _ => None,
    })
}

#[test]
fn versions_of_primaries_beyond_the_bounds_are_answered_busy() {
    const CHUNK: u32 = 4 << 20;
    let by_bytes = usize::try_from(SHARD_PEER_BYTES_MAX / u64::from(CHUNK)).unwrap();
    for (len, fit) in [(1, SHARD_PEER_REQUESTS_MAX), (CHUNK, by_bytes)] {
        let mut backup = Primary::second(sound(), Role::Backup);
        let (taken, job, status) = fill(&mut backup, len);
        assert_eq!((taken, status), (fit, Status::Busy));
        let durable = Durable { lsn: Lsn(1), free: 1 << 30, chunk_len: len };
        let orders = backup.step(Event::Stored { job, result: Ok(Some(durable)) });
        assert_eq!(answer(&orders), Some(Ok(())), "one is durable");
        let next = |number: u64| ChunkKey { fid: Fid(500_000 + number), index: 0 };
        assert_eq!(answer(&send(&mut backup, next(0), len)), None, "and leaves its room");
        assert_eq!(answer(&send(&mut backup, next(1), len)), Some(Err(Status::Busy)));
    }
}

#[test]
fn repeats_of_a_version_wait_for_the_device_with_it_up_to_a_bound() {
    let mut backup = Primary::second(sound(), Role::Backup);
    let key = ChunkKey { fid: Fid(1000), index: 0 };
    let mut job = None;
    for number in 0..VERSION_WAITERS_MAX as u64 {
        let orders = send_as(&mut backup, key, 1, RequestId(number));
        assert_eq!(answer(&orders), None);
        job = job.or(orders.iter().find_map(|order| match order {
            Effect::Store { job, .. } => Some(*job),
            _ => None,
        }));
    }
    let known = send_as(&mut backup, key, 1, RequestId(0));
    assert_eq!(answer(&known), None, "it waits already");
    let beyond = send_as(&mut backup, key, 1, RequestId(VERSION_WAITERS_MAX as u64));
    assert_eq!(answer(&beyond), Some(Err(Status::Busy)));
    let durable = Durable { lsn: Lsn(1), free: 1 << 30, chunk_len: 1 };
    let orders = backup.step(Event::Stored { job: job.unwrap(), result: Ok(Some(durable)) });
    let told = orders.iter().filter(|order| matches!(order, Effect::Reply { answer: Ok(_), .. }));
    assert_eq!(told.count(), VERSION_WAITERS_MAX);
}

#[test]
fn adoptions_wait_for_the_epoch_to_be_durable_up_to_a_bound() {
    let (mut backup, coordinator) = Primary::new(sound(), 2, Coordinator::new(2, 1));
    let job = backup.begin_to_adopt(&coordinator);
    let mut ask = |number| {
        let reply = ReplyTo { conn: ConnId(1), request: RequestId(number), kind: Kind::Adopt };
        let asked = Asked { reply, epoch: Epoch(1), deadline: None, node: Some(NodeId(1)) };
        let (primary, generation) = (TargetId(1), Generation(1));
        let request = AdoptRequest { group: GROUP, primary, generation };
        answer(&backup.step(Event::Asked(asked, Request::Adopt(request))))
    };
    for number in 0..ADOPTS_WAITING_MAX as u64 {
        assert_eq!(ask(number), None);
    }
    assert_eq!(ask(ADOPTS_WAITING_MAX as u64), Some(Err(Status::Busy)));
    let orders = backup.step(Event::Stored { job, result: Ok(None) });
    let told = orders.iter().filter(|order| matches!(order, Effect::Reply { answer: Ok(_), .. }));
    assert_eq!(told.count(), ADOPTS_WAITING_MAX);
}
