//! Nodes: registration, map pushes, loss and return, and the deletion of dead files.

use std::time::{Duration, Instant};

use protocol::cluster_map::{ClusterMap, NodeState, TargetState};
use protocol::ids::{Ino, MapVersion, NodeId, Seq};
use protocol::message::Kind;
use protocol::message::cluster::{
    DropDoneReply, DropDoneRequest, DropFilesNotice, HeartbeatReply, MapFetchReply,
    MapFetchRequest, StatusReply, StatusRequest,
};
use protocol::message::namespace::{NamespaceOp, OpOutcome, SetAttributes};
use protocol::status::Status;

use crate::namespace::mutate;
use crate::support::{Cluster, FakeNode, Peer, Running, soon};

/// Three nodes with heartbeats whose groups are all active.
pub(crate) async fn three_nodes(cluster: &Cluster, running: &Running) -> Vec<FakeNode> {
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let mut node = cluster.node(running, number).await;
        node.listen().await;
        node.register().await.unwrap();
        node.beat();
        nodes.push(node);
    }
    for node in &mut nodes {
        node.until("groups", |map| map.groups.len() == 64).await;
        node.activate().await;
    }
    for node in &mut nodes {
        node.until("activation", |map| map.groups.values().all(|group| group.active)).await;
    }
    nodes
}

pub(crate) async fn fetch_map(peer: &Peer) -> ClusterMap {
    let fetch = MapFetchRequest { have: MapVersion(0) };
    let reply: MapFetchReply = peer.call(&fetch).await.unwrap();
    let mut map = ClusterMap::default();
    map.apply(&reply.delta).unwrap();
    map
}

#[tokio::test]
async fn groups_are_made_when_all_expected_targets_are_there_and_pushed_to_all() {
    let mut cluster = Cluster::new().with("groups_per_target = 10\n");
    let running = cluster.start().await;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let mut node = cluster.node(&running, number).await;
        let reply = node.register().await.unwrap();
        assert_eq!((reply.lease_ms, reply.heartbeat_ms), (10_000, 250));
        assert!(reply.map.full && reply.map.targets.len() == usize::try_from(number).unwrap());
        assert_eq!(node.map.groups.len(), 0);
        nodes.push(node);
    }
    for node in &mut nodes {
        node.until("groups", |map| map.groups.len() == 10).await;
        assert!(node.map.groups.values().all(|group| group.members.len() == 3));
    }
    let admin = cluster.admin(&running).await;
    assert_eq!(fetch_map(&admin).await, nodes[0].map);
}

#[tokio::test]
async fn a_heartbeat_brings_the_changes_a_node_lacks() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut node = cluster.node(&running, 1).await;
    let early = node.heartbeat(1).await.unwrap_err();
    assert_eq!(early.status(), Some(Status::Conflict), "not registered yet");
    node.register().await.unwrap();
    let mut other = cluster.node(&running, 2).await;
    other.register().await.unwrap();
    let mut beat = node.heartbeat_of(2);
    beat.map_version = node.map.version;
    let reply: HeartbeatReply = node.peer.call(&beat).await.unwrap();
    let delta = reply.delta.unwrap();
    assert!(!delta.full && delta.nodes.len() == 1 && delta.nodes[0].id == NodeId(2), "{delta:?}");
    node.map.apply(&delta).unwrap();
    beat.map_version = node.map.version;
    let reply: HeartbeatReply = node.peer.call(&beat).await.unwrap();
    assert_eq!((reply.delta, reply.map_version, reply.lease_ms), (None, beat.map_version, 10_000));
    beat.incarnation += 1;
    let stranger = node.peer.call::<HeartbeatReply>(&beat).await.unwrap_err();
    assert_eq!(stranger.status(), Some(Status::Conflict));
}

#[tokio::test]
async fn a_node_whose_process_is_gone_is_evicted_within_a_second() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = three_nodes(&cluster, &running).await;
    let dead = nodes.pop().unwrap();
    let target = dead.target();
    let start = Instant::now();
    dead.die();
    let gone = |map: &ClusterMap| {
        map.groups.values().all(|group| group.member(target).is_none() && group.primary().is_some())
    };
    nodes[0].until("eviction", gone).await;
    let took = start.elapsed();
    println!("evicted from 64 groups after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");
    nodes[0].until("node down", |map| map.nodes[&NodeId(3)].state == NodeState::Down).await;
    assert!(nodes[0].map.groups.values().all(|group| group.evicted == [target]));
}

