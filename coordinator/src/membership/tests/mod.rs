//! Membership rules row by row, and random deaths and returns, both through the real state.

mod accuse;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use protocol::cluster_map::Role;
use protocol::ids::{ClusterId, Epoch, Generation, Lsn, ShardId, Version};
use protocol::message::cluster::{GroupReport, TargetReport};
use protocol::message::command::{Caller, Stamp};
use protocol::status::Status;

use super::*;
use crate::kv::Memory;
use crate::limits::{READMIT_MAX, READMIT_MIN};
use crate::state::{Outcome, State};

/// A cluster of one target a node: the state, the membership rules and a clock.
struct Cluster {
    state: State<Memory>,
    membership: Membership,
    now: Nanos,
    live: BTreeSet<NodeId>,
    stamp: u64,
    generations: BTreeMap<u32, u32>,
    epochs: BTreeMap<GroupId, Epoch>,
}

impl Cluster {
    fn new(nodes: u32) -> Cluster {
        let mut cluster = Cluster::expecting(nodes);
        for node in 1..=nodes {
            cluster.restart(node, true);
        }
        cluster.settle();
        assert!(!cluster.state.map().groups.is_empty());
        cluster
    }

    /// A cluster that has been told how many targets it will have and knows none of them yet.
    fn expecting(targets: u32) -> Cluster {
        let mut cluster = Cluster {
            state: State::open(Memory::default()).unwrap(),
            membership: Membership::default(),
            now: Nanos(1),
            live: BTreeSet::new(),
            stamp: 0,
            generations: BTreeMap::new(),
            epochs: BTreeMap::new(),
        };
        let done = cluster.apply(&Command::Initialize {
            cluster: ClusterId(7),
            replicas: 3,
            min_write: 2,
            groups_per_target: 4,
            targets_expected: targets,
            owner: Caller::default(),
        });
        assert_eq!(done, Outcome::Done);
        cluster
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.stamp += 1;
        let outcome = self.state.apply(Stamp { time_ms: self.stamp, nonce: self.stamp }, command);
        assert_eq!(self.state.violations(), Vec::<String>::new(), "after {command:?}");
        for group in self.state.map().groups.values() {
            let before = self.epochs.insert(group.id, group.epoch);
            assert!(before.is_none_or(|before| before <= group.epoch), "{group:?}");
            for member in group.serving().filter(|_| !group.down && group.active) {
                let record = &self.state.map().targets[&member.target];
                // A member that restarted just now is replaced by the next plan.
                assert!(record.generation >= member.generation);
            }
        }
        outcome
    }

    fn after(&mut self, pause: Duration) {
        self.now = self.now.after(pause);
    }

    fn plan(&mut self) -> Vec<Command> {
        let settings = self.state.settings().unwrap();
        let view = View {
            map: self.state.map(),
            settings: &settings,
            ledger: self.state.ledger(),
            live: &self.live,
            held: &BTreeSet::new(),
        };
        self.membership.plan(view, self.now)
    }

    /// Plans until nothing is left to do, and has every primary report its activation.
    fn settle(&mut self) {
        for _ in 0..8 {
            let commands = self.plan();
            for command in &commands {
                assert_eq!(self.apply(command), Outcome::Done, "{command:?}");
            }
            self.activate();
            if commands.is_empty() {
                return;
            }
        }
        panic!("the plan does not come to rest: {:?}", self.plan());
    }

    fn activate(&mut self) {
        let map = self.state.map().clone();
        for group in map.groups.values().filter(|group| !group.active && !group.down) {
            let primary = group.primary().unwrap();
            if placement::serves(&map, primary) {
                let report = Command::Activated { group: group.id, epoch: group.epoch };
                assert_eq!(self.apply(&report), Outcome::Done);
            }
        }
    }

