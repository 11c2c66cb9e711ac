//! What a backup or syncing member does for the primary of exactly the epoch it has adopted.

use std::rc::Rc;

use protocol::cluster_map::{Plan, PlanReason, Role};
use protocol::guard::{self, Guard};
use protocol::ids::Lsn;
use protocol::ids::{ChunkKey, Epoch, GroupId, NodeId, TargetId, Version};
use protocol::message::chunk::{
    AdoptRequest, CommittedNotice, DiscardRequest, DropRequest, InventoryReply, InventoryRequest,
    QuarantineRequest, ReplicateMode, ReplicateReply, ReplicateRequest, WorkingNotice,
};
use protocol::status::Status;

use super::fence;
use super::member::{Cx, Member, Phase, Storing};
use crate::limits::{ADOPTS_WAITING_MAX, VERSION_WAITERS_MAX};
use crate::shard::effect::{Effect, Installed, Refusal, ReplyBody, Task, WriteTask};
use crate::shard::event::{Asked, ReplyTo};
use crate::shard::state::Job;
use crate::store::{ChunkInfo, Durable, Fullness, StoreError};

/// Takes a version, or a whole chunk, from the primary.
///
/// # Errors
/// The refusal to answer with. `Conflict` says that the version does not build on what is here,
/// `Corrupt` that what is here cannot be trusted: both ask for the whole chunk.
pub fn on_replicate<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: ReplicateRequest,
    payload: P,
    intact: bool,
) -> Result<(), Refusal> {
    check_sender(member, cx, asked, Some(request.primary))?;
    check_adopted(member, asked)?;
    raise_mark(member, cx, request.committed_through);
    if guard::holds(Guard::WriteSums) && !intact {
        return Err(Status::PayloadCorrupt.into());
    }
    let (key, version, len) = (request.key, request.version, request.len);
    let storing = member.follow.storing.get_mut(&key).map_or(&mut [][..], Vec::as_mut_slice);
    if let Some(same) = storing.iter_mut().find(|storing| storing.version == version) {
        same.waiters.retain(|waiter| *waiter != asked.reply);
        if same.waiters.len() >= VERSION_WAITERS_MAX {
            return Err(Status::Busy.into());
        }
        same.waiters.push(asked.reply);
        return Ok(());
    }
    if member.follow.answering > 0 {
        return Err(Status::Busy.into()); // A drop or quarantine must not overtake or be overtaken.
    }
    match storing.last() {
        // The next of a pipeline goes to the store behind the one it builds on.
        Some(last) if request.mode == ReplicateMode::Write && last.version == request.base => {}
        Some(_) => return Err(Status::Busy.into()),
        None => {
            let info = cx.index.info(member.group, key);
            if has_already(info.as_ref(), &request, asked.epoch) {
                let done = ReplicateReply { lsn: Lsn(0), free: cx.index.free() };
                cx.reply(asked.reply, asked.epoch, Ok(ReplyBody::Replicate(done)));
                return Ok(());
            }
            check_room(member, cx, &request, info.is_some())?;
            if request.mode == ReplicateMode::Write {
                check_dropped(member, version)?;
                check_base(info.as_ref(), request.base)?;
            }
        }
    }
    if !cx.core.budget.peers.take(len) {
        return Err(Status::Busy.into());
    }
    note_work(member, cx, asked);
    let storing = Storing { version, waiters: vec![asked.reply] };
    member.follow.storing.entry(key).or_default().push(storing);
    let job = Job::Follow(member.group, key, version, asked.epoch, len);
    cx.store(&mut member.storing, job, store_task(request, payload));
    Ok(())
}

