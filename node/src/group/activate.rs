//! Activation: the first act of a primary in a new epoch.
//!
//! It asks every member what is pending there, has them drop what it does not hold, and brings
//! what it does hold to the serving members under its old version. Only then the mark passes all
//! older epochs, the coordinator is told, and writes of the new epoch begin.
//!
//! In an epoch that is not writable the pendings of serving members are frozen: neither dropped
//! nor brought forward, and the mark stays. A syncing member is no authority, so what it alone
//! holds is dropped in any epoch; resync makes it equal to the primary. What the primary may have
//! lost is taken over instead (`take`).
//!
//! **A pending the primary holds and does not trust.** After a crash of everybody its bytes may be
//! torn, and then it was never acknowledged; or they may have rotted, and then it may have been.
//! What the others hold tells the two apart as far as that is possible:
//! - what was written on top of it is here and trusted: that decides, because it has all bytes of
//!   this one that count, and dropping this one would drop it as well.
//! - a serving member does not have it at all: it was not everywhere, so it was not acknowledged,
//!   and it is dropped. (Nobody became a serving member by a resync that left it out: resync waits
//!   for the repair of the newest version, when the primary does not trust that.)
//! - otherwise, when somebody has it and trusts it, it is kept: it may have been acknowledged. The
//!   primary repairs its copy from there, then brings it to those who do not trust theirs.
//! - when nobody trusts it, there is nothing to keep: the version before is everywhere.
//!
//! A pending that only turns out to be damaged when it is to be brought to a serving member that
//! does not have it is the first of these cases.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::Role;
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, OpId, TargetId, Version};
use protocol::message::chunk::{AdoptReply, Pending};
use protocol::message::cluster::ActivatedRequest;
use protocol::status::Status;

use super::calls::{self, CallKind};
use super::member::{Activation, Cx, Doubt, Member, Phase};
use super::take;
use crate::limits::ROLLS_IN_FLIGHT_MAX;
use crate::shard::control::ShardReport;
use crate::shard::effect::{Alert, Effect, Task};
use crate::shard::event::Answer;
use crate::shard::state::Job;

/// Begins activation of an epoch that is durable here.
pub fn start<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    member.phase = Phase::Activating;
    member.activation = Activation::default();
    if member.record.writable() || !guard::holds(Guard::PendingFreeze) {
        let suspects = cx.index.suspects(member.group);
        let open = suspects.into_iter().filter(|(_, version)| *version > member.through);
        member.activation.doubts = open.map(|name| (name, Doubt::new(cx.now))).collect();
    }
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
    let wanted = wanted(member, cx, target, &reply.pendings);
    let mut foreign = foreign(member, cx, target, &reply.pendings);
    // Dropping a version drops what builds on it.
    foreign.retain(|(key, _)| !wanted.contains_key(key));
    if !foreign.is_empty() {
        discard(member, cx, target, foreign);
    }
    if member.record.writable() {
        for (key, (version, len)) in wanted {
            take::note(member, cx.now, target, (key, version), len);
        }
    } // Else they are compared with the rest of what a syncing member has.
    note_doubts(member, target, reply);
    note_lacking(member, cx, target, reply);
    let missing = missing(member, cx, target, reply);
    member.activation.rolls.extend(missing.into_iter().map(|key| (target, key)));
    advance(member, cx);
    true
}

/// Has a member drop pendings before the epoch becomes active.
pub fn discard<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    items: Vec<(ChunkKey, Version)>,
) {
    member.activation.discards.insert(target);
    calls::start(member, cx, target, CallKind::Discard(items, None));
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

/// Notes that a pending is damaged here, so it cannot be sent; true when that is settled: a serving
/// member does not have it, so it was not acknowledged and goes.
pub fn roll_damaged<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    key: ChunkKey,
) -> bool {
    let newest = cx.index.info(member.group, key).map(|info| (key, info.version));
    let Some(name) = newest.filter(|name| member.activation.lacking.contains(name)) else {
        return false;
    };
    member.activation.broken.entry(name).or_default().insert(target);
    roll_ended(member, cx);
    true
}

