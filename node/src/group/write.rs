//! Admission of a client's write at the primary, and the queue of each chunk.

use std::collections::{BTreeMap, VecDeque};

use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Epoch, OpId, TargetId, Version};
use protocol::layout::cells_touched;
use protocol::limits::{
    CELL_LOG2_ALLOWED, CHUNK_LOG2_DEFAULT, CHUNK_LOG2_MIN, CHUNK_OP_SESSIONS_MAX,
    PENDINGS_PER_GROUP_MAX,
};
use protocol::message::chunk::{WriteClass, WriteReply, WriteRequest};
use protocol::status::Status;

use super::files::{self, TRIM_SESSION};
use super::member::{Cx, Member, Phase};
use super::replicate;
use crate::limits::{CHUNK_QUEUE_MAX, PENDING_CHAIN_MAX};
use crate::shard::effect::{Refusal, ReplyBody};
use crate::shard::event::Asked;
use crate::store::{ChunkInfo, Fullness};

/// Writes of one chunk, in order: those with a version, then those that wait for one.
///
/// Only growth is pipelined: each version in flight builds on the one before. Anything else waits
/// until the chunk is clean, and so does growth once a member needs the whole chunk.
#[derive(Clone, Debug)]
pub struct ChunkQueue<P> {
    /// Versions that are not on every member yet, ascending; at most [`PENDING_CHAIN_MAX`].
    pub in_flight: VecDeque<Version>,
    /// Members that need the whole chunk, and the version that was sent to them so.
    pub wholes: BTreeMap<TargetId, Option<Version>>,
    /// What has no version yet.
    pub queue: VecDeque<Queued<P>>,
}

/// A write that has no version yet.
#[derive(Clone, Debug)]
pub struct Queued<P> {
    /// Who asked; `None` for this primary's own cuts.
    pub asked: Option<Asked>,
    /// What.
    pub request: WriteRequest,
    /// Its bytes; `None` for this primary's own cuts.
    pub payload: Option<P>,
}

/// Admits a write or refuses it; an admitted one is answered later.
///
/// # Errors
/// The refusal to answer with; nothing was kept.
pub fn admit<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    asked: Asked,
    request: WriteRequest,
    payload: P,
    intact: bool,
) -> Result<(), Refusal> {
    check_group(member, cx, &asked)?;
    check_form(&request)?;
    if guard::holds(Guard::WriteSums) && !intact {
        return Err(Status::PayloadCorrupt.into());
    }
    let key = request.key;
    if member.dead.iter().any(|dead| dead.fids.contains(&key.fid)) {
        return Err(Refusal::new(Status::StaleFile, "the file was deleted"));
    }
    if guard::holds(Guard::TruncateGeneration) && files::is_cut(member, key.fid, request.trunc_gen)
    {
        return Err(Status::StaleFile.into());
    }
    check_space(member, cx, request.class)?;
    if join_in_flight(member, &asked, key, request.op) {
        return Ok(());
    }
    let waiting = member.writes.chunks.get(&key).map_or(0, |chunk| chunk.queue.len());
    let room = waiting < CHUNK_QUEUE_MAX
        && member.writes.in_flight.len() < PENDINGS_PER_GROUP_MAX
        && cx.core.budget.clients.take(request.len);
    if !room {
        return Err(Status::Busy.into());
    }
    cx.core.counters.requests += 1;
    let payload = Some(payload);
    let chunk = member.writes.chunks.entry(key).or_default();
    chunk.queue.push_back(Queued { asked: Some(asked), request, payload });
    pump(member, cx, key);
    Ok(())
}

/// Puts a write of this primary's own in its chunk's queue; false when there is no room for it.
pub fn admit_own<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    request: WriteRequest,
) -> bool {
    let key = request.key;
    let room = member.writes.in_flight.len() < PENDINGS_PER_GROUP_MAX
        && cx.core.budget.clients.take(request.len);
    if room {
        let chunk = member.writes.chunks.entry(key).or_default();
        chunk.queue.push_back(Queued { asked: None, request, payload: None });
        pump(member, cx, key);
    }
    room
}

/// Gives waiting writes of a chunk their versions, as far as their turn has come.
pub fn pump<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, key: ChunkKey) {
    while let Some(chunk) = member.writes.chunks.get_mut(&key) {
        let Some(queued) = chunk.queue.pop_front() else {
            if chunk.in_flight.is_empty() {
                member.writes.chunks.remove(&key);
            }
            return;
        };
        let (asked, len, epoch) = (queued.asked, queued.request.len, member.record.epoch);
        match decide(member, cx, &queued) {
            Ok(Decision::Wait) => {
                if let Some(chunk) = member.writes.chunks.get_mut(&key) {
                    chunk.queue.push_front(queued);
                }
                return;
            }
            Ok(Decision::Assign(base, chunk_len)) => {
                replicate::start(member, cx, queued, base, chunk_len);
            }
            Ok(Decision::Done(done)) => {
                cx.core.budget.clients.give(len);
                answer(cx, asked, epoch, Ok(ReplyBody::Write(done)));
            }
            Err(refusal) => {
                cx.core.budget.clients.give(len);
                answer(cx, asked, epoch, Err(refusal));
            }
        }
    }
}