/// Answers for a version whose way to the device has ended.
pub fn on_stored<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    epoch: Epoch,
    key: ChunkKey,
    version: Version,
    result: &Result<Option<Durable>, StoreError>,
) {
    if epoch != member.epoch() {
        return; // Who waited was answered when the fence fell.
    }
    assert!(member.adopted == epoch, "nothing is stored for an epoch before it is adopted");
    let Some(storing) = member.follow.storing.get_mut(&key) else { return };
    let Some(at) = storing.iter().position(|storing| storing.version == version) else { return };
    let done = storing.remove(at);
    if storing.is_empty() {
        member.follow.storing.remove(&key);
    }
    for to in done.waiters {
        let answer = match result {
            Ok(durable) => {
                let (lsn, free) = durable.map_or((Lsn(0), 0), |done| (done.lsn, done.free));
                Ok(ReplyBody::Replicate(ReplicateReply { lsn, free }))
            }
            Err(error) => Err(Refusal::new(error.status(), error.to_string())),
        };
        cx.reply(to, epoch, answer);
    }
}

/// Tells a new primary what is pending here, now or when its epoch is durable.
///
/// # Errors
/// The refusal to answer with.
pub fn on_adopt<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: &AdoptRequest,
) -> Result<(), Refusal> {
    check_sender(member, cx, asked, Some(request.primary))?;
    let known = member.record.primary().map(|primary| primary.generation);
    if known != Some(request.generation) {
        return Err(Refusal::new(Status::Conflict, "the primary is another incarnation"));
    }
    note_work(member, cx, asked);
    if member.phase == Phase::Ready || !guard::holds(Guard::DurableAdoption) {
        let reply = fence::adopt_reply(member, cx);
        cx.reply(asked.reply, asked.epoch, Ok(ReplyBody::Adopt(reply)));
    } else if member.follow.adopts.len() < ADOPTS_WAITING_MAX {
        member.follow.adopts.push(asked.reply);
    } else {
        return Err(Status::Busy.into());
    }
    Ok(())
}

/// Drops pendings that the primary does not have.
///
/// # Errors
/// The refusal to answer with.
pub fn on_discard<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: DiscardRequest,
) -> Result<(), Refusal> {
    check_sender(member, cx, asked, None)?;
    check_adopted(member, asked)?;
    if request.items.iter().any(|(key, _)| member.follow.storing.contains_key(key)) {
        return Err(Status::Busy.into());
    }
    let of_epoch = |version: &Version| version.epoch == asked.epoch;
    let dropped = request.items.iter().map(|(_, version)| *version).filter(of_epoch);
    member.follow.note_dropped(dropped);
    answer_later(member, cx, asked, Task::Discard(request.group, request.items));
    Ok(())
}

/// Lists what is here.
///
/// # Errors
/// The refusal to answer with.
pub fn on_inventory<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: &InventoryRequest,
) -> Result<(), Refusal> {
    check_sender(member, cx, asked, None)?;
    check_adopted(member, asked)?;
    let limit = request.limit as usize;
    let (entries, more) = cx.index.inventory(member.group, request.after, limit);
    let reply = InventoryReply { entries, more };
    cx.reply(asked.reply, asked.epoch, Ok(ReplyBody::Inventory(reply)));
    Ok(())
}

/// Sets chunks aside; only a syncing member does that.
///
/// # Errors
/// The refusal to answer with.
pub fn on_quarantine<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: QuarantineRequest,
) -> Result<(), Refusal> {
    check_sender(member, cx, asked, None)?;
    check_adopted(member, asked)?;
    if member.role != Some(Role::Syncing) {
        return Err(Refusal::new(Status::Invalid, "a serving member sets nothing aside"));
    }
    if request.keys.iter().any(|key| member.follow.storing.contains_key(key)) {
        return Err(Status::Busy.into());
    }
    // A repeat may arrive after the chunk was written anew in this epoch; that one stays.
    let is_old = |key: &ChunkKey| {
        let info = cx.index.info(member.group, *key);
        info.is_some_and(|info| info.version.epoch < asked.epoch)
    };
    let keys: Vec<ChunkKey> = request.keys.into_iter().filter(is_old).collect();
    let task = if guard::holds(Guard::Quarantine) {
        Task::Quarantine(request.group, keys)
    } else {
        Task::Drop(request.group, keys.iter().map(|key: &ChunkKey| key.fid).collect())
    };
    answer_later(member, cx, asked, task);
    Ok(())
}

/// Deletes dead files.
///
/// # Errors
/// The refusal to answer with.
pub fn on_drop<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: DropRequest,
) -> Result<(), Refusal> {
    check_sender(member, cx, asked, None)?;
    check_adopted(member, asked)?;
    answer_later(member, cx, asked, Task::Drop(request.group, request.fids));
    Ok(())
}

