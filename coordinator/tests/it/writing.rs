//! Files written in place: who may, what a truncation leaves behind, and what a dead writer does.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use coordinator::kv::Memory;
use coordinator::limits::{FILE_ORDERS_SCAN_MAX, OPENED_PER_SESSION_MAX};
use coordinator::state::{FileOrder, Outcome, State};
use protocol::ids::{
    ClusterId, Fid, Generation, GroupId, Ino, Lsn, NodeId, Seq, SessionId, ShardId, TargetId,
};
use protocol::limits::SEGMENTS_MAX;
use protocol::message::cluster::TargetReport;
use protocol::message::command::{Caller, Command, Stamp};
use protocol::message::heal::{ChunkLen, GroupReports, Measured};
use protocol::message::namespace::{Entry, FileContent, NamespaceOp, OpOutcome, SetAttributes};
use protocol::status::Status;

const ADMIN: Caller = Caller { uid: 0, gid: 0, admin: true };
const CHUNK: u64 = 4 << 20;

struct Driver {
    state: State<Memory>,
    number: u64,
    seq: u64,
    checked: bool,
}

impl Driver {
    fn new() -> Driver {
        let state = State::open(Memory::default()).unwrap();
        let mut driver = Driver { state, number: 0, seq: 0, checked: true };
        driver.done(&Command::Initialize {
            cluster: ClusterId(7),
            replicas: 3,
            min_write: 2,
            groups_per_target: 24,
            targets_expected: 3,
            owner: ADMIN,
        });
        for node in 1..=3 {
            driver.done(&register(node));
        }
        driver.done(&Command::CreateGroups { count: 24 });
        driver
    }

    /// Applies a command; the state must be sound after every one.
    fn apply(&mut self, command: &Command) -> Outcome {
        self.number += 1;
        let stamp = Stamp { time_ms: self.number * 1_000, nonce: self.number };
        let outcome = self.state.apply(stamp, command);
        if self.checked {
            assert_eq!(self.state.violations(), Vec::<String>::new(), "after {command:?}");
        }
        outcome
    }

    fn done(&mut self, command: &Command) {
        assert_eq!(self.apply(command), Outcome::Done, "{command:?}");
    }

    fn session(&mut self) -> SessionId {
        let command = Command::OpenSession { caller: ADMIN, client: "test".into() };
        match self.apply(&command) {
            Outcome::Session(session) => session,
            other => panic!("{other:?}"),
        }
    }

