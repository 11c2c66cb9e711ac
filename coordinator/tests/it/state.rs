//! The state machine against the model, twice against itself, and across engines and crashes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use coordinator::kv::{Kv, Memory, Redb};
use coordinator::limits::RESERVED_PER_SESSION_MAX;
use coordinator::state::{Outcome, State, read};
use proptest::prelude::*;
use protocol::cluster_map::{ClusterMap, Role};
use protocol::ids::{
    ClusterId, Epoch, Generation, GroupId, Ino, Lsn, MapVersion, NodeId, Seq, SessionId, ShardId,
    TargetId,
};
use protocol::limits::{MUTATE_OPS_MAX, SESSION_WINDOW};
use protocol::message::cluster::TargetReport;
use protocol::message::command::{Caller, Command, Stamp};
use protocol::message::namespace::{
    FileType, NamespaceOp, OpOutcome, PathQuery, ReadDirRequest, SetAttributes,
};
use protocol::status::Status;

use crate::model::{Item, Line, Model};

const ADMIN: Caller = Caller { uid: 0, gid: 0, admin: true };
const CACHE: usize = 4 << 20;

/// A state that remembers its commands.
struct Driver<K> {
    state: State<K>,
    log: Vec<(Stamp, Command)>,
    seq: u64,
    session: SessionId,
}

impl<K: Kv> Driver<K> {
    fn new(kv: K) -> Driver<K> {
        let state = State::open(kv).unwrap();
        let mut driver = Driver { state, log: Vec::new(), seq: 0, session: SessionId(0) };
        driver.done(Command::Initialize {
            cluster: ClusterId(7),
            replicas: 3,
            min_write: 2,
            groups_per_target: 8,
            targets_expected: 3,
            owner: ADMIN,
        });
        (1..=3).for_each(|node| driver.done(register(node, 1, 1)));
        driver.done(Command::CreateGroups { count: 8 });
        driver.session = driver.open(ADMIN);
        driver
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let number = self.log.len() as u64 + 1;
        let stamp = Stamp { time_ms: number * 1_000, nonce: number.wrapping_mul(0x9e37_79b9) };
        self.log.push((stamp, command));
        self.state.apply(stamp, &self.log.last().unwrap().1)
    }

    fn done(&mut self, command: Command) {
        assert_eq!(self.apply(command), Outcome::Done);
    }

