//! The one transition of a shard: an event in, orders out. No I/O, no clock, no randomness.

use std::collections::BTreeMap;

use protocol::cluster_map::MapDelta;
use protocol::ids::{GroupId, RequestId, TargetId, Version};
use protocol::status::Status;

use super::control::ControlEvent;
use super::effect::{Effect, Effects, Refusal};
use super::event::{Answer, Asked, Event, JobId, Request};
use super::heal;
use super::route;
use super::state::{Job, ShardState};
use crate::group::calls::{self, CallKind};
use crate::group::member::{Cx, Member};
use crate::group::{
    ChunkIndex, activate, compare, dead, fence, files, follow, forget, read, repair, replicate,
    resync, take, write,
};
use crate::io::Nanos;
use crate::store::{Durable, GroupInfo, StoreError};

/// Takes in one event and appends the orders that follow from it.
pub fn step<P: Clone>(
    state: &mut ShardState<P>,
    index: &dyn ChunkIndex,
    now: Nanos,
    event: Event<P>,
    out: &mut Effects<P>,
) {
    let ShardState { core, groups, known } = state;
    let mut cx = Cx { now, index, out, core };
    match event {
        Event::Asked(asked, request) => on_asked(groups, &mut cx, asked, request),
        Event::Answered { target, request, answer } => {
            on_answered(groups, &mut cx, target, request, &answer);
        }
        Event::Stored { job, result } => on_stored(groups, &mut cx, job, &result),
        Event::WholeFailed { request, error } => on_whole_failed(groups, &mut cx, request, &error),
        Event::Served { bytes } => cx.core.budget.clients.give(bytes),
        Event::Committed { node, epoch, notice } => {
            if let Some(member) = groups.get_mut(&notice.group) {
                follow::on_committed(member, &mut cx, node, epoch, &notice);
            }
        }
        Event::Working { target, epoch, notice } => {
            if let Some(member) = groups.get_mut(&notice.group)
                && member.epoch() == epoch
            {
                calls::heard(member, now, target);
            }
        }
        Event::Unsent { request } => {
            if let Some(call) = cx.core.calls.get_mut(&request) {
                call.lost = true;
            }
            heal::on_unsent(groups, &mut cx, request);
        }
        Event::PeerLost { target, refused } => on_peer_lost(groups, &mut cx, target, refused),
        Event::PeerUp { target } => on_peer_up(groups, target),
        Event::Heal(event) => heal::on_event(groups, &mut cx, event),
        Event::Control(ControlEvent::Map(delta)) => on_map(groups, known, &mut cx, &delta),
        Event::Control(ControlEvent::Lease { expires }) => {
            cx.core.lease = cx.core.lease.max(expires);
        }
        Event::Control(ControlEvent::DropFiles(files)) => {
            for (group, fids) in files {
                if let Some(member) = groups.get_mut(&group) {
                    dead::on_files(member, &mut cx, fids);
                }
            }
        }
        Event::Control(ControlEvent::Orders(orders)) => cx.core.orders = orders,
        Event::Control(ControlEvent::FileOrders(orders)) => {
            for orders in orders {
                if let Some(member) = groups.get_mut(&orders.group) {
                    files::on_orders(member, &mut cx, orders);
                }
            }
        }
        Event::Control(ControlEvent::Census(dead)) => cx.core.census.extend(dead),
        Event::Control(ControlEvent::Shutdown) => {
            cx.core.stopping = cx.core.stopping.or(Some(now));
        }
        Event::Tick { fenced } => on_tick(groups, &mut cx, fenced),
    }
    settle_shutdown(groups, &mut cx);
}

/// What must hold for a group after each event that touched it.
fn settle<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    fence::advance(member, cx);
    resync::advance(member, cx);
    take::advance(member, cx);
    dead::advance(member, cx);
    files::advance(member, cx);
}

