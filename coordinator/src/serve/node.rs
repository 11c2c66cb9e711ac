//! What nodes say: registration, heartbeats, and reports about groups.

use std::sync::Arc;

use protocol::ids::{GroupId, NodeId, TargetId};
use protocol::message::cluster::{
    ActivatedReply, ActivatedRequest, DropDoneReply, DropDoneRequest, EvictReply, EvictRequest,
    HeartbeatReply, HeartbeatRequest, RegisterReply, RegisterRequest, SyncDoneReply,
    SyncDoneRequest,
};
use protocol::message::command::Command;
use protocol::message::heal::{FileReportsReply, FileReportsRequest};
use protocol::status::Status;
use protocol::tls::Identity;
use tokio::sync::mpsc;

use super::client::refusal;
use super::connection::Connection;
use super::dispatch::Refusal;
use super::links::Link;
use super::{Shared, watch};
use crate::clock;
use crate::control;
use crate::limits::NODE_HEARTBEAT_MS;
use crate::state::Outcome;
use crate::timers::Event;

/// Takes a node in: its targets are in the map before it is answered.
pub(super) async fn register(
    request: RegisterRequest,
    connection: &Arc<Connection>,
    shared: &Arc<Shared>,
) -> Result<RegisterReply, Refusal> {
    let RegisterRequest { node, incarnation, address, targets, release } = request;
    claim(connection, node)?;
    let count = targets.len();
    let durable = shared.health.durable_of(&shared.proposer.view().map, node);
    if !durable.is_empty() {
        // Known to this process only; recovery must not have found less.
        done(shared, Command::NoteDurable { targets: durable }).await?;
    }
    let command = Command::RegisterNode { node, incarnation, address, targets };
    done(shared, command).await?;
    let (orders, queue) = mpsc::channel(1);
    let map = shared.proposer.view().map.to_delta();
    shared.links.attach(node, Link { connection: connection.number, incarnation, orders });
    tokio::spawn(watch::tell_node(Arc::clone(connection), queue, map.to, Arc::clone(shared)));
    tell(shared, control::Event::Registered { node }).await;
    tracing::info!(%node, incarnation, %address, targets = count, release = ?release, "node registered");
    Ok(RegisterReply {
        lease_ms: shared.about.tuning.lease_ms(),
        heartbeat_ms: NODE_HEARTBEAT_MS,
        map,
    })
}

