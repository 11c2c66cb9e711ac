//! Repair: a member that holds damaged bytes takes good ones from whoever else has that version.
//!
//! Damage belongs to one version of one chunk, and a version names one content, so any member of
//! the group may help, whatever its role: those that serve are asked first, then those that catch
//! up, then those that were removed. A copy is sent only after its cells were
//! verified, and the store believes what arrives only when it has the sums that it recorded itself.
//! A piece that one copy cannot give is asked for in halves and elsewhere, so a version that is
//! damaged everywhere is still whole when each cell is good somewhere. A version that nobody else
//! has is a step from one that others have, and most of its cells are the same.
//!
//! Nothing here decides what exists, with one exception: a version that nobody can give stays
//! damaged and is asked for again and again, ever more rarely; its other cells go on being read.
//! The exception is a pending of a group that cannot be written. The primary does not trust it, or
//! finds cells of it damaged, and every target that may hold it says that it does not: it was never
//! acknowledged, so it goes, because the copies that make the group writable again would wait for it
//! for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::cluster_map::{GroupRecord, Role};
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Epoch, RequestId, TargetId, Version};
use protocol::layout::cells_touched;
use protocol::limits::RECHECK_CELLS_MAX;
use protocol::message::heal::{FetchReply, FetchRequest, ReportCorruptRequest};
use protocol::status::Status;

use super::member::{Cx, Member};
use super::scrub;
use crate::io::Nanos;
use crate::limits::{
    FETCHES_PER_SHARD_MAX, RECHECKS_PER_SHARD_MAX, REPAIR_LOOK_MS, REPAIR_PAUSE_MAX_MS,
    REPAIR_PAUSE_MIN_MS, REPAIRS_PER_GROUP_MAX,
};
use crate::shard::effect::{Alert, Effect, PeerMessage, Refusal, RepairTask, Task};
use crate::shard::event::{Asked, ReplyTo};
use crate::shard::heal::{FetchTask, HealOrder};
use crate::shard::state::{Core, Job};
use crate::store::{Damage, DamagedPart, StoreError};

/// Damaged versions of one group and what is done about them.
#[derive(Clone, Debug, Default)]
pub struct Repairs {
    works: BTreeMap<(ChunkKey, Version), Repair>,
    /// Cells that were damaged at the last look.
    pub bad: u64,
}

/// A request for cells that has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Member that was asked.
    pub target: TargetId,
    /// The chunk.
    pub key: ChunkKey,
    /// The damaged version.
    pub version: Version,
    /// True when it is not here and the primary takes it over.
    pub takes: bool,
}

/// Consecutive cells; `cells` is 0 for all of the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    first: u32,
    cells: u32,
}

/// One damaged version.
#[derive(Clone, Debug)]
struct Repair {
    /// Cells known to be damaged, for counting; empty when it is the whole.
    seen: BTreeSet<u32>,
    /// What is still to be asked for; the first is being asked for.
    pieces: VecDeque<Piece>,
    /// Members to ask for the first piece, next one first.
    sources: VecDeque<TargetId>,
    /// True while they are asked for the cells of whatever version they have committed: a version
    /// that only this member has shares cells with the one before.
    loose: bool,
    /// Since when the first of them is tried.
    since: Nanos,
    step: Step,
    /// Not before this.
    wait: Nanos,
    /// After everybody was asked in vain.
    pause: Duration,
    /// Who said that this version is not there.
    lacking: BTreeSet<TargetId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    Asking(RequestId, Nanos),
    Storing(Piece),
    /// The version is being dropped.
    Dropping,
}

impl Repairs {
    /// True while a version of the chunk is known to be damaged here.
    pub fn holds(&self, key: ChunkKey) -> bool {
        let mut works = self.works.range((key, Version::ZERO)..);
        works.next().is_some_and(|((of, _), _)| *of == key)
    }
}

/// Notes when it is time to look for damage in every group: in the step of this very moment.
pub fn note_time<P>(cx: &mut Cx<'_, P>) {
    let due = cx.now.since(cx.core.upkeep.looked) >= Duration::from_millis(REPAIR_LOOK_MS);
    if scrub::end(cx) || due {
        cx.core.upkeep.looked = cx.now;
    }
}

