//! Admission of a client's write at the primary, and the queue of each chunk.

use std::collections::VecDeque;

use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, Epoch, OpId, Version};
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
use crate::limits::CHUNK_QUEUE_MAX;
use crate::shard::effect::{Refusal, ReplyBody};
use crate::shard::event::Asked;
use crate::store::ChunkInfo;

/// Writes of one chunk: at most one has a version, the others wait in order.
#[derive(Clone, Debug)]
pub struct ChunkQueue<P> {
    /// The version that is not on every member yet.
    pub in_flight: Option<Version>,
    /// What waits for it.
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

/// Gives the next waiting write of a chunk its version, once the one before it is done.
pub fn pump<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, key: ChunkKey) {
    while let Some(chunk) = member.writes.chunks.get_mut(&key) {
        if chunk.in_flight.is_some() {
            return;
        }
        let Some(queued) = chunk.queue.pop_front() else {
            member.writes.chunks.remove(&key);
            return;
        };
        let (asked, len, epoch) = (queued.asked, queued.request.len, member.record.epoch);
        match decide(member, cx, &queued) {
            Ok(Decision::Assign(base)) => replicate::start(member, cx, queued, base),
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
    /// It is new and builds on this version.
    Assign(Version),
    /// It was done before.
    Done(WriteReply),
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
    if request.class == WriteClass::Mutation {
        return Err(Refusal::new(Status::Unsupported, "only growth is supported"));
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
    if request.len == 0 || end > 1 << request.chunk_log2 {
        return invalid("range is empty or beyond the chunk");
    }
    let (_, cells) = cells_touched(request.cell_log2, request.offset, request.len);
    if request.sums.len() != cells as usize {
        return invalid("one checksum for each touched cell is needed");
    }
    Ok(())
}

/// A repeat of the operation in flight waits with the original.
fn join_in_flight<P>(member: &mut Member<P>, asked: &Asked, key: ChunkKey, op: OpId) -> bool {
    let version = member.writes.chunks.get(&key).and_then(|chunk| chunk.in_flight);
    let write = version.and_then(|version| member.writes.in_flight.get_mut(&version));
    match write {
        Some(write) if write.request.op == op => {
            write.waiters.retain(|waiter| waiter.reply != asked.reply);
            write.waiters.truncate(CHUNK_QUEUE_MAX - 1);
            write.waiters.push(*asked);
            true
        }
        _ => false,
    }
}

fn decide<P>(member: &Member<P>, cx: &Cx<'_, P>, queued: &Queued<P>) -> Result<Decision, Refusal> {
    queued.asked.as_ref().map_or(Ok(()), |asked| expired(cx, asked))?;
    let request = &queued.request;
    let Some(info) = cx.index.info(member.group, request.key) else {
        return grow(Version::ZERO, 0, request);
    };
    if guard::holds(Guard::TruncateGeneration) && request.trunc_gen < info.trunc_gen {
        return Err(Status::StaleFile.into());
    }
    if let Some(decision) = seen_before(member, cx, &info, request)? {
        return Ok(decision);
    }
    if info.suspect {
        return Err(Status::Corrupt.into());
    }
    if (info.cell_log2, info.chunk_log2) != (request.cell_log2, request.chunk_log2) {
        return Err(Refusal::new(Status::Invalid, "cell or chunk size differs from the chunk's"));
    }
    grow(info.version, info.chunk_len, request)
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
    // An operation this primary does not drive and has not committed is frozen or being settled.
    if request.op.seq < op.seq || !member.is_committed(version) {
        return Err(Status::Unknown.into());
    }
    Ok(Some(Decision::Done(WriteReply { version, chunk_len, free: cx.index.free() })))
}

fn grow(base: Version, have: u32, request: &WriteRequest) -> Result<Decision, Refusal> {
    if request.offset > have {
        return Err(Refusal::new(Status::ChunkShort, format!("chunk has {have} bytes")));
    }
    if request.offset < have {
        let detail = format!("growth must start at the chunk's length {have}");
        return Err(Refusal::new(Status::Invalid, detail));
    }
    Ok(Decision::Assign(base))
}

impl<P> Default for ChunkQueue<P> {
    fn default() -> ChunkQueue<P> {
        ChunkQueue { in_flight: None, queue: VecDeque::new() }
    }
}
