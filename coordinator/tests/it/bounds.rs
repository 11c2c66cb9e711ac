//! Every bound of the state, reached, and rows of its table that are not what was written.

use std::net::{IpAddr, Ipv4Addr};

use coordinator::kv::{Kv, KvError, KvRead, Memory};
use coordinator::limits::{
    CLIENT_NAME_MAX, DROP_SCAN_MAX, GROUP_EVICTED_MAX, GROUPS_MAX, LINKS_FOLLOWED_MAX,
    LOOKUP_REPLY_BYTES_MAX, NODES_MAX, READ_DIR_PAGE_BYTES_MAX, SESSIONS_MAX, TARGETS_PER_NODE_MAX,
};
use coordinator::state::{Outcome, State, read};
use protocol::cluster_map::Role;
use protocol::ids::{
    ClusterId, Generation, GroupId, Ino, Lsn, NodeId, Seq, SessionId, ShardId, TargetId,
};
use protocol::limits::{
    BODY_LEN_MAX_LIST, LINK_LEN_MAX, LOOKUP_BATCH_MAX, MUTATE_OPS_MAX, READ_DIR_PAGE_MAX,
    RESERVE_MAX,
};
use protocol::message::Message;
use protocol::message::cluster::TargetReport;
use protocol::message::command::{Caller, Command, Stamp};
use protocol::message::namespace::{
    LookupReply, LookupResult, NamespaceOp, OpOutcome, PathQuery, ReadDirRequest, SetAttributes,
};
use protocol::status::Status;

const ADMIN: Caller = Caller { uid: 0, gid: 0, admin: true };
const FULL: Outcome = Outcome::Refused(Status::LimitReached);

/// A state in memory and the number of its last command.
struct Driver {
    state: State<Memory>,
    number: u64,
    seq: u64,
}

impl Driver {
    fn new() -> Driver {
        let state = State::open(Memory::default()).unwrap();
        let mut driver = Driver { state, number: 0, seq: 0 };
        driver.done(&Command::Initialize {
            cluster: ClusterId(7),
            replicas: 3,
            min_write: 2,
            groups_per_target: 8,
            targets_expected: 3,
            owner: ADMIN,
        });
        driver
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.number += 1;
        let stamp = Stamp { time_ms: self.number * 1_000, nonce: self.number };
        self.state.apply(stamp, command)
    }

    fn done(&mut self, command: &Command) {
        assert_eq!(self.apply(command), Outcome::Done, "{command:?}");
    }

    fn open(&mut self, client: &str) -> Outcome {
        self.apply(&Command::OpenSession { caller: ADMIN, client: client.into() })
    }

    /// Opens a session that must be given.
    fn session(&mut self, client: &str) -> SessionId {
        match self.open(client) {
            Outcome::Session(session) => session,
            other => panic!("{other:?}"),
        }
    }

    /// Carries out operations that must all succeed, in batches.
    fn change(&mut self, session: SessionId, ops: Vec<NamespaceOp>) -> Vec<OpOutcome> {
        let mut outcomes = Vec::new();
        for batch in ops.chunks(MUTATE_OPS_MAX) {
            let numbered = batch.iter().map(|op| {
                self.seq += 1;
                (Seq(self.seq), op.clone())
            });
            let ops = numbered.collect();
            match self.apply(&Command::Mutate { session, caller: ADMIN, ops }) {
                Outcome::Ops(made) => outcomes.extend(made),
                other => panic!("{other:?}"),
            }
        }
        let refused = outcomes.iter().find(|one| matches!(one, OpOutcome::Refused(_)));
        assert_eq!(refused, None);
        outcomes
    }
}

fn report(target: u32) -> TargetReport {
    TargetReport {
        target: TargetId(target),
        shard: ShardId(0),
        device: 0,
        port: 7411,
        generation: Generation(1),
        recovered_lsn: Lsn(0),
        intact: true,
        capacity: 1 << 30,
        free: 1 << 30,
        groups: Vec::new(),
    }
}

fn register(node: u32, targets: Vec<TargetReport>) -> Command {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Command::RegisterNode { node: NodeId(node), incarnation: 1, address, targets }
}

fn symlink(name: String, target: Vec<u8>) -> NamespaceOp {
    let (name, attributes) = (name.into_bytes(), SetAttributes::default());
    NamespaceOp::Symlink { parent: Ino::ROOT, name, target, attributes, replace: false }
}

