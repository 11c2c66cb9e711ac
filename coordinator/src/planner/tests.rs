//! Bounds of the planner, on maps made by hand; how it heals is in the tests of the control.

use std::time::Duration;

use protocol::cluster_map::TargetState;
use protocol::ids::{Epoch, Generation};

use super::*;
use crate::limits::{
    CALM_BEFORE_LEADS, COPIES_PER_NODE_MAX, FILL_HEAL_MAX_PERCENT, FILL_MOVE_MAX_PERCENT,
    LEADS_AWAY_MAX, LEADS_EVENED_MAX,
};
use crate::placement::fixture;

const LATER: Duration = Duration::from_secs(3600);

/// A map of targets of 1000 bytes and groups without a primary's activation to wait for.
#[derive(Default)]
struct Case {
    map: ClusterMap,
    reports: Reports,
    live: BTreeSet<NodeId>,
    ledger: Ledger,
    sick: BTreeSet<TargetId>,
}

impl Case {
    fn target(&mut self, id: u32, node: u32, used_percent: u64) {
        self.map.nodes.insert(NodeId(node), fixture::node(node));
        self.map.targets.insert(TargetId(id), fixture::target(id, node));
        self.live.insert(NodeId(node));
        let free = 1000 - 10 * used_percent;
        self.reports
            .insert(TargetId(id), (Nanos(0), TargetHealth { free, ..TargetHealth::default() }));
    }

    /// A group of these targets, the primary first.
    fn group(&mut self, replicas: u8, targets: &[u32]) {
        let id = GroupId(u32::try_from(self.map.groups.len()).unwrap() + 1);
        let member = |(place, target): (usize, &u32)| Member {
            target: TargetId(*target),
            generation: Generation(1),
            role: if place == 0 { Role::Primary } else { Role::Backup },
        };
        let record = GroupRecord {
            id,
            epoch: Epoch(1),
            active: true,
            replicas,
            min_write: 1,
            mutations: true,
            members: targets.iter().enumerate().map(member).collect(),
            ..GroupRecord::default()
        };
        self.map.groups.insert(id, record);
    }

    /// What is planned long after the map became as it is.
    fn plan(&self) -> Vec<Action> {
        let mut watch = Watch::default();
        watch.update(&self.map, Nanos(0));
        self.plan_with(&watch, Nanos(0).after(LATER))
    }

    fn plan_with(&self, watch: &Watch, now: Nanos) -> Vec<Action> {
        let (reports, live) = (&self.reports, &self.live);
        let (ledger, sick) = (&self.ledger, &self.sick);
        plan(&self.map, &Observations { reports, live, ledger, watch, sick }, now)
    }
}

fn adds(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Add { .. })).count()
}

fn leads(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Lead { .. })).count()
}

#[test]
fn a_node_takes_part_in_a_limited_number_of_copies() {
    let mut case = Case::default();
    for id in 1..=2 * u32::try_from(COPIES_PER_NODE_MAX).unwrap() {
        case.target(id, id, FILL_HEAL_MAX_PERCENT);
        case.group(2, &[id]);
    }
    for shard in 0..u32::try_from(COPIES_PER_NODE_MAX).unwrap() {
        case.target(100 + shard, 100, 0);
    }
    assert_eq!(adds(&case.plan()), COPIES_PER_NODE_MAX);
}

#[test]
fn full_targets_get_no_copies_and_rather_full_ones_only_what_was_lost() {
    for (used, heals, moves) in [
        (FILL_MOVE_MAX_PERCENT - 1, 1, 1),
        (FILL_MOVE_MAX_PERCENT, 1, 0),
        (FILL_HEAL_MAX_PERCENT, 0, 0),
    ] {
        let mut case = Case::default();
        case.target(1, 1, 50);
        case.target(2, 2, 50);
        case.target(3, 3, used);
        case.group(3, &[1, 2]);
        assert_eq!(adds(&case.plan()), heals, "{used} percent");
        let mut case = Case::default();
        case.target(1, 1, 50);
        case.target(2, 2, 50);
        case.target(3, 3, used);
        case.group(2, &[1, 2]);
        case.map.nodes.get_mut(&NodeId(1)).unwrap().draining = true;
        assert_eq!(adds(&case.plan()), moves, "{used} percent");
    }
}

