//! An operator's orders, plans, witnesses, the census, and dead files of those who are away.

use std::time::Duration;

use protocol::cluster_map::{ClusterMap, NodeState, Role};
use protocol::ids::{Fid, GroupId, Ino, NodeId, Seq, TargetId};
use protocol::message::Kind;
use protocol::message::cluster::{
    DropDoneReply, DropDoneRequest, DropFilesNotice, StatusReply, StatusRequest,
};
use protocol::message::heal::{CensusReply, CensusRequest};
use protocol::message::namespace::{NamespaceOp, OpOutcome};
use protocol::message::operate::{
    AdminOp, AdminReply, AdminRequest, PlansReply, PlansRequest, UnreachableReply,
    UnreachableRequest,
};
use protocol::status::Status;

use crate::namespace::mutate;
use crate::nodes::{fetch_map, three_nodes};
use crate::support::{CallError, Cluster, FakeNode, Peer, Running, soon};

async fn order(peer: &Peer, op: AdminOp) -> Result<AdminReply, CallError> {
    peer.call(&AdminRequest { op }).await
}

async fn status(peer: &Peer) -> StatusReply {
    peer.call(&StatusRequest).await.unwrap()
}

fn refusal(error: &CallError) -> (Status, &str) {
    match error {
        CallError::Refused(status, text) => (*status, text),
        CallError::Closed => panic!("closed"),
    }
}