#[test]
fn sessions_are_bounded_and_one_that_ends_makes_room() {
    let mut driver = Driver::new();
    let first = driver.session("first");
    for _ in 1..SESSIONS_MAX {
        driver.session("more");
    }
    assert_eq!(driver.open("one too many"), FULL);
    driver.done(&Command::EndSession { session: first });
    driver.session("in its place");
    assert_eq!(driver.open("and again"), FULL);
    assert_eq!(driver.state.violations(), Vec::<String>::new());
}

#[test]
fn a_long_client_name_is_cut_between_characters() {
    let mut driver = Driver::new();
    let exact = "x".repeat(CLIENT_NAME_MAX);
    let session = driver.session(&exact);
    assert_eq!(driver.state.session(session).unwrap().client, exact);
    // Two bytes a character, and one byte in front, so the bound falls into one of them.
    let session = driver.session(&format!("x{}", "ä".repeat(CLIENT_NAME_MAX)));
    let kept = driver.state.session(session).unwrap().client.clone();
    assert_eq!(kept, format!("x{}", "ä".repeat((CLIENT_NAME_MAX - 1) / 2)));
}

#[test]
fn nodes_are_bounded_and_known_ones_may_return() {
    let mut driver = Driver::new();
    let last = u32::try_from(NODES_MAX).unwrap();
    (1..=last).for_each(|node| driver.done(&register(node, Vec::new())));
    assert_eq!(driver.apply(&register(last + 1, Vec::new())), FULL);
    driver.done(&register(last, vec![report(1)]));
    assert_eq!(driver.state.map().nodes.len(), NODES_MAX);
}

#[test]
fn targets_of_one_node_are_bounded() {
    let mut driver = Driver::new();
    let last = u32::try_from(TARGETS_PER_NODE_MAX).unwrap();
    let targets: Vec<_> = (1..=last).map(report).collect();
    let more = [targets.clone(), vec![report(last + 1)]].concat();
    assert_eq!(driver.apply(&register(1, more)), FULL);
    assert!(driver.state.map().targets.is_empty(), "a refused registration changes nothing");
    driver.done(&register(1, targets));
    assert_eq!(driver.state.map().targets.len(), TARGETS_PER_NODE_MAX);
}

#[test]
fn groups_are_bounded() {
    let mut driver = Driver::new();
    (1..=3).for_each(|node| driver.done(&register(node, vec![report(node)])));
    let all = u32::try_from(GROUPS_MAX).unwrap();
    assert_eq!(driver.apply(&Command::CreateGroups { count: all + 1 }), FULL);
    assert_eq!(driver.apply(&Command::CreateGroups { count: u32::MAX }), FULL);
    driver.done(&Command::CreateGroups { count: all });
    assert_eq!(driver.state.map().groups.len(), GROUPS_MAX);
    assert_eq!(driver.apply(&Command::CreateGroups { count: 1 }), FULL);
}

#[test]
fn a_group_remembers_a_bounded_number_of_evicted_targets() {
    let mut driver = Driver::new();
    (1..=30).for_each(|node| driver.done(&register(node, vec![report(node)])));
    driver.done(&Command::CreateGroups { count: 1 });
    let group = driver.state.map().groups[&GroupId(1)].clone();
    let others = (1..=30).map(TargetId).filter(|target| group.member(*target).is_none());
    let others: Vec<_> = others.collect();
    let mut evict = |count: usize| {
        let epoch = driver.state.map().groups[&GroupId(1)].epoch;
        driver.apply(&Command::ChangeGroup {
            group: GroupId(1),
            expected_epoch: epoch,
            members: group.members.clone(),
            evicted: others[..count].to_vec(),
            down: false,
            plan: None,
        })
    };
    assert_eq!(evict(GROUP_EVICTED_MAX + 1), FULL);
    assert_eq!(evict(GROUP_EVICTED_MAX), Outcome::Done);
    let kept = &driver.state.map().groups[&GroupId(1)];
    assert_eq!(kept.evicted.len(), GROUP_EVICTED_MAX);
    assert_eq!(kept.members.iter().filter(|member| member.role == Role::Primary).count(), 1);
}