#[test]
fn who_was_a_member_returns_without_a_plan_and_is_let_in_again_when_it_leaves() {
    for evicted in [Vec::new(), vec![TargetId(3)]] {
        let mut case = Case::default();
        for id in 1..=3 {
            case.target(id, id, 50);
        }
        case.group(3, &[1, 2]);
        let group = case.map.groups.values_mut().next().unwrap();
        group.evicted = evicted.clone();
        let [action] = &case.plan()[..] else { panic!("one copy begins") };
        let Some(Command::ChangeGroup { members, plan, evicted: left, .. }) =
            action.command(&case.map)
        else {
            panic!("a change of the group")
        };
        assert_eq!(plan.is_some(), evicted.is_empty(), "{evicted:?}");
        assert_eq!((members.len(), left), (3, Vec::new()));
    }
}

#[test]
fn leads_are_evened_a_few_at_a_time_and_only_when_all_is_calm() {
    let mut case = Case::default();
    case.target(1, 1, 10);
    case.target(2, 2, 10);
    (0..10).for_each(|_| case.group(2, &[1, 2]));
    assert_eq!(leads(&case.plan()), LEADS_EVENED_MAX);
    let mut watch = Watch::default();
    watch.update(&case.map, Nanos(0));
    let soon = Nanos(0).after(CALM_BEFORE_LEADS - Duration::from_nanos(1));
    assert_eq!(case.plan_with(&watch, soon), []);
}

#[test]
fn a_slow_target_loses_its_leads_a_few_at_a_time() {
    let mut case = Case::default();
    case.target(1, 1, 10);
    case.target(2, 2, 10);
    (0..40).for_each(|_| case.group(2, &[1, 2]));
    case.map.targets.get_mut(&TargetId(1)).unwrap().state = TargetState::Slow;
    let watch = Watch::default();
    assert_eq!(leads(&case.plan_with(&watch, Nanos(0))), LEADS_AWAY_MAX);
    case.map.targets.get_mut(&TargetId(2)).unwrap().state = TargetState::Slow;
    assert_eq!(case.plan_with(&watch, Nanos(0)), [], "nobody is better");
}

#[test]
fn the_groups_of_a_sick_target_are_moved_and_its_last_copy_is_kept_meanwhile() {
    let mut case = Case::default();
    (1..=3).for_each(|id| case.target(id, id, 10));
    case.group(2, &[1, 2]);
    case.sick.insert(TargetId(1));
    let (group, target, leave) = (GroupId(1), TargetId(3), TargetId(1));
    let reason = PlanReason::Slow;
    assert_eq!(case.plan(), [Action::Add { group, target, leave, reason }]);
}

#[test]
fn the_plan_is_the_same_whenever_it_is_made_and_its_order_is_that_of_danger() {
    let mut case = Case::default();
    (1..=8).for_each(|id| case.target(id, id, 10));
    case.group(3, &[1, 2]);
    case.group(3, &[3]);
    case.group(3, &[4, 5]);
    let actions = case.plan();
    let groups: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Add { group, .. } => Some(group.0),
            _ => None,
        })
        .collect();
    assert_eq!(groups, [2, 1, 3]);
    assert_eq!(case.plan(), actions);
}

#[test]
fn a_copy_into_a_target_that_became_full_is_given_up_when_another_has_room() {
    let mut case = Case::default();
    (1..=2).for_each(|id| case.target(id, id, 50));
    case.target(3, 3, FILL_HEAL_MAX_PERCENT);
    case.group(3, &[1, 2]);
    let (target, leave) = (TargetId(3), TargetId(0));
    let group = case.map.groups.get_mut(&GroupId(1)).unwrap();
    group.members.push(Member { target, generation: Generation(1), role: Role::Syncing });
    group.plan = Some(Plan { reason: PlanReason::Heal, add: target, leave, since_ms: 1 });
    assert_eq!(case.plan(), [], "nobody else has room, so it waits");
    case.target(4, 4, 50);
    let remove = Action::Remove { group: GroupId(1), target, lead: TargetId(0) };
    assert_eq!(case.plan(), [remove]);
}

#[test]
fn a_returned_member_on_its_way_out_stays_until_somebody_can_take_its_place() {
    let mut case = Case::default();
    case.target(1, 1, 94);
    case.target(2, 2, 94);
    case.target(3, 3, 94);
    case.group(3, &[1]);
    let group = case.map.groups.get_mut(&GroupId(1)).unwrap();
    let target = TargetId(2);
    group.members.push(Member { target, generation: Generation(1), role: Role::Syncing });
    case.map.nodes.get_mut(&NodeId(2)).unwrap().draining = true;
    assert_eq!(case.plan(), [], "once out, it would be too full of this group to come back");
    case.target(4, 4, 50);
    let remove = Action::Remove { group: GroupId(1), target, lead: TargetId(0) };
    assert_eq!(case.plan(), [remove]);
}
