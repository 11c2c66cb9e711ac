//! Activation: the first act of a primary in a new epoch.
//!
//! It asks every member what is pending there, has them drop what it does not hold, and brings
//! what it does hold to the serving members under its old version. Only then the mark passes all
//! older epochs, the coordinator is told, and writes of the new epoch begin.
//!
//! In an epoch that is not writable the pendings of serving members are frozen: neither dropped
//! nor brought forward, and the mark stays. A syncing member is no authority, so what it alone
//! holds is dropped in any epoch; resync makes it equal to the primary.

use std::collections::BTreeSet;

use protocol::cluster_map::Role;
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, TargetId, Version};
use protocol::message::chunk::{AdoptReply, Pending};
use protocol::message::cluster::ActivatedRequest;
use protocol::status::Status;

use super::calls::{self, CallKind};
use super::member::{Activation, Cx, Member, Phase};
use crate::limits::ROLLS_IN_FLIGHT_MAX;
use crate::shard::control::ShardReport;
use crate::shard::effect::Effect;
use crate::shard::event::Answer;

/// Begins activation of an epoch that is durable here.
pub fn start<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    member.phase = Phase::Activating;
    member.activation = Activation::default();
    for entry in member.others(cx.core.me()) {
        member.activation.adopts.insert(entry.target);
        calls::start(member, cx, entry.target, CallKind::Adopt);
    }
    advance(member, cx);
}

/// Notes a member's answer to `Adopt`; true when the call has ended.
pub fn on_adopted<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    answer: &Answer,
) -> bool {
    let Answer::Adopt(reply) = answer else { return false };
    if !member.activation.adopts.remove(&target) {
        return true;
    }
    let foreign = foreign(member, cx, target, &reply.pendings);
    if !foreign.is_empty() {
        member.activation.discards.insert(target);
        calls::start(member, cx, target, CallKind::Discard(foreign, None));
    }
    let missing = missing(member, cx, target, reply);
    member.activation.rolls.extend(missing.into_iter().map(|key| (target, key)));
    advance(member, cx);
    true
}

/// Notes a member's answer to `Discard`; true when the call has ended.
pub fn on_discarded<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    answer: &Answer,
) -> bool {
    if *answer != Answer::Done {
        return false;
    }
    member.activation.discards.remove(&target);
    advance(member, cx);
    true
}

/// Notes a member's answer to a pending it was sent; true when the call has ended.
pub fn on_rolled<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    answer: &Answer,
) -> bool {
    match answer {
        Answer::Replicate(_) => {
            roll_ended(member, cx);
            true
        }
        Answer::Refused(Status::NoSpace | Status::Fenced | Status::DeviceError) => {
            calls::accuse(member, target);
            false
        }
        _ => false,
    }
}

/// Notes that a pending is not here any more, so there is nothing to send.
pub fn roll_ended<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    member.activation.rolling = member.activation.rolling.saturating_sub(1);
    advance(member, cx);
}

/// Tells the coordinator that activation is finished, until the map shows it.
pub fn tick<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let finished = member.is_primary() && member.phase == Phase::Ready && !member.record.active;
    if finished && cx.now.since(member.reported) >= cx.core.config.timeouts.report {
        report(member, cx);
    }
}

fn advance<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.phase != Phase::Activating {
        return;
    }
    // Drops come first everywhere: a chunk sent while its older pending is being dropped could go
    // with it.
    if !member.activation.adopts.is_empty() || !member.activation.discards.is_empty() {
        return;
    }
    while member.activation.rolling < ROLLS_IN_FLIGHT_MAX {
        let Some((target, key)) = member.activation.rolls.pop_front() else { break };
        member.activation.rolling += 1;
        calls::start(member, cx, target, CallKind::Roll(key));
    }
    if member.activation.rolling == 0 {
        finish(member, cx);
    }
}

fn finish<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    member.phase = Phase::Ready;
    if member.record.writable() || !guard::holds(Guard::PendingFreeze) {
        settle_pendings(member, cx);
    }
    calls::announce(member, cx);
    report(member, cx);
}

/// Commits what older epochs left, but for changes of existing bytes while a member that left may
/// still answer reads of the old ones: those wait, and so does the mark.
fn settle_pendings<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if guard::holds(Guard::MutationsGate) && !member.record.mutations {
        let own = cx.index.pendings(member.group);
        let changes = |pending: &&Pending| {
            cx.index.info(member.group, pending.key).is_some_and(|info| info.mutated)
        };
        if own.iter().any(|pending| changes(&pending)) {
            let grown = own.iter().filter(|pending| !changes(pending));
            member.writes.done.extend(grown.map(|pending| pending.version));
            member.writes.mark_held = true;
            return;
        }
    }
    member.through = Version { epoch: member.epoch(), counter: 0 };
    let (group, through) = (member.group, member.through);
    cx.out.push(Effect::CommitThrough { group, through });
}

fn report<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    member.reported = cx.now;
    let (group, epoch, target) = (member.group, member.epoch(), cx.core.me());
    let request = ActivatedRequest { group, epoch, target };
    cx.out.push(Effect::Report(ShardReport::Activated(request)));
}

/// Pendings of a member that the primary does not have.
fn foreign<P>(
    member: &Member<P>,
    cx: &Cx<'_, P>,
    target: TargetId,
    theirs: &[Pending],
) -> Vec<(ChunkKey, Version)> {
    if !guard::holds(Guard::DiscardUnknown) {
        return Vec::new();
    }
    let syncing = member.role_of(target) == Some(Role::Syncing);
    let frozen = guard::holds(Guard::PendingFreeze) && !member.record.writable();
    if !syncing && frozen {
        return Vec::new();
    }
    let is_foreign = |pending: &Pending| match cx.index.info(member.group, pending.key) {
        None => true,
        Some(own) if syncing => own.version != pending.version,
        // A serving member whose version is older had it before the primary's newer one.
        Some(own) => own.version < pending.version,
    };
    let foreign = theirs.iter().filter(|pending| is_foreign(pending));
    foreign.map(|pending| (pending.key, pending.version)).collect()
}

/// Own pendings that a serving member may not have.
fn missing<P>(
    member: &Member<P>,
    cx: &Cx<'_, P>,
    target: TargetId,
    reply: &AdoptReply,
) -> Vec<ChunkKey> {
    let frozen = guard::holds(Guard::PendingFreeze) && !member.record.writable();
    if frozen || member.role_of(target) != Some(Role::Backup) {
        return Vec::new();
    }
    let identity = |pending: &Pending| (pending.key, pending.version);
    let theirs: BTreeSet<(ChunkKey, Version)> = reply.pendings.iter().map(identity).collect();
    let has = |pending: &Pending| {
        pending.version <= reply.committed_through || theirs.contains(&identity(pending))
    };
    let own = cx.index.pendings(member.group);
    let mut keys: Vec<ChunkKey> =
        own.iter().filter(|pending| !has(pending)).map(|pending| pending.key).collect();
    keys.dedup(); // Ascending by key; one whole chunk brings every version of it.
    keys
}