#[test]
fn a_page_of_long_links_ends_before_it_is_too_long_for_a_body() {
    const LINKS: usize = 400;
    let mut driver = Driver::new();
    let session = driver.session("lists");
    let links = (0..LINKS).map(|n| symlink(format!("l{n:04}"), vec![b'x'; LINK_LEN_MAX]));
    driver.change(session, links.collect());
    driver.state.commit(false).unwrap();
    let view = driver.state.snapshot().unwrap();
    let limit = u32::try_from(READ_DIR_PAGE_MAX).unwrap();
    let (mut after, mut found, mut pages) = (Vec::new(), 0, 0);
    loop {
        let request = ReadDirRequest { session, dir: Ino::ROOT, after, limit, with_content: true };
        let page = read::read_dir(&view, &ADMIN, &request).unwrap();
        let bytes: usize = page.entries.iter().map(|entry| entry.entry.link.len()).sum();
        assert!(bytes <= READ_DIR_PAGE_BYTES_MAX);
        assert!(page.encode().len() <= BODY_LEN_MAX_LIST);
        found += page.entries.len();
        pages += 1;
        if !page.more {
            break;
        }
        let next = bytes + (page.entries.len() + 1) * 256 + LINK_LEN_MAX;
        assert!(next > READ_DIR_PAGE_BYTES_MAX, "the page was full");
        after = page.entries.last().unwrap().name.clone();
    }
    assert_eq!((found, pages), (LINKS, 1 + LINKS * LINK_LEN_MAX / READ_DIR_PAGE_BYTES_MAX));
}

#[test]
fn results_of_a_lookup_end_before_they_are_too_long_for_a_body() {
    let mut driver = Driver::new();
    let session = driver.session("looks");
    driver.change(session, vec![symlink("l".into(), vec![b'x'; LINK_LEN_MAX])]);
    driver.state.commit(false).unwrap();
    let view = driver.state.snapshot().unwrap();
    let query = |path: &str| PathQuery {
        base: Ino::ROOT,
        path: path.into(),
        follow: false,
        with_content: true,
    };
    let long = vec![query("l"); LOOKUP_BATCH_MAX];
    let found = read::lookup_batch(&view, &ADMIN, &long);
    let bytes = |count: usize| count * (LINK_LEN_MAX + 192);
    assert!(bytes(found.len()) <= LOOKUP_REPLY_BYTES_MAX, "{}", found.len());
    assert!(bytes(found.len() + 1) > LOOKUP_REPLY_BYTES_MAX, "{}", found.len());
    let results = found.into_iter().map(|result| LookupResult::Found(result.unwrap()));
    let reply = LookupReply { results: results.collect() };
    assert!(reply.encode().len() <= BODY_LEN_MAX_LIST);
    let missing = vec![query("none"); LOOKUP_BATCH_MAX];
    assert_eq!(read::lookup_batch(&view, &ADMIN, &missing).len(), LOOKUP_BATCH_MAX);
}

#[test]
fn links_are_followed_so_far_and_no_further() {
    let mut driver = Driver::new();
    let session = driver.session("links");
    let name = |n: u32| format!("l{n}");
    let chain = (1..=LINKS_FOLLOWED_MAX).map(|n| symlink(name(n), name(n - 1).into_bytes()));
    let end = NamespaceOp::Mkdir {
        parent: Ino::ROOT,
        name: name(0).into_bytes(),
        attributes: SetAttributes::default(),
    };
    let more = symlink("more".into(), name(LINKS_FOLLOWED_MAX).into_bytes());
    driver.change(session, std::iter::once(end).chain(chain).chain([more]).collect());
    driver.state.commit(false).unwrap();
    let view = driver.state.snapshot().unwrap();
    let look = |path: String| {
        let path = path.into_bytes();
        let query = PathQuery { base: Ino::ROOT, path, follow: true, with_content: false };
        read::lookup(&view, &ADMIN, &query).map_err(|error| error.status())
    };
    assert!(look(name(LINKS_FOLLOWED_MAX)).is_ok());
    assert_eq!(look("more".into()), Err(Status::Loop));
}

#[test]
fn dead_files_are_looked_at_in_bounded_rounds() {
    let mut driver = Driver::new();
    (1..=3).for_each(|node| driver.done(&register(node, vec![report(node)])));
    driver.done(&Command::CreateGroups { count: 1 });
    let mut dead = 0;
    while dead <= DROP_SCAN_MAX {
        let session = driver.session("short");
        let reserve = NamespaceOp::Reserve { parent: Ino::ROOT, count: RESERVE_MAX, expect_len: 1 };
        for outcome in driver.change(session, vec![reserve; 8]) {
            let OpOutcome::Reserved(files) = outcome else { panic!("{outcome:?}") };
            dead += files.len();
        }
        driver.done(&Command::EndSession { session });
    }
    let count = |limit| {
        let groups = driver.state.dead_files(limit).unwrap();
        groups.iter().map(|(_, fids)| fids.len()).sum::<usize>()
    };
    assert_eq!((count(DROP_SCAN_MAX), count(usize::MAX)), (DROP_SCAN_MAX, dead));
}