fn answer<P>(
    cx: &mut Cx<'_, P>,
    asked: Option<Asked>,
    epoch: Epoch,
    answer: Result<ReplyBody, Refusal>,
) {
    if let Some(asked) = asked {
        cx.reply(asked.reply, epoch, answer);
    }
}

/// What becomes of a write that is first in its queue.
enum Decision {
    /// It is new, builds on this version and leaves the chunk with this length.
    Assign(Version, u32),
    /// It was done before.
    Done(WriteReply),
    /// Its turn has not come.
    Wait,
}

fn check_group<P>(member: &Member<P>, cx: &Cx<'_, P>, asked: &Asked) -> Result<(), Refusal> {
    if !member.is_primary() {
        return Err(Status::NotPrimary.into());
    }
    if asked.epoch < member.epoch() {
        return Err(Status::StaleEpoch.into());
    }
    if asked.epoch > member.epoch() {
        return Err(Status::NewerEpoch.into());
    }
    if cx.core.fenced {
        return Err(Status::Fenced.into());
    }
    if guard::holds(Guard::MinWrite) && !member.record.writable() {
        return Err(Status::NotWritable.into());
    }
    let active = member.phase == Phase::Ready && member.record.active;
    if guard::holds(Guard::ActivationFirst) && !active {
        return Err(Status::NotActive.into());
    }
    expired(cx, asked)
}

fn expired<P>(cx: &Cx<'_, P>, asked: &Asked) -> Result<(), Refusal> {
    match asked.deadline {
        Some(deadline) if deadline <= cx.now => Err(Status::Expired.into()),
        _ => Ok(()),
    }
}

fn check_form(request: &WriteRequest) -> Result<(), Refusal> {
    let invalid = |detail: &str| Err(Refusal::new(Status::Invalid, detail));
    if request.op.session == TRIM_SESSION {
        return invalid("session 0 is the group's own");
    }
    if !request.aux.is_empty() {
        return Err(Refusal::new(Status::Unsupported, "encrypted cells are not supported"));
    }
    if !CELL_LOG2_ALLOWED.contains(&request.cell_log2) || request.chunk_log2 < CHUNK_LOG2_MIN {
        return invalid("cell or chunk size out of range");
    }
    if request.chunk_log2 > CHUNK_LOG2_DEFAULT {
        // A larger chunk does not fit one frame, so it could not be sent whole.
        return Err(Refusal::new(Status::Unsupported, "chunks over 4 MiB are not supported"));
    }
    let end = u64::from(request.offset) + u64::from(request.len);
    let truncates = request.class == WriteClass::Truncate;
    if (request.len == 0) != truncates || end > 1 << request.chunk_log2 {
        return invalid("range is empty or beyond the chunk");
    }
    let (_, cells) = cells_touched(request.cell_log2, request.offset, request.len);
    if request.sums.len() != cells as usize {
        return invalid("one checksum for each touched cell is needed");
    }
    Ok(())
}

/// Refuses what needs space while a member has none, before any member has allocated.
///
/// Members say what is free when they store something, so what they said is believed for a moment
/// only; then one write finds out anew.
fn check_space<P>(member: &Member<P>, cx: &Cx<'_, P>, class: WriteClass) -> Result<(), Refusal> {
    if class == WriteClass::Truncate || !guard::holds(Guard::RoomEverywhere) {
        return Ok(());
    }
    let me = cx.core.me();
    let believed = cx.core.config.timeouts.silence;
    for entry in &member.record.members {
        let free = match member.contacts.get(&entry.target).and_then(|contact| contact.free) {
            _ if entry.target == me => cx.index.free(),
            Some((free, at)) if cx.now.since(at) < believed => free,
            _ => continue,
        };
        let capacity = cx.core.map.targets.get(&entry.target).map_or(0, |target| target.capacity);
        let fullness = Fullness::of(capacity.saturating_sub(free), capacity);
        if capacity > 0 && !fullness.takes_writes() {
            let detail = format!("target {} is full", entry.target);
            return Err(Refusal::new(Status::NoSpace, detail));
        }
    }
    Ok(())
}

/// A repeat of an operation in flight waits with the original.
fn join_in_flight<P>(member: &mut Member<P>, asked: &Asked, key: ChunkKey, op: OpId) -> bool {
    let Some(chunk) = member.writes.chunks.get(&key) else { return false };
    for version in &chunk.in_flight {
        let Some(write) = member.writes.in_flight.get_mut(version) else { continue };
        if write.request.op == op {
            write.waiters.retain(|waiter| waiter.reply != asked.reply);
            write.waiters.truncate(CHUNK_QUEUE_MAX - 1);
            write.waiters.push(*asked);
            return true;
        }
    }
    false
}

