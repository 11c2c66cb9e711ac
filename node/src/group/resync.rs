//! Resync: the primary brings a syncing member up to date, one page of the inventory at a time.
//!
//! A syncing member already receives every new write, so only what is older is copied: chunks it
//! lacks or holds at another version or hash. Chunks the primary does not have are set aside there,
//! never deleted; what the primary may have lost is taken over from there (`take`). It runs in
//! every active epoch, also one that is not writable: the group becomes writable again through
//! exactly this. A pending is then copied as a pending.
//!
//! It may be cut off at any point: the next epoch compares again and finds equal what was copied.
//! Copies keep to the shard's byte budget and step back while clients keep the shard busy. What
//! the primary itself cannot vouch for is not copied before it was repaired.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::cluster_map::Role;
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, TargetId, Version};
use protocol::message::chunk::{InventoryEntry, InventoryReply};
use protocol::message::cluster::SyncDoneRequest;
use protocol::status::Status;

use super::calls::{self, CallKind};
use super::dead;
use super::member::{Cx, Member, Phase};
use super::take;
use crate::io::Nanos;
use crate::limits::{
    COPIES_PER_SHARD_MAX, FOREGROUND_BUSY_BYTES, RESYNC_BYTES_PER_S_DEFAULT, RESYNC_PAGE,
    RESYNC_QUEUE_MAX, RESYNC_REFUSED_PAUSE_MAX_MS, RESYNC_REFUSED_PAUSE_MIN_MS,
};
use crate::shard::control::ShardReport;
use crate::shard::effect::{Alert, Effect};
use crate::shard::event::Answer;
use crate::shard::state::Core;

/// Progress of one syncing member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resync {
    /// True once its whole work was estimated.
    pub begun: bool,
    /// Everything up to this chunk was compared.
    pub cursor: Option<ChunkKey>,
    /// True while a page of its inventory is awaited.
    pub listing: bool,
    /// True when its inventory was compared to the end.
    pub listed: bool,
    /// Bytes here that were not compared yet.
    pub unlisted: u64,
    /// Chunks that have to be copied, with their lengths.
    pub copies: VecDeque<(ChunkKey, u32)>,
    /// Those of them that are damaged here and wait for their repair, or for the end of a write.
    pub damaged: BTreeSet<(ChunkKey, u32)>,
    /// Copies in flight.
    pub copying: usize,
    /// Chunks that it has to set aside.
    pub extras: Vec<ChunkKey>,
    /// True while it sets chunks aside.
    pub quarantining: bool,
    /// Bytes that were found to be copied and are not there yet.
    pub bytes_left: u64,
    /// Bytes that were copied in this epoch.
    pub bytes_done: u64,
    /// The member had no room: how long to leave it in peace, and until when.
    pub refused: Option<(Duration, Nanos)>,
    /// When its completion was last reported.
    pub reported: Option<Nanos>,
}

impl Resync {
    /// Bytes that still have to be copied, as far as that is known: what was not compared yet
    /// counts whole.
    pub fn left(&self) -> u64 {
        self.bytes_left + self.unlisted
    }
}