#[tokio::test]
async fn a_node_that_only_lost_its_connection_and_comes_back_stays_a_member() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = three_nodes(&cluster, &running).await;
    let old = nodes.pop().unwrap();
    let port = old.port;
    let listener = old.disconnect();
    let mut back = cluster.node(&running, 3).await;
    back.port = port;
    back.register().await.unwrap();
    back.beat();
    running.line("connection of the node ended").await;
    // Longer than the silence after which a node is suspected.
    back.beaten(7).await;
    let map = fetch_map(&cluster.admin(&running).await).await;
    assert!(map.groups.values().all(|group| group.members.len() == 3 && group.active));
    drop(listener);
}

#[tokio::test]
async fn a_newer_connection_of_a_node_is_not_ended_by_the_older_one() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = three_nodes(&cluster, &running).await;
    let mut again = cluster.node(&running, 3).await;
    again.port = nodes[2].port;
    again.register().await.unwrap();
    again.beat();
    let listener = nodes.pop().unwrap().disconnect();
    again.beaten(7).await;
    assert!(!running.lines().iter().any(|line| line.contains("connection of the node ended")));
    assert!(!running.lines().iter().any(|line| line.contains("suspected")));
    drop(listener);
}

#[tokio::test]
async fn a_coordinator_that_restarts_evicts_no_node_that_lives() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let nodes = three_nodes(&cluster, &running).await;
    let before = fetch_map(&cluster.admin(&running).await).await;
    running.kill().await;
    let running = cluster.start().await;
    // Nodes notice the broken connection late: the silence itself is what is tested here.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let mut back = Vec::new();
    for old in nodes {
        let mut node = cluster.node(&running, old.number).await;
        node.port = old.port;
        node.register().await.unwrap();
        node.beat();
        back.push((node, old.disconnect()));
    }
    for (node, _) in &back {
        node.beaten(5).await;
    }
    let map = fetch_map(&cluster.admin(&running).await).await;
    assert_eq!(map.groups, before.groups, "the same epochs, all active");
    assert!(map.nodes.values().all(|node| node.state == NodeState::Up));
}

#[tokio::test]
async fn a_target_that_fences_itself_is_fenced_in_the_map() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut node = cluster.node(&running, 1).await;
    node.register().await.unwrap();
    let mut beat = node.heartbeat_of(1);
    beat.targets[0].fenced = true;
    node.peer.call::<HeartbeatReply>(&beat).await.unwrap();
    let target = node.target();
    node.until("fence", |map| map.targets[&target].state == TargetState::Fenced).await;
    let status: StatusReply = cluster.admin(&running).await.call(&StatusRequest).await.unwrap();
    assert!(status.targets[0].fenced);
}

#[tokio::test]
async fn dead_files_are_announced_to_the_primary_until_it_confirms() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let nodes = three_nodes(&cluster, &running).await;
    let admin = cluster.admin(&running).await;
    let session = admin.session().await;
    let reserve = NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: 10 };
    let reserved = match mutate(&admin, session, vec![(Seq(1), reserve)]).await.remove(0) {
        OpOutcome::Reserved(mut entries) => entries.remove(0),
        other => panic!("{other:?}"),
    };
    let publish = NamespaceOp::Publish {
        ino: reserved.attributes.ino,
        parent: Ino::ROOT,
        name: "f".into(),
        size: 10,
        attributes: SetAttributes::default(),
        replace: false,
        growth_only: true,
    };
    let unlink = NamespaceOp::Unlink { parent: Ino::ROOT, name: "f".into() };
    let outcomes = mutate(&admin, session, vec![(Seq(2), publish), (Seq(3), unlink)]).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, OpOutcome::Done(_))), "{outcomes:?}");
    let group = reserved.content.unwrap().layout.group_of(0).unwrap();
    let primary = nodes[0].map.groups[&group].primary().unwrap().target;
    let node = nodes.iter().find(|node| node.target() == primary).unwrap();
    let notice = || async {
        let notice = node.peer.notice::<DropFilesNotice>(Kind::DropFiles);
        soon("dead files", notice).await.expect("connection ended").groups
    };
    let first = notice().await;
    assert_eq!(
        first.iter().map(|(group, fids)| (*group, fids.len())).collect::<Vec<_>>(),
        [(group, 1)]
    );
    assert_eq!(notice().await, first, "said again while nobody confirms");
    let done = DropDoneRequest { groups: first };
    let other = nodes.iter().find(|node| node.target() != primary).unwrap();
    let refused = other.peer.call::<DropDoneReply>(&done).await.unwrap_err();
    assert_eq!(refused.status(), Some(Status::Conflict));
    node.peer.call::<DropDoneReply>(&done).await.unwrap();
    let status: StatusReply = admin.call(&StatusRequest).await.unwrap();
    assert_eq!(status.dead_files, 0);
}