    fn open(&mut self, caller: Caller) -> SessionId {
        match self.apply(Command::OpenSession { caller, client: "test".into() }) {
            Outcome::Session(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn op(&mut self, op: NamespaceOp) -> OpOutcome {
        self.seq += 1;
        let (session, caller) = (self.session, ADMIN);
        match self.apply(Command::Mutate { session, caller, ops: vec![(Seq(self.seq), op)] }) {
            Outcome::Ops(mut outcomes) => outcomes.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn made(&mut self, op: NamespaceOp) -> Ino {
        match self.op(op) {
            OpOutcome::Done(Some(entry)) => entry.attributes.ino,
            other => panic!("{other:?}"),
        }
    }

    fn reserve(&mut self) -> Ino {
        match self.op(NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: 0 }) {
            OpOutcome::Reserved(files) => files[0].attributes.ino,
            other => panic!("{other:?}"),
        }
    }

    fn file(&mut self, name: &str, size: u64) -> Ino {
        let ino = self.reserve();
        self.made(publish(ino, Ino::ROOT, name.as_bytes(), size, true))
    }

    fn sound(&self) {
        assert_eq!(self.state.violations(), Vec::<String>::new());
    }
}

fn register(node: u32, incarnation: u64, generation: u32) -> Command {
    let target = TargetReport {
        target: TargetId(node * 100),
        shard: ShardId(0),
        device: 0,
        port: 7411,
        generation: Generation(generation),
        recovered_lsn: Lsn(0),
        intact: true,
        capacity: 1 << 30,
        free: 1 << 30,
        groups: Vec::new(),
    };
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Command::RegisterNode { node: NodeId(node), incarnation, address, targets: vec![target] }
}

fn publish(ino: Ino, parent: Ino, name: &[u8], size: u64, replace: bool) -> NamespaceOp {
    let (name, attributes) = (name.to_vec(), SetAttributes::default());
    NamespaceOp::Publish { ino, parent, name, size, attributes, replace, growth_only: true }
}

fn mkdir(parent: Ino, name: &str) -> NamespaceOp {
    let attributes = SetAttributes { mode: Some(0o755), ..SetAttributes::default() };
    NamespaceOp::Mkdir { parent, name: name.into(), attributes }
}

fn query(path: &str) -> PathQuery {
    PathQuery { base: Ino::ROOT, path: path.into(), follow: true, with_content: true }
}

/// One random operation; numbers pick from what exists.
#[derive(Clone, Debug)]
struct Random {
    kind: u8,
    dirs: (usize, usize),
    names: (u8, u8),
    pick: usize,
    flag: bool,
    size: u64,
}

fn random() -> impl Strategy<Value = Random> {
    let numbers = (0..12u8, any::<(usize, usize)>(), (0..4u8, 0..4u8));
    (numbers, any::<usize>(), any::<bool>(), 0..100u64).prop_map(
        |((kind, dirs, names), pick, flag, size)| Random { kind, dirs, names, pick, flag, size },
    )
}

/// Turns a random operation into a real one and says what the model does about it.
fn step<K: Kv>(driver: &mut Driver<K>, model: &mut Model, random: &Random) {
    let dirs: Vec<Ino> = model.items.keys().copied().collect();
    let (dir, other) = (dirs[random.dirs.0 % dirs.len()], dirs[random.dirs.1 % dirs.len()]);
    let name = |number: u8| vec![b'a' + number];
    let (one, two) = (name(random.names.0), name(random.names.1));
    let known: Vec<Ino> = model.items.keys().chain(&model.reserved).copied().collect();
    let some = known[random.pick % known.len()];
    let replace = random.flag;
    let attributes = SetAttributes::default();
    let op = match random.kind {
        0 | 1 => NamespaceOp::Mkdir { parent: dir, name: one.clone(), attributes },
        2 => NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: random.size << 20 },
        3 | 4 => publish(some, dir, &one, random.size, replace),
        5 => NamespaceOp::Abandon { inos: vec![some] },
        6 => NamespaceOp::Symlink {
            parent: dir,
            name: one.clone(),
            target: two.clone(),
            attributes,
            replace,
        },
        7 => NamespaceOp::Link { ino: some, parent: dir, name: one.clone() },
        8 | 9 => NamespaceOp::Rename {
            from_parent: dir,
            from_name: one.clone(),
            to_parent: other,
            to_name: two.clone(),
            replace,
        },
        10 if random.flag => NamespaceOp::Unlink { parent: dir, name: one.clone() },
        10 => NamespaceOp::Rmdir { parent: dir, name: one.clone() },
        _ => NamespaceOp::SetSize { ino: some, end: random.size, trunc_gen: 0 },
    };
    let outcome = driver.op(op.clone());
    let expected = predict(model, &op, &outcome);
    let got = match &outcome {
        OpOutcome::Refused(status) => Err(*status),
        OpOutcome::Done(_) | OpOutcome::Reserved(_) => Ok(()),
    };
    assert_eq!(got, expected, "{op:?}");
}

fn predict(model: &mut Model, op: &NamespaceOp, outcome: &OpOutcome) -> Result<(), Status> {
    let made = match outcome {
        OpOutcome::Done(Some(entry)) => entry.attributes.ino,
        OpOutcome::Reserved(files) => files[0].attributes.ino,
        OpOutcome::Done(None) | OpOutcome::Refused(_) => Ino(u64::MAX),
    };
    match op {
        NamespaceOp::Mkdir { parent, name, .. } => {
            model.add(*parent, name, made, Item::Directory(BTreeMap::new()))
        }
        NamespaceOp::Reserve { .. } => {
            model.reserved.insert(made);
            Ok(())
        }
        NamespaceOp::Publish { ino, parent, name, size, replace, .. } => {
            model.publish(*ino, (*parent, name), *size, *replace)
        }
        NamespaceOp::Abandon { inos } => {
            if model.reserved.remove(&inos[0]) {
                Ok(())
            } else {
                Err(Status::NotFound)
            }
        }
        NamespaceOp::Symlink { parent, name, target, replace, .. } => {
            model.replace((*parent, name), made, Item::Symlink(target.clone()), *replace)
        }
        NamespaceOp::Link { ino, parent, name } => model.link(*ino, *parent, name),
        NamespaceOp::Rename { from_parent, from_name, to_parent, to_name, replace } => {
            model.rename((*from_parent, from_name), (*to_parent, to_name), *replace)
        }
        NamespaceOp::Unlink { parent, name } => model.unlink(*parent, name),
        NamespaceOp::Rmdir { parent, name } => {
            let named = model.find(*parent, name)?;
            let not_dir = |ino| !matches!(model.items.get(&ino), Some(Item::Directory(_)));
            if named.is_some_and(not_dir) {
                return Err(Status::NotDirectory);
            }
            model.rmdir(*parent, name)
        }
        NamespaceOp::SetSize { ino, end, .. } => model.grow(*ino, *end),
        NamespaceOp::SetAttr { .. } => Ok(()),
        NamespaceOp::OpenWrite { .. }
        | NamespaceOp::CloseWrite { .. }
        | NamespaceOp::Truncate { .. }
        | NamespaceOp::ExtendLayout { .. }
        | NamespaceOp::ReserveAppend { .. } => Err(Status::Unsupported),
    }
}

/// The tree as readers of a snapshot see it, in pages of two.
fn listing<K: Kv>(state: &State<K>) -> BTreeMap<Vec<u8>, Line> {
    let view = state.snapshot().unwrap();
    let root = PathQuery { path: Vec::new(), ..query("") };
    let root = read::lookup(&view, &ADMIN, &root).unwrap();
    let mut lines = BTreeMap::new();
    let mut open = vec![(Vec::new(), root)];
    while let Some((path, entry)) = open.pop() {
        let attributes = &entry.attributes;
        let kind = match attributes.file_type {
            FileType::File => 'f',
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
        };
        let (ino, nlink, size) = (attributes.ino.0, attributes.nlink, attributes.size);
        lines.insert(path.clone(), Line { ino, kind, nlink, size });
        if kind != 'd' {
            continue;
        }
        let mut request = ReadDirRequest {
            session: SessionId(0),
            dir: attributes.ino,
            after: Vec::new(),
            limit: 2,
            with_content: true,
        };
        loop {
            let page = read::read_dir(&view, &ADMIN, &request).unwrap();
            for found in page.entries {
                request.after = found.name.clone();
                open.push(([&path[..], b"/", &found.name].concat(), found.entry));
            }
            if !page.more {
                break;
            }
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_namespace_agrees_with_the_model(steps in prop::collection::vec(random(), 1..60)) {
        let mut driver = Driver::new(Memory::default());
        let mut model = Model::new();
        for random in &steps {
            step(&mut driver, &mut model, random);
            driver.sound();
        }
        driver.state.commit(false).unwrap();
        prop_assert_eq!(listing(&driver.state), model.listing());
        // The same commands give the same rows, whatever the batches are.
        let mut again = State::open(Memory::default()).unwrap();
        for (stamp, command) in &driver.log {
            again.apply(*stamp, command);
            again.commit(stamp.nonce % 3 == 0).unwrap();
        }
        prop_assert_eq!(again.digest().unwrap(), driver.state.digest().unwrap());
        // Ending the session leaves nothing unlinked.
        let session = driver.session;
        driver.done(Command::EndSession { session });
        driver.sound();
        prop_assert_eq!(driver.state.counters().inodes, model.items.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn engines_agree_and_a_crash_returns_to_an_earlier_command(
        steps in prop::collection::vec(random(), 20..60), durable_at in 8..26usize
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let mut driver = Driver::new(Memory::default());
        let mut model = Model::new();
        steps.iter().for_each(|random| step(&mut driver, &mut model, random));

        let mut engine = State::open(Redb::open(&path, CACHE).unwrap()).unwrap();
        for (number, (stamp, command)) in driver.log.iter().enumerate() {
            engine.apply(*stamp, command);
            engine.commit(number + 1 == durable_at).unwrap();
        }
        let digest = driver.state.digest().unwrap();
        prop_assert_eq!(engine.digest().unwrap(), digest);
        prop_assert_eq!(engine.durable(), durable_at as u64);

        // What the file holds while the process still runs is what a kill leaves behind.
        let crashed = dir.path().join("crashed.redb");
        std::fs::copy(&path, &crashed).unwrap();
        let mut engine = State::open(Redb::open(&crashed, CACHE).unwrap()).unwrap();
        prop_assert_eq!(engine.applied(), durable_at as u64);
        prop_assert_eq!(engine.violations(), Vec::<String>::new());
        for (stamp, command) in &driver.log[durable_at..] {
            engine.apply(*stamp, command);
        }
        engine.commit(true).unwrap();
        prop_assert_eq!(engine.digest().unwrap(), digest);
        prop_assert_eq!(engine.violations(), Vec::<String>::new());
    }
}

#[test]
fn a_retried_operation_takes_effect_once_and_has_the_same_outcome() {
    let mut driver = Driver::new(Memory::default());
    let ops: Vec<_> = (1..=MUTATE_OPS_MAX as u64)
        .map(|seq| (Seq(seq), mkdir(Ino::ROOT, &format!("d{}", seq / 2))))
        .collect();
    let mutate = Command::Mutate { session: driver.session, caller: ADMIN, ops };
    let first = driver.apply(mutate.clone());
    let inodes = driver.state.counters().inodes;
    assert_eq!(driver.apply(mutate.clone()), first);
    assert_eq!(driver.state.counters().inodes, inodes);
    assert!(matches!(&first, Outcome::Ops(outcomes)
        if outcomes.contains(&OpOutcome::Refused(Status::Exists))));
    driver.sound();
    // Also by the next process.
    driver.state.commit(true).unwrap();
    let mut engine = Driver::new(Memory::default());
    for (stamp, command) in &driver.log[engine.log.len()..] {
        engine.state.apply(*stamp, command);
    }
    assert_eq!(engine.apply(mutate), first);
}

#[test]
fn the_window_is_bounded_and_what_fell_out_of_it_is_refused() {
    let mut driver = Driver::new(Memory::default());
    let first = (Seq(1), mkdir(Ino::ROOT, "first"));
    let session = driver.session;
    let mutate = |ops| Command::Mutate { session, caller: ADMIN, ops };
    driver.apply(mutate(vec![first.clone()]));
    let far = SESSION_WINDOW as u64;
    driver.apply(mutate(vec![(Seq(far), mkdir(Ino::ROOT, "far"))]));
    let again = driver.apply(mutate(vec![first.clone()]));
    assert!(matches!(again, Outcome::Ops(ops) if matches!(ops[0], OpOutcome::Done(Some(_)))));
    driver.apply(mutate(vec![(Seq(far + 1), mkdir(Ino::ROOT, "further"))]));
    let forgotten = driver.apply(mutate(vec![first]));
    assert_eq!(forgotten, Outcome::Ops(vec![OpOutcome::Refused(Status::Conflict)]));
    for seq in 0..SESSION_WINDOW as u64 * 2 {
        driver.apply(mutate(vec![(Seq(far + 2 + seq), mkdir(Ino::ROOT, "far"))]));
    }
    driver.sound();
    let too_many = (0..=MUTATE_OPS_MAX as u64).map(|seq| (Seq(seq), mkdir(Ino::ROOT, "x")));
    assert_eq!(driver.apply(mutate(too_many.collect())), Outcome::Refused(Status::LimitReached));
}

#[test]
fn a_session_holds_a_bounded_number_of_unlinked_files_and_gives_them_back() {
    let mut driver = Driver::new(Memory::default());
    let reserve = |count| NamespaceOp::Reserve { parent: Ino::ROOT, count, expect_len: 1 << 30 };
    for _ in 0..RESERVED_PER_SESSION_MAX / 256 {
        assert!(
            matches!(driver.op(reserve(256)), OpOutcome::Reserved(files) if files.len() == 256)
        );
    }
    assert_eq!(driver.op(reserve(1)), OpOutcome::Refused(Status::LimitReached));
    driver.sound();
    let session = driver.session;
    driver.done(Command::EndSession { session });
    driver.sound();
    // Eight groups hold each of the wide files.
    let dead = driver.state.counters().dead_files;
    assert_eq!(dead, RESERVED_PER_SESSION_MAX as u64 * 8);
    let listed = driver.state.dead_files(usize::MAX).unwrap();
    assert_eq!(listed.iter().map(|(_, fids)| fids.len() as u64).sum::<u64>(), dead);
    driver.done(Command::DropDone { groups: listed.clone() });
    driver.done(Command::DropDone { groups: listed });
    assert_eq!(driver.state.counters().dead_files, 0);
    let refused = driver.apply(Command::EndSession { session });
    assert_eq!(refused, Outcome::Refused(Status::SessionEnded));
}

#[test]
fn a_replaced_file_dies_with_its_stamp_and_a_linked_one_lives() {
    let mut driver = Driver::new(Memory::default());
    let old = driver.file("f", 5);
    driver.made(NamespaceOp::Link { ino: old, parent: Ino::ROOT, name: b"kept".to_vec() });
    driver.file("f", 7);
    assert_eq!(driver.state.counters().dead_files, 0);
    assert_eq!(driver.state.counters().file_bytes, 12);
    driver.op(NamespaceOp::Unlink { parent: Ino::ROOT, name: b"kept".to_vec() });
    assert_eq!((driver.state.counters().dead_files, driver.state.counters().file_bytes), (1, 7));
    let now = driver.log.last().unwrap().0.time_ms;
    assert_eq!(driver.state.dead_files_before(now, 9).unwrap(), []);
    assert_eq!(driver.state.dead_files_before(now + 1, 9).unwrap().len(), 1);
    driver.sound();
}

#[test]
fn lookups_follow_links_check_permissions_and_end() {
    let mut driver = Driver::new(Memory::default());
    let dir = driver.made(mkdir(Ino::ROOT, "dir"));
    let ino = driver.reserve();
    driver.made(publish(ino, dir, b"file", 3, false));
    let link = |parent, name: &str, target: &str| NamespaceOp::Symlink {
        parent,
        name: name.into(),
        target: target.into(),
        attributes: SetAttributes::default(),
        replace: false,
    };
    driver.made(link(dir, "up", "../dir/./file"));
    driver.made(link(Ino::ROOT, "abs", "/dir/up"));
    driver.made(link(Ino::ROOT, "round", "round"));
    let private = SetAttributes { mode: Some(0o700), ..SetAttributes::default() };
    driver.state.commit(false).unwrap();
    let view = driver.state.snapshot().unwrap();
    let look = |path: &str, caller: &Caller| {
        read::lookup(&view, caller, &query(path)).map_err(|error| error.status())
    };
    for path in ["dir/file", "/dir//file", "abs", "dir/../dir/up"] {
        let entry = look(path, &ADMIN).unwrap();
        assert_eq!((entry.attributes.ino, entry.attributes.size), (ino, 3), "{path}");
        assert!(entry.content.is_some());
    }
    assert_eq!(look("round", &ADMIN), Err(Status::Loop));
    assert_eq!(look("dir/none", &ADMIN), Err(Status::NotFound));
    assert_eq!(look("dir/file/", &ADMIN), Err(Status::NotDirectory));
    assert_eq!(look("dir/file/x", &ADMIN), Err(Status::NotDirectory));
    assert_eq!(look(&"x".repeat(256), &ADMIN), Err(Status::NameTooLong));
    assert_eq!(look(&"x/".repeat(2049), &ADMIN), Err(Status::NameTooLong));
    let user = Caller { uid: 5, gid: 5, admin: false };
    assert!(look("dir/file", &user).is_ok());
    driver.op(NamespaceOp::SetAttr { ino: dir, attributes: private });
    assert!(look("dir/file", &user).is_ok(), "the snapshot is older");
    driver.state.commit(false).unwrap();
    let view = driver.state.snapshot().unwrap();
    let refused = read::lookup(&view, &user, &query("dir/file")).unwrap_err();
    assert_eq!(refused.status(), Status::PermissionDenied);
}

#[test]
fn group_changes_that_would_lose_data_are_refused() {
    let mut driver = Driver::new(Memory::default());
    let group = driver.state.map().groups[&GroupId(1)].clone();
    let change = |epoch, members: &[_], down| Command::ChangeGroup {
        group: GroupId(1),
        expected_epoch: Epoch(epoch),
        members: members.to_vec(),
        evicted: Vec::new(),
        down,
        plan: None,
    };
    let members = &group.members;
    let mut two_primaries = members.clone();
    two_primaries[1].role = Role::Primary;
    let mut stale = members.clone();
    stale[1].generation = Generation(9);
    let mut unknown = members.clone();
    unknown[1].target = TargetId(9);
    let mut none = members.clone();
    none.iter_mut().for_each(|member| member.role = Role::Syncing);
    for (command, status) in [
        (change(2, members, false), Status::Conflict),
        (change(1, &[], false), Status::Invalid),
        (change(1, &none, false), Status::Invalid),
        (change(1, &two_primaries, false), Status::Invalid),
        (change(1, &unknown, false), Status::Invalid),
        (change(1, &stale, false), Status::Conflict),
        (change(1, &members[..1], true), Status::Conflict),
    ] {
        assert_eq!(driver.apply(command.clone()), Outcome::Refused(status), "{command:?}");
    }
    driver.done(change(1, &members[..2], false));
    // The third member left; only a resync brings it back into the serving set.
    assert_eq!(driver.apply(change(2, members, false)), Outcome::Refused(Status::Conflict));
    let wrong = Command::Activated { group: GroupId(1), epoch: Epoch(1) };
    assert_eq!(driver.apply(wrong), Outcome::Refused(Status::Conflict));
    driver.done(Command::Activated { group: GroupId(1), epoch: Epoch(2) });
    assert_eq!(driver.state.map().groups[&GroupId(1)].last_writable_epoch, Epoch(2));
    driver.sound();
}

#[test]
fn completeness_of_an_older_epoch_promotes_nobody() {
    let mut driver = Driver::new(Memory::default());
    let group = driver.state.map().groups[&GroupId(1)].clone();
    let change = |epoch, members: &[_]| Command::ChangeGroup {
        group: GroupId(1),
        expected_epoch: Epoch(epoch),
        members: members.to_vec(),
        evicted: Vec::new(),
        down: false,
        plan: None,
    };
    let mut members = group.members;
    members[1].role = Role::Syncing;
    driver.done(change(1, &members));
    let done = |epoch, target| Command::SyncDone { group: GroupId(1), epoch: Epoch(epoch), target };
    let target = members[1].target;
    // Another member leaves and the first goes on syncing: what it is complete with is older.
    members.remove(2);
    driver.done(change(2, &members));
    assert_eq!(driver.apply(done(2, target)), Outcome::Refused(Status::Conflict));
    driver.done(done(3, target));
    driver.sound();
}

#[test]
fn registrations_of_old_or_foreign_targets_are_refused() {
    let mut driver = Driver::new(Memory::default());
    let version = driver.state.map().version;
    driver.done(register(1, 1, 1));
    assert_eq!(driver.state.map().version, version, "a reconnect changes nothing");
    let refused = Outcome::Refused(Status::Conflict);
    assert_eq!(driver.apply(register(1, 2, 1)), refused, "another process, no new generation");
    driver.done(register(1, 2, 2));
    assert_eq!(driver.apply(register(1, 3, 1)), refused, "an older generation");
    let Command::RegisterNode { targets, address, .. } = register(1, 9, 9) else { return };
    let foreign = Command::RegisterNode { node: NodeId(2), incarnation: 9, address, targets };
    assert_eq!(driver.apply(foreign), refused, "a target of another node");
    driver.done(Command::FenceTarget { target: TargetId(200) });
    driver.done(register(2, 1, 1));
    driver.sound();
}

#[test]
fn deltas_bring_any_older_map_up_to_date() {
    let mut driver = Driver::new(Memory::default());
    let mut maps = vec![driver.state.map().clone(), ClusterMap::default()];
    for node in [1, 2, 3, 1] {
        driver.done(Command::SetNodeState { node: NodeId(node), up: node == 1 });
        maps.push(driver.state.map().clone());
    }
    for mut map in maps {
        let delta = driver.state.delta_since(map.version);
        assert_eq!(delta.full, map.version == MapVersion(0));
        map.apply(&delta).unwrap();
        assert_eq!(&map, driver.state.map());
    }
}

#[test]
fn permissions_hold_for_changes() {
    let mut driver = Driver::new(Memory::default());
    let user = Caller { uid: 5, gid: 5, admin: false };
    let session = driver.open(user);
    let op = |seq, op| Command::Mutate { session, caller: user, ops: vec![(Seq(seq), op)] };
    let denied = Outcome::Ops(vec![OpOutcome::Refused(Status::PermissionDenied)]);
    assert_eq!(driver.apply(op(1, mkdir(Ino::ROOT, "mine"))), denied);
    let owner = SetAttributes { uid: Some(5), mode: Some(0o777), ..SetAttributes::default() };
    let home = NamespaceOp::Mkdir { parent: Ino::ROOT, name: b"home".to_vec(), attributes: owner };
    let home = driver.made(home);
    assert_ne!(driver.apply(op(2, mkdir(home, "mine"))), denied);
    let give = SetAttributes { uid: Some(6), ..SetAttributes::default() };
    assert_eq!(driver.apply(op(3, NamespaceOp::SetAttr { ino: home, attributes: give })), denied);
    let foreign = Command::Mutate { session, caller: ADMIN, ops: Vec::new() };
    assert_eq!(driver.apply(foreign), Outcome::Refused(Status::PermissionDenied));
    driver.sound();
}

#[test]
fn files_get_the_cell_size_of_their_directory() {
    let mut driver = Driver::new(Memory::default());
    let cells = |cell_log2| SetAttributes { cell_log2, ..SetAttributes::default() };
    let with = |parent, name: &str, cell_log2| NamespaceOp::Mkdir {
        parent,
        name: name.into(),
        attributes: cells(cell_log2),
    };
    let small = driver.made(with(Ino::ROOT, "small", Some(12)));
    let below = driver.made(with(small, "below", None));
    let plain = driver.made(with(Ino::ROOT, "plain", None));
    let cell_of_new = |driver: &mut Driver<Memory>, parent| match driver.op(NamespaceOp::Reserve {
        parent,
        count: 1,
        expect_len: 0,
    }) {
        OpOutcome::Reserved(files) => {
            (files[0].attributes.ino, files[0].content.as_ref().unwrap().layout.cell_log2)
        }
        other => panic!("{other:?}"),
    };
    let (file, cell) = cell_of_new(&mut driver, small);
    assert_eq!(cell, 12);
    assert_eq!(cell_of_new(&mut driver, below).1, 12, "a directory has that of the one above");
    assert_eq!(cell_of_new(&mut driver, plain).1, 14, "the default");
    driver.made(NamespaceOp::SetAttr { ino: small, attributes: cells(Some(16)) });
    assert_eq!(cell_of_new(&mut driver, small).1, 16);
    assert_eq!(cell_of_new(&mut driver, below).1, 12, "what exists stays as it is");
    let refused = OpOutcome::Refused(Status::Invalid);
    assert_eq!(driver.op(with(small, "odd", Some(13))), refused, "no such cell size");
    driver.made(publish(file, small, b"file", 0, false));
    let of_file = NamespaceOp::SetAttr { ino: file, attributes: cells(Some(14)) };
    assert_eq!(driver.op(of_file), refused, "a file keeps its cells");
}