#[tokio::test]
async fn orders_are_for_administrators_and_say_what_they_start() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = three_nodes(&cluster, &running).await;
    let (admin, alice) = (cluster.admin(&running).await, cluster.client(&running, "alice").await);
    let refused = order(&alice, AdminOp::Drain(NodeId(1))).await.unwrap_err();
    assert_eq!(refused.status(), Some(Status::BadRole));
    let unknown = order(&admin, AdminOp::Drain(NodeId(9))).await.unwrap_err();
    assert_eq!(refusal(&unknown).0, Status::NotFound);

    let started = order(&admin, AdminOp::Drain(NodeId(1))).await.unwrap();
    assert!(started.text.contains("add a node"), "{}", started.text);
    nodes[0].until("draining", |map| map.nodes[&NodeId(1)].draining).await;
    let drained = soon("a drain", async {
        loop {
            let drains = status(&admin).await.drains;
            if let Some(drain) = drains.first() {
                return *drain;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let drain = drained.await;
    assert_eq!((drain.node, drain.groups_left), (NodeId(1), 64));
    let refused = order(&admin, AdminOp::Remove(NodeId(1))).await.unwrap_err();
    assert_eq!(refusal(&refused).0, Status::Conflict);
    assert!(refusal(&refused).1.contains("64 groups: drain it first"), "{refused:?}");
    order(&admin, AdminOp::Undrain(NodeId(1))).await.unwrap();
    nodes[0].until("undrained", |map| !map.nodes[&NodeId(1)].draining).await;

    assert!(order(&admin, AdminOp::Rebalance(true)).await.unwrap().text.contains("begins"));
    assert!(order(&admin, AdminOp::Rebalance(false)).await.unwrap().text.contains("ends"));
    assert!(order(&admin, AdminOp::Scrub).await.unwrap().text.contains("pass 1"));
    assert_eq!(status(&admin).await.scrub_pass, 1);
}

#[tokio::test]
async fn heartbeats_are_answered_with_orders_for_the_nodes_own_targets() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let nodes = three_nodes(&cluster, &running).await;
    let admin = cluster.admin(&running).await;
    order(&admin, AdminOp::Scrub).await.unwrap();
    let ordered = soon("orders", async {
        for seq in 1_000_000.. {
            let orders = nodes[0].heartbeat(seq).await.unwrap().orders;
            if orders.first().is_some_and(|order| order.scrub_pass == 1) {
                return orders;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("the loop has no end")
    });
    let orders = ordered.await;
    assert_eq!(orders.iter().map(|order| order.target).collect::<Vec<_>>(), [nodes[0].target()]);
    assert!(orders[0].resync_bytes_per_s > 0);
}

#[tokio::test]
async fn a_node_is_removed_when_it_is_empty_and_stopped() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = three_nodes(&cluster, &running).await;
    let admin = cluster.admin(&running).await;
    let mut fourth = cluster.node(&running, 4).await;
    fourth.listen().await;
    // It is drained before it is there, so that it gets nothing.
    fourth.register().await.unwrap();
    order(&admin, AdminOp::Drain(NodeId(4))).await.unwrap();
    fourth.beat();
    let up = order(&admin, AdminOp::Remove(NodeId(4))).await.unwrap_err();
    let text = refusal(&up).1.to_owned();
    assert!(text.contains("stop its process first") || text.contains("drain it first"), "{text}");
    fourth.die();
    let gone = |map: &ClusterMap| !map.nodes.contains_key(&NodeId(4));
    let down = |map: &ClusterMap| {
        let empty =
            |target: TargetId| map.groups.values().all(|group| group.member(target).is_none());
        empty(TargetId(104))
            && map.nodes.get(&NodeId(4)).is_some_and(|node| node.state == NodeState::Down)
    };
    nodes[0].until("node 4 down", down).await;
    // A copy to it may have begun before the drain: then its group has to become whole first.
    while let Err(error) = order(&admin, AdminOp::Remove(NodeId(4))).await {
        assert!(refusal(&error).1.contains("try again"), "{error:?}");
        for node in &mut nodes {
            node.map = fetch_map(&admin).await;
            node.activate().await;
        }
    }
    nodes[0].until("node 4 gone", gone).await;
    assert!(!nodes[0].map.targets.contains_key(&TargetId(104)));
}

#[tokio::test]
async fn what_goes_on_in_groups_is_listed() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = three_nodes(&cluster, &running).await;
    let admin = cluster.admin(&running).await;
    let all = PlansRequest { after: GroupId(0) };
    let reply: PlansReply = admin.call(&all).await.unwrap();
    assert_eq!((reply.plans.len(), reply.more), (0, false));
    let _again = restart(&cluster, &running, nodes.pop().unwrap()).await;
    let syncing = |map: &ClusterMap| {
        map.groups.values().all(|group| {
            group.member(TargetId(103)).is_some_and(|member| member.role == Role::Syncing)
        })
    };
    nodes[0].until("a returning member", syncing).await;
    let reply: PlansReply = admin.call(&PlansRequest { after: GroupId(60) }).await.unwrap();
    let groups: Vec<_> = reply.plans.iter().map(|plan| plan.group.0).collect();
    assert_eq!(groups, [61, 62, 63, 64]);
    assert!(reply.plans.iter().all(|it| it.syncing == TargetId(103) && it.plan.is_none()));
}

/// The node's process dies and another one registers in its place.
async fn restart(cluster: &Cluster, running: &Running, old: FakeNode) -> FakeNode {
    let (number, generation) = (old.number, old.generation + 1);
    old.die();
    let mut node = cluster.node(running, number).await;
    node.generation = generation;
    node.incarnation = 1000 + u64::from(generation);
    node.listen().await;
    node.register().await.unwrap();
    node.beat();
    node
}

#[tokio::test]
async fn f21_a_members_word_moves_the_lead() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = three_nodes(&cluster, &running).await;
    let group = GroupId(1);
    let target = nodes[0].map.groups[&group].primary().unwrap().target;
    let witness = nodes.iter().position(|node| node.target() != target).unwrap();
    let request = UnreachableRequest { group, target };
    nodes[witness].peer.call::<UnreachableReply>(&request).await.unwrap();
    let moved = |map: &ClusterMap| {
        let group = &map.groups[&group];
        group.primary().is_some_and(|primary| primary.target != target)
            && group.member(target).is_some_and(|member| member.role == Role::Backup)
    };
    nodes[witness].until("another primary", moved).await;
}

/// A file without a name: its group, and its content.
async fn reserved(admin: &Peer) -> (Ino, GroupId, Fid) {
    let session = admin.session().await;
    let reserve = NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: 10 };
    match mutate(admin, session, vec![(Seq(1), reserve)]).await.remove(0) {
        OpOutcome::Reserved(mut entries) => {
            let entry = entries.remove(0);
            let content = entry.content.unwrap();
            (entry.attributes.ino, content.layout.group_of(0).unwrap(), content.fid)
        }
        other => panic!("{other:?}"),
    }
}

