//! Requests to other members: sending, sending again, and noticing a member that does not answer.
//!
//! A call stays in the shard's table until it is answered or its epoch ends. What it says is built
//! from the member's state each time it is sent, so a repeat carries the newest mark.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::Role;
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, RequestId, TargetId, Version};
use protocol::message::chunk::{
    AdoptRequest, CommittedNotice, DiscardRequest, DropRequest, InventoryRequest, QuarantineRequest,
};
use protocol::message::cluster::EvictRequest;
use protocol::message::heal::DigestRequest;

use super::member::{Contact, Cx, Member};
use super::replicate;
use crate::io::Nanos;
use crate::limits::RESYNC_PAGE;
use crate::shard::control::{ShardReport, Timeouts};
use crate::shard::effect::{Effect, Lane, PeerMessage, Whole};
use crate::shard::state::Core;

/// A request to another member that has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Group it is about.
    pub group: GroupId,
    /// The member.
    pub target: TargetId,
    /// Epoch it belongs to.
    pub epoch: Epoch,
    /// What is asked.
    pub kind: CallKind,
    /// When it was sent first.
    pub first_sent: Nanos,
    /// When it was sent last.
    pub last_sent: Nanos,
    /// True when it may not have reached the member.
    pub lost: bool,
    /// When to ask again, after an answer that said "not yet".
    pub retry_at: Option<Nanos>,
}

/// What is asked of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Store a version in flight.
    Replicate(Version),
    /// Store a version in flight, as the whole chunk.
    Whole(Version, ChunkKey),
    /// Store a pending of an older epoch, as the whole chunk.
    Roll(ChunkKey),
    /// Store a chunk that resync found different; the length is for accounting.
    Copy(ChunkKey, u32),
    /// Adopt the epoch.
    Adopt,
    /// Drop pendings: of older epochs, or of one version in flight that failed.
    Discard(Vec<(ChunkKey, Version)>, Option<Version>),
    /// List what is there after a key.
    Inventory(Option<ChunkKey>),
    /// Say what the group amounts to there.
    Digest,
    /// List what is there after a key, to find where members differ.
    List(Option<ChunkKey>),
    /// Set chunks aside.
    Quarantine(Vec<ChunkKey>),
    /// Delete dead files.
    Drop(Vec<Fid>),
}

/// Starts a call and sends it.
pub fn start<P: Clone>(
    member: &Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    kind: CallKind,
) -> RequestId {
    let id = cx.request_id();
    if matches!(kind, CallKind::Copy(..)) {
        cx.core.copies += 1;
    }
    let call = Call {
        group: member.group,
        target,
        epoch: member.epoch(),
        kind,
        first_sent: cx.now,
        last_sent: cx.now,
        lost: false,
        retry_at: None,
    };
    cx.core.calls.insert(id, call);
    transmit(member, cx, id);
    id
}

/// Ends a call; `None` when it ended before.
pub fn finish(core: &mut Core, id: RequestId) -> Option<Call> {
    let call = core.calls.remove(&id)?;
    if matches!(call.kind, CallKind::Copy(..)) {
        core.copies -= 1;
    }
    Some(call)
}

/// Takes back a call that was answered with "not yet"; it is sent again at `retry_at`.
pub fn restore(core: &mut Core, id: RequestId, call: Call, retry_at: Nanos) {
    if matches!(call.kind, CallKind::Copy(..)) {
        core.copies += 1;
    }
    core.calls.insert(id, Call { retry_at: Some(retry_at), ..call });
}

/// Ends the calls that bring versions in flight to a member.
pub fn drop_writes(
    core: &mut Core,
    group: GroupId,
    target: TargetId,
    versions: &BTreeSet<Version>,
) {
    let brings = |call: &Call| match &call.kind {
        CallKind::Replicate(version) | CallKind::Whole(version, _) => versions.contains(version),
        _ => false,
    };
    let ended = core
        .calls
        .iter()
        .filter(|(_, call)| call.group == group && call.target == target && brings(call));
    for id in ended.map(|(id, _)| *id).collect::<Vec<RequestId>>() {
        finish(core, id);
    }
}

/// Ends every call of a group whose epoch ended.
pub fn release(core: &mut Core, group: GroupId) {
    let ended: Vec<RequestId> =
        core.calls.iter().filter(|(_, call)| call.group == group).map(|(id, _)| *id).collect();
    for id in ended {
        finish(core, id);
    }
}

/// Sends a call, for the first time or again.
pub fn transmit<P: Clone>(member: &Member<P>, cx: &mut Cx<'_, P>, id: RequestId) {
    let Some(call) = cx.core.calls.get_mut(&id) else { return };
    call.last_sent = cx.now;
    call.lost = false;
    call.retry_at = None;
    if let CallKind::Copy(_, len) = call.kind {
        cx.core.upkeep.resync.take(u64::from(len)); // A repeat uses the network as well.
    }
    if let Some(effect) = order(member, cx.core.config.target, id, &cx.core.calls[&id]) {
        cx.out.push(effect);
    }
}

/// The calls that are due to be sent again.
pub fn due<P>(core: &Core, groups: &BTreeMap<GroupId, Member<P>>, now: Nanos) -> Vec<RequestId> {
    let waits = &core.config.timeouts;
    let is_due = |call: &Call| {
        if let Some(at) = call.retry_at {
            return now >= at;
        }
        if call.lost {
            return now.since(call.last_sent) >= waits.retry;
        }
        let contact = groups.get(&call.group).and_then(|member| member.contacts.get(&call.target));
        let heard = contact.map_or(Nanos(0), |contact| contact.heard);
        now.since(call.last_sent.max(heard)) >= patience(&call.kind, waits)
    };
    core.calls.iter().filter(|(_, call)| is_due(call)).map(|(id, _)| *id).collect()
}