fn decide<P>(member: &Member<P>, cx: &Cx<'_, P>, queued: &Queued<P>) -> Result<Decision, Refusal> {
    queued.asked.as_ref().map_or(Ok(()), |asked| expired(cx, asked))?;
    let request = &queued.request;
    let chunk = member.writes.chunks.get(&request.key);
    if let Some(last) = chunk.and_then(|chunk| chunk.in_flight.back()) {
        return Ok(follow_on(member, request, *last));
    }
    let Some(info) = cx.index.info(member.group, request.key) else {
        return place(Version::ZERO, 0, request);
    };
    if guard::holds(Guard::TruncateGeneration) && request.trunc_gen < info.trunc_gen {
        return Err(Status::StaleFile.into());
    }
    if let Some(decision) = seen_before(member, cx, &info, request)? {
        return Ok(decision);
    }
    if info.suspect {
        return Err(Refusal::new(Status::Busy, "the chunk here is suspect and being repaired"));
    }
    if !member.is_committed(info.version) {
        return unsettled(member, Status::Busy); // Of an epoch before.
    }
    if (info.cell_log2, info.chunk_log2) != (request.cell_log2, request.chunk_log2) {
        return Err(Refusal::new(Status::Invalid, "cell or chunk size differs from the chunk's"));
    }
    place(info.version, info.chunk_len, request)
}

/// A write on top of a change that older epochs left: it waits here, as that change does, until
/// members that left answer no reads any more. Asking again would end later than that.
fn unsettled<P>(member: &Member<P>, status: Status) -> Result<Decision, Refusal> {
    if member.writes.mark_held { Ok(Decision::Wait) } else { Err(status.into()) }
}

/// Growth that begins where the growth in flight ends builds on it; anything else waits.
fn follow_on<P>(member: &Member<P>, request: &WriteRequest, last: Version) -> Decision {
    let chunk = member.writes.chunks.get(&request.key);
    let before = member.writes.in_flight.get(&last);
    let (Some(chunk), Some(before)) = (chunk, before) else { return Decision::Wait };
    let room = chunk.in_flight.len() < PENDING_CHAIN_MAX && chunk.wholes.is_empty();
    let of = |request: &WriteRequest| {
        let sizes = (request.cell_log2, request.chunk_log2);
        (request.class == WriteClass::Growth, request.trunc_gen, sizes)
    };
    let fits = request.class == WriteClass::Growth
        && of(request) == of(&before.request)
        && request.offset == before.chunk_len
        && before.failed.is_none();
    // The table of a session holds one operation, so an older one cannot be judged yet.
    let newer =
        before.request.op.session != request.op.session || before.request.op.seq < request.op.seq;
    if room && fits && newer {
        Decision::Assign(last, before.chunk_len + request.len)
    } else {
        Decision::Wait
    }
}

/// Looks the operation up in the chunk's table: each takes effect once.
fn seen_before<P>(
    member: &Member<P>,
    cx: &Cx<'_, P>,
    info: &ChunkInfo,
    request: &WriteRequest,
) -> Result<Option<Decision>, Refusal> {
    let newest = info.ops.iter().find(|(op, ..)| op.session == request.op.session);
    let Some(&(op, version, chunk_len)) = newest else {
        // The session may have been pushed out of a full table: its fate is not known any more.
        let full = info.ops.len() >= CHUNK_OP_SESSIONS_MAX;
        let forgotten = guard::holds(Guard::OpTableFull) && request.attempt > 0 && full;
        return if forgotten { Err(Status::Unknown.into()) } else { Ok(None) };
    };
    if request.op.seq > op.seq || !guard::holds(Guard::OpTable) {
        return Ok(None);
    }
    if request.op.seq < op.seq {
        return Err(Status::Unknown.into());
    }
    // An operation this primary does not drive and has not committed is frozen or being settled.
    if !member.is_committed(version) {
        return unsettled(member, Status::Unknown).map(Some);
    }
    Ok(Some(Decision::Done(WriteReply { version, chunk_len, free: cx.index.free() })))
}

/// Where a write that is not in flight yet puts the chunk's end.
fn place(base: Version, have: u32, request: &WriteRequest) -> Result<Decision, Refusal> {
    let end = request.offset + request.len;
    match request.class {
        WriteClass::Truncate => return Ok(Decision::Assign(base, request.offset)),
        WriteClass::Mutation => return Ok(Decision::Assign(base, have.max(end))),
        WriteClass::Growth => {}
    }
    if request.offset > have {
        return Err(Refusal::new(Status::ChunkShort, format!("chunk has {have} bytes")));
    }
    if request.offset < have {
        let detail = format!("growth must start at the chunk's length {have}");
        return Err(Refusal::new(Status::Invalid, detail));
    }
    Ok(Decision::Assign(base, end))
}

impl<P> Default for ChunkQueue<P> {
    fn default() -> ChunkQueue<P> {
        ChunkQueue { in_flight: VecDeque::new(), wholes: BTreeMap::new(), queue: VecDeque::new() }
    }
}