    /// Every syncing member of a group that serves becomes complete.
    fn sync(&mut self) {
        loop {
            let map = self.state.map().clone();
            let done = map.groups.values().find_map(|group| {
                let complete = group.members.iter().find(|member| {
                    member.role == Role::Syncing && placement::serves(&map, member)
                })?;
                let led = placement::serves(&map, group.primary()?) && !group.down;
                led.then_some((group.id, group.epoch, complete.target))
            });
            let Some((group, epoch, target)) = done else { return };
            assert_eq!(self.apply(&Command::SyncDone { group, epoch, target }), Outcome::Done);
            self.activate();
        }
    }

    fn event(&mut self, event: &Event) -> Vec<Outcome> {
        let settings = self.state.settings().unwrap();
        let view = View {
            map: self.state.map(),
            settings: &settings,
            ledger: self.state.ledger(),
            live: &self.live,
            held: &BTreeSet::new(),
        };
        let commands = self.membership.handle(view, self.now, event);
        let outcomes = commands.iter().map(|command| self.apply(command)).collect();
        self.activate();
        outcomes
    }

    fn kill(&mut self, node: u32) {
        self.live.remove(&NodeId(node));
        self.event(&Event::NodeSuspected(NodeId(node)));
    }

    /// The node that was only silent speaks again.
    fn speak(&mut self, node: u32) {
        self.live.insert(NodeId(node));
        self.event(&Event::NodeReturned(NodeId(node)));
    }

    /// The coordinator's process starts anew: nobody has spoken to it yet.
    fn restart_coordinator(&mut self) {
        self.live.clear();
        self.membership = Membership::default();
    }

    /// A new process registers, with a newer generation of its target.
    fn restart(&mut self, node: u32, intact: bool) {
        let groups = adopted(self.state.map(), TargetId(node * 100));
        self.restart_with(node, intact, groups);
    }

    fn restart_with(&mut self, node: u32, intact: bool, groups: Vec<GroupReport>) {
        let generation = *self.generations.entry(node).and_modify(|known| *known += 1).or_insert(1);
        let report = TargetReport {
            target: TargetId(node * 100),
            shard: ShardId(0),
            device: 0,
            port: 1,
            generation: Generation(generation),
            recovered_lsn: Lsn(0),
            intact,
            capacity: 1,
            free: 1,
            groups,
        };
        let command = Command::RegisterNode {
            node: NodeId(node),
            incarnation: u64::from(generation),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            targets: vec![report],
        };
        assert_eq!(self.apply(&command), Outcome::Done);
        self.live.insert(NodeId(node));
    }

    fn groups(&self) -> Vec<GroupRecord> {
        self.state.map().groups.values().cloned().collect()
    }

    fn healthy(&self) -> bool {
        self.state.map().groups.values().all(GroupRecord::healthy)
    }
}

/// What a target reports that lost nothing: the newest epoch of each of its groups.
pub(crate) fn adopted(map: &ClusterMap, target: TargetId) -> Vec<GroupReport> {
    let held = map
        .groups
        .values()
        .filter(|group| group.member(target).is_some() || group.evicted.contains(&target));
    let report = |group: &GroupRecord| GroupReport {
        group: group.id,
        epoch: group.epoch,
        committed_through: Version::ZERO,
    };
    held.map(report).collect()
}

fn serving(group: &GroupRecord) -> BTreeSet<u32> {
    group.serving().map(|member| member.target.0 / 100).collect()
}

fn role(group: &GroupRecord, node: u32) -> Option<Role> {
    group.member(TargetId(node * 100)).map(|member| member.role)
}

#[test]
fn groups_are_made_when_all_expected_targets_serve() {
    let cluster = Cluster::new(3);
    assert_eq!(cluster.groups().len(), 4);
    assert!(cluster.healthy());
    assert!(cluster.groups().iter().all(|group| group.last_writable_epoch == Epoch(1)));
}

