//! Which reads a member may serve.
//!
//! Bytes of a growth-only file are the same on every replica that has them, so any member serves
//! what is committed here, in any epoch, without a lease; a short copy says that it is short. All
//! other reads are served by the primary of an active epoch under its node's lease.

use protocol::guard::{self, Guard};
use protocol::ids::Epoch;
use protocol::limits::READ_LEN_MAX;
use protocol::message::chunk::{ReadRequest, VerifyRequest};
use protocol::status::Status;

use super::member::{Cx, Member, Phase};
use crate::shard::effect::{Effect, ReadTask, Refusal};
use crate::shard::event::Asked;
use crate::store::ChunkInfo;

/// Admits a read or refuses it.
///
/// # Errors
/// The refusal to answer with.
pub fn admit<P>(
    member: &Member<P>,
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: &ReadRequest,
) -> Result<(), Refusal> {
    if request.len == 0 || request.len > READ_LEN_MAX {
        return Err(Refusal::new(Status::Invalid, "length out of range"));
    }
    if asked.deadline.is_some_and(|deadline| deadline <= cx.now) {
        return Err(Status::Expired.into());
    }
    if !request.growth_only {
        check_lease(member, cx, asked.epoch)?;
    }
    let info = cx.index.info(member.group, request.key).ok_or(Status::ChunkNotFound)?;
    if guard::holds(Guard::TruncateGeneration) && request.trunc_gen < info.trunc_gen {
        return Err(Status::StaleFile.into());
    }
    if guard::holds(Guard::GrowthOnlyRead) && request.growth_only && info.mutated {
        return Err(Status::NotGrowthOnly.into());
    }
    let newest = covering(member, &info, request)?;
    if !cx.core.budget.clients.take(request.len) {
        return Err(Status::Busy.into());
    }
    cx.core.counters.requests += 1;
    let (group, key, offset, len) = (member.group, request.key, request.offset, request.len);
    let read = ReadTask { group, key, offset, len, newest, verify: request.verify };
    cx.out.push(Effect::ServeRead { to: asked.reply, epoch: asked.epoch, read });
    Ok(())
}

/// Admits the check of a chunk on the device.
///
/// # Errors
/// The refusal to answer with.
pub fn admit_verify<P>(
    member: &Member<P>,
    cx: &mut Cx<'_, P>,
    asked: &Asked,
    request: &VerifyRequest,
) -> Result<(), Refusal> {
    if !cx.core.budget.clients.take(0) {
        return Err(Status::Busy.into());
    }
    let (group, key) = (member.group, request.key);
    cx.out.push(Effect::ServeVerify { to: asked.reply, group, key });
    Ok(())
}

fn check_lease<P>(member: &Member<P>, cx: &Cx<'_, P>, epoch: Epoch) -> Result<(), Refusal> {
    if !member.is_primary() {
        return Err(Status::NotPrimary.into());
    }
    if epoch < member.epoch() {
        return Err(Status::StaleEpoch.into());
    }
    if epoch > member.epoch() {
        return Err(Status::NewerEpoch.into());
    }
    if member.phase != Phase::Ready || !member.record.active {
        return Err(Status::NotActive.into());
    }
    if guard::holds(Guard::LeaseCheck) && cx.core.lease <= cx.now {
        return Err(Refusal::new(Status::NotReady, "the node's lease has run out"));
    }
    Ok(())
}

/// Finds a committed version that covers the range and is trusted: true for the newest, which the
/// store itself may still hold to be pending.
fn covering<P>(
    member: &Member<P>,
    info: &ChunkInfo,
    request: &ReadRequest,
) -> Result<bool, Refusal> {
    let end = u64::from(request.offset) + u64::from(request.len);
    let covers = |len: u32| end <= u64::from(len);
    let pending = info.committed.is_none_or(|(version, _)| version != info.version);
    let suspect = || Err(Refusal::new(Status::Corrupt, "the version here is suspect"));
    if member.is_committed(info.version) && covers(info.chunk_len) {
        // The version before is older than what may have been acknowledged.
        return if info.suspect { suspect() } else { Ok(pending) };
    }
    if info.committed.is_some_and(|(_, len)| covers(len)) {
        return if info.committed_suspect { suspect() } else { Ok(false) };
    }
    if pending && covers(info.chunk_len) {
        if !guard::holds(Guard::DirtyRead) {
            return Ok(true);
        }
        let frozen = member.is_primary() && !member.record.writable();
        return Err(if frozen { Status::Frozen } else { Status::Dirty }.into());
    }
    let have = info.committed.map_or(0, |(_, len)| len);
    Err(Refusal::new(Status::ChunkShort, format!("chunk has {have} committed bytes")))
}