/// Takes a sign of life and renews the lease.
pub(super) async fn heartbeat(
    request: HeartbeatRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<HeartbeatReply, Refusal> {
    let node = request.node;
    claim(connection, node)?;
    // A process that was replaced, or one this coordinator has not met, must register first: its
    // lease would otherwise be renewed for targets that somebody else may hold.
    if shared.links.incarnation(node) != Some(request.incarnation) {
        return Err(Refusal::new(Status::Conflict, format!("node {node} must register first")));
    }
    let now = clock::boottime();
    let targets = request.targets.clone();
    tell(shared, control::Event::Heartbeat { node, at: now, targets }).await;
    let view = shared.proposer.view();
    let reported: Vec<_> = request.targets.iter().map(|report| report.target).collect();
    for report in request.targets {
        let record = view.map.targets.get(&report.target).filter(|target| target.node == node);
        let Some(record) = record else { continue };
        let known = record.state == protocol::cluster_map::TargetState::Fenced;
        if report.fenced && !known {
            tracing::error!(%node, target = %report.target, "target fenced itself; check its device");
            done(shared, Command::FenceTarget { target: report.target }).await?;
        }
        shared.health.note(report, now);
    }
    let version = shared.proposer.view().map.version;
    let delta =
        (request.map_version < version).then(|| shared.proposer.delta_since(request.map_version));
    let (seq, lease_ms) = (request.seq, shared.about.tuning.lease_ms());
    let orders = shared.board.orders(reported);
    Ok(HeartbeatReply { seq, lease_ms, map_version: version, delta, orders })
}

/// Takes a primary's wish to remove a member; the new epoch comes with the map.
pub(super) async fn evict(
    request: EvictRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<EvictReply, Refusal> {
    own_target(shared, connection, request.reporter)?;
    tell(shared, control::Event::Evict(request)).await;
    Ok(EvictReply)
}

/// Commits the end of an activation.
pub(super) async fn activated(
    request: ActivatedRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<ActivatedReply, Refusal> {
    own_target(shared, connection, request.target)?;
    own_group(shared, connection, request.group)?;
    let ActivatedRequest { group, epoch, .. } = request;
    done(shared, Command::Activated { group, epoch }).await?;
    Ok(ActivatedReply)
}

/// Commits the promotion of a member that is complete; its primary reports it.
pub(super) async fn sync_done(
    request: SyncDoneRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<SyncDoneReply, Refusal> {
    own_group(shared, connection, request.group)?;
    let SyncDoneRequest { group, epoch, target } = request;
    done(shared, Command::SyncDone { group, epoch, target }).await?;
    Ok(SyncDoneReply)
}

/// Commits that dead files are gone from every member.
pub(super) async fn drop_done(
    request: DropDoneRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<DropDoneReply, Refusal> {
    let node = own_node(connection)?;
    for (group, _) in &request.groups {
        own_group(shared, connection, *group)?;
    }
    done(shared, Command::DropDone { groups: request.groups }).await?;
    tell_timers(shared, Event::Dropped { node }).await;
    Ok(DropDoneReply)
}

/// Commits what groups have done for single files.
pub(super) async fn file_reports(
    request: FileReportsRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<FileReportsReply, Refusal> {
    for report in &request.groups {
        own_group(shared, connection, report.group)?;
    }
    done(shared, Command::FileReports { groups: request.groups }).await?;
    Ok(FileReportsReply)
}

/// Takes note that a connection ended, whoever it was.
pub(super) async fn connection_ended(connection: &Connection, shared: &Arc<Shared>) {
    let Identity::Node(node) = connection.identity else { return };
    if shared.links.detach(node, connection.number) {
        tracing::warn!(%node, "connection of the node ended");
        tell(shared, control::Event::ConnectionLost { node }).await;
    }
}

pub(super) async fn done(shared: &Shared, command: Command) -> Result<(), Refusal> {
    match shared.proposer.propose(command).await? {
        Outcome::Done => Ok(()),
        other => Err(refusal(other)),
    }
}

pub(super) async fn tell(shared: &Shared, sign: control::Event) {
    tell_timers(shared, Event::Sign(sign)).await;
}

async fn tell_timers(shared: &Shared, event: Event) {
    // An error means that the process is stopping; then nothing is decided any more.
    let _ = shared.control.send(event).await;
}

fn own_node(connection: &Connection) -> Result<NodeId, Refusal> {
    match connection.identity {
        Identity::Node(node) => Ok(node),
        _ => Err(Status::BadRole.into()),
    }
}

/// Checks that the node named in a request is the one in the certificate.
fn claim(connection: &Connection, node: NodeId) -> Result<(), Refusal> {
    let own = own_node(connection)?;
    if own == node {
        return Ok(());
    }
    Err(Refusal::new(Status::BadRole, format!("certificate is of node {own}, not {node}")))
}

/// Checks that a target is one of the sender's.
fn own_target(shared: &Shared, connection: &Connection, target: TargetId) -> Result<(), Refusal> {
    let own = own_node(connection)?;
    let view = shared.proposer.view();
    if view.map.targets.get(&target).is_some_and(|record| record.node == own) {
        return Ok(());
    }
    Err(Refusal::new(Status::BadRole, format!("target {target} is not of node {own}")))
}

/// Checks that the group's primary is one of the sender's targets.
fn own_group(shared: &Shared, connection: &Connection, group: GroupId) -> Result<(), Refusal> {
    let view = shared.proposer.view();
    let primary = view.map.groups.get(&group).and_then(|record| record.primary());
    let Some(primary) = primary else {
        return Err(Refusal::new(Status::Conflict, format!("group {group} has no primary")));
    };
    own_target(shared, connection, primary.target)
        .map_err(|_| Refusal::new(Status::Conflict, format!("not the primary of group {group}")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::limits::CONTROL_QUEUE_MAX;
    use crate::serve::fixture;
    use crate::timers;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn signs_of_life_wait_for_a_control_loop_that_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (control, mut events) = timers::channel();
        let (shared, _running) = fixture::shared(dir.path(), control);
        let registered = || control::Event::Registered { node: NodeId(1) };
        for _ in 0..CONTROL_QUEUE_MAX {
            tell(&shared, registered()).await;
        }
        let mut next = Box::pin(tell(&shared, registered()));
        assert!(timeout(SHORT, &mut next).await.is_err(), "nobody is told that it was heard");
        events.recv().await.unwrap();
        next.await;
        assert_eq!(events.len(), CONTROL_QUEUE_MAX);
    }
}
