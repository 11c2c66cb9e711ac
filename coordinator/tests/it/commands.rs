//! Any commands in any order, against a model that knows only what must never happen.
//!
//! The model remembers which targets hold everything that was acknowledged in each group, and which
//! operation had which outcome. It acknowledges a write wherever a group says that it may, and
//! knows nothing of how the coordinator decides. A twin state, in other batches and later on disk,
//! gets the same commands, but something without effect for each refused one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use coordinator::kv::{Kv, Memory, Noted, Redb, Touched};
use coordinator::state::{Audit, Outcome, State};
use proptest::prelude::*;
use protocol::cluster_map::{GroupRecord, Member, Role};
use protocol::ids::{
    ClusterId, Epoch, Generation, GroupId, Ino, Lsn, NodeId, Seq, SessionId, ShardId, TargetId,
};
use protocol::message::cluster::TargetReport;
use protocol::message::command::{Caller, Command, Stamp};
use protocol::message::namespace::{NamespaceOp, OpOutcome, SetAttributes};

const ADMIN: Caller = Caller { uid: 0, gid: 0, admin: true };
const NODES: u32 = 5;
const GROUPS: u32 = 2;

/// A command before it knows the state it comes to.
#[derive(Clone, Copy, Debug)]
struct Raw {
    kind: u8,
    node: u32,
    group: u32,
    /// How far the epoch it names is off.
    off: u32,
    pick: u32,
    flag: bool,
    /// True when somebody writes afterwards, wherever writes are acknowledged.
    write: bool,
}

fn raw() -> impl Strategy<Value = Raw> {
    let numbers = (0..16u8, 1..=NODES, 1..=GROUPS, 0..4u32, any::<u32>());
    (numbers, any::<bool>(), any::<bool>()).prop_map(
        |((kind, node, group, off, pick), flag, write)| {
            // Most name the right epoch.
            let off = off.saturating_sub(2);
            Raw { kind, node, group, off, pick, flag, write }
        },
    )
}

/// What must hold, remembered without a look inside.
#[derive(Default)]
struct Model {
    /// Targets that hold everything that was acknowledged in a group.
    complete: BTreeMap<GroupId, BTreeSet<TargetId>>,
    generations: BTreeMap<u32, u32>,
    sessions: BTreeSet<SessionId>,
    ended: BTreeSet<SessionId>,
    outcomes: BTreeMap<(SessionId, u64), OpOutcome>,
}

impl Model {
    /// Judges the groups after a command, given how they were.
    fn judge(
        &mut self,
        before: &BTreeMap<GroupId, GroupRecord>,
        after: &BTreeMap<GroupId, GroupRecord>,
        command: &Command,
    ) {
        for (id, group) in after {
            let serving: BTreeSet<TargetId> = group.serving().map(|member| member.target).collect();
            let primaries = group.members.iter().filter(|member| member.role == Role::Primary);
            assert_eq!(primaries.count(), 1, "{group:?}");
            assert!(!serving.is_empty() && group.last_writable_epoch <= group.epoch, "{group:?}");
            let Some(old) = before.get(id) else {
                self.complete.insert(*id, serving);
                continue;
            };
            assert!(group.epoch >= old.epoch && group.epoch.0 <= old.epoch.0 + 1);
            let same = group.members == old.members && group.down == old.down;
            assert!(same || group.epoch > old.epoch, "a membership of one epoch never changes");
            assert!(group.epoch == old.epoch || !group.active, "an epoch begins inactive");
            let complete = self.complete.entry(*id).or_default();
            if let Command::SyncDone { group: named, epoch, target } = command
                && named == id
                && *epoch == old.epoch
                && old.member(*target).is_some_and(|member| member.role == Role::Syncing)
            {
                complete.insert(*target);
            }
            let lacking: Vec<_> = serving.difference(complete).collect();
            assert!(lacking.is_empty(), "{lacking:?} serve without what was acknowledged");
        }
    }

    /// A write is acknowledged wherever a group takes one: whoever is no member lacks it.
    fn write(&mut self, groups: &BTreeMap<GroupId, GroupRecord>) {
        for (id, group) in groups.iter().filter(|(_, group)| group.active && group.writable()) {
            if let Some(complete) = self.complete.get_mut(id) {
                complete.retain(|target| group.member(*target).is_some());
            }
        }
    }
}

/// The state under test, its twin, and everything they were told.
struct Pair {
    state: State<Noted<Memory>>,
    touched: Touched,
    audit: Audit,
    twin: State<Memory>,
    log: Vec<(Stamp, Command)>,
    model: Model,
}