#[test]
fn groups_are_made_once_and_not_before_all_expected_targets_serve() {
    let mut cluster = Cluster::expecting(4);
    for node in 1..=3 {
        assert_eq!(cluster.plan(), []);
        cluster.restart(node, true);
    }
    assert_eq!(cluster.plan(), [], "one of four is missing");
    cluster.restart(4, true);
    // Four targets with four places each, three places a group.
    assert_eq!(cluster.plan(), [Command::CreateGroups { count: 6 }]);
    cluster.settle();
    assert_eq!(cluster.plan(), []);
}

#[test]
fn f4_the_primary_is_believed_and_the_evicted_stays_out_for_a_while() {
    let mut cluster = Cluster::new(3);
    let group = cluster.groups().remove(0);
    let reporter = group.primary().unwrap().target;
    let target = group.serving().nth(1).unwrap().target;
    let evict =
        Event::Evict(EvictRequest { group: group.id, epoch: group.epoch, target, reporter });
    assert_eq!(cluster.event(&evict), [Outcome::Done]);
    let after = cluster.groups().remove(0);
    assert_eq!((after.epoch, after.member(target)), (Epoch(2), None));
    assert_eq!((after.evicted.clone(), after.last_writable_epoch), (vec![target], Epoch(2)));
    assert_eq!(cluster.event(&evict), [], "the report is for an older epoch");
    assert_eq!(cluster.plan(), []);
    cluster.after(READMIT_MIN);
    cluster.settle();
    assert_eq!(role(&cluster.groups()[0], target.0 / 100), Some(Role::Syncing));
    cluster.sync();
    assert!(cluster.healthy());
}

#[test]
fn f4_only_the_primary_may_report() {
    let mut cluster = Cluster::new(3);
    let group = cluster.groups().remove(0);
    let (primary, backup) =
        (group.primary().unwrap().target, group.serving().nth(1).unwrap().target);
    for (reporter, target) in [(backup, primary), (backup, backup), (primary, TargetId(9))] {
        let request = EvictRequest { group: group.id, epoch: group.epoch, target, reporter };
        assert_eq!(cluster.event(&Event::Evict(request)), []);
    }
}

#[test]
fn f4_reports_are_limited() {
    let mut cluster = Cluster::new(3);
    let group = cluster.groups().remove(0);
    let reporter = group.primary().unwrap().target;
    let target = group.serving().nth(1).unwrap().target;
    let settings = cluster.state.settings().unwrap();
    let request = EvictRequest { group: group.id, epoch: group.epoch, target, reporter };
    let event = Event::Evict(request);
    let mut believed = 0;
    let mut now = Nanos(1);
    for _ in 0..=EVICTS_PER_PRIMARY_MAX {
        let ledger = Ledger::default();
        let (map, live) = (cluster.state.map(), &cluster.live);
        let view = View { map, settings: &settings, ledger: &ledger, live, held: &BTreeSet::new() };
        believed += cluster.membership.handle(view, now, &event).len();
        now = now.after(Duration::from_millis(1));
    }
    assert_eq!(believed, usize::try_from(EVICTS_PER_PRIMARY_MAX).unwrap());
    cluster.now = now.after(EVICT_WINDOW);
    assert_eq!(cluster.event(&event), [Outcome::Done]);
}

#[test]
fn f6_a_dead_primary_is_followed_by_a_backup() {
    let mut cluster = Cluster::new(3);
    let led: Vec<_> = cluster.groups();
    cluster.kill(1);
    for (before, after) in led.iter().zip(cluster.groups()) {
        assert_eq!(serving(&after), BTreeSet::from([2, 3]));
        assert_eq!((after.epoch, after.active), (Epoch(2), true));
        assert_eq!(after.evicted, [TargetId(100)]);
        let primary = after.primary().unwrap();
        assert!(before.serving().any(|member| member.target == primary.target));
        assert_eq!(after.last_writable_epoch, Epoch(2));
    }
    assert_eq!(cluster.plan(), []);
}