fn on_asked<P: Clone>(
    groups: &mut BTreeMap<GroupId, Member<P>>,
    cx: &mut Cx<'_, P>,
    asked: Asked,
    request: Request<P>,
) {
    if let Request::Fetch(request) = &request {
        // Also a target that was removed from the group may still have what its members lost.
        if let Err(refusal) = repair::on_fetch(cx, &asked, request) {
            cx.reply(asked.reply, asked.epoch, Err(refusal));
        }
        return;
    }
    let result = match route::member(cx.core, groups, request.group()) {
        Ok(member) => {
            let result = admit(member, cx, &asked, request);
            settle(member, cx);
            result
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = result {
        cx.reply(asked.reply, asked.epoch, Err(refusal));
    }
}

fn admit<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: Request<P>,
) -> Result<(), Refusal> {
    let from_client = matches!(request, Request::Read(_) | Request::Write(..) | Request::Verify(_));
    if from_client && cx.core.stopping.is_some() {
        return Err(Status::NotReady.into());
    }
    match request {
        Request::Read(request) => read::admit(member, cx, asked, &request),
        Request::Verify(request) => read::admit_verify(member, cx, asked, &request),
        Request::Write(request, payload, intact) => {
            write::admit(member, cx, *asked, request, payload, intact)
        }
        Request::Replicate(request, payload, intact) => {
            follow::on_replicate(member, cx, asked, request, payload, intact)
        }
        Request::Adopt(request) => follow::on_adopt(member, cx, asked, &request),
        Request::Discard(request) => follow::on_discard(member, cx, asked, request),
        Request::Inventory(request) => follow::on_inventory(member, cx, asked, &request),
        Request::Digest(_) => compare::on_asked(member, cx, asked),
        Request::Quarantine(request) => follow::on_quarantine(member, cx, asked, request),
        Request::Drop(request) => follow::on_drop(member, cx, asked, request),
        Request::Fetch(_) => Err(Status::Internal.into()),
        Request::ReportCorrupt(request) => repair::on_report(cx, asked, request),
    }
}

fn on_answered<P: Clone>(
    groups: &mut BTreeMap<GroupId, Member<P>>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    id: RequestId,
    answer: &Answer,
) {
    let Some(call) = cx.core.calls.get(&id).filter(|call| call.target == target).cloned() else {
        // Else an answer to a repeat, or of an epoch that has ended.
        heal::on_answer(groups, cx, target, id, answer);
        return;
    };
    let Some(member) = groups.get_mut(&call.group) else { return };
    assert!(call.epoch == member.epoch(), "calls end with their epoch");
    calls::heard(member, cx.now, target);
    // Ended first: what follows may start calls of its own.
    calls::finish(cx.core, id);
    let ended = match &call.kind {
        CallKind::Replicate(version) | CallKind::Whole(version, _) => {
            replicate::on_answer(member, cx, target, *version, answer)
        }
        CallKind::Roll(_) => activate::on_rolled(member, cx, target, answer),
        CallKind::Copy(key, len) => resync::on_copied(member, cx, target, (*key, *len), answer),
        CallKind::Adopt => activate::on_adopted(member, cx, target, answer),
        CallKind::Discard(_, None) => activate::on_discarded(member, cx, target, answer),
        CallKind::Discard(_, Some(version)) => {
            if *answer == Answer::Done {
                replicate::on_undone(member, cx, target, *version);
            }
            *answer == Answer::Done
        }
        CallKind::Inventory(_) => resync::on_inventory(member, cx, target, answer),
        CallKind::Digest => compare::on_digest(member, cx, target, answer),
        CallKind::List(after) => compare::on_list(member, cx, target, *after, answer),
        CallKind::Quarantine(_) => resync::on_quarantined(member, target, answer),
        CallKind::Drop(fids) => dead::on_answer(member, cx, target, fids, answer),
    };
    if !ended {
        let retry_at = cx.now.after(cx.core.config.timeouts.retry);
        calls::restore(cx.core, id, call, retry_at);
    }
    settle(member, cx);
}

fn on_stored<P: Clone>(
    groups: &mut BTreeMap<GroupId, Member<P>>,
    cx: &mut Cx<'_, P>,
    job: JobId,
    result: &Result<Option<Durable>, StoreError>,
) {
    let Some(job) = cx.core.jobs.remove(&job) else { return };
    if let Job::Follow(.., len) = job {
        cx.core.budget.peers.give(len);
    }
    // Known before anything else is answered: a repeat must not find the lost version in the index.
    cx.core.fenced |= matches!(result, Err(StoreError::Fenced));
    let Some(member) = groups.get_mut(&job.group()) else { return };
    member.storing -= 1;
    match job {
        Job::Adopt(_, epoch) => {
            let result = result.as_ref().map(|_| ()).map_err(StoreError::clone);
            fence::on_adopted(member, cx, epoch, &result);
        }
        Job::Local(_, version) => replicate::on_local(member, cx, version, result),
        Job::LocalDiscard(_, version) => {
            replicate::on_local_undone(member, cx, version, result.is_ok());
        }
        Job::FallBack(_, epoch) => {
            if epoch == member.epoch() {
                activate::on_fallen_back(member, cx, result.is_ok());
            }
        }
        Job::LocalDrop(_, epoch) => {
            if epoch == member.epoch() {
                dead::on_local(member, cx, result.is_ok());
            }
        }
        Job::Forget(_) => forget::on_forgotten(member, cx, result.is_ok()),
        Job::Follow(_, key, version, epoch, _) => {
            follow::on_stored(member, cx, epoch, key, version, result);
        }
        Job::Repair(_, key, version) => {
            repair::on_repaired(member, cx, (key, version), result.as_ref().map(|_| ()));
        }
        Job::Take(_, key, version) => {
            take::on_stored(member, cx, (key, version), result.as_ref().map(|_| ()));
        }
        Job::Answer(_, epoch, to) => follow::on_answered(member, cx, epoch, to, result),
    }
    settle(member, cx);
}

/// A chunk that is not here any more needs no copy; anything else is tried again.
fn on_whole_failed<P: Clone>(
    groups: &mut BTreeMap<GroupId, Member<P>>,
    cx: &mut Cx<'_, P>,
    id: RequestId,
    error: &StoreError,
) {
    let retry_at = cx.now.after(cx.core.config.timeouts.silence);
    let Some(call) = cx.core.calls.get_mut(&id) else { return };
    call.retry_at = Some(retry_at);
    let (group, target, kind) = (call.group, call.target, call.kind.clone());
    let Some(member) = groups.get_mut(&group) else { return };
    let damaged = matches!(error, StoreError::Corrupt { .. } | StoreError::Suspect);
    match kind {
        CallKind::Copy(key, len) if damaged => {
            calls::finish(cx.core, id);
            resync::copy_damaged(member, target, key, len);
        }
        CallKind::Roll(key) if damaged => {
            let is_settled = activate::roll_damaged(member, cx, target, key);
            if is_settled {
                calls::finish(cx.core, id);
            }
        }
        _ if *error != StoreError::NotFound => return,
        CallKind::Copy(_, len) => {
            calls::finish(cx.core, id);
            resync::copy_ended(member, target, len);
        }
        CallKind::Roll(_) => {
            calls::finish(cx.core, id);
            activate::roll_ended(member, cx);
        }
        _ => {}
    }
    settle(member, cx);
}

fn on_peer_lost<P: Clone>(
    groups: &mut BTreeMap<GroupId, Member<P>>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    refused: bool,
) {
    for call in cx.core.calls.values_mut().filter(|call| call.target == target) {
        call.lost = true;
    }
    for member in groups.values_mut() {
        if let Some(contact) = member.contacts.get_mut(&target) {
            contact.refused |= refused;
        }
    }
    heal::on_peer_lost(groups, cx, target);
}

/// Marks that were lost with the old connection are told again.
fn on_peer_up<P>(groups: &mut BTreeMap<GroupId, Member<P>>, target: TargetId) {
    for member in groups.values_mut() {
        if let Some(contact) = member.contacts.get_mut(&target) {
            contact.refused = false;
            member.writes.announced = Version::ZERO;
        }
    }
}

fn on_map<P: Clone>(
    groups: &mut BTreeMap<GroupId, Member<P>>,
    known: &BTreeMap<GroupId, GroupInfo>,
    cx: &mut Cx<'_, P>,
    delta: &MapDelta,
) {
    let before = cx.core.registered();
    if cx.core.map.apply(delta).is_err() {
        cx.core.counters.map_gaps += 1; // The control core sees the same gap and sends it all.
        return;
    }
    if !before && cx.core.registered() {
        cx.out.push(Effect::VerdictKnown);
    }
    let me = cx.core.me();
    for record in &delta.groups {
        let names_me = record.member(me).is_some();
        let known_here = groups.contains_key(&record.id) || known.contains_key(&record.id);
        if !names_me && !known_here {
            continue;
        }
        let member = groups.entry(record.id).or_insert_with(|| {
            Member::new(record.id, known.get(&record.id).cloned().unwrap_or_default())
        });
        fence::on_record(member, cx, record);
        replicate::release(member, cx);
        settle(member, cx);
    }
}

fn on_tick<P: Clone>(groups: &mut BTreeMap<GroupId, Member<P>>, cx: &mut Cx<'_, P>, fenced: bool) {
    cx.core.fenced |= fenced;
    heal::tick(cx);
    for id in calls::due(cx.core, groups, cx.now) {
        let group = cx.core.calls[&id].group;
        if let Some(member) = groups.get(&group) {
            calls::transmit(member, cx, id);
        }
    }
    let oldest = calls::oldest(cx.core);
    for (id, member) in groups.iter_mut() {
        if let Some(oldest) = oldest.get(id) {
            calls::watch(member, cx, oldest);
        }
        calls::announce(member, cx);
        replicate::tick(member, cx);
        activate::tick(member, cx);
        repair::tick(member, cx);
        take::tick(member, cx);
        resync::tick(member, cx);
        follow::tick(member, cx);
        forget::tick(member, cx);
        compare::tick(member, cx);
        settle(member, cx);
    }
    compare::note_pass(groups, cx.core);
}

/// Ends the shard when nothing is in flight any more, or when it has waited long enough.
fn settle_shutdown<P>(groups: &BTreeMap<GroupId, Member<P>>, cx: &mut Cx<'_, P>) {
    let Some(since) = cx.core.stopping.filter(|_| !cx.core.finished) else { return };
    let quiet = cx.core.jobs.is_empty()
        && cx.core.budget.clients.requests() == 0
        && groups.values().all(|member| member.writes.in_flight.is_empty());
    if quiet || cx.now.since(since) >= cx.core.config.timeouts.drain {
        cx.core.finished = true;
        cx.out.push(Effect::Finish);
    }
}
