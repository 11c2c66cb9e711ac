//! Healing, draining, growing and evening in a cluster in which copying takes time.

use std::time::Duration;

use proptest::prelude::*;
use protocol::cluster_map::{GroupRecord, PlanReason};
use protocol::ids::{NodeId, TargetId};
use protocol::message::command::Command;
use protocol::status::Status;

use super::model::Model;
use crate::limits::{
    CALM_BEFORE_LEADS, COPIES_PER_DESTINATION_MAX, COPIES_PER_SOURCE_MAX, HEAL_AFTER,
};
use crate::state::Outcome;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(180);

#[test]
fn a_lost_replica_is_copied_anew_after_its_target_had_time_to_return() {
    let mut model = Model::new(5, 3);
    model.kill(1);
    model.run(HEAL_AFTER - SECOND);
    assert_eq!(model.plans(), 0);
    assert!(model.run_until(SECOND * 2, |model| model.plans() > 0), "within a second");
    assert!(model.run_until(LONG, Model::at_rest));
    assert_eq!(model.held(1), (0, 0), "nobody waits for it any more");
    assert_eq!(model.fewest, 2);
}

#[test]
fn the_last_copy_is_copied_at_once() {
    let mut model = Model::new(4, 2);
    model.kill(1);
    assert!(model.run_until(SECOND, |model| model.plans() > 0));
    assert!(model.run_until(LONG, Model::at_rest));
}

#[test]
fn groups_with_the_fewest_replicas_are_copied_first() {
    let mut model = Model::new(8, 3);
    model.kill(1);
    model.run(HEAL_AFTER - SECOND * 2);
    model.kill(2);
    model.speed = 1;
    model.run(SECOND);
    let endangered = |group: &&GroupRecord| group.serving().count() == 1;
    let (copied, waiting): (Vec<_>, Vec<_>) = model
        .groups()
        .filter(|group| group.serving().count() < 3)
        .partition(|it| it.plan.is_some());
    assert!(!copied.is_empty() || model.outlook().guarded);
    assert!(copied.iter().filter(|group| !endangered(group)).count() == 0 || waiting.is_empty());
}

#[test]
fn copies_under_way_are_limited() {
    let mut model = Model::new(5, 3);
    model.speed = 1;
    model.kill(1);
    model.run(HEAL_AFTER + SECOND * 2);
    assert!(model.plans() > 0);
    for node in 2..=5 {
        let target = TargetId(node * 100);
        let planned = |group: &&GroupRecord| group.plan.is_some();
        let sends = |group: &&GroupRecord| group.primary().is_some_and(|it| it.target == target);
        let receives = |group: &&GroupRecord| group.plan.is_some_and(|plan| plan.add == target);
        assert!(model.groups().filter(planned).filter(sends).count() <= COPIES_PER_SOURCE_MAX);
        assert!(model.groups().filter(receives).count() <= COPIES_PER_DESTINATION_MAX);
    }
}

#[test]
fn a_target_that_returns_takes_its_place_back() {
    let mut model = Model::new(5, 3);
    model.speed = 1;
    model.kill(1);
    model.run(HEAL_AFTER + SECOND * 2);
    assert!(model.plans() > 0);
    model.speed = 50;
    let before = model.held(1);
    model.start(1);
    assert!(model.run_until(LONG, Model::at_rest));
    assert_eq!(before, (0, 0));
    assert!(model.held(1).0 >= 5, "{:?}", model.held(1));
}

#[test]
fn a_mass_failure_starts_no_copies_until_enough_is_back() {
    let mut model = Model::new(6, 3);
    model.kill(1);
    model.kill(2);
    model.run(LONG);
    assert_eq!((model.plans(), model.outlook().guarded), (0, true));
    assert!(model.outlook().alarms.iter().any(|alarm| alarm.name == "mass_failure"));
    model.start(1);
    assert!(model.run_until(LONG, Model::at_rest));
    assert!(!model.outlook().guarded);
}

#[test]
fn an_operator_heals_without_the_nodes_that_will_not_return() {
    let mut model = Model::new(6, 3);
    model.kill(1);
    model.kill(2);
    model.run(SECOND * 60);
    assert_eq!(model.plans(), 0);
    model.drain(1, true);
    assert!(model.run_until(LONG, Model::at_rest));
    assert_eq!(model.apply(&Command::RemoveNode { node: NodeId(1) }), Outcome::Done);
}

#[test]
fn a_drain_moves_everything_and_never_goes_below_all_replicas() {
    let mut model = Model::new(4, 3);
    let refused = Outcome::Refused(Status::Conflict);
    assert_eq!(model.apply(&Command::RemoveNode { node: NodeId(2) }), refused);
    model.drain(2, true);
    assert!(model.run_until(LONG, |model| model.held(2) == (0, 0)));
    assert!(model.run_until(LONG, Model::at_rest));
    assert_eq!(model.fewest, 3);
    assert_eq!(model.apply(&Command::RemoveNode { node: NodeId(2) }), Outcome::Done);
    assert!(!model.state.map().nodes.contains_key(&NodeId(2)));
}