/// Rows of a small cluster with a directory, a file, a link and a session.
fn table() -> Memory {
    let mut driver = Driver::new();
    (1..=3).for_each(|node| driver.done(&register(node, vec![report(node)])));
    driver.done(&Command::CreateGroups { count: 2 });
    let session = driver.session("rows");
    let reserve = NamespaceOp::Reserve { parent: Ino::ROOT, count: 2, expect_len: 1 };
    let made = driver.change(session, vec![reserve, symlink("link".into(), b"file".to_vec())]);
    let OpOutcome::Reserved(files) = &made[0] else { panic!("{made:?}") };
    let publish = NamespaceOp::Publish {
        ino: files[0].attributes.ino,
        parent: Ino::ROOT,
        name: b"file".to_vec(),
        size: 100,
        attributes: SetAttributes::default(),
        replace: false,
        growth_only: true,
    };
    driver.change(session, vec![publish]);
    driver.state.commit(true).unwrap();
    let view = driver.state.snapshot().unwrap();
    let mut table = Memory::default();
    for (key, value) in view.scan(&[], &[u8::MAX], usize::MAX).unwrap() {
        table.put(key, value);
    }
    table.commit(true).unwrap();
    table
}

/// Uses every part of the table; the first error, or none.
fn use_all(table: Memory) -> Result<(), KvError> {
    let mut driver = Driver { state: State::open(table)?, number: 100, seq: 100 };
    let session = SessionId(1);
    let unlink = |name: &str| NamespaceOp::Unlink { parent: Ino::ROOT, name: name.into() };
    let reserve = NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: 1 };
    let first = symlink("again".into(), b"x".to_vec());
    let numbered = |seq: u64, op: NamespaceOp| (Seq(seq), op);
    // The second number was used before, so its remembered outcome is read.
    let ops = vec![numbered(2, first), numbered(101, reserve)];
    driver.apply(&Command::Mutate { session, caller: ADMIN, ops });
    driver.state.commit(false)?;
    let view = driver.state.snapshot()?;
    let request =
        ReadDirRequest { session, dir: Ino::ROOT, after: vec![], limit: 9, with_content: true };
    match read::read_dir(&view, &ADMIN, &request) {
        Err(read::ReadError::Table(error)) => return Err(error),
        other => assert!(other.is_ok(), "{other:?}"),
    }
    let ops = vec![numbered(102, unlink("file")), numbered(103, unlink("link"))];
    driver.apply(&Command::Mutate { session, caller: ADMIN, ops });
    driver.apply(&Command::EndSession { session });
    driver.state.dead_files(usize::MAX)?;
    driver.state.commit(true)
}

#[test]
fn a_damaged_row_is_an_error_that_names_it_and_never_a_panic() {
    let table = table();
    assert_eq!(use_all(table.clone()), Ok(()));
    let rows = table.scan(&[], &[u8::MAX], usize::MAX).unwrap();
    assert!(rows.len() > 15, "{} rows", rows.len());
    let mut noticed = 0;
    for (key, value) in &rows {
        let name = key.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let cuts = [0, 1, value.len() / 2, value.len() - 1].map(|len| value[..len].to_vec());
        let flips = (0..value.len()).map(|at| {
            let mut flipped = value.clone();
            flipped[at] ^= 0x10;
            flipped
        });
        for damage in cuts.into_iter().chain(flips) {
            let mut damaged = table.clone();
            damaged.put(key.clone(), damage);
            damaged.commit(true).unwrap();
            match use_all(damaged) {
                Err(KvError::Damaged { key, .. }) => assert_eq!(key, name),
                // A row whose bytes say nothing, or that is only overwritten or deleted.
                Ok(()) => {
                    assert!(b"RW".contains(&key[0]), "damage of row {name} goes unnoticed");
                    continue;
                }
                Err(other) => panic!("{other}"),
            }
            noticed += 1;
        }
    }
    assert!(noticed > 500, "{noticed} damages noticed");
}

#[test]
fn after_a_damaged_row_nothing_more_is_applied() {
    let mut table = table();
    let rows = table.scan(b"I", b"J", usize::MAX).unwrap();
    let (key, _) = rows.last().unwrap();
    table.put(key.clone(), Vec::new());
    table.commit(true).unwrap();
    let mut driver = Driver { state: State::open(table).unwrap(), number: 100, seq: 100 };
    let unlink = NamespaceOp::Unlink { parent: Ino::ROOT, name: b"link".to_vec() };
    let ops = vec![(Seq(101), unlink)];
    let internal = Outcome::Refused(Status::Internal);
    let session = SessionId(1);
    assert_eq!(driver.apply(&Command::Mutate { session, caller: ADMIN, ops }), internal);
    assert_eq!(driver.open("more"), internal);
    assert!(matches!(driver.state.commit(true), Err(KvError::Damaged { .. })));
}