/// Asks for the eviction of members that do not answer.
pub fn watch<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>, oldest: &BTreeMap<TargetId, Oldest>) {
    let waits = cx.core.config.timeouts;
    let (group, epoch, reporter) = (member.group, member.epoch(), cx.core.me());
    for (&target, contact) in &mut member.contacts {
        let Some(oldest) = oldest.get(&target) else { continue };
        let silent = cx.now.since(oldest.any.max(contact.heard)) >= waits.silence;
        let over = oldest.urgent.is_some_and(|at| cx.now.since(at) >= waits.replicate);
        let guilty = contact.refused || contact.accused || silent || over;
        if guilty && contact.reported.is_none_or(|at| cx.now.since(at) >= waits.report) {
            contact.reported = Some(cx.now);
            let request = EvictRequest { group, epoch, target, reporter };
            cx.out.push(Effect::Report(ShardReport::Evict(request)));
        }
    }
}

/// Since when a member owes answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// First time the oldest call of any kind was sent.
    pub any: Nanos,
    /// The same for calls that clients wait for.
    pub urgent: Option<Nanos>,
}

/// Since when each member of each group owes answers.
pub fn oldest(core: &Core) -> BTreeMap<GroupId, BTreeMap<TargetId, Oldest>> {
    let mut all: BTreeMap<GroupId, BTreeMap<TargetId, Oldest>> = BTreeMap::new();
    for call in core.calls.values() {
        let of_group = all.entry(call.group).or_default();
        let at = call.first_sent;
        let entry = of_group.entry(call.target).or_insert(Oldest { any: at, urgent: None });
        entry.any = entry.any.min(at);
        if is_urgent(&call.kind) {
            entry.urgent = Some(entry.urgent.map_or(at, |urgent| urgent.min(at)));
        }
    }
    all
}

/// Tells members what is committed, where they were not told with other messages.
pub fn announce<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if !member.is_primary() {
        return;
    }
    let through = member.mark_for_members();
    if through <= member.writes.announced {
        return;
    }
    member.writes.announced = through;
    for entry in member.others(cx.core.me()) {
        cx.out.push(Effect::Send {
            target: entry.target,
            request: RequestId(0),
            epoch: member.epoch(),
            message: PeerMessage::Committed(CommittedNotice { group: member.group, through }),
            payload: None,
        });
    }
}

/// Notes a sign of life.
pub fn heard<P>(member: &mut Member<P>, now: Nanos, target: TargetId) {
    if let Some(contact) = member.contacts.get_mut(&target) {
        contact.heard = now;
        contact.refused = false;
    }
}

/// Notes that a member cannot stay one.
pub fn accuse<P>(member: &mut Member<P>, target: TargetId) {
    if let Some(contact) = member.contacts.get_mut(&target) {
        contact.accused = true;
    }
}

/// Fresh contacts for the members of a new epoch.
pub fn contacts<P>(member: &Member<P>, me: TargetId, now: Nanos) -> BTreeMap<TargetId, Contact> {
    member.others(me).into_iter().map(|entry| (entry.target, Contact::new(now))).collect()
}

fn is_urgent(kind: &CallKind) -> bool {
    use CallKind::{Adopt, Discard, Replicate, Roll, Whole};
    matches!(kind, Replicate(_) | Whole(..) | Roll(_) | Adopt | Discard(..))
}

/// A whole chunk takes long to read and send; only a real silence makes a second copy worth it.
fn patience(kind: &CallKind, waits: &Timeouts) -> std::time::Duration {
    match kind {
        CallKind::Whole(..) | CallKind::Roll(_) | CallKind::Copy(..) => waits.silence,
        _ => waits.resend,
    }
}

fn order<P: Clone>(
    member: &Member<P>,
    me: TargetId,
    request: RequestId,
    call: &Call,
) -> Option<Effect<P>> {
    let (group, target, epoch) = (call.group, call.target, call.epoch);
    let message = match &call.kind {
        CallKind::Replicate(version) => {
            let write = member.writes.in_flight.get(version)?;
            return Some(Effect::Send {
                target,
                request,
                epoch,
                message: PeerMessage::Replicate(Box::new(replicate::message(member, me, write))),
                payload: write.payload.clone(),
            });
        }
        CallKind::Whole(_, key) | CallKind::Roll(key) | CallKind::Copy(key, _) => {
            let whole = Whole {
                group,
                key: *key,
                primary: me,
                role: member.role_of(target).unwrap_or(Role::Syncing),
                committed_through: member.mark_for_members(),
            };
            let lane = match &call.kind {
                CallKind::Copy(..) => Lane::Bulk,
                _ => Lane::Urgent,
            };
            return Some(Effect::SendWhole { target, request, epoch, whole, lane });
        }
        CallKind::Adopt => {
            let generation = member.record.member(me)?.generation;
            PeerMessage::Adopt(AdoptRequest { group, primary: me, generation })
        }
        CallKind::Discard(items, _) => {
            PeerMessage::Discard(DiscardRequest { group, items: items.clone() })
        }
        CallKind::Digest => PeerMessage::Digest(DigestRequest { group }),
        CallKind::Inventory(after) | CallKind::List(after) => {
            let limit = u32::try_from(RESYNC_PAGE).unwrap_or(u32::MAX);
            PeerMessage::Inventory(InventoryRequest { group, after: *after, limit })
        }
        CallKind::Quarantine(keys) => {
            PeerMessage::Quarantine(QuarantineRequest { group, keys: keys.clone() })
        }
        CallKind::Drop(fids) => PeerMessage::Drop(DropRequest { group, fids: fids.clone() }),
    };
    Some(Effect::Send { target, request, epoch, message, payload: None })
}