/// Looks for damage when it is time and moves its repair on.
pub fn tick<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.role.is_none() || cx.core.fenced {
        return;
    }
    if cx.core.upkeep.looked == cx.now {
        look(member, cx);
    }
    give_up_silent(member, cx);
    drop_unheld(member, cx);
    advance(member, cx);
}

/// Forgets what was asked for: in another epoch others can be asked.
pub fn restart<P>(member: &mut Member<P>, core: &mut Core) {
    member.repairs = Repairs::default();
    core.upkeep.fetches.retain(|_, (group, _)| *group != member.group);
}

/// Takes in what a member sent; it is stored when it is what was asked for.
pub fn on_fetched<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    fetch: &Fetch,
    reply: &FetchReply,
    payload: P,
) {
    let group = member.group;
    let name = (fetch.key, fetch.version);
    let Some(repair) = member.repairs.works.get_mut(&name) else { return };
    let Some(piece) = repair.pieces.front().copied() else { return };
    let other = reply.version != fetch.version && !repair.loose;
    if other || !covers(piece, reply) {
        next_source(repair, cx.now);
        return;
    }
    repair.step = Step::Storing(piece);
    let range = reply.payload_range();
    let len = u32::try_from(range.len()).unwrap_or(u32::MAX);
    let task = RepairTask {
        group,
        key: fetch.key,
        version: fetch.version,
        first_cell: piece.first,
        len,
        payload,
    };
    let job = Job::Repair(group, fetch.key, fetch.version);
    cx.store(&mut member.storing, job, Task::Repair(task));
}

/// A member has no good bytes for the piece that was asked for: half of it, or somebody else.
pub fn on_refused<P: Clone>(member: &mut Member<P>, now: Nanos, fetch: &Fetch, status: Status) {
    let name = (fetch.key, fetch.version);
    let Some(repair) = member.repairs.works.get_mut(&name) else { return };
    let Some(piece) = repair.pieces.front().copied() else { return };
    if status == Status::ChunkNotFound && !repair.loose {
        repair.lacking.insert(fetch.target);
    }
    if status == Status::Corrupt && piece.cells > 1 {
        repair.pieces.pop_front();
        let half = piece.cells / 2;
        let rest = Piece { first: piece.first + half, cells: piece.cells - half };
        repair.pieces.push_front(rest);
        repair.pieces.push_front(Piece { first: piece.first, cells: half });
        repair.step = Step::Idle;
        return;
    }
    next_source(repair, now);
}

/// A request did not leave: it is tried again while its member may still be connected to.
pub fn on_unsent<P>(member: &mut Member<P>, core: &Core, now: Nanos, fetch: &Fetch) {
    let waits = &core.config.timeouts;
    let Some(repair) = member.repairs.works.get_mut(&(fetch.key, fetch.version)) else { return };
    if now.since(repair.since) >= waits.silence {
        next_source(repair, now);
    } else {
        repair.step = Step::Idle;
        repair.wait = now.after(waits.resend);
    }
}

/// Notes how storing good bytes ended.
pub fn on_repaired<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    name: (ChunkKey, Version),
    result: Result<(), &StoreError>,
) {
    let Some(repair) = member.repairs.works.get_mut(&name) else { return };
    if repair.step == Step::Dropping {
        on_dropped(member, cx, name, result.is_ok());
        return;
    }
    let Step::Storing(piece) = repair.step else { return };
    match result {
        Ok(()) => {
            cx.core.upkeep.counts.cells_repaired += u64::from(piece.cells.max(1));
            repair.pieces.pop_front();
            repair.sources.clear();
            repair.loose = false;
            repair.step = Step::Idle;
            repair.pause = Duration::ZERO;
            if repair.pieces.is_empty() {
                member.repairs.works.remove(&name);
            }
        }
        Err(StoreError::NotFound) => {
            member.repairs.works.remove(&name); // Replaced or discarded meanwhile.
        }
        Err(StoreError::Corrupt { .. }) if piece.cells > 0 => {
            // Where the cells lie is not known: only all of them together replace the version.
            repair.pieces = VecDeque::from([Piece { first: 0, cells: 0 }]);
            repair.step = Step::Idle;
        }
        Err(StoreError::Refused(_)) => {
            if !repair.loose {
                // It had this version, verified, with other bytes.
                let (group, key) = (member.group, name.0);
                let target = repair.sources.front().copied().unwrap_or_default();
                cx.core.upkeep.counts.divergent += 1;
                cx.out.push(Effect::Alert(Alert::Divergent { group, key, target }));
            }
            next_source(repair, cx.now);
        }
        Err(_) => rest(repair, cx.now),
    }
    advance(member, cx);
}