/// Answers a request that went to the store as a task of its own.
pub fn on_answered<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    epoch: Epoch,
    to: ReplyTo,
    result: &Result<Option<Durable>, StoreError>,
) {
    if epoch != member.epoch() {
        cx.reply(to, epoch, Err(Status::StaleEpoch.into()));
        return;
    }
    member.follow.answering -= 1;
    let answer = match (result, to.kind) {
        (Err(error), _) => Err(Refusal::new(error.status(), error.to_string())),
        (Ok(_), protocol::message::Kind::Discard) => Ok(ReplyBody::Discard),
        (Ok(_), protocol::message::Kind::Quarantine) => Ok(ReplyBody::Quarantine),
        (Ok(_), _) => Ok(ReplyBody::Drop),
    };
    cx.reply(to, epoch, answer);
}

/// Takes over the primary's mark.
pub fn on_committed<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    node: NodeId,
    epoch: Epoch,
    notice: &CommittedNotice,
) {
    let primary = member.record.primary().and_then(|primary| cx.core.node_of(primary.target));
    let of_my_primary = primary == Some(node) && !member.is_primary();
    if of_my_primary && epoch == member.epoch() && member.phase == Phase::Ready {
        raise_mark(member, cx, notice.through);
    }
}

/// Tells the primary that work is outstanding, so that a slow device does not look dead.
pub fn tick<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let follow = &mut member.follow;
    let outstanding = follow.storing.len() + follow.answering + follow.adopts.len();
    let Some((conn, at)) = follow.noticed else { return };
    if outstanding == 0 {
        follow.noticed = None;
    } else if cx.now.since(at) >= cx.core.config.timeouts.working {
        follow.noticed = Some((conn, cx.now));
        let outstanding = u32::try_from(outstanding).unwrap_or(u32::MAX);
        let notice = WorkingNotice { group: member.group, outstanding };
        cx.out.push(Effect::Working { conn, epoch: member.record.epoch, notice });
    }
}

/// Only the node that hosts the primary of the epoch in the header may ask.
fn check_sender<P>(
    member: &Member<P>,
    cx: &Cx<'_, P>,
    asked: &Asked,
    named: Option<TargetId>,
) -> Result<(), Refusal> {
    if guard::holds(Guard::EpochCheck) && asked.epoch < member.epoch() {
        return Err(Status::StaleEpoch.into());
    }
    if asked.epoch > member.epoch() {
        return Err(Status::NewerEpoch.into());
    }
    let primary = member.record.primary().map(|primary| primary.target);
    let node = primary.and_then(|primary| cx.core.node_of(primary));
    let same_target = named.is_none() || named == primary;
    let stranger = node.is_none() || node != asked.node || !same_target || member.is_primary();
    if guard::holds(Guard::OnlyPrimary) && stranger {
        return Err(Refusal::new(Status::BadRole, "sender does not host the group's primary"));
    }
    if guard::holds(Guard::FencedSilence) && cx.core.fenced {
        // The index may show versions that the failed device never kept: nothing it says counts.
        return Err(Status::Fenced.into());
    }
    Ok(())
}

/// Checks that the primary of the adopted epoch asks.
///
/// # Errors
/// The refusal to answer with.
pub fn check_asked<P>(member: &Member<P>, cx: &Cx<'_, P>, asked: &Asked) -> Result<(), Refusal> {
    check_sender(member, cx, asked, None)?;
    check_adopted(member, asked)
}

fn check_adopted<P>(member: &Member<P>, asked: &Asked) -> Result<(), Refusal> {
    let adopted = member.adopted == asked.epoch || !guard::holds(Guard::EpochCheck);
    if member.phase != Phase::Ready || !adopted {
        return Err(Status::NotActive.into());
    }
    Ok(())
}

