//! Which reads a member may serve.
//!
//! Bytes of a growth-only file are the same on every replica that has them, so any member serves
//! what is committed here, in any epoch, without a lease; a short copy says that it is short.
//!
//! All other reads need the lease of the node, because somebody may have gone on without this
//! member. The primary and the backups serve them in the newest epoch they know, where the chunk is
//! clean: everything acknowledged is on each of them. Where a version is not known to be committed,
//! a backup cannot tell whether it was acknowledged and sends the reader to the primary, who can.

use protocol::cluster_map::Role;
use protocol::guard::{self, Guard};
use protocol::ids::{Epoch, Version};
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
    let Some(info) = cx.index.info(member.group, request.key) else {
        return Err(absent(member, request, Refusal::from(Status::ChunkNotFound)));
    };
    if guard::holds(Guard::TruncateGeneration) && request.trunc_gen < info.trunc_gen {
        return Err(Status::StaleFile.into());
    }
    if guard::holds(Guard::GrowthOnlyRead) && request.growth_only && info.mutated {
        return Err(Status::NotGrowthOnly.into());
    }
    let found = match request.growth_only {
        true => grown(member, &info, request)?,
        false => leased(member, &info, request)?,
    };
    let Found { newest, exact, len } = found;
    if !cx.core.budget.clients.take(len) {
        return Err(Status::Busy.into());
    }
    cx.core.counters.requests += 1;
    let (group, key, offset) = (member.group, request.key, request.offset);
    let read = ReadTask { group, key, offset, len, newest, exact, verify: request.verify };
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

/// A version that may be read.
struct Found {
    /// True for the newest, which the store itself may still hold to be pending.
    newest: bool,
    /// The version that has to be read, unless the chunk only grows.
    exact: Option<Version>,
    /// How many of the wanted bytes it has.
    len: u32,
}

/// Only a serving member of the newest epoch it knows reads under a lease, only while that lasts.
fn check_lease<P>(member: &Member<P>, cx: &Cx<'_, P>, epoch: Epoch) -> Result<(), Refusal> {
    if guard::holds(Guard::SyncingReads) && member.role == Some(Role::Syncing) {
        return Err(Status::NotMember.into());
    }
    if epoch < member.epoch() {
        return Err(Status::StaleEpoch.into());
    }
    if epoch > member.epoch() {
        return Err(Status::NewerEpoch.into());
    }
    // A primary has to settle what is pending first; a backup answers what is not.
    if member.phase != Phase::Ready || (member.is_primary() && !member.record.active) {
        return Err(Status::NotActive.into());
    }
    if guard::holds(Guard::LeaseCheck) && cx.core.lease <= cx.now {
        return Err(Status::LeaseExpired.into());
    }
    Ok(())
}

/// Finds a committed version of a chunk that only grew: any that covers the range has the bytes.
fn grown<P>(member: &Member<P>, info: &ChunkInfo, request: &ReadRequest) -> Result<Found, Refusal> {
    let end = u64::from(request.offset) + u64::from(request.len);
    let covers = |len: u32| end <= u64::from(len);
    let pending = info.committed.is_none_or(|(version, _)| version != info.version);
    if member.is_committed(info.version) && covers(info.chunk_len) {
        // The version before is older than what may have been acknowledged.
        let exact = pending.then_some(info.version);
        let found = Found { newest: pending, exact, len: request.len };
        return if info.suspect { Err(suspect()) } else { Ok(found) };
    }
    if info.committed.is_some_and(|(_, len)| covers(len)) {
        let found = Found { newest: false, exact: None, len: request.len };
        return if info.committed_suspect { Err(suspect()) } else { Ok(found) };
    }
    if pending && covers(info.chunk_len) {
        if !guard::holds(Guard::DirtyRead) {
            return Ok(Found { newest: true, exact: None, len: request.len });
        }
        return Err(if is_frozen(member, request) { Status::Frozen } else { Status::Dirty }.into());
    }
    let have = info.committed.map_or(0, |(_, len)| len);
    Err(Refusal::new(Status::ChunkShort, format!("chunk has {have} committed bytes")))
}

/// Finds the version that was acknowledged last, where this member can know it.
fn leased<P>(
    member: &Member<P>,
    info: &ChunkInfo,
    request: &ReadRequest,
) -> Result<Found, Refusal> {
    if member.is_committed(info.version) || !guard::holds(Guard::DirtyRead) {
        let newest = info.committed.is_none_or(|(version, _)| version != info.version);
        if info.suspect {
            return Err(suspect());
        }
        let exact = newest.then_some(info.version);
        return covered(member, info.chunk_len, request).map(|len| Found { newest, exact, len });
    }
    if is_frozen(member, request) {
        return Err(Status::Frozen.into());
    }
    if !member.is_primary() {
        return Err(Status::Dirty.into());
    }
    // In flight in this epoch: what it builds on is what was acknowledged last.
    let first = member.writes.chunks.get(&request.key).and_then(|chunk| chunk.in_flight.front());
    let base = first.and_then(|first| member.writes.in_flight.get(first)).map(|write| write.base);
    match (base, info.committed) {
        (Some(base), Some((version, len))) if base == version => {
            if info.committed_suspect {
                return Err(suspect());
            }
            let exact = Some(version);
            covered(member, len, request).map(|len| Found { newest: false, exact, len })
        }
        (Some(Version::ZERO), None) => Err(Status::ChunkNotFound.into()),
        // Acknowledged, but below a mark that an older write elsewhere holds back.
        _ => Err(Status::Busy.into()),
    }
}

/// True when a pending stays undecided: its group is not writable, or it is of an older epoch and
/// waits until nobody can contradict it.
fn is_frozen<P>(member: &Member<P>, request: &ReadRequest) -> bool {
    let flies = member.writes.chunks.get(&request.key).is_some_and(|it| !it.in_flight.is_empty());
    !member.record.writable() || (member.is_primary() && !flies)
}

/// How many of the wanted bytes there are: all of them, or for a reader who does not know how long
/// the chunk is, and asks the primary, as many as it has.
fn covered<P>(member: &Member<P>, have: u32, request: &ReadRequest) -> Result<u32, Refusal> {
    let end = u64::from(request.offset) + u64::from(request.len);
    if end <= u64::from(have) {
        return Ok(request.len);
    }
    if request.expect_len == 0 && request.offset < have && member.is_primary() {
        return Ok(have - request.offset);
    }
    let short = Refusal::new(Status::ChunkShort, format!("chunk has {have} committed bytes"));
    Err(absent(member, request, short))
}

/// Where bytes are missing: a leased reader believes it, so only the primary says so to one.
fn absent<P>(member: &Member<P>, request: &ReadRequest, refusal: Refusal) -> Refusal {
    let believed = !request.growth_only && !member.is_primary();
    if guard::holds(Guard::HoleFromPrimary) && believed { Status::Dirty.into() } else { refusal }
}

fn suspect() -> Refusal {
    Refusal::new(Status::Corrupt, "the version here is suspect")
}