#[test]
fn f9_a_restarted_backup_returns_as_syncing_and_is_promoted() {
    let mut cluster = Cluster::new(3);
    cluster.restart(3, true);
    cluster.settle();
    for group in cluster.groups() {
        assert_eq!(role(&group, 3), Some(Role::Syncing));
        assert_eq!(group.member(TargetId(300)).unwrap().generation, Generation(2));
        assert_eq!(serving(&group), BTreeSet::from([1, 2]));
    }
    let old = cluster.groups().remove(0);
    cluster.sync();
    assert!(cluster.healthy());
    let late = Command::SyncDone { group: old.id, epoch: old.epoch, target: TargetId(300) };
    assert_eq!(cluster.apply(&late), Outcome::Refused(Status::Conflict));
}

#[test]
fn f10_a_restarted_primary_does_not_lead_again_at_once() {
    let mut cluster = Cluster::new(3);
    let group = cluster.groups().remove(0);
    let primary = group.primary().unwrap().target.0 / 100;
    cluster.restart(primary, true);
    cluster.settle();
    let after = cluster.groups().remove(0);
    assert_eq!(role(&after, primary), Some(Role::Syncing));
    assert!(after.epoch > group.epoch);
}

#[test]
fn f13_one_member_is_left_readable_and_not_writable() {
    let mut cluster = Cluster::new(3);
    cluster.kill(1);
    cluster.kill(2);
    for group in cluster.groups() {
        assert_eq!((serving(&group), group.down), (BTreeSet::from([3]), false));
        assert!(!group.writable());
        assert_eq!((group.epoch, group.last_writable_epoch), (Epoch(3), Epoch(2)));
    }
    cluster.restart(1, true);
    cluster.settle();
    cluster.sync();
    assert!(cluster.groups().iter().all(GroupRecord::writable));
}

#[test]
fn f14_the_last_member_is_kept_and_waited_for() {
    let mut cluster = Cluster::new(3);
    (1..=3).for_each(|node| cluster.kill(node));
    for group in cluster.groups() {
        assert_eq!((serving(&group), group.down), (BTreeSet::from([3]), true));
    }
    cluster.restart(1, true);
    cluster.after(RESTART_GRACE);
    cluster.settle();
    assert!(cluster.groups().iter().all(|group| group.down), "1 lacks what 3 may have");
    cluster.restart(3, true);
    cluster.settle();
    for group in cluster.groups() {
        assert_eq!((serving(&group), group.down), (BTreeSet::from([3]), false));
        assert_eq!(role(&group, 1), Some(Role::Syncing));
    }
    cluster.restart(2, true);
    cluster.settle();
    cluster.sync();
    assert!(cluster.healthy());
}

#[test]
fn f14_any_member_of_the_last_writable_epoch_revives_the_group() {
    let mut cluster = Cluster::new(3);
    (1..=3).for_each(|node| cluster.kill(node));
    // Epoch 2 was the last writable one, of 2 and 3; in epoch 3 nothing could be acknowledged.
    cluster.restart(2, true);
    assert_eq!(cluster.plan(), [], "3 may come");
    cluster.after(RESTART_GRACE);
    cluster.settle();
    for group in cluster.groups() {
        assert_eq!((serving(&group), group.down), (BTreeSet::from([2]), false));
        assert!(group.departed.contains(&TargetId(300)) && !group.mutations);
    }
    cluster.restart(3, true);
    cluster.settle();
    assert!(cluster.groups().iter().all(|group| role(group, 3) == Some(Role::Syncing)));
    cluster.sync();
    assert!(cluster.groups().iter().all(GroupRecord::writable));
}

#[test]
fn f14_who_left_before_an_epoch_that_may_have_been_writable_is_not_enough() {
    let mut cluster = Cluster::new(3);
    cluster.kill(1);
    cluster.kill(2);
    cluster.restart(1, true);
    cluster.settle();
    cluster.sync();
    // 1 and 3 may have acknowledged something that 2 lacks.
    cluster.kill(3);
    cluster.kill(1);
    cluster.restart(2, true);
    cluster.after(RESTART_GRACE);
    cluster.settle();
    assert!(cluster.groups().iter().all(|group| group.down));
    cluster.restart(3, true);
    cluster.settle();
    cluster.after(RESTART_GRACE);
    cluster.settle();
    for group in cluster.groups() {
        assert_eq!((serving(&group), group.down), (BTreeSet::from([3]), false));
    }
}