/// Serves cells of exactly one version to another member of the group.
///
/// # Errors
/// The refusal to answer with.
pub fn on_fetch<P>(
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: &FetchRequest,
) -> Result<(), Refusal> {
    let record = cx.core.map.groups.get(&request.group).ok_or(Status::NotMember)?;
    let node = cx.core.node_of(request.member).filter(|node| Some(*node) == asked.node);
    let stranger = node.is_none() || !belongs(record, request.member);
    if guard::holds(Guard::FetchMembers) && stranger {
        return Err(Refusal::new(Status::BadRole, "only members of the group fetch from it"));
    }
    if guard::holds(Guard::FencedSilence) && cx.core.fenced {
        return Err(Status::Fenced.into());
    }
    let info = cx.index.info(request.group, request.key).ok_or(Status::ChunkNotFound)?;
    let trusted = |suspect: bool| !suspect || !guard::holds(Guard::SuspectLoses);
    let committed = info.committed.filter(|_| trusted(info.committed_suspect));
    let newest = Some((info.version, info.chunk_len)).filter(|_| trusted(info.suspect));
    let found = match request.version {
        Version::ZERO => committed,
        version => newest.into_iter().chain(committed).find(|(have, _)| *have == version),
    };
    let Some((version, chunk_len)) = found else {
        return Err(Refusal::new(Status::ChunkNotFound, "this version is not here"));
    };
    let cells = chunk_len.div_ceil(1 << info.cell_log2);
    let end = match request.cells {
        0 => cells,
        wanted => request.first_cell.saturating_add(wanted),
    };
    let empty = cells == 0 && request.first_cell == 0 && request.cells == 0;
    if (request.first_cell >= end && !empty) || end > cells {
        return Err(Refusal::new(Status::Invalid, "cells beyond the chunk"));
    }
    let offset = request.first_cell << info.cell_log2;
    let to = u32::try_from(u64::from(end) << info.cell_log2).unwrap_or(u32::MAX).min(chunk_len);
    let len = to - offset;
    if !cx.core.budget.peers.take(len) {
        return Err(Status::Busy.into());
    }
    let fetch = FetchTask {
        group: request.group,
        key: request.key,
        version,
        committed: info.committed.is_some_and(|(have, _)| have == version),
        offset,
        len,
        verify: guard::holds(Guard::RepairSource),
    };
    cx.out.push(Effect::Heal(HealOrder::ServeFetch(asked.reply, asked.epoch, fetch)));
    Ok(())
}

/// A client says that bytes are not what they should be: the device is asked again.
///
/// # Errors
/// The refusal to answer with.
pub fn on_report<P>(
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: ReportCorruptRequest,
) -> Result<(), Refusal> {
    if request.cells.is_empty() || request.cells.len() > RECHECK_CELLS_MAX {
        return Err(Refusal::new(Status::Invalid, "number of cells out of range"));
    }
    if !recheck(cx, Some((asked.reply, asked.epoch)), request) {
        return Err(Status::Busy.into());
    }
    Ok(())
}

/// Has the device read again where a read of this shard found damage.
pub fn on_found_corrupt<P>(cx: &mut Cx<'_, P>, request: ReportCorruptRequest) {
    // When there is no room the next read, or scrub, finds it again.
    let _ = recheck(cx, None, request);
}

#[must_use]
fn recheck<P>(
    cx: &mut Cx<'_, P>,
    to: Option<(ReplyTo, Epoch)>,
    report: ReportCorruptRequest,
) -> bool {
    if cx.core.upkeep.rechecks >= RECHECKS_PER_SHARD_MAX {
        return false;
    }
    cx.core.upkeep.rechecks += 1;
    cx.out.push(Effect::Heal(HealOrder::Recheck(to, report)));
    true
}