/// Tells the coordinator that activation is finished, until the map shows it.
pub fn tick<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if !member.activation.doubts.is_empty() || !member.activation.drops.is_empty() {
        advance(member, cx);
    }
    let finished = member.is_primary() && member.phase == Phase::Ready && !member.record.active;
    if finished && cx.now.since(member.reported) >= cx.core.config.timeouts.report {
        report(member, cx);
    }
}

/// Goes on as far as nothing is waited for.
pub fn advance<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.phase != Phase::Activating {
        return;
    }
    // Drops come first everywhere: a chunk sent while its older pending is being dropped could go
    // with it.
    if !member.activation.adopts.is_empty() || !member.activation.discards.is_empty() {
        return;
    }
    if !member.takes.is_empty() {
        return;
    }
    settle_doubts(member, cx);
    let dropping = !member.activation.discards.is_empty() || !member.activation.drops.is_empty();
    if dropping || !member.activation.doubts.is_empty() {
        return;
    }
    while member.activation.rolling < ROLLS_IN_FLIGHT_MAX {
        let Some((target, key)) = member.activation.rolls.pop_front() else { break };
        member.activation.rolling += 1;
        calls::start(member, cx, target, CallKind::Roll(key));
    }
    if member.activation.rolling > 0 {
        return;
    }
    // Only now: what is being sent could arrive behind the order to drop it.
    let broken = std::mem::take(&mut member.activation.broken);
    if broken.is_empty() {
        return finish(member, cx);
    }
    for ((key, version), targets) in broken {
        member.activation.drops.push((key, version));
        member.activation.rolls.extend(targets.into_iter().map(|target| (target, key)));
    }
    settle_doubts(member, cx);
}

/// Notes which of the pendings that the primary does not trust a member has.
fn note_doubts<P>(member: &mut Member<P>, target: TargetId, reply: &AdoptReply) {
    let serves = member.role_of(target) == Some(Role::Backup);
    for ((key, version), doubt) in &mut member.activation.doubts {
        let mut theirs = reply.pendings.iter();
        let has = theirs.find(|pending| pending.key == *key && pending.version == *version);
        if *version <= reply.committed_through || has.is_some_and(is_trusted) {
            doubt.good.insert(target);
        } else if has.is_none() && serves {
            doubt.lacking = true;
        }
    }
}

/// Notes which pendings a serving member does not have at all.
fn note_lacking<P>(member: &mut Member<P>, cx: &Cx<'_, P>, target: TargetId, reply: &AdoptReply) {
    if member.role_of(target) != Some(Role::Backup) {
        return;
    }
    let identity = |pending: &Pending| (pending.key, pending.version);
    let theirs: BTreeSet<(ChunkKey, Version)> = reply.pendings.iter().map(identity).collect();
    let own = cx.index.pendings(member.group);
    let lacks = |pending: &&Pending| {
        pending.version > reply.committed_through && !theirs.contains(&identity(pending))
    };
    member.activation.lacking.extend(own.iter().filter(lacks).map(identity));
}

/// Decides on pendings that the primary does not trust, as far as it can be decided now.
fn settle_doubts<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let doubts = std::mem::take(&mut member.activation.doubts);
    let suspects: BTreeSet<(ChunkKey, Version)> = match doubts.is_empty() {
        true => BTreeSet::new(),
        false => cx.index.suspects(member.group).into_iter().collect(),
    };
    let (me, patience) = (cx.core.me(), cx.core.config.timeouts.replicate);
    let mut drops = std::mem::take(&mut member.activation.drops);
    for ((key, version), doubt) in doubts {
        if guard::holds(Guard::DoubtCovered) && is_covered(member, cx, key, version) {
            continue;
        }
        let over = cx.now.since(doubt.since) >= patience;
        let gone = doubt.good.is_empty() || over;
        if !suspects.contains(&(key, version)) {
            let others = member.record.members.iter().filter(|entry| entry.role == Role::Backup);
            let unsure = others.filter(|entry| !doubt.good.contains(&entry.target));
            let rolls: Vec<TargetId> = unsure.map(|entry| entry.target).collect();
            member.activation.rolls.extend(rolls.into_iter().map(|target| (target, key)));
        } else if doubt.lacking || gone || !guard::holds(Guard::DoubtfulKept) {
            if !doubt.lacking {
                let group = member.group;
                cx.out.push(Effect::Alert(Alert::FellBack { group, key, version }));
            }
            drops.push((key, version));
        } else {
            member.activation.doubts.insert((key, version), doubt);
        }
    }
    if drops.is_empty() || cx.now < member.store_retry_at {
        member.activation.drops = drops;
        return;
    }
    for entry in member.others(me) {
        member.activation.discards.insert(entry.target);
        calls::start(member, cx, entry.target, CallKind::Discard(drops.clone(), None));
    }
    member.activation.discards.insert(me);
    let (group, epoch) = (member.group, member.epoch());
    let task = Task::Discard(group, drops);
    cx.store(&mut member.storing, Job::FallBack(group, epoch), task);
}