#[test]
fn f14_the_last_member_that_returns_is_not_made_to_wait_for_others() {
    let mut cluster = Cluster::new(3);
    (1..=3).for_each(|node| cluster.kill(node));
    cluster.restart(3, true);
    cluster.settle();
    assert!(cluster.groups().iter().all(|group| serving(group) == BTreeSet::from([3])));
}

#[test]
fn f14_a_last_member_that_was_only_silent_serves_again() {
    let mut cluster = Cluster::new(3);
    (1..=3).for_each(|node| cluster.kill(node));
    cluster.speak(3);
    cluster.settle();
    for group in cluster.groups() {
        assert_eq!((serving(&group), group.down, group.active), (BTreeSet::from([3]), false, true));
    }
}

/// A power cut: all processes start anew, and the nodes of `back` register.
fn restart_of_all(cluster: &mut Cluster, back: &[(u32, bool)]) {
    // The coordinator restarts with them: its map still has all of them up.
    cluster.restart_coordinator();
    back.iter().for_each(|(node, intact)| cluster.restart(*node, *intact));
}

#[test]
fn f15_a_restart_of_all_waits_for_all_and_keeps_the_primary() {
    let mut cluster = Cluster::new(3);
    let before = cluster.groups();
    restart_of_all(&mut cluster, &[(1, true), (2, true)]);
    assert_eq!(cluster.plan(), [], "the third may come");
    cluster.restart(3, true);
    cluster.settle();
    for (before, after) in before.iter().zip(cluster.groups()) {
        assert_eq!(after.primary().unwrap().target, before.primary().unwrap().target);
        assert_eq!((serving(&after).len(), after.epoch), (3, Epoch(2)));
    }
    assert!(cluster.healthy());
}

#[test]
fn f15_after_the_grace_those_present_serve() {
    let mut cluster = Cluster::new(3);
    restart_of_all(&mut cluster, &[(2, true), (3, true)]);
    assert_eq!(cluster.plan(), []);
    assert_eq!(cluster.membership.next_deadline(), Some(cluster.now.after(RESTART_GRACE)));
    cluster.after(RESTART_GRACE);
    cluster.settle();
    for group in cluster.groups() {
        assert_eq!(serving(&group), BTreeSet::from([2, 3]));
        assert_eq!(group.evicted, [TargetId(100)]);
    }
    assert_eq!(cluster.state.map().nodes[&NodeId(1)].state, NodeState::Down);
    cluster.restart(1, true);
    cluster.settle();
    cluster.sync();
    assert!(cluster.healthy());
}

#[test]
fn f9_a_coordinator_restart_does_not_disturb_those_that_have_not_spoken() {
    let mut cluster = Cluster::new(3);
    let before = cluster.groups();
    cluster.restart_coordinator();
    assert_eq!(cluster.plan(), []);
    cluster.speak(1);
    assert_eq!(cluster.plan(), []);
    cluster.restart(2, true);
    cluster.settle();
    for (before, after) in before.iter().zip(cluster.groups()) {
        assert_eq!(serving(&after), BTreeSet::from([1, 3]), "3 keeps its place");
        assert_eq!(role(&after, 2), Some(Role::Syncing));
        let led = before.primary().unwrap().target;
        let leads = if led == TargetId(200) { TargetId(100) } else { led };
        assert_eq!(after.primary().unwrap().target, leads, "only who spoke takes over");
    }
    cluster.kill(3);
    assert!(cluster.groups().iter().all(|group| serving(group) == BTreeSet::from([1])));
}

