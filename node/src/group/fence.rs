//! Adoption: how a member leaves an epoch and enters the next.
//!
//! The fence falls as soon as the map shows a newer epoch: nothing of the old one is admitted or
//! answered any more. Store tasks of the old epoch then drain, because a version that becomes
//! durable after the new primary asked for pendings would be unknown to it and yet fall under its
//! first mark. Only then the epoch goes to the journal.

use protocol::cluster_map::{GroupRecord, Member as Entry, Role};
use protocol::guard::{self, Guard};
use protocol::ids::Epoch;
use protocol::limits::PENDINGS_PER_GROUP_MAX;
use protocol::message::chunk::AdoptReply;
use protocol::status::Status;

use super::member::{Cx, Follow, Member, Phase, Writes};
use super::{activate, calls, compare, files, repair};
use crate::shard::effect::{ReplyBody, Task};
use crate::shard::state::Job;
use crate::store::StoreError;

/// Takes over a group's record from the map.
pub fn on_record<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, record: &GroupRecord) {
    if record.epoch < member.epoch() || record.epoch < member.adopted {
        return; // A coordinator that lost state; what was adopted stays adopted.
    }
    if record.epoch == member.epoch() {
        member.record = record.clone(); // Only flags differ within one epoch.
        member.believed &= !(record.active && record.writable());
        return;
    }
    leave(member, cx);
    compare::on_record(&mut member.compare, cx.now, &member.record, record);
    let me = cx.core.config;
    let mine =
        |own: &&Entry| own.generation == me.generation || !guard::holds(Guard::PrimaryGeneration);
    let own = record.member(me.target).filter(mine);
    member.believed = is_believed(member, own);
    member.role = own.map(|own| own.role);
    member.record = record.clone();
    member.phase = Phase::Fencing;
    if member.is_primary() {
        member.contacts = calls::contacts(member, me.target, cx.now);
    }
}

/// True for a member that serves in an epoch although this start of its target never caught up.
fn is_believed<P>(member: &Member<P>, own: Option<&Entry>) -> bool {
    let Some(own) = own.filter(|own| own.role != Role::Syncing) else { return false };
    let before = member.record.member(own.target);
    match before.filter(|before| before.generation == own.generation) {
        Some(_) => member.believed,
        None => member.adopted > Epoch(0),
    }
}

/// Starts to adopt the newest epoch once nothing of an older one is in the store.
pub fn advance<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let ready = member.phase == Phase::Fencing && member.storing == 0 && member.role.is_some();
    if !ready || cx.now < member.store_retry_at {
        return;
    }
    member.phase = Phase::Adopting;
    let (group, epoch) = (member.group, member.epoch());
    cx.store(&mut member.storing, Job::Adopt(group, epoch), Task::Adopt(group, epoch));
}

/// Enters an epoch that is durable now, or tries again later.
pub fn on_adopted<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    epoch: Epoch,
    result: &Result<(), StoreError>,
) {
    if result.is_ok() {
        assert!(epoch >= member.adopted, "epochs are adopted in order");
        member.adopted = epoch;
    }
    if member.phase != Phase::Adopting || epoch != member.epoch() {
        return;
    }
    if result.is_err() {
        member.phase = Phase::Fencing;
        member.store_retry_at = cx.now.after(cx.core.config.timeouts.resend);
        return;
    }
    if member.is_primary() {
        activate::start(member, cx);
        return;
    }
    member.phase = Phase::Ready;
    for to in std::mem::take(&mut member.follow.adopts) {
        let reply = adopt_reply(member, cx);
        cx.reply(to, epoch, Ok(ReplyBody::Adopt(reply)));
    }
}

/// What a member that adopted the epoch tells its primary.
pub fn adopt_reply<P>(member: &Member<P>, cx: &Cx<'_, P>) -> AdoptReply {
    let mut pendings = cx.index.pendings(member.group);
    let suspects = cx.index.suspects(member.group);
    let open = suspects.iter().filter(|(_, version)| *version > member.through);
    pendings.extend(open.map(|(key, version)| activate::doubtful(*key, *version)));
    pendings.sort_by_key(|pending| (pending.key, pending.version));
    pendings.truncate(PENDINGS_PER_GROUP_MAX);
    AdoptReply { pendings, committed_through: member.through }
}

/// Ends everything of the current epoch; whoever waits is told to plan again.
fn leave<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let epoch = member.epoch();
    calls::release(cx.core, member.group);
    let writes: Writes<P> = std::mem::take(&mut member.writes);
    for write in writes.in_flight.into_values() {
        cx.core.budget.clients.give(write.request.len);
        for waiter in write.waiters {
            cx.reply(waiter.reply, epoch, Err(Status::StaleEpoch.into()));
        }
    }
    for queued in writes.chunks.into_values().flat_map(|chunk| chunk.queue) {
        cx.core.budget.clients.give(queued.request.len);
        if let Some(asked) = queued.asked {
            cx.reply(asked.reply, epoch, Err(Status::StaleEpoch.into()));
        }
    }
    let follow: Follow = std::mem::take(&mut member.follow);
    let storing = follow.storing.into_values().flatten().flat_map(|it| it.waiters);
    for to in storing.chain(follow.adopts) {
        cx.reply(to, epoch, Err(Status::StaleEpoch.into()));
    }
    member.activation = Default::default();
    member.resync.clear();
    member.takes = Default::default();
    repair::restart(member, cx.core);
    compare::leave(&mut member.compare);
    member.contacts.clear();
    member.reported = Default::default();
    files::leave(&mut member.files);
    for dead in &mut member.dead {
        dead.started = false;
        dead.waiting.clear();
    }
}
