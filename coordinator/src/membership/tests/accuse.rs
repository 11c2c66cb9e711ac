//! Who is believed when members and clients say that somebody does not answer.

use super::*;
use crate::limits::{MOVE_PRIMARY_EVERY, WITNESS_CLIENTS, WITNESS_WINDOW};

/// A group whose primary is on node 1, and its members.
fn group_of(cluster: &Cluster) -> GroupRecord {
    cluster.groups().into_iter().find(|group| group.primary().unwrap().target.0 == 100).unwrap()
}

impl Cluster {
    fn say_unreachable(&mut self, group: &GroupRecord, witness: Witness) -> usize {
        let target = group.primary().unwrap().target;
        self.event(&Event::Unreachable { group: group.id, target, witness }).len()
    }

    fn group(&self, id: GroupId) -> GroupRecord {
        self.state.map().groups[&id].clone()
    }

    fn accuse(&mut self, group: GroupId, target: u32) -> usize {
        let record = self.group(group);
        let (reporter, target) = (record.primary().unwrap().target, TargetId(target));
        let request = EvictRequest { group, epoch: record.epoch, target, reporter };
        self.event(&Event::Evict(request)).len()
    }
}

#[test]
fn f21_a_primary_that_several_clients_cannot_reach_leads_no_more() {
    let mut cluster = Cluster::new(3);
    let group = group_of(&cluster);
    for client in 1..WITNESS_CLIENTS as u64 {
        assert_eq!(cluster.say_unreachable(&group, Witness::Client(client)), 0);
        assert_eq!(cluster.say_unreachable(&group, Witness::Client(client)), 0, "the same one");
    }
    assert_eq!(cluster.say_unreachable(&group, Witness::Client(0)), 1);
    let after = cluster.group(group.id);
    assert_ne!(after.primary().unwrap().target, TargetId(100));
    assert_eq!(role(&after, 1), Some(Role::Backup), "it answers others");
    assert_eq!(serving(&after), serving(&group));
    assert!(after.mutations, "nobody left");
}

#[test]
fn f21_clients_that_complain_at_different_times_are_not_added_up() {
    let mut cluster = Cluster::new(3);
    let group = group_of(&cluster);
    for client in 0..3 * WITNESS_CLIENTS as u64 {
        assert_eq!(cluster.say_unreachable(&group, Witness::Client(client)), 0);
        cluster.after(WITNESS_WINDOW);
    }
}

#[test]
fn f21_one_member_is_witness_enough_and_the_lead_is_not_moved_again_soon() {
    let mut cluster = Cluster::new(4);
    let group = group_of(&cluster);
    let outside = (1..=4).find(|node| role(&group, *node).is_none()).unwrap();
    let inside = serving(&group).into_iter().find(|node| *node != 1).unwrap();
    assert_eq!(cluster.say_unreachable(&group, Witness::Node(NodeId(outside))), 0);
    assert_eq!(
        cluster.say_unreachable(&group, Witness::Node(NodeId(1))),
        0,
        "it says it of itself"
    );
    assert_eq!(cluster.say_unreachable(&group, Witness::Node(NodeId(inside))), 1);
    let moved = cluster.group(group.id);
    assert_eq!(cluster.say_unreachable(&moved, Witness::Node(NodeId(1))), 0);
    cluster.after(MOVE_PRIMARY_EVERY);
    assert_eq!(cluster.say_unreachable(&moved, Witness::Node(NodeId(1))), 1);
}

#[test]
fn f22_of_two_that_accuse_each_other_the_backup_goes() {
    let mut cluster = Cluster::new(3);
    let group = group_of(&cluster);
    let backup = group.serving().nth(1).unwrap().target;
    assert_eq!(cluster.accuse(group.id, backup.0), 1);
    let after = cluster.group(group.id);
    assert_eq!((after.member(backup), role(&after, 1)), (None, Some(Role::Primary)));
}

#[test]
fn f22_the_one_that_others_accuse_too_goes() {
    let mut cluster = Cluster::new(4);
    let group = group_of(&cluster);
    let backup = group.serving().nth(1).unwrap().target;
    let outside = (1..=4).find(|node| role(&group, *node).is_none()).unwrap();
    cluster.say_unreachable(&group, Witness::Node(NodeId(outside)));
    assert_eq!(cluster.accuse(group.id, backup.0), 1);
    let after = cluster.group(group.id);
    assert_eq!((role(&after, 1), role(&after, backup.0 / 100)), (None, Some(Role::Primary)));
    assert_eq!(after.evicted, [TargetId(100)]);
}

#[test]
fn f22_a_primary_that_finds_everybody_unreachable_goes_itself() {
    let mut cluster = Cluster::new(3);
    let group = group_of(&cluster);
    let others: Vec<_> = group.serving().skip(1).map(|member| member.target.0).collect();
    assert_eq!(cluster.accuse(group.id, others[0]), 1);
    assert_eq!(serving(&cluster.group(group.id)), BTreeSet::from([1, others[1] / 100]));
    assert_eq!(cluster.accuse(group.id, others[1]), 1);
    let after = cluster.group(group.id);
    assert_eq!(serving(&after), BTreeSet::from([others[1] / 100]));
    cluster.settle();
    let after = cluster.group(group.id);
    assert_eq!(role(&after, others[0] / 100), Some(Role::Syncing), "it was accused by nobody else");
    assert_eq!(role(&after, 1), None);
}

#[test]
fn a_primary_that_finds_that_it_lacks_something_goes_and_the_last_one_stays() {
    let mut cluster = Cluster::new(3);
    let group = group_of(&cluster);
    assert_eq!(cluster.accuse(group.id, 100), 1);
    let after = cluster.group(group.id);
    assert_eq!((role(&after, 1), &after.evicted[..]), (None, &[TargetId(100)][..]));
    assert_eq!(serving(&after).len(), 2);
    assert!(!cluster.state.ledger().holds_everything(group.id, TargetId(100)));
    let next = after.primary().unwrap().target.0;
    assert_eq!(cluster.accuse(group.id, next), 1);
    let last = cluster.group(group.id).primary().unwrap().target.0;
    assert_eq!(cluster.accuse(group.id, last), 0, "nobody else serves");
}