#[test]
fn f18_a_target_with_a_damaged_journal_is_only_synced() {
    let mut cluster = Cluster::new(3);
    restart_of_all(&mut cluster, &[(1, true), (2, true), (3, false)]);
    cluster.settle();
    for group in cluster.groups() {
        assert_eq!(serving(&group), BTreeSet::from([1, 2]));
        assert_eq!(role(&group, 3), Some(Role::Syncing));
    }
    let mut cluster = Cluster::new(3);
    restart_of_all(&mut cluster, &[(1, false), (2, false), (3, false)]);
    cluster.settle();
    assert!(cluster.groups().iter().all(|group| group.down));
    // What was lost is not back because the next start finds nothing wrong.
    restart_of_all(&mut cluster, &[(1, true), (2, true), (3, true)]);
    cluster.after(RESTART_GRACE);
    cluster.settle();
    assert!(cluster.groups().iter().all(|group| group.down));
}

#[test]
fn f16_a_target_whose_disk_went_back_is_only_synced() {
    let mut cluster = Cluster::new(3);
    let notes = vec![(TargetId(300), Generation(1), Lsn(50))];
    assert_eq!(cluster.apply(&Command::NoteDurable { targets: notes }), Outcome::Done);
    // These targets recover to position 0.
    restart_of_all(&mut cluster, &[(1, true), (2, true), (3, true)]);
    cluster.settle();
    assert_eq!(cluster.state.ledger().rolled_back, BTreeSet::from([TargetId(300)]));
    for group in cluster.groups() {
        assert_eq!(serving(&group), BTreeSet::from([1, 2]));
        assert_eq!(role(&group, 3), Some(Role::Syncing));
    }
    cluster.sync();
    assert_eq!(cluster.state.ledger().rolled_back, BTreeSet::new(), "copied to");
    assert!(cluster.healthy());
}

#[test]
fn f16_a_target_that_lost_an_epoch_is_only_synced() {
    // An older epoch of one group, or no epoch of it: nothing was noted of its positions.
    for kept in [Some(Epoch(0)), None] {
        let mut cluster = Cluster::new(3);
        let mut groups = adopted(cluster.state.map(), TargetId(300));
        assert!(cluster.groups().iter().all(|group| group.last_writable_epoch == Epoch(1)));
        match kept {
            Some(epoch) => groups[0].epoch = epoch,
            None => drop(groups.remove(0)),
        }
        restart_of_all(&mut cluster, &[(1, true), (2, true)]);
        cluster.restart_with(3, true, groups);
        cluster.settle();
        assert_eq!(cluster.state.ledger().rolled_back, BTreeSet::from([TargetId(300)]));
        for group in cluster.groups() {
            assert_eq!(serving(&group), BTreeSet::from([1, 2]));
            assert_eq!(role(&group, 3), Some(Role::Syncing));
        }
        cluster.sync();
        assert_eq!(cluster.state.ledger().rolled_back, BTreeSet::new(), "copied to");
        assert!(cluster.healthy());
    }
}

#[test]
fn a_fenced_target_leaves_its_groups_until_it_restarts() {
    let mut cluster = Cluster::new(3);
    assert_eq!(cluster.apply(&Command::FenceTarget { target: TargetId(200) }), Outcome::Done);
    cluster.settle();
    assert!(cluster.groups().iter().all(|group| role(group, 2).is_none()));
    cluster.restart(2, true);
    cluster.settle();
    cluster.sync();
    assert!(cluster.healthy());
}

#[derive(Clone, Copy, Debug)]
enum Shock {
    Kill(u32),
    Silence(u32),
    Coordinator,
    Restart(u32, bool),
    Return(u32),
    Fence(u32),
    Evict(u32),
    Wait(u64),
    Plan,
    Sync,
}

