//! Every kind of planted damage, looked for at once and in the whole.

use std::net::{IpAddr, Ipv4Addr};

use protocol::ids::{ClusterId, Generation, GroupId, Lsn, NodeId, Seq, ShardId, TargetId};
use protocol::message::cluster::TargetReport;
use protocol::message::command::{Caller, Command, Stamp};
use protocol::message::namespace::{NamespaceOp, OpOutcome, SetAttributes};

use super::*;
use crate::kv::KvRead;
use crate::kv::{Memory, Noted, Touched};
use crate::state::Outcome;
use crate::state::codec::key;
use crate::state::history::Changed;

const ADMIN: Caller = Caller { uid: 0, gid: 0, admin: true };

type Table = Noted<Memory>;

/// A state that is looked at after every command.
struct Driver {
    state: State<Table>,
    touched: Touched,
    audit: Audit,
    commands: u64,
    seq: u64,
    session: SessionId,
    directory: Ino,
    reserved: Ino,
}

impl Driver {
    fn new() -> Driver {
        let (table, touched) = Noted::new(Memory::default());
        let mut driver = Driver {
            state: State::open(table).unwrap(),
            touched,
            audit: Audit::default(),
            commands: 0,
            seq: 0,
            session: SessionId(0),
            directory: Ino(0),
            reserved: Ino(0),
        };
        driver.apply(&Command::Initialize {
            cluster: ClusterId(7),
            replicas: 3,
            min_write: 2,
            groups_per_target: 8,
            targets_expected: 3,
            owner: ADMIN,
        });
        (1..=4).for_each(|node| drop(driver.apply(&register(node))));
        driver.apply(&Command::CreateGroups { count: 4 });
        let open = Command::OpenSession { caller: ADMIN, client: "test".to_owned() };
        let Outcome::Session(session) = driver.apply(&open) else { panic!("a session opens") };
        driver.session = session;
        let (parent, attributes) = (Ino::ROOT, SetAttributes::default());
        let made = driver.op(NamespaceOp::Mkdir { parent, name: b"d".to_vec(), attributes });
        let OpOutcome::Done(Some(entry)) = made else { panic!("{made:?}") };
        driver.directory = entry.attributes.ino;
        let file = driver.reserve();
        let (name, attributes) = (b"f".to_vec(), SetAttributes::default());
        driver.op(NamespaceOp::Publish {
            ino: file,
            parent,
            name,
            size: 1 << 30,
            attributes,
            replace: false,
            growth_only: true,
        });
        driver.reserved = driver.reserve();
        driver
    }

    fn reserve(&mut self) -> Ino {
        let op = NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: 0 };
        match self.op(op) {
            OpOutcome::Reserved(files) => files[0].attributes.ino,
            other => panic!("{other:?}"),
        }
    }

    fn op(&mut self, op: NamespaceOp) -> OpOutcome {
        self.seq += 1;
        let ops = vec![(Seq(self.seq), op)];
        match self.apply(&Command::Mutate { session: self.session, caller: ADMIN, ops }) {
            Outcome::Ops(mut outcomes) => outcomes.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.commands += 1;
        let stamp = Stamp { time_ms: self.commands, nonce: self.commands };
        let outcome = self.state.apply(stamp, command);
        assert_eq!(self.look(), Vec::<String>::new(), "after {command:?}");
        outcome
    }

    /// What is wrong, by what changed and by everything there is.
    fn look(&mut self) -> Vec<String> {
        let found = self.audit.look(&self.state, self.touched.take());
        assert_eq!(found, self.state.violations());
        found
    }
}

fn register(node: u32) -> Command {
    let target = TargetReport {
        target: TargetId(node * 100),
        shard: ShardId(0),
        device: 0,
        port: 7411,
        generation: Generation(1),
        recovered_lsn: Lsn(0),
        intact: true,
        capacity: 1 << 30,
        free: 1 << 30,
        groups: Vec::new(),
    };
    let (address, targets) = (IpAddr::V4(Ipv4Addr::LOCALHOST), vec![target]);
    Command::RegisterNode { node: NodeId(node), incarnation: 1, address, targets }
}

fn a_group(state: &State<Table>) -> GroupId {
    *state.map.groups.keys().next_back().unwrap()
}

/// Plants something in memory and says that it belongs into the rows.
fn with_rows(state: &mut State<Table>, parts: impl IntoIterator<Item = Changed>) {
    state.changed.extend(parts);
    state.settle();
}