/// Moves the resync of every syncing member on.
pub fn advance<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if !member.is_primary() || member.phase != Phase::Ready || !member.record.active {
        return;
    }
    if !member.record.members.iter().any(|entry| entry.role == Role::Syncing) {
        return;
    }
    let others = member.others(cx.core.me());
    for entry in others.iter().filter(|entry| entry.role == Role::Syncing) {
        let mut resync = member.resync.remove(&entry.target).unwrap_or_default();
        if !resync.begun {
            resync.begun = true;
            resync.unlisted = cx.index.bytes(member.group);
        }
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
    resync.unlisted = if page.end { 0 } else { resync.unlisted.saturating_sub(page.bytes) };
    resync.bytes_left += page.copies.iter().map(|(_, len)| u64::from(*len)).sum::<u64>();
    resync.copies.extend(page.copies);
    resync.extras.extend(page.extras);
    for (name, len) in page.takes {
        take::note(member, cx.now, target, name, len);
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
    (key, len): (ChunkKey, u32),
    answer: &Answer,
) -> bool {
    match answer {
        Answer::Replicate(_) => {
            cx.core.counters.resync_bytes_done += u64::from(len);
            if let Some(resync) = member.resync.get_mut(&target) {
                resync.refused = None;
                resync.bytes_done += u64::from(len);
            }
            copy_ended(member, target, len);
            true
        }
        Answer::Refused(Status::NoSpace) if guard::holds(Guard::ResyncBackOff) => {
            refused(member, cx, target, (key, len));
            true
        }
        Answer::Refused(Status::Fenced | Status::DeviceError) => {
            calls::accuse(member, target);
            false
        }
        _ => false,
    }
}

/// Notes that a copy is done, or that there is nothing to copy any more.
pub fn copy_ended<P>(member: &mut Member<P>, target: TargetId, len: u32) {
    if let Some(resync) = member.resync.get_mut(&target) {
        resync.copying -= 1;
        resync.bytes_left -= u64::from(len);
    }
}

/// Notes that a chunk cannot be read here: it is copied after its repair.
pub fn copy_damaged<P>(member: &mut Member<P>, target: TargetId, key: ChunkKey, len: u32) {
    if let Some(resync) = member.resync.get_mut(&target) {
        resync.copying -= 1;
        resync.damaged.insert((key, len));
    }
}

/// Notes that the primary has a version which a member lacks, unless its inventory is to tell.
pub fn wants<P>(member: &mut Member<P>, target: TargetId, copy: (ChunkKey, u32)) {
    let Some(resync) = member.resync.get_mut(&target) else { return };
    if resync.listed || Some(copy.0) <= resync.cursor {
        resync.bytes_left += u64::from(copy.1);
        resync.copies.push_back(copy);
    }
}

/// Notes that the primary goes on without a chunk which it does not have.
pub fn refuses<P>(member: &mut Member<P>, target: TargetId, key: ChunkKey) {
    if let Some(resync) = member.resync.get_mut(&target) {
        resync.extras.push(key);
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

/// Takes chunks up again that were repaired meanwhile.
pub fn tick<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let (repairs, group, index) = (&member.repairs, member.group, cx.index);
    for resync in member.resync.values_mut() {
        let is_well = |key: &ChunkKey| {
            !repairs.holds(*key) && !index.info(group, *key).is_some_and(|info| info.suspect)
        };
        let well: Vec<(ChunkKey, u32)> =
            resync.damaged.iter().filter(|(key, _)| is_well(key)).copied().collect();
        for copy in well {
            resync.damaged.remove(&copy);
            resync.copies.push_back(copy);
        }
    }
}

fn pump<P: Clone>(member: &Member<P>, cx: &mut Cx<'_, P>, target: TargetId, resync: &mut Resync) {
    if !resync.quarantining && !resync.extras.is_empty() {
        resync.quarantining = true;
        let extras = std::mem::take(&mut resync.extras);
        calls::start(member, cx, target, CallKind::Quarantine(extras));
    }
    if resync.quarantining {
        return; // Some of what is set aside is copied anew.
    }
    send_copies(member, cx, target, resync);
    if resync.listing {
        return;
    }
    if !resync.listed {
        let waiting = resync.copies.len() + resync.damaged.len() + member.takes.len();
        if waiting + RESYNC_PAGE <= RESYNC_QUEUE_MAX {
            resync.listing = true;
            calls::start(member, cx, target, CallKind::Inventory(resync.cursor));
        }
        return;
    }
    let copied = resync.copies.is_empty() && resync.copying == 0 && resync.damaged.is_empty();
    let complete = copied && !member.takes.wants_of(target);
    let every = cx.core.config.timeouts.report;
    if complete && resync.reported.is_none_or(|at| cx.now.since(at) >= every) {
        resync.reported = Some(cx.now);
        let (group, epoch) = (member.group, member.epoch());
        let request = SyncDoneRequest { group, epoch, target };
        cx.out.push(Effect::Report(ShardReport::SyncDone(request)));
    }
}

fn send_copies<P: Clone>(
    member: &Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    resync: &mut Resync,
) {
    if resync.refused.is_some_and(|(_, until)| cx.now < until) {
        return;
    }
    let rate = rate(cx.core);
    cx.core.upkeep.resync.pass(cx.now, rate);
    let most = copies_at_a_time(cx.core);
    while cx.core.copies < most {
        if guard::holds(Guard::ResyncBudget) && !cx.core.upkeep.resync.has_room() {
            return;
        }
        let Some((key, len)) = resync.copies.pop_front() else { return };
        let info = cx.index.info(member.group, key);
        let suspect = info.as_ref().is_some_and(|info| info.suspect);
        if guard::holds(Guard::SuspectLoses) && (suspect || member.repairs.holds(key)) {
            resync.damaged.insert((key, len));
            continue;
        }
        if member.writes.is_flying(key) {
            // A version in flight may still fail and take the copy with it.
            resync.damaged.insert((key, len));
            continue;
        }
        if dead::is_dead(member, key.fid) {
            resync.bytes_left -= u64::from(len);
            continue;
        }
        let by_write =
            |version: Version| version.epoch == member.epoch() && member.is_committed(version);
        if info.is_some_and(|info| by_write(info.version)) {
            resync.bytes_left -= u64::from(len); // A write brought it to every member.
            continue;
        }
        resync.copying += 1;
        calls::start(member, cx, target, CallKind::Copy(key, len));
    }
}

/// Bytes per second that copies may use.
pub fn rate(core: &Core) -> u64 {
    match core.orders.resync_bytes_per_s {
        0 => RESYNC_BYTES_PER_S_DEFAULT,
        ordered => ordered,
    }
}

/// Clients come first: while they keep the shard busy, copies go one by one.
fn copies_at_a_time(core: &Core) -> usize {
    if core.budget.clients.bytes() >= FOREGROUND_BUSY_BYTES { 1 } else { COPIES_PER_SHARD_MAX }
}

/// The member has no room: it is left in peace for a while, each time for longer.
fn refused<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>, target: TargetId, copy: (ChunkKey, u32)) {
    let Some(resync) = member.resync.get_mut(&target) else { return };
    resync.copying -= 1;
    resync.copies.push_front(copy);
    cx.core.upkeep.counts.resync_refused += 1;
    if resync.refused.is_some_and(|(_, until)| cx.now < until) {
        return; // Another copy of the same moment.
    }
    let least = Duration::from_millis(RESYNC_REFUSED_PAUSE_MIN_MS);
    let most = Duration::from_millis(RESYNC_REFUSED_PAUSE_MAX_MS);
    let pause = resync.refused.map_or(least, |(pause, _)| (pause * 2).min(most));
    resync.refused = Some((pause, cx.now.after(pause)));
    cx.out.push(Effect::Alert(Alert::NoRoom { group: member.group, target, pause }));
}

/// What a page of a member's inventory means.
struct Page {
    /// Chunks to copy.
    copies: Vec<(ChunkKey, u32)>,
    /// Chunks to set aside.
    extras: Vec<ChunkKey>,
    /// Versions to take over, with the lengths of their chunks.
    takes: Vec<((ChunkKey, Version), u32)>,
    /// Bytes here that were compared.
    bytes: u64,
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
    let open = |own: &InventoryEntry| member.writes.is_flying(own.key);
    // What the primary may have lost.
    let is_beyond = |entry: &&InventoryEntry| {
        let newer = ours.get(&entry.key).is_none_or(|own| own.version < entry.version);
        newer
            && !entry.suspect
            && !member.record.writable()
            && take::may_take(member, entry.version)
    };
    let beyond: BTreeMap<ChunkKey, &InventoryEntry> =
        theirs.values().filter(is_beyond).map(|entry| (entry.key, entry)).collect();
    let differs = |own: &InventoryEntry| differs(own, theirs.get(&own.key)) || open(own);
    let copies = ours.values().filter(|own| differs(own) && !beyond.contains_key(&own.key));
    // A chunk of this epoch came from this primary, whose own copy may still be on its way. Other
    // bytes under the same version are kept for whoever wants to know why, and copied anew.
    let is_extra = |entry: &&InventoryEntry| {
        let strange = ours.get(&entry.key).is_none_or(|own| is_twin(own, entry));
        strange && entry.version.epoch < member.epoch() && !beyond.contains_key(&entry.key)
    };
    Page {
        bytes: ours.values().map(|own| u64::from(own.chunk_len)).sum(),
        copies: copies.map(|own| (own.key, own.chunk_len)).collect(),
        extras: theirs.values().filter(is_extra).map(|entry| entry.key).collect(),
        takes: beyond.values().map(|it| ((it.key, it.version), it.chunk_len)).collect(),
        cursor: reach.or(after),
        end: reach.is_none(),
    }
}

/// True when both trust other bytes under one version.
fn is_twin(own: &InventoryEntry, theirs: &InventoryEntry) -> bool {
    let trusted = !own.suspect && !theirs.suspect;
    trusted && theirs.version == own.version && theirs.hash != own.hash
}

fn differs(own: &InventoryEntry, theirs: Option<&InventoryEntry>) -> bool {
    theirs.is_none_or(|theirs| {
        (theirs.suspect && guard::holds(Guard::SuspectLoses))
            || theirs.version != own.version
            || theirs.hash != own.hash
    })
}
