//! Resync: the primary brings a syncing member up to date, one page of the inventory at a time.
//!
//! A syncing member already receives every new write, so only what is older is copied: chunks it
//! lacks or holds at another version or hash. Chunks the primary does not have are set aside there,
//! never deleted. It runs in every active epoch, also one that is not writable: the group becomes
//! writable again through exactly this. A pending is then copied as a pending.

use std::collections::{BTreeMap, VecDeque};

use protocol::cluster_map::Role;
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, TargetId};
use protocol::message::chunk::{InventoryEntry, InventoryReply};
use protocol::message::cluster::SyncDoneRequest;

use super::calls::{self, CallKind};
use super::member::{Cx, Member, Phase};
use crate::io::Nanos;
use crate::limits::{COPIES_PER_MEMBER_MAX, COPIES_PER_SHARD_MAX, RESYNC_PAGE};
use crate::shard::control::ShardReport;
use crate::shard::effect::Effect;
use crate::shard::event::Answer;

/// Progress of one syncing member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resync {
    /// Everything up to this chunk was compared.
    pub cursor: Option<ChunkKey>,
    /// True while a page of its inventory is awaited.
    pub listing: bool,
    /// True when its inventory was compared to the end.
    pub listed: bool,
    /// Chunks of the current page that have to be copied, with their lengths.
    pub copies: VecDeque<(ChunkKey, u32)>,
    /// Copies in flight.
    pub copying: usize,
    /// True while it sets chunks aside.
    pub quarantining: bool,
    /// Bytes of the current page that are not copied yet.
    pub bytes_left: u64,
    /// When its completion was last reported.
    pub reported: Option<Nanos>,
}

/// Moves the resync of every syncing member on.
pub fn advance<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if !member.is_primary() || member.phase != Phase::Ready || !member.record.active {
        return;
    }
    let others = member.others(cx.core.me());
    for entry in others.iter().filter(|entry| entry.role == Role::Syncing) {
        let mut resync = member.resync.remove(&entry.target).unwrap_or_default();
        pump(member, cx, entry.target, &mut resync);
        member.resync.insert(entry.target, resync);
    }
}

/// Compares one page; true when the call has ended.
pub fn on_inventory<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    answer: &Answer,
) -> bool {
    let Answer::Inventory(theirs) = answer else { return false };
    let Some(mut resync) = member.resync.remove(&target) else { return true };
    let page = compare(member, cx, resync.cursor, theirs);
    resync.listing = false;
    resync.listed = page.end;
    resync.cursor = page.cursor;
    resync.bytes_left += page.copies.iter().map(|(_, len)| u64::from(*len)).sum::<u64>();
    resync.copies.extend(page.copies);
    if !page.extras.is_empty() {
        resync.quarantining = true;
        calls::start(member, cx, target, CallKind::Quarantine(page.extras));
    }
    pump(member, cx, target, &mut resync);
    member.resync.insert(target, resync);
    true
}

/// Notes a member's answer to a copy; true when the call has ended.
pub fn on_copied<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    len: u32,
    answer: &Answer,
) -> bool {
    if !matches!(answer, Answer::Replicate(_)) {
        return false;
    }
    cx.core.counters.resync_bytes_done += u64::from(len);
    copy_ended(member, target, len);
    true
}

/// Notes that a copy is done, or that there is nothing to copy any more.
pub fn copy_ended<P>(member: &mut Member<P>, target: TargetId, len: u32) {
    if let Some(resync) = member.resync.get_mut(&target) {
        resync.copying -= 1;
        resync.bytes_left -= u64::from(len);
    }
}

/// Notes a member's answer to a quarantine; true when the call has ended.
pub fn on_quarantined<P>(member: &mut Member<P>, target: TargetId, answer: &Answer) -> bool {
    if *answer != Answer::Done {
        return false;
    }
    if let Some(resync) = member.resync.get_mut(&target) {
        resync.quarantining = false;
    }
    true
}

fn pump<P: Clone>(member: &Member<P>, cx: &mut Cx<'_, P>, target: TargetId, resync: &mut Resync) {
    while resync.copying < COPIES_PER_MEMBER_MAX && cx.core.copies < COPIES_PER_SHARD_MAX {
        let Some((key, len)) = resync.copies.pop_front() else { break };
        resync.copying += 1;
        calls::start(member, cx, target, CallKind::Copy(key, len));
    }
    let idle = resync.copies.is_empty() && resync.copying == 0 && !resync.quarantining;
    if !idle || resync.listing {
        return;
    }
    if !resync.listed {
        resync.listing = true;
        calls::start(member, cx, target, CallKind::Inventory(resync.cursor));
        return;
    }
    let every = cx.core.config.timeouts.report;
    if resync.reported.is_none_or(|at| cx.now.since(at) >= every) {
        resync.reported = Some(cx.now);
        let (group, epoch) = (member.group, member.epoch());
        let request = SyncDoneRequest { group, epoch, target };
        cx.out.push(Effect::Report(ShardReport::SyncDone(request)));
    }
}

/// What a page of a member's inventory means.
struct Page {
    /// Chunks to copy.
    copies: Vec<(ChunkKey, u32)>,
    /// Chunks to set aside.
    extras: Vec<ChunkKey>,
    /// How far it reached.
    cursor: Option<ChunkKey>,
    /// True when both inventories ended.
    end: bool,
}

/// Compares both inventories as far as both pages reach.
fn compare<P>(
    member: &Member<P>,
    cx: &Cx<'_, P>,
    after: Option<ChunkKey>,
    theirs: &InventoryReply,
) -> Page {
    let (ours, our_more) = cx.index.inventory(member.group, after, RESYNC_PAGE);
    let our_reach = ours.last().filter(|_| our_more).map(|entry| entry.key);
    let their_reach = theirs.entries.last().filter(|_| theirs.more).map(|entry| entry.key);
    let reach = our_reach.into_iter().chain(their_reach).min();
    let within = |entry: &&InventoryEntry| reach.is_none_or(|reach| entry.key <= reach);
    let by_key = |entries: &'_ [InventoryEntry]| -> BTreeMap<ChunkKey, InventoryEntry> {
        entries.iter().filter(within).map(|entry| (entry.key, entry.clone())).collect()
    };
    let (ours, theirs) = (by_key(&ours), by_key(&theirs.entries));
    let copies = ours.values().filter(|own| differs(own, theirs.get(&own.key)));
    // A chunk of this epoch came from this primary, whose own copy may still be on its way.
    let is_extra = |entry: &&InventoryEntry| {
        !ours.contains_key(&entry.key) && entry.version.epoch < member.epoch()
    };
    Page {
        copies: copies.map(|own| (own.key, own.chunk_len)).collect(),
        extras: theirs.values().filter(is_extra).map(|entry| entry.key).collect(),
        cursor: reach.or(after),
        end: reach.is_none(),
    }
}

fn differs(own: &InventoryEntry, theirs: Option<&InventoryEntry>) -> bool {
    theirs.is_none_or(|theirs| {
        (theirs.suspect && guard::holds(Guard::SuspectLoses))
            || theirs.version != own.version
            || theirs.hash != own.hash
    })
}