/// True when the version, or one that replaced it in this epoch, is durable here.
fn has_already(info: Option<&ChunkInfo>, request: &ReplicateRequest, epoch: Epoch) -> bool {
    let trusted = |info: &&ChunkInfo| !info.suspect || !guard::holds(Guard::SuspectLoses);
    let Some(info) = info.filter(trusted) else { return false };
    let replaced = guard::holds(Guard::CopyRecheck)
        && info.version > request.version
        && info.version.epoch == epoch;
    info.version == request.version || replaced
}

/// A target that is nearly full takes no copy of a chunk that it never had, so that a planned move
/// does not fill it. New writes it takes, and as a member that returned, or that replaces a lost
/// one, it is brought up to date: nobody goes on without a replica for want of the last few percent.
fn check_room<P>(
    member: &Member<P>,
    cx: &Cx<'_, P>,
    request: &ReplicateRequest,
    here: bool,
) -> Result<(), Refusal> {
    let heals = |plan: &Plan| plan.reason == PlanReason::Heal && guard::holds(Guard::HealRoom);
    let moves = member.record.plan.filter(|plan| !heals(plan));
    let joins = moves.is_some_and(|plan| plan.add == cx.core.me());
    // What activation rolls forward comes before the epoch is active.
    let copied = request.mode == ReplicateMode::Whole
        && member.role == Some(Role::Syncing)
        && member.record.active
        && request.version.epoch < member.epoch();
    if !joins || !copied || here || !guard::holds(Guard::ResyncRoom) {
        return Ok(());
    }
    let used = cx.index.capacity().saturating_sub(cx.index.free());
    if Fullness::of(used, cx.index.capacity()).takes_resync() {
        return Ok(());
    }
    Err(Refusal::new(Status::NoSpace, "target is nearly full, no copy is taken"))
}

fn check_base(info: Option<&ChunkInfo>, base: Version) -> Result<(), Refusal> {
    let have = info.map_or(Version::ZERO, |info| info.version);
    if info.is_some_and(|info| info.suspect) {
        return Err(Refusal::new(Status::Corrupt, "the chunk here is suspect"));
    }
    if have != base {
        let detail = format!("write builds on {base}, chunk is at {have}");
        return Err(Refusal::new(Status::Conflict, detail));
    }
    Ok(())
}

/// A version that was dropped everywhere, or that every member had before the mark passed it,
/// arrives again only as a repeat that was on its way for long.
fn check_dropped<P>(member: &Member<P>, version: Version) -> Result<(), Refusal> {
    let dropped = version <= member.through || member.follow.dropped.contains(&version);
    if guard::holds(Guard::LateRepeat) && dropped {
        return Err(Refusal::new(Status::Conflict, format!("{version} was dropped")));
    }
    Ok(())
}

fn raise_mark<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>, through: Version) {
    if through > member.through {
        member.through = through;
        member.follow.dropped.retain(|version| *version > through);
        let group: GroupId = member.group;
        cx.out.push(Effect::CommitThrough { group, through });
    }
}

fn note_work<P>(member: &mut Member<P>, cx: &Cx<'_, P>, asked: &Asked) {
    let at = member.follow.noticed.map_or(cx.now, |(_, at)| at);
    member.follow.noticed = Some((asked.reply.conn, at));
}

fn answer_later<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>, asked: &Asked, task: Task<P>) {
    note_work(member, cx, asked);
    member.follow.answering += 1;
    let job = Job::Answer(member.group, asked.epoch, asked.reply);
    cx.store(&mut member.storing, job, task);
}

fn store_task<P>(request: ReplicateRequest, payload: P) -> Task<P> {
    let committed = request.version <= request.committed_through;
    let task = WriteTask {
        group: request.group,
        key: request.key,
        version: request.version,
        base: request.base,
        op: request.op,
        class: request.class,
        offset: request.offset,
        len: request.len,
        expect_len: request.expect_len,
        trunc_gen: request.trunc_gen,
        cell_log2: request.cell_log2,
        chunk_log2: request.chunk_log2,
        sums: Rc::from(request.sums),
        payload: Some(payload),
    };
    match request.mode {
        ReplicateMode::Write => Task::Write(task),
        ReplicateMode::Whole => {
            let (ops, mutated) = (request.ops, request.mutated);
            Task::Install(task, Installed { ops, mutated, committed, checked: true })
        }
    }
}
