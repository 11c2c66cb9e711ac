//! An operator's orders, plans under way, and reports that a primary cannot be reached.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::cluster_map::{ClusterMap, NodeState, Role};
use protocol::ids::{NodeId, TargetId};
use protocol::limits::PLANS_PAGE_MAX;
use protocol::message::command::Command;
use protocol::message::heal::{CensusReply, CensusRequest};
use protocol::message::operate::{
    AdminOp, AdminReply, AdminRequest, PlanStatus, PlansReply, PlansRequest, UnreachableReply,
    UnreachableRequest,
};
use protocol::status::Status;
use protocol::tls::Identity;

use super::Shared;
use super::connection::Connection;
use super::dispatch::Refusal;
use super::node::{done, tell};
use super::read::{noted_table, on_reader};
use crate::clock;
use crate::control;
use crate::membership::Witness;
use crate::planner;
use crate::state::read;

/// Commits an operator's order and says what it starts.
pub(super) async fn admin(
    request: AdminRequest,
    _connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<AdminReply, Refusal> {
    let view = shared.proposer.view();
    match request.op {
        AdminOp::Drain(node) => {
            known(&view.map, node)?;
            done(shared, Command::SetNodeDraining { node, draining: true }).await?;
            Ok(drain_started(&view.map, shared, node))
        }
        AdminOp::Undrain(node) => {
            known(&view.map, node)?;
            done(shared, Command::SetNodeDraining { node, draining: false }).await?;
            Ok(said(format!("node {node} keeps what it holds and takes its share again")))
        }
        AdminOp::Remove(node) => {
            removable(&view.map, node)?;
            done(shared, Command::RemoveNode { node }).await.map_err(|refusal| {
                match refusal.status {
                    Status::Conflict => Refusal::new(
                        Status::Conflict,
                        format!(
                            "node {node} is still needed, or may still hold a lease: try again in \
                             some seconds, when all groups are healthy"
                        ),
                    ),
                    _ => refusal,
                }
            })?;
            Ok(said(format!("node {node} is forgotten")))
        }
        AdminOp::Rebalance(on) => {
            done(shared, Command::SetRebalance { on }).await?;
            let what = if on { "begins; it ends by itself when the load is even" } else { "ends" };
            Ok(said(format!("spreading data over the targets {what}")))
        }
        AdminOp::Scrub => {
            done(shared, Command::StartScrub).await?;
            let pass = shared.proposer.view().ledger.scrub_pass;
            Ok(said(format!("scrub pass {pass} begins on every target")))
        }
    }
}

fn said(text: String) -> AdminReply {
    AdminReply { text, bytes_left: 0, eta_s: None }
}

fn known(map: &ClusterMap, node: NodeId) -> Result<(), Refusal> {
    if map.nodes.contains_key(&node) {
        return Ok(());
    }
    Err(Refusal::new(Status::NotFound, format!("there is no node {node}: see admin node list")))
}

/// Checks that nothing would be lost with the node, and says what is in the way.
fn removable(map: &ClusterMap, node: NodeId) -> Result<(), Refusal> {
    known(map, node)?;
    let refuse = |text: String| Err(Refusal::new(Status::Conflict, text));
    let of_node = map.targets.values().filter(|target| target.node == node);
    let targets: BTreeSet<TargetId> = of_node.map(|target| target.id).collect();
    let held = map
        .groups
        .values()
        .filter(|group| group.members.iter().any(|member| targets.contains(&member.target)));
    let held = held.count();
    if held > 0 {
        return refuse(format!("node {node} holds replicas of {held} groups: drain it first"));
    }
    if map.nodes.get(&node).is_some_and(|record| record.state == NodeState::Up) {
        return refuse(format!("node {node} is up and would join again: stop its process first"));
    }
    Ok(())
}

fn drain_started(map: &ClusterMap, shared: &Shared, node: NodeId) -> AdminReply {
    let left = planner::drain_status(map, &shared.health.newest(), node);
    let rate = shared.health.recovery(clock::boottime()).bytes_per_s;
    let others = map
        .nodes
        .values()
        .filter(|other| other.id != node && !other.draining && other.state == NodeState::Up);
    let (others, wanted) = (others.count(), shared.proposer.view().settings.replicas);
    let text = if left.groups_left == 0 {
        format!("node {node} holds nothing and stays empty")
    } else if others < usize::from(wanted) {
        format!(
            "node {node} is to be emptied, but {others} other nodes cannot hold {wanted} replicas: \
             add a node"
        )
    } else {
        format!("moving replicas of {} groups off node {node}", left.groups_left)
    };
    AdminReply { text, bytes_left: left.bytes_left, eta_s: planner::eta_s(left.bytes_left, rate) }
}

/// One page of groups in which something goes on.
pub(super) async fn plans(
    request: PlansRequest,
    _connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<PlansReply, Refusal> {
    let view = shared.proposer.view();
    let reports = shared.health.newest();
    let later = view.map.groups.values().filter(|group| group.id > request.after);
    let busy = later.filter(|group| {
        group.plan.is_some() || group.members.iter().any(|member| member.role == Role::Syncing)
    });
    let mut plans: Vec<_> = busy
        .take(PLANS_PAGE_MAX + 1)
        .map(|group| {
            let syncing = group.members.iter().find(|member| member.role == Role::Syncing);
            let primary = group.primary().and_then(|primary| reports.get(&primary.target));
            let copies = primary.map(|(_, report)| report.resyncs.as_slice()).unwrap_or_default();
            let syncing = syncing.map(|member| member.target);
            let copy =
                copies.iter().find(|copy| copy.group == group.id && Some(copy.target) == syncing);
            PlanStatus {
                group: group.id,
                plan: group.plan,
                syncing: syncing.unwrap_or_default(),
                bytes_left: copy.map_or(0, |copy| copy.bytes_left),
                bytes_done: copy.map_or(0, |copy| copy.bytes_done),
            }
        })
        .collect();
    let more = plans.len() > PLANS_PAGE_MAX;
    plans.truncate(PLANS_PAGE_MAX);
    Ok(PlansReply { plans, more })
}

/// Takes note that somebody cannot reach the primary of a group.
pub(super) async fn unreachable(
    request: UnreachableRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<UnreachableReply, Refusal> {
    let witness = match connection.identity {
        Identity::Node(node) => Witness::Node(node),
        _ => Witness::Client(connection.number),
    };
    let UnreachableRequest { group, target } = request;
    tell(shared, control::Event::Unreachable { group, target, witness }).await;
    Ok(UnreachableReply)
}

/// Says which of the files asked about are dead.
pub(super) async fn census(
    request: CensusRequest,
    _connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<CensusReply, Refusal> {
    let view = shared.proposer.view();
    let work = move || {
        let asked = request.groups.iter().flat_map(|(_, fids)| fids.iter().copied()).collect();
        let dead = read::dead_among(&view.snapshot, asked)?;
        let of_group = |(group, fids): &(_, Vec<_>)| {
            let dead: Vec<_> = fids.iter().copied().filter(|fid| dead.contains(fid)).collect();
            (!dead.is_empty()).then_some((*group, dead))
        };
        Ok(CensusReply { dead: request.groups.iter().filter_map(of_group).collect() })
    };
    let answer = on_reader(shared, work).await?;
    answer.map_err(|error| noted_table(&error).into())
}