fn shock() -> impl Strategy<Value = Shock> {
    prop_oneof![
        (1..=4u32).prop_map(Shock::Kill),
        (1..=4u32).prop_map(Shock::Silence),
        (1..=4u32, prop::bool::weighted(0.9)).prop_map(|(n, intact)| Shock::Restart(n, intact)),
        (1..=4u32).prop_map(Shock::Return),
        (1..=4u32).prop_map(Shock::Fence),
        (0..6u32).prop_map(Shock::Evict),
        (1..40_000u64).prop_map(Shock::Wait),
        Just(Shock::Coordinator),
        Just(Shock::Plan),
        Just(Shock::Sync),
    ]
}

impl Cluster {
    fn shock(&mut self, shock: Shock) {
        let (before, whole) = (self.groups(), self.state.ledger().whole.clone());
        match shock {
            Shock::Kill(node) => self.kill(node),
            Shock::Silence(node) => {
                self.live.remove(&NodeId(node));
                self.apply(&Command::SetNodeState { node: NodeId(node), up: false });
            }
            Shock::Coordinator => self.restart_coordinator(),
            Shock::Restart(node, intact) => self.restart(node, intact),
            Shock::Return(node) => self.speak(node),
            Shock::Fence(node) => {
                self.apply(&Command::FenceTarget { target: TargetId(node * 100) });
            }
            Shock::Evict(group) => {
                let groups = self.groups();
                let group = &groups[group as usize % groups.len()];
                let reporter = group.primary().unwrap().target;
                let (group, epoch, target) =
                    (group.id, group.epoch, group.members.last().unwrap().target);
                self.event(&Event::Evict(EvictRequest { group, epoch, target, reporter }));
            }
            Shock::Wait(ms) => self.after(Duration::from_millis(ms)),
            Shock::Plan => self.settle(),
            Shock::Sync => self.sync(),
        }
        self.check_succession(&before, &whole, matches!(shock, Shock::Sync));
    }

    /// I4 and I5: nobody serves who did not, except by being synced or, when nobody serves, by
    /// holding everything; somebody always does.
    fn check_succession(
        &self,
        before: &[GroupRecord],
        whole: &BTreeMap<GroupId, Vec<TargetId>>,
        synced: bool,
    ) {
        for (old, new) in before.iter().zip(self.groups()) {
            assert!(!serving(&new).is_empty(), "{new:?}");
            let holders = whole[&old.id].iter().map(|target| target.0 / 100);
            let heirs: BTreeSet<_> = serving(old).into_iter().chain(holders).collect();
            assert!(synced || serving(&new).is_subset(&heirs), "{old:?} {new:?}");
            assert!(new.last_writable_epoch >= old.last_writable_epoch);
            if new.epoch == old.epoch {
                assert_eq!(new.members, old.members);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_dies_and_returns_the_groups_stay_sound_and_recover(
        shocks in prop::collection::vec(shock(), 1..40)
    ) {
        let mut cluster = Cluster::new(4);
        for shock in shocks {
            cluster.shock(shock);
        }
        for node in 1..=4 {
            cluster.restart(node, true);
        }
        cluster.after(READMIT_MAX);
        for _ in 0..6 {
            cluster.settle();
            cluster.sync();
        }
        let whole = &cluster.state.ledger().whole;
        let lost = |group: &&GroupRecord| whole[&group.id].is_empty();
        let groups = cluster.groups();
        // A group that nobody holds whole keeps the members it waits for, as they were.
        for group in groups.iter().filter(|group| !lost(group)) {
            for member in &group.members {
                let record = &cluster.state.map().targets[&member.target];
                prop_assert_eq!(record.generation, member.generation);
            }
        }
        prop_assert!(groups.iter().filter(|group| !lost(group)).all(GroupRecord::healthy));
        prop_assert!(groups.iter().filter(lost).all(|group| group.down));
    }
}

#[test]
fn a_plan_that_asked_for_nothing_is_made_again_when_somebody_speaks() {
    let mut cluster = Cluster::new(3);
    cluster.kill(3);
    cluster.settle();
    assert_eq!(cluster.plan(), []);
    cluster.live.insert(NodeId(3));
    assert_eq!(cluster.plan(), [Command::SetNodeState { node: NodeId(3), up: true }]);
}