#[test]
fn a_drain_that_cannot_end_keeps_every_replica_and_can_be_taken_back() {
    let mut model = Model::new(3, 3);
    model.drain(1, true);
    model.run(SECOND * 60);
    assert!(model.healthy());
    assert_eq!((model.fewest, model.outlook().drains[0].groups_left), (3, 6));
    model.drain(1, false);
    assert!(model.run_until(LONG, Model::at_rest));
    assert_eq!(model.held(1).0, 6);
}

#[test]
fn a_drain_that_is_taken_back_ends_its_copies() {
    let mut model = Model::new(4, 3);
    model.speed = 1;
    model.drain(2, true);
    model.run(SECOND * 3);
    assert!(model.groups().any(|group| {
        group.plan.is_some_and(|plan| plan.reason == PlanReason::Drain && plan.since_ms > 0)
    }));
    model.drain(2, false);
    model.speed = 250;
    assert!(model.run_until(LONG, Model::at_rest));
    assert_eq!(model.fewest, 3);
    assert!(model.held(2).0 >= 4, "{:?}", model.held(2));
}

#[test]
fn a_new_node_gets_its_share_and_the_spreading_ends_by_itself() {
    let mut model = Model::new(3, 3);
    model.start(4);
    assert!(model.state.ledger().rebalance);
    assert!(model.run_until(LONG, Model::at_rest));
    let held: Vec<_> = (1..=4).map(|node| model.held(node).0).collect();
    assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{held:?}");
    assert_eq!(model.fewest, 3);
}

#[test]
fn leads_are_even_again_after_a_node_returned() {
    let mut model = Model::new(4, 3);
    model.kill(1);
    model.run(SECOND * 3);
    model.start(1);
    assert!(model.run_until(LONG, Model::at_rest));
    model.run(CALM_BEFORE_LEADS + SECOND * 10);
    let leads: Vec<_> = (1..=4).map(|node| model.held(node).1).collect();
    assert!(leads.iter().max().unwrap() - leads.iter().min().unwrap() <= 1, "{leads:?}");
}

#[test]
fn a_slow_target_leads_nothing() {
    let mut model = Model::new(4, 3);
    model.apply(&Command::SetTargetSlow { target: TargetId(100), slow: true });
    assert!(model.held(1).1 > 0);
    assert!(model.run_until(SECOND * 5, |model| model.held(1).1 == 0 && model.healthy()));
    assert!(model.held(1).0 > 0, "it keeps its replicas");
    assert!(model.outlook().alarms.iter().any(|alarm| alarm.name == "target_slow"));
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    Kill(u32),
    Return(u32),
    Drain(u32, bool),
    Add,
    Coordinator,
    Run(u64),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        2 => (1..=7u32).prop_map(Turn::Kill),
        2 => (1..=7u32).prop_map(Turn::Return),
        2 => (1..=7u32, any::<bool>()).prop_map(|(node, on)| Turn::Drain(node, on)),
        1 => Just(Turn::Add),
        1 => Just(Turn::Coordinator),
        4 => (1..40_000u64).prop_map(Turn::Run),
    ]
}

impl Model {
    /// At most one node is dead at a time, so no group can lose its last copies.
    fn turn(&mut self, turn: Turn) {
        let known = u32::try_from(self.state.map().nodes.len()).unwrap();
        match turn {
            Turn::Kill(node) if self.alive.len() == known as usize => self.kill(node),
            Turn::Return(node) if node <= known && !self.alive.contains(&node) => self.start(node),
            Turn::Drain(node, on) if node <= known => self.drain(node, on),
            Turn::Add if known < 7 => self.start(known + 1),
            Turn::Coordinator => self.restart_coordinator(),
            Turn::Run(ms) => self.run(Duration::from_millis(ms)),
            _ => {}
        }
    }
}

#[test]
fn a_node_added_while_a_restarted_coordinator_evicts_another() {
    let mut model = Model::new(5, 3);
    for turn in [Turn::Add, Turn::Coordinator, Turn::Kill(1), Turn::Add] {
        model.turn(turn);
    }
    model.start(1);
    assert!(model.run_until(LONG * 3, Model::at_rest), "{:?}", model.state.map().groups);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_no_group_loses_its_replicas_and_all_comes_to_rest(
        turns in prop::collection::vec(turn(), 1..24)
    ) {
        let mut model = Model::new(5, 3);
        for turn in turns {
            model.turn(turn);
            // A node that is back may still be copied to when the next one dies: one is left then.
            prop_assert!(model.fewest >= 1);
        }
        let known = u32::try_from(model.state.map().nodes.len()).unwrap();
        for node in 1..=known {
            model.drain(node, false);
            if !model.alive.contains(&node) {
                model.start(node);
            }
        }
        prop_assert!(model.run_until(LONG * 3, Model::at_rest), "{:?}", model.state.map().groups);
    }
}