/// A file that is dead: given up by its writer.
async fn abandoned(admin: &Peer) -> (GroupId, Fid) {
    let session = admin.session().await;
    let reserve = NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: 10 };
    let outcome = mutate(admin, session, vec![(Seq(1), reserve)]).await.remove(0);
    let OpOutcome::Reserved(mut entries) = outcome else { panic!("{outcome:?}") };
    let entry = entries.remove(0);
    let abandon = NamespaceOp::Abandon { inos: vec![entry.attributes.ino] };
    mutate(admin, session, vec![(Seq(2), abandon)]).await;
    let content = entry.content.unwrap();
    (content.layout.group_of(0).unwrap(), content.fid)
}

#[tokio::test]
async fn a_census_names_the_dead_and_not_the_living_or_unknown() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let nodes = three_nodes(&cluster, &running).await;
    let admin = cluster.admin(&running).await;
    let (_, group, living) = reserved(&admin).await;
    let (_, dead) = abandoned(&admin).await;
    let unknown = Fid(dead.0 + 1_000_000);
    let ask = CensusRequest { groups: vec![(group, vec![living, dead, unknown])] };
    let refused = admin.call::<CensusReply>(&ask).await.unwrap_err();
    assert_eq!(refused.status(), Some(Status::BadRole));
    let reply: CensusReply = nodes[0].peer.call(&ask).await.unwrap();
    assert_eq!(reply.dead, [(group, vec![dead])]);
}

#[tokio::test]
async fn a_dead_file_is_kept_for_a_member_that_is_away_and_announced_when_it_is_back() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = three_nodes(&cluster, &running).await;
    let admin = cluster.admin(&running).await;
    let away = nodes.pop().unwrap();
    let (number, generation) = (away.number, away.generation + 1);
    let target = away.target();
    away.die();
    for node in &mut nodes {
        let out = |map: &ClusterMap| map.groups.values().all(|it| it.member(target).is_none());
        node.until("eviction", out).await;
        node.activate().await;
    }
    let (group, fid) = abandoned(&admin).await;
    let primary = nodes[0].map.groups[&group].primary().unwrap().target;
    let leader = nodes.iter().position(|node| node.target() == primary).unwrap();
    let told = vec![(group, vec![fid])];
    let notice = nodes[leader].peer.notice::<DropFilesNotice>(Kind::DropFiles);
    assert_eq!(soon("dead files", notice).await.unwrap().groups, told);
    let done = DropDoneRequest { groups: told.clone() };
    nodes[leader].peer.call::<DropDoneReply>(&done).await.unwrap();
    assert_eq!(status(&admin).await.dead_files, 1, "one who may hold it is away");
    // Waiting for one kind of notice lost the others.
    nodes[leader].map = fetch_map(&admin).await;

    let mut back = cluster.node(&running, number).await;
    back.generation = generation;
    back.incarnation = 1000;
    back.listen().await;
    back.register().await.unwrap();
    back.beat();
    for node in &mut nodes {
        let returned = |map: &ClusterMap| map.groups[&group].member(target).is_some();
        node.until("return", returned).await;
        node.activate().await;
    }
    let notice = nodes[leader].peer.notice::<DropFilesNotice>(Kind::DropFiles);
    assert_eq!(soon("dead files again", notice).await.unwrap().groups, told);
    nodes[leader].peer.call::<DropDoneReply>(&done).await.unwrap();
    assert_eq!(status(&admin).await.dead_files, 0);
}