    fn run(&mut self, session: SessionId, op: NamespaceOp) -> OpOutcome {
        self.seq += 1;
        let ops = vec![(Seq(self.seq), op)];
        match self.apply(&Command::Mutate { session, caller: ADMIN, ops }) {
            Outcome::Ops(mut made) => made.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn entry(&mut self, session: SessionId, op: NamespaceOp) -> Entry {
        match self.run(session, op.clone()) {
            OpOutcome::Done(Some(entry)) => entry,
            other => panic!("{op:?}: {other:?}"),
        }
    }

    /// A published file of `size` bytes on many groups.
    fn file(&mut self, session: SessionId, name: &str, size: u64) -> Entry {
        let reserve = NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: 1 << 40 };
        let OpOutcome::Reserved(made) = self.run(session, reserve) else { panic!("no inode") };
        self.entry(
            session,
            NamespaceOp::Publish {
                ino: made[0].attributes.ino,
                parent: Ino::ROOT,
                name: name.as_bytes().to_vec(),
                size,
                attributes: SetAttributes::default(),
                replace: false,
                growth_only: true,
            },
        )
    }

    fn open(&mut self, session: SessionId, ino: Ino, mutate: bool, shared: bool) -> OpOutcome {
        self.run(session, NamespaceOp::OpenWrite { ino, mutate, shared })
    }

    fn opened(&mut self, session: SessionId, ino: Ino, mutate: bool) -> Entry {
        self.entry(session, NamespaceOp::OpenWrite { ino, mutate, shared: false })
    }

    fn close(&mut self, session: SessionId, entry: &Entry, size: u64, clean: bool) -> Entry {
        let (ino, trunc_gen) = (entry.attributes.ino, content(entry).trunc_gen);
        self.entry(session, NamespaceOp::CloseWrite { ino, size, trunc_gen, clean })
    }

    /// Reports every order as done; measured files have chunks of these lengths.
    fn settle(&mut self, chunks: &[(u32, u32)]) -> usize {
        let orders = self.state.file_orders(usize::MAX).unwrap();
        for (group, order) in &orders {
            let mut report =
                GroupReports { group: *group, trimmed: Vec::new(), measured: Vec::new() };
            match order {
                FileOrder::Trim(trim, _) => report.trimmed.push((trim.fid, trim.trunc_gen)),
                FileOrder::Measure(measure) => {
                    let len = |&(index, len): &(u32, u32)| ChunkLen { index, len };
                    let chunks = chunks.iter().map(len).collect();
                    report.measured.push(Measured { fid: measure.fid, chunks });
                }
            }
            self.done(&Command::FileReports { groups: vec![report] });
        }
        orders.len()
    }

    fn look(&mut self, session: SessionId, ino: Ino) -> Entry {
        let attributes = SetAttributes::default();
        self.entry(session, NamespaceOp::SetAttr { ino, attributes });
        let entry = self.run(session, NamespaceOp::SetSize { ino, end: 0, trunc_gen: 0 });
        match entry {
            OpOutcome::Done(Some(entry)) => entry,
            // A newer truncation: the size is not touched by that either.
            other => panic!("{other:?}"),
        }
    }
}

fn register(node: u32) -> Command {
    let target = TargetReport {
        target: TargetId(node * 100 + 1),
        shard: ShardId(0),
        device: 0,
        port: 7410,
        generation: Generation(1),
        recovered_lsn: Lsn(0),
        intact: true,
        capacity: 1 << 34,
        free: 1 << 34,
        groups: Vec::new(),
    };
    Command::RegisterNode {
        node: NodeId(node),
        incarnation: u64::from(node),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        targets: vec![target],
    }
}

fn content(entry: &Entry) -> &FileContent {
    entry.content.as_ref().unwrap()
}

fn ino(entry: &Entry) -> Ino {
    entry.attributes.ino
}

#[test]
fn one_session_writes_or_several_that_agree_to_share() {
    let mut driver = Driver::new();
    let (a, b) = (driver.session(), driver.session());
    let file = driver.file(a, "f", CHUNK);
    assert!(content(&driver.opened(a, ino(&file), false)).writing);
    let refused = OpOutcome::Refused(Status::Conflict);
    assert_eq!(driver.open(b, ino(&file), false, false), refused);
    assert_eq!(driver.open(b, ino(&file), false, true), refused);
    // The same session again is the same writer.
    driver.opened(a, ino(&file), false);
    driver.close(a, &file, 0, true);
    assert_eq!(driver.open(b, ino(&file), false, true), refused);
    let closed = driver.close(a, &file, CHUNK + 5, true);
    assert_eq!((closed.attributes.size, content(&closed).writing), (CHUNK + 5, false));
    assert!(content(&closed).growth_only, "appends of one clean writer only grow a file");
    for session in [a, b] {
        let shared = NamespaceOp::OpenWrite { ino: ino(&file), mutate: false, shared: true };
        assert!(!content(&driver.entry(session, shared)).growth_only);
    }
    assert_eq!(driver.open(a, ino(&file), false, false), refused);
}

#[test]
fn the_first_open_that_may_change_bytes_ends_growth_for_good() {
    let mut driver = Driver::new();
    let session = driver.session();
    let file = driver.file(session, "f", CHUNK);
    assert!(content(&file).growth_only);
    let opened = driver.opened(session, ino(&file), true);
    assert!(!content(&opened).growth_only, "before the first write, not after the last");
    let closed = driver.close(session, &opened, CHUNK, true);
    assert!(!content(&closed).growth_only);
}

#[test]
fn a_shorter_file_settles_before_anybody_writes_to_it() {
    let mut driver = Driver::new();
    let session = driver.session();
    let file = driver.file(session, "f", 40 * CHUNK);
    let cut = driver.entry(session, NamespaceOp::Truncate { ino: ino(&file), len: 3 });
    let said = content(&cut);
    assert_eq!((cut.attributes.size, said.trunc_gen), (3, content(&file).trunc_gen + 1));
    assert!(said.truncating && !said.growth_only);
    let busy = OpOutcome::Refused(Status::Busy);
    assert_eq!(driver.open(session, ino(&file), true, false), busy);
    let orders = driver.state.file_orders(usize::MAX).unwrap();
    let groups: BTreeSet<GroupId> = orders.iter().map(|(group, _)| *group).collect();
    let laid_out = said.layout.segments.iter().flat_map(|segment| segment.groups.clone());
    assert_eq!(groups, laid_out.collect());
    // A report of an older cut is no report of this one.
    let old = GroupReports { group: orders[0].0, trimmed: vec![(said.fid, 0)], measured: vec![] };
    driver.done(&Command::FileReports { groups: vec![old] });
    assert_eq!(driver.state.file_orders(usize::MAX).unwrap().len(), orders.len());
    assert_eq!(driver.settle(&[]), orders.len());
    assert!(!content(&driver.opened(session, ino(&file), true)).truncating);
    assert_eq!(driver.settle(&[]), 0, "nothing is asked twice");
}

#[test]
fn a_size_of_before_the_cut_changes_nothing() {
    let mut driver = Driver::new();
    let session = driver.session();
    let file = driver.file(session, "f", 2 * CHUNK);
    driver.opened(session, ino(&file), true);
    driver.entry(session, NamespaceOp::Truncate { ino: ino(&file), len: 7 });
    driver.settle(&[]);
    let stale = NamespaceOp::SetSize { ino: ino(&file), end: CHUNK, trunc_gen: 0 };
    assert_eq!(driver.run(session, stale), OpOutcome::Refused(Status::StaleFile));
    let closed = driver.close(session, &file, CHUNK, true);
    assert_eq!(closed.attributes.size, 7);
}

#[test]
fn nothing_is_left_of_a_file_cut_to_nothing() {
    let mut driver = Driver::new();
    let session = driver.session();
    let file = driver.file(session, "f", 9 * CHUNK);
    let empty = driver.entry(session, NamespaceOp::Truncate { ino: ino(&file), len: 0 });
    assert_eq!(empty.attributes.size, 0);
    assert_ne!(content(&empty).fid, content(&file).fid);
    assert!(content(&empty).growth_only && !content(&empty).truncating);
    let dead = driver.state.dead_files(usize::MAX).unwrap();
    let fids: BTreeSet<Fid> = dead.into_iter().flat_map(|(_, fids)| fids).collect();
    assert_eq!(fids, BTreeSet::from([content(&file).fid]));
}

#[test]
fn a_longer_file_has_a_hole_and_is_no_longer_growth_only() {
    let mut driver = Driver::new();
    let session = driver.session();
    let file = driver.file(session, "f", 5);
    let longer = driver.entry(session, NamespaceOp::Truncate { ino: ino(&file), len: 50 });
    assert_eq!((longer.attributes.size, content(&longer).growth_only), (50, false));
    assert!(driver.state.file_orders(usize::MAX).unwrap().is_empty());
    let far = NamespaceOp::Truncate { ino: ino(&file), len: u64::MAX };
    assert_eq!(driver.run(session, far), OpOutcome::Refused(Status::Invalid));
}

#[test]
fn the_size_of_a_dead_writers_file_is_what_the_groups_hold_without_a_gap() {
    let mut driver = Driver::new();
    let (dead, other) = (driver.session(), driver.session());
    let file = driver.file(other, "f", 10);
    driver.opened(dead, ino(&file), false);
    driver.done(&Command::EndSession { session: dead });
    let busy = OpOutcome::Refused(Status::Busy);
    assert_eq!(driver.open(other, ino(&file), false, false), busy);
    // Measured first, then cut: a chunk beyond the gap must not come back.
    let whole = u32::try_from(CHUNK).unwrap();
    let measured = driver.settle(&[(0, whole), (1, 100), (3, 5)]);
    assert_eq!(driver.settle(&[]), measured);
    let opened = driver.opened(other, ino(&file), true);
    assert_eq!(opened.attributes.size, CHUNK + 100);
    let said = content(&opened);
    assert!(said.recovered && !said.growth_only && said.trunc_gen == 1);
    assert!(driver.state.file_orders(usize::MAX).unwrap().is_empty());
}

#[test]
fn an_unclean_close_is_measured_too() {
    let mut driver = Driver::new();
    let session = driver.session();
    let file = driver.file(session, "f", 10);
    let opened = driver.opened(session, ino(&file), false);
    let closed = driver.close(session, &opened, 20, false);
    assert!(content(&closed).truncating);
    driver.settle(&[(0, 25)]);
    driver.settle(&[]);
    let opened = driver.opened(session, ino(&file), false);
    assert_eq!((opened.attributes.size, content(&opened).recovered), (25, true));
}

#[test]
fn ranges_of_shared_appends_never_overlap() {
    let mut driver = Driver::new();
    let (a, b) = (driver.session(), driver.session());
    let file = driver.file(a, "f", 100);
    for session in [a, b] {
        let shared = NamespaceOp::OpenWrite { ino: ino(&file), mutate: false, shared: true };
        driver.entry(session, shared);
    }
    let mut ends = Vec::new();
    for session in [a, b, a] {
        let append = NamespaceOp::ReserveAppend { ino: ino(&file), len: 7 };
        ends.push(driver.entry(session, append).attributes.size);
    }
    assert_eq!(ends, [107, 114, 121]);
    driver.done(&Command::EndSession { session: b });
    assert!(!content(&driver.look(a, ino(&file))).truncating, "one of several writers died");
}

#[test]
fn writing_goes_on_over_other_groups_and_the_left_ones_are_remembered() {
    let mut driver = Driver::new();
    let session = driver.session();
    let file = driver.file(session, "f", 5 * CHUNK);
    driver.opened(session, ino(&file), false);
    let avoid = content(&file).layout.segments[1].groups[1];
    let extend = |first_chunk| NamespaceOp::ExtendLayout { ino: ino(&file), first_chunk, avoid };
    let inside = driver.run(session, extend(4));
    assert_eq!(inside, OpOutcome::Refused(Status::Invalid), "committed bytes stay where they are");
    let extended = driver.entry(session, extend(5));
    let segments = &content(&extended).layout.segments;
    assert_eq!(segments.last().map(|segment| segment.first_chunk), Some(5));
    assert!(segments.last().is_some_and(|segment| !segment.groups.contains(&avoid)));
    // A second time at the same place drops the segment of the first.
    driver.entry(session, extend(5));
    for chunk in 6..=u32::try_from(SEGMENTS_MAX).unwrap() + 2 {
        driver.entry(session, extend(chunk));
    }
    let last = u32::try_from(SEGMENTS_MAX).unwrap() + 3;
    assert_eq!(driver.run(session, extend(last)), OpOutcome::Refused(Status::LimitReached));
    let before: BTreeSet<GroupId> = content(&extended)
        .layout
        .segments
        .iter()
        .flat_map(|segment| segment.groups.clone())
        .collect();
    driver.entry(session, NamespaceOp::Truncate { ino: ino(&file), len: 0 });
    let dead = driver.state.dead_files(usize::MAX).unwrap();
    let dropped: BTreeSet<GroupId> = dead.into_iter().map(|(group, _)| group).collect();
    assert!(dropped.is_superset(&before), "every group that ever had bytes is told");
}

#[test]
fn a_session_opens_only_so_many_files() {
    let mut driver = Driver::new();
    let session = driver.session();
    let stranger = driver.session();
    let file = driver.file(session, "f", 1);
    let not_open = NamespaceOp::ReserveAppend { ino: ino(&file), len: 1 };
    assert_eq!(driver.run(stranger, not_open), OpOutcome::Refused(Status::NotFound));
    // Walking the whole table after each of thousands of commands would take minutes.
    driver.checked = false;
    for number in 0..OPENED_PER_SESSION_MAX {
        let file = driver.file(session, &format!("{number}"), 1);
        driver.opened(session, ino(&file), false);
    }
    let full = OpOutcome::Refused(Status::LimitReached);
    assert_eq!(driver.open(session, ino(&file), false, false), full);
    driver.checked = true;
    driver.done(&Command::EndSession { session });
}

#[test]
fn one_round_looks_at_so_many_orders() {
    let mut driver = Driver::new();
    let session = driver.session();
    driver.checked = false;
    let mut orders = 0;
    for number in 0.. {
        let file = driver.file(session, &format!("{number}"), 40 * CHUNK);
        driver.entry(session, NamespaceOp::Truncate { ino: ino(&file), len: 3 });
        let groups = content(&file).layout.segments.iter().map(|segment| segment.groups.len());
        orders += groups.sum::<usize>() - 1;
        if orders > FILE_ORDERS_SCAN_MAX {
            break;
        }
    }
    let scanned = driver.state.file_orders(FILE_ORDERS_SCAN_MAX).unwrap();
    assert_eq!(scanned.len(), FILE_ORDERS_SCAN_MAX);
    driver.checked = true;
    while driver.settle(&[]) > 0 {}
}