impl Pair {
    fn new() -> Pair {
        let (table, touched) = Noted::new(Memory::default());
        let mut pair = Pair {
            state: State::open(table).unwrap(),
            touched,
            audit: Audit::default(),
            twin: State::open(Memory::default()).unwrap(),
            log: Vec::new(),
            model: Model::default(),
        };
        let initialize = Command::Initialize {
            cluster: ClusterId(7),
            replicas: 3,
            min_write: 2,
            groups_per_target: 2,
            targets_expected: 3,
            owner: ADMIN,
        };
        assert_eq!(pair.apply(initialize), Outcome::Done);
        for node in 1..=NODES {
            pair.model.generations.insert(node, 1);
            assert_eq!(pair.apply(register(node, 1, true)), Outcome::Done);
        }
        assert_eq!(pair.apply(Command::CreateGroups { count: GROUPS }), Outcome::Done);
        pair
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let number = self.log.len() as u64 + 1;
        let stamp = Stamp { time_ms: number * 1_000, nonce: number.wrapping_mul(0x9e37_79b9) };
        let before = self.state.map().groups.clone();
        let outcome = self.state.apply(stamp, &command);
        self.model.judge(&before, &self.state.map().groups, &command);
        assert_eq!(self.state.violations(), Vec::<String>::new(), "{command:?}");
        let found = self.audit.look(&self.state, self.touched.take());
        assert_eq!(found, Vec::<String>::new(), "{command:?}");
        let inert = Command::Activated { group: GroupId(u32::MAX), epoch: Epoch(1) };
        let refused = matches!(outcome, Outcome::Refused(_));
        let told = if refused { &inert } else { &command };
        let same = self.twin.apply(stamp, told);
        assert!(refused || same == outcome, "{command:?}");
        assert_eq!(
            self.state.digest().unwrap(),
            self.twin.digest().unwrap(),
            "a refused command changes nothing: {command:?} gave {outcome:?}"
        );
        self.log.push((stamp, command));
        outcome
    }

    fn group(&self, raw: &Raw) -> GroupRecord {
        self.state.map().groups[&GroupId(raw.group)].clone()
    }

    /// A change of a membership that somebody might propose, sound or not.
    fn change(&self, raw: &Raw) -> Command {
        let group = self.group(raw);
        let named = TargetId(raw.node * 100);
        let generation = |target: TargetId| self.state.map().targets[&target].generation;
        let mut members = group.members.clone();
        match raw.pick % 6 {
            0 => members.retain(|member| member.target != named),
            1 | 2 if group.member(named).is_none() => {
                let role = if raw.flag { Role::Syncing } else { Role::Backup };
                members.push(Member { target: named, generation: generation(named), role });
            }
            3 => {
                for member in &mut members {
                    let is_named = member.target == named;
                    let served = member.role != Role::Syncing;
                    match (is_named, served) {
                        (true, _) => member.role = Role::Primary,
                        (false, true) => member.role = Role::Backup,
                        _ => {}
                    }
                }
            }
            4 => members.iter_mut().for_each(|member| {
                member.generation = generation(member.target);
                if raw.flag && member.target == named {
                    member.role = Role::Syncing;
                }
            }),
            _ => {
                let served = self.model.complete[&group.id].iter();
                let served = served.enumerate().map(|(place, &target)| Member {
                    target,
                    generation: generation(target),
                    role: if place == 0 { Role::Primary } else { Role::Backup },
                });
                members = served.collect();
            }
        }
        let evicted = group.evicted.into_iter();
        let gone = group.members.iter().map(|member| member.target);
        let kept = |target: &TargetId| !members.iter().any(|member| member.target == *target);
        let evicted: BTreeSet<TargetId> = evicted.chain(gone).filter(kept).collect();
        Command::ChangeGroup {
            group: group.id,
            expected_epoch: Epoch(group.epoch.0.saturating_sub(raw.off)),
            members,
            evicted: evicted.into_iter().collect(),
            down: raw.pick % 31 == 7,
            plan: None,
        }
    }

    fn step(&mut self, raw: &Raw) {
        let group = self.group(raw);
        let epoch = Epoch(group.epoch.0.saturating_sub(raw.off));
        let target = TargetId(raw.node * 100);
        match raw.kind {
            0..=4 => {
                let command = self.change(raw);
                let outcome = self.apply(command);
                assert!(raw.off == 0 || outcome != Outcome::Done, "of an older epoch");
            }
            5..=7 => {
                let outcome = self.apply(Command::Activated { group: group.id, epoch });
                assert!(raw.off == 0 || outcome != Outcome::Done, "of an older epoch");
            }
            8 | 9 => {
                let syncing = group.members.iter().find(|member| member.role == Role::Syncing);
                let target = syncing.map_or(target, |member| member.target);
                let outcome = self.apply(Command::SyncDone { group: group.id, epoch, target });
                assert!(raw.off == 0 || outcome != Outcome::Done, "of an older epoch");
            }
            10 | 11 => self.restart(raw),
            12 => {
                self.apply(Command::SetNodeState { node: NodeId(raw.node), up: raw.flag });
            }
            13 => self.session(raw),
            _ => self.mutate(raw),
        }
        if raw.write {
            let groups = self.state.map().groups.clone();
            self.model.write(&groups);
        }
    }

