use std::time::Duration;

use protocol::cluster_map::{GroupRecord, MapDelta, Member, Role};
use protocol::ids::{
    ClusterId, Epoch, Fid, Generation, GroupId, Lsn, MapVersion, NodeId, ShardId, TargetId,
};
use protocol::message::cluster::TargetReport;

use super::{Identity, State, lease_end};
use crate::io::Nanos;
use crate::shard::ControlEvent;

fn target(id: u32) -> TargetReport {
    TargetReport {
        target: TargetId(id),
        shard: ShardId(0),
        device: 0,
        port: 7411,
        generation: Generation(3),
        recovered_lsn: Lsn(9),
        intact: true,
        capacity: 1 << 30,
        free: 1 << 29,
        groups: Vec::new(),
    }
}

fn state() -> State {
    State::new(Identity {
        node: NodeId(1),
        cluster: ClusterId(1),
        incarnation: 42,
        address: "127.0.0.1".parse().unwrap(),
        targets: vec![target(101), target(102)],
    })
}

fn group(id: u32, primary: u32) -> GroupRecord {
    let member =
        Member { target: TargetId(primary), generation: Generation(3), role: Role::Primary };
    GroupRecord {
        id: GroupId(id),
        kind: 0,
        epoch: Epoch(1),
        last_writable_epoch: Epoch(1),
        active: true,
        down: false,
        replicas: 1,
        min_write: 1,
        members: vec![member],
        evicted: Vec::new(),
        mutations: true,
        ..GroupRecord::default()
    }
}

fn delta(from: u64, to: u64, groups: Vec<GroupRecord>) -> MapDelta {
    let (from, to) = (MapVersion(from), MapVersion(to));
    MapDelta { cluster: ClusterId(1), from, to, groups, ..MapDelta::default() }
}

fn sent_to(state: &mut State, shard: usize) -> Vec<ControlEvent> {
    let mut sent = Vec::new();
    let (map, outboxes) = state.outboxes();
    outboxes[shard].flush(map, |event| {
        sent.push(event);
        true
    });
    sent
}

#[test]
fn lease_ends_early_by_drift_and_margin() {
    let sent = Nanos(1_000_000_000);
    assert_eq!(lease_end(sent, 10_000), sent.after(Duration::from_millis(9940)));
    assert_eq!(lease_end(sent, 40), sent, "a lease shorter than the margin is none");
}

#[test]
fn map_goes_to_every_shard_once() {
    let mut state = state();
    let change = delta(0, 1, vec![group(1, 101)]);
    assert!(state.apply(&change));
    assert!(state.apply(&change), "an old change is no gap");
    for shard in 0..2 {
        assert_eq!(sent_to(&mut state, shard), [ControlEvent::Map(change.clone())]);
    }
    assert!(!state.apply(&delta(5, 6, Vec::new())), "a gap is told");
    assert_eq!(state.map_version(), MapVersion(1));
    assert_eq!(sent_to(&mut state, 0), []);
}

#[test]
fn dead_files_go_to_the_shard_of_the_primary() {
    let mut state = state();
    state.apply(&delta(0, 1, vec![group(1, 101), group(2, 102), group(3, 999)]));
    sent_to(&mut state, 0);
    sent_to(&mut state, 1);
    let files = |group| (GroupId(group), vec![Fid(7)]);
    state.drop_files(vec![files(1), files(2), files(3), files(4)]);
    assert_eq!(sent_to(&mut state, 0), [ControlEvent::DropFiles(vec![files(1)])]);
    assert_eq!(sent_to(&mut state, 1), [ControlEvent::DropFiles(vec![files(2)])]);
}

#[test]
fn heartbeats_count_and_carry_the_newest_health() {
    let mut state = state();
    let first = state.heartbeat();
    assert_eq!((first.seq, first.targets.len()), (1, 2));
    let mut health = first.targets[1].clone();
    health.free = 5;
    state.note_health(health.clone());
    let second = state.heartbeat();
    assert_eq!((second.seq, second.incarnation), (2, 42));
    assert_eq!(second.targets, [first.targets[0].clone(), health]);
}