fn planted(plant: impl Fn(&mut Driver), words: &str) {
    let mut driver = Driver::new();
    assert_eq!(driver.look(), Vec::<String>::new());
    plant(&mut driver);
    let found = driver.look();
    assert!(found.iter().any(|line| line.contains(words)), "{words}: {found:?}");
    // It stays wrong although nothing else happens.
    assert_eq!(driver.look(), found);
}

#[test]
fn what_is_wrong_with_the_namespace_is_found() {
    planted(|driver| driver.state.kv.delete(key::inode(driver.directory)), "points to no inode");
    planted(|driver| driver.state.kv.put(key::inode(driver.directory), vec![1]), "damaged row");
    planted(
        |driver| driver.state.kv.delete(key::reserved(driver.session, driver.reserved)),
        "nlink 0, reserved false",
    );
    planted(
        |driver| driver.state.kv.delete(key::dentry(Ino::ROOT, b"f")),
        "has nlink 1, counted 0",
    );
    let reserve = |driver: &mut Driver| {
        driver.state.sessions.get_mut(&driver.session).unwrap().reserved += 1;
    };
    planted(reserve, "counts 2 files, has 1");
    planted(|driver| drop(driver.state.sessions.remove(&driver.session)), "one of them is gone");
    let count = |driver: &mut Driver| {
        driver.state.tally.inodes += 1;
        driver.state.settle();
    };
    planted(count, "counters say");
}

#[test]
fn what_is_wrong_with_the_groups_is_found() {
    let primaries = |driver: &mut Driver| {
        let state = &mut driver.state;
        let id = a_group(state);
        let group = state.map.groups.get_mut(&id).unwrap();
        group.members.iter_mut().for_each(|member| member.role = Role::Primary);
        with_rows(state, [Changed::Group(id)]);
    };
    planted(primaries, "has 3 primaries");
    let lacking = |driver: &mut Driver| {
        let id = a_group(&driver.state);
        driver.state.ledger.whole.insert(id, Vec::new());
        with_rows(&mut driver.state, [Changed::Group(id)]);
    };
    planted(lacking, "served by targets that lack something");
    let moved = |driver: &mut Driver| {
        let target = driver.state.map.targets.get_mut(&TargetId(200)).unwrap();
        target.node = NodeId(1);
        with_rows(&mut driver.state, [Changed::Target(TargetId(200))]);
    };
    planted(moved, "two members on one node");
    let gone = |driver: &mut Driver| {
        let groups = std::mem::take(&mut driver.state.map.groups);
        driver.state.ledger.whole.clear();
        with_rows(&mut driver.state, groups.into_keys().map(Changed::Group));
    };
    planted(gone, "lies on unknown group");
}

#[test]
fn memory_that_differs_from_its_rows_is_found() {
    let group = |driver: &mut Driver| {
        let id = a_group(&driver.state);
        driver.state.map.groups.get_mut(&id).unwrap().replicas = 9;
    };
    planted(group, "the map in memory differs");
    // What is wrong beside that is told as well, although no row of a group was touched.
    let primaries = |driver: &mut Driver| {
        let id = a_group(&driver.state);
        let group = driver.state.map.groups.get_mut(&id).unwrap();
        group.members.iter_mut().for_each(|member| member.role = Role::Primary);
    };
    planted(primaries, "has 3 primaries");
    planted(|driver| driver.state.ledger.rebalance ^= true, "known of nodes differs");
    planted(|driver| driver.state.nodes.clear(), "known of nodes differs");
    planted(|driver| driver.state.tally.next_ino += 1, "counters in memory differ");
    let durable = |driver: &mut Driver| {
        driver.state.durables.insert(TargetId(100), (Generation(9), Lsn(9)));
    };
    planted(durable, "reported as durable differs");
    let damaged = |driver: &mut Driver| {
        let id = a_group(&driver.state);
        driver.state.kv.put(key::group(id), vec![1]);
    };
    planted(damaged, "damaged row");
    let removed = |driver: &mut Driver| driver.state.kv.delete(key::target(TargetId(100)));
    planted(removed, "the map in memory differs");
}

#[test]
fn what_is_mended_is_sound_again() {
    let mut driver = Driver::new();
    let id = a_group(&driver.state);
    let row = driver.state.kv.get(&key::group(id)).unwrap().unwrap();
    driver.state.kv.put(key::group(id), vec![1]);
    assert_eq!(driver.look().len(), 1);
    driver.state.kv.put(key::group(id), row);
    assert_eq!(driver.look(), Vec::<String>::new());
}