/// Learns what is damaged now; what is not any more needs no repair.
fn look<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let damages = cx.index.damaged(member.group);
    let works = &mut member.repairs.works;
    if damages.is_empty() && works.is_empty() {
        member.repairs.bad = 0;
        return;
    }
    let names: BTreeSet<(ChunkKey, Version)> =
        damages.iter().map(|damage| (damage.key, damage.version)).collect();
    works.retain(|name, repair| names.contains(name) || repair.step != Step::Idle);
    member.repairs.bad = damages.iter().map(cells_of).sum();
    for damage in damages {
        let name = (damage.key, damage.version);
        if works.len() >= REPAIRS_PER_GROUP_MAX && !works.contains_key(&name) {
            continue;
        }
        let fresh = || Repair::new(cx.now);
        let repair = works.entry(name).or_insert_with(fresh);
        cx.core.upkeep.counts.cells_damaged += repair.note(&damage.part);
    }
}

fn advance<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.repairs.works.is_empty() {
        return;
    }
    let candidates = candidates(&member.record, cx.core.me());
    let (group, epoch, me) = (member.group, member.record.epoch, cx.core.me());
    for (&(key, version), repair) in &mut member.repairs.works {
        if repair.step != Step::Idle || cx.now < repair.wait {
            continue;
        }
        if cx.core.upkeep.fetches.len() >= FETCHES_PER_SHARD_MAX {
            return;
        }
        let Some(piece) = repair.pieces.front().copied() else { continue };
        if repair.sources.is_empty() {
            repair.sources.extend(&candidates);
            repair.since = cx.now;
        }
        let Some(&target) = repair.sources.front() else { continue };
        let request = cx.core.new_request();
        repair.step = Step::Asking(request, cx.now);
        cx.core
            .upkeep
            .fetches
            .insert(request, (group, Fetch { target, key, version, takes: false }));
        let fetch = FetchRequest {
            group,
            member: me,
            key,
            version: if repair.loose { Version::ZERO } else { version },
            first_cell: piece.first,
            cells: piece.cells,
        };
        let message = PeerMessage::Fetch(fetch);
        cx.out.push(Effect::Send { target, request, epoch, message, payload: None });
    }
}

/// Drops pendings that are damaged here and that nobody else has, where they are frozen: a
/// member of the last writable epoch that lacks one shows that it was never acknowledged. Whoever
/// left and does not answer may have it, and is waited for.
fn drop_unheld<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let frozen = member.is_primary() && member.record.active && !member.record.writable();
    if !frozen || !guard::holds(Guard::UnheldPending) {
        return;
    }
    let everybody = candidates(&member.record, cx.core.me());
    let open = |(name, repair): (&(ChunkKey, Version), &Repair)| {
        let missing = |target: &&TargetId| !repair.lacking.contains(target);
        let unheld = match guard::holds(Guard::UnheldEverywhere) {
            true => !everybody.iter().any(|target| missing(&target)),
            false => !repair.lacking.is_empty(),
        };
        (unheld && repair.step == Step::Idle && name.1 > member.through).then_some(*name)
    };
    let mut unheld: Vec<_> = member.repairs.works.iter().filter_map(open).collect();
    if unheld.is_empty() {
        return;
    }
    let pendings = cx.index.pendings(member.group).into_iter().map(|it| (it.key, it.version));
    let suspects = cx.index.suspects(member.group);
    let open: BTreeSet<_> = pendings.chain(suspects).collect();
    // Whoever has a version that builds on it need not have it any more: from the newest down.
    let newest = |key| cx.index.info(member.group, key).map(|info| info.version);
    unheld.retain(|name| open.contains(name) && newest(name.0) == Some(name.1));
    for name in unheld {
        let Some(repair) = member.repairs.works.get_mut(&name) else { continue };
        repair.step = Step::Dropping;
        let job = Job::Repair(member.group, name.0, name.1);
        cx.store(&mut member.storing, job, Task::Discard(member.group, vec![name]));
    }
}