/// True when the primary trusts what was written on top of a version.
fn is_covered<P>(member: &Member<P>, cx: &Cx<'_, P>, key: ChunkKey, version: Version) -> bool {
    let newest = cx.index.info(member.group, key);
    newest.is_some_and(|newest| newest.version > version && !newest.suspect)
}

/// Notes that the primary has dropped pendings it did not trust, or could not.
pub fn on_fallen_back<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, durable: bool) {
    if member.phase != Phase::Activating {
        return;
    }
    member.activation.discards.remove(&cx.core.me());
    if !durable {
        // They are still here and not trusted, so they are found again.
        member.store_retry_at = cx.now.after(cx.core.config.timeouts.resend);
        let suspects = cx.index.suspects(member.group);
        let open = suspects.into_iter().filter(|(_, version)| *version > member.through);
        let bare = |name: &(ChunkKey, Version)| {
            !guard::holds(Guard::DoubtCovered) || !is_covered(member, cx, name.0, name.1)
        };
        member.activation.drops = open.filter(bare).collect();
    }
    advance(member, cx);
}

/// The entry for a version that is here and not trusted.
pub fn doubtful(key: ChunkKey, version: Version) -> Pending {
    Pending { key, version, chunk_len: 0, op: OpId::default(), hash: 0 }
}

fn is_trusted(pending: &Pending) -> bool {
    pending.op != OpId::default()
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

/// Pendings of a member that the primary takes over: of each chunk the newest, and its length.
fn wanted<P>(
    member: &Member<P>,
    cx: &Cx<'_, P>,
    target: TargetId,
    theirs: &[Pending],
) -> BTreeMap<ChunkKey, (Version, u32)> {
    let gives = match member.record.writable() {
        true => Role::Backup,
        false => Role::Syncing,
    };
    if member.role_of(target) != Some(gives) {
        return BTreeMap::new();
    }
    let is_newer = |pending: &&Pending| {
        let own = cx.index.info(member.group, pending.key);
        own.is_none_or(|own| own.version < pending.version)
    };
    let good = theirs.iter().filter(|pending| is_trusted(pending));
    let newer = good.filter(|pending| take::may_take(member, pending.version)).filter(is_newer);
    // Ascending by version within a chunk.
    newer.map(|pending| (pending.key, (pending.version, pending.chunk_len))).collect()
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
    let identity = |pending: &Pending| (pending.key, pending.version);
    let chain: BTreeSet<(ChunkKey, Version)> =
        cx.index.pendings(member.group).iter().map(identity).collect();
    let is_foreign = |pending: &Pending| match cx.index.info(member.group, pending.key) {
        None => true,
        // One of the versions that led to the newest here is no reason to drop what builds on it:
        // where the copy here is damaged, that one may be the only good one.
        Some(own) if syncing => {
            let committed = own.committed.map(|(version, _)| version);
            own.version != pending.version
                && committed != Some(pending.version)
                && !chain.contains(&identity(pending))
        }
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
    let trusted = reply.pendings.iter().filter(|pending| is_trusted(pending));
    let theirs: BTreeSet<(ChunkKey, Version)> = trusted.map(identity).collect();
    let has = |pending: &Pending| {
        pending.version <= reply.committed_through || theirs.contains(&identity(pending))
    };
    let own = cx.index.pendings(member.group);
    let mut keys: Vec<ChunkKey> =
        own.iter().filter(|pending| !has(pending)).map(|pending| pending.key).collect();
    keys.dedup(); // Ascending by key; one whole chunk brings every version of it.
    keys
}