    /// A node starts again, or somebody else says so.
    fn restart(&mut self, raw: &Raw) {
        let known = self.model.generations[&raw.node];
        let generation = (known + 1).saturating_sub(raw.off).max(1);
        let intact = !raw.pick.is_multiple_of(5);
        let outcome = self.apply(register(raw.node, generation, intact));
        if generation > known {
            assert_eq!(outcome, Outcome::Done, "a new generation is taken");
            self.model.generations.insert(raw.node, generation);
            if !intact {
                let target = TargetId(raw.node * 100);
                // What it lost it must be sent again; while it serves, the next change sees to it.
                for (id, complete) in &mut self.model.complete {
                    let serves = self.state.map().groups[id].serving();
                    if !serves.map(|member| member.target).any(|serving| serving == target) {
                        complete.remove(&target);
                    }
                }
            }
        }
    }

    fn session(&mut self, raw: &Raw) {
        let open = self.model.sessions.iter().nth(raw.pick as usize % 3).copied();
        match open {
            Some(session) if raw.flag => {
                assert_eq!(self.apply(Command::EndSession { session }), Outcome::Done);
                self.model.sessions.remove(&session);
                self.model.ended.insert(session);
            }
            _ => {
                let command = Command::OpenSession { caller: ADMIN, client: "any".into() };
                let Outcome::Session(session) = self.apply(command) else { panic!("refused") };
                assert!(!self.model.ended.contains(&session), "no number is used twice");
                assert!(self.model.sessions.insert(session), "no number is used twice");
            }
        }
    }

    /// New operations and repeats, of sessions that are open or have ended.
    fn mutate(&mut self, raw: &Raw) {
        let ended = self.model.ended.iter().filter(|_| raw.pick.is_multiple_of(7));
        let Some(&session) = ended.chain(&self.model.sessions).next() else { return };
        let name = vec![b'a' + (raw.pick % 5) as u8];
        let attributes = SetAttributes::default();
        let op = match raw.kind {
            14 => NamespaceOp::Mkdir { parent: Ino::ROOT, name, attributes },
            _ => NamespaceOp::Rmdir { parent: Ino::ROOT, name },
        };
        let seq = u64::from(raw.pick % 40) + 1;
        let ops = vec![(Seq(seq), op)];
        let outcome = self.apply(Command::Mutate { session, caller: ADMIN, ops });
        let open = self.model.sessions.contains(&session);
        let Outcome::Ops(mut outcomes) = outcome else {
            assert!(!open, "an open session is heard: {outcome:?}");
            return;
        };
        assert!(open, "a session that ended is not");
        let outcome = outcomes.remove(0);
        let first = self.model.outcomes.entry((session, seq)).or_insert_with(|| outcome.clone());
        assert_eq!(*first, outcome, "a repeat has the outcome of the first");
    }
}

fn register(node: u32, generation: u32, intact: bool) -> Command {
    let target = TargetReport {
        target: TargetId(node * 100),
        shard: ShardId(0),
        device: 0,
        port: 7411,
        generation: Generation(generation),
        recovered_lsn: Lsn(0),
        intact,
        capacity: 1 << 30,
        free: 1 << 30,
        groups: Vec::new(),
    };
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let incarnation = u64::from(generation);
    Command::RegisterNode { node: NodeId(node), incarnation, address, targets: vec![target] }
}

/// Applies a log from its start, in batches of its own.
fn replay<K: Kv>(kv: K, log: &[(Stamp, Command)], every: usize) -> u128 {
    let mut state = State::open(kv).unwrap();
    for (number, (stamp, command)) in log.iter().enumerate() {
        state.apply(*stamp, command);
        if number % every == 0 {
            state.commit(number % (every * 2) == 0).unwrap();
        }
    }
    state.commit(true).unwrap();
    assert_eq!(state.violations(), Vec::<String>::new());
    state.digest().unwrap()
}

/// Failures are told with what is left of their commands; no file is written for them.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn no_order_of_commands_breaks_what_must_hold(steps in prop::collection::vec(raw(), 1..120)) {
        let mut pair = Pair::new();
        steps.iter().for_each(|raw| pair.step(raw));
        let digest = pair.state.digest().unwrap();
        prop_assert_eq!(replay(Memory::default(), &pair.log, 1), digest);
        prop_assert_eq!(replay(Memory::default(), &pair.log, 7), digest);
    }
}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn the_table_on_disk_ends_where_the_one_in_memory_does(
        steps in prop::collection::vec(raw(), 40..120)
    ) {
        let mut pair = Pair::new();
        steps.iter().for_each(|raw| pair.step(raw));
        let folder = tempfile::tempdir().unwrap();
        let table = Redb::open(&folder.path().join("state.redb"), 4 << 20).unwrap();
        prop_assert_eq!(replay(table, &pair.log, 5), pair.state.digest().unwrap());
    }
}