fn on_dropped<P>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    (key, version): (ChunkKey, Version),
    durable: bool,
) {
    if durable {
        member.repairs.works.remove(&(key, version));
        cx.out.push(Effect::Alert(Alert::FellBack { group: member.group, key, version }));
    } else if let Some(repair) = member.repairs.works.get_mut(&(key, version)) {
        rest(repair, cx.now);
    }
}

/// Whoever has not answered after a long time is passed over.
fn give_up_silent<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let most = cx.core.config.timeouts.replicate;
    for repair in member.repairs.works.values_mut() {
        if let Step::Asking(request, since) = repair.step
            && cx.now.since(since) >= most
        {
            cx.core.upkeep.fetches.remove(&request);
            next_source(repair, cx.now);
        }
    }
}

fn next_source(repair: &mut Repair, now: Nanos) {
    repair.step = Step::Idle;
    repair.since = now;
    repair.sources.pop_front();
    if !repair.sources.is_empty() {
        return;
    }
    repair.loose = !repair.loose;
    if !repair.loose {
        // The piece goes last: other pieces may be good somewhere.
        repair.pieces.rotate_left(1);
        rest(repair, now);
    }
}

fn rest(repair: &mut Repair, now: Nanos) {
    let least = Duration::from_millis(REPAIR_PAUSE_MIN_MS);
    let most = Duration::from_millis(REPAIR_PAUSE_MAX_MS);
    repair.step = Step::Idle;
    repair.sources.clear();
    repair.loose = false;
    repair.pause = (repair.pause * 2).clamp(least, most);
    repair.wait = now.after(repair.pause);
}

/// The other targets that may hold a version, best first.
fn candidates(record: &GroupRecord, me: TargetId) -> Vec<TargetId> {
    let others = || record.members.iter().filter(|entry| entry.target != me);
    let serving = others().filter(|entry| entry.role != Role::Syncing);
    let syncing = others().filter(|entry| entry.role == Role::Syncing);
    let evicted = record.evicted.iter().copied().filter(|target| *target != me);
    serving.chain(syncing).map(|entry| entry.target).chain(evicted).collect()
}

fn belongs(record: &GroupRecord, target: TargetId) -> bool {
    record.member(target).is_some() || record.evicted.contains(&target)
}

fn covers(piece: Piece, reply: &FetchReply) -> bool {
    let cells = match piece.cells {
        0 => cells_touched(reply.cell_log2, 0, reply.chunk_len).1,
        cells => cells,
    };
    reply.first_cell == piece.first && reply.sums.len() == cells as usize
}

fn cells_of(damage: &Damage) -> u64 {
    match &damage.part {
        DamagedPart::Cells(cells) => cells.len() as u64,
        DamagedPart::Whole => 1,
    }
}

impl Repair {
    fn new(now: Nanos) -> Repair {
        Repair {
            seen: BTreeSet::new(),
            pieces: VecDeque::new(),
            sources: VecDeque::new(),
            loose: false,
            since: now,
            step: Step::Idle,
            wait: now,
            pause: Duration::ZERO,
            lacking: BTreeSet::new(),
        }
    }

    /// Takes over what is damaged; cells that are new, one for a whole.
    fn note(&mut self, part: &DamagedPart) -> u64 {
        match part {
            DamagedPart::Whole => {
                let known = self.pieces.iter().any(|piece| piece.cells == 0);
                if !known && self.step == Step::Idle {
                    self.pieces = VecDeque::from([Piece { first: 0, cells: 0 }]);
                }
                u64::from(!known && self.step == Step::Idle)
            }
            DamagedPart::Cells(cells) => {
                let new: Vec<u32> =
                    cells.iter().copied().filter(|cell| self.seen.insert(*cell)).collect();
                self.pieces.extend(pieces(&new));
                if self.pieces.is_empty() {
                    self.pieces.extend(pieces(cells)); // Repaired once, damaged again.
                }
                new.len() as u64
            }
        }
    }
}

/// Consecutive cells together.
fn pieces(cells: &[u32]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for &cell in cells {
        match pieces.last_mut() {
            Some(last) if last.first + last.cells == cell => last.cells += 1,
            _ => pieces.push(Piece { first: cell, cells: 1 }),
        }
    }
    pieces
}
