//! The coordinator's orders about single files: chunks to cut, lengths to report.
//!
//! A cut is a truncation like a client's: it gets a version, goes through the chunk's queue and is
//! durable on every member before it is reported. Its operation is named by session 0, which no
//! client has, and the truncation generation as the sequence number, so a new primary recognises
//! what the one before began. A chunk whose truncation generation is the order's or a newer one was
//! cut before; that makes orders that come twice or late harmless.
//!
//! A file is measured when nothing of it is on its way, so that the lengths are final unless
//! somebody writes again. Orders live as long as the epoch; the coordinator repeats them.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{ChunkKey, Fid, OpId, Seq, SessionId};
use protocol::limits::{FILE_ORDERS_MAX, MEASURED_CHUNKS_MAX};
use protocol::message::chunk::{WriteClass, WriteRequest};
use protocol::message::heal::{
    ChunkLen, FileReportsRequest, GroupOrders, GroupReports, Measure, Measured, Trim,
};

use super::member::{Cx, Member, Phase};
use super::write;
use crate::io::Nanos;
use crate::limits::{FILE_ORDERS_WAITING_MAX, TRIMS_IN_FLIGHT_MAX};
use crate::shard::control::ShardReport;
use crate::shard::effect::Effect;
use crate::store::ChunkInfo;

/// Session of the operations that cut chunks; no client has it.
pub const TRIM_SESSION: SessionId = SessionId(0);

/// Work on single files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOrders {
    /// Files being cut.
    pub trims: BTreeMap<Fid, TrimWork>,
    /// Files to measure.
    pub measures: BTreeMap<Fid, Measure>,
    /// When to look again after a cut was refused.
    pub retry_at: Nanos,
}

/// A file being cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrimWork {
    /// The order.
    pub trim: Trim,
    /// Chunks up to here were looked at.
    pub cursor: Option<ChunkKey>,
    /// True when all of them were.
    pub listed: bool,
    /// Chunks whose cut is on its way.
    pub cutting: BTreeSet<ChunkKey>,
}

impl FileOrders {
    /// True when nothing is to be done.
    pub fn is_idle(&self) -> bool {
        self.trims.is_empty() && self.measures.is_empty()
    }
}

/// Takes over orders; what does not fit is left to the coordinator, who repeats it.
pub fn on_orders<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, orders: GroupOrders) {
    if !member.is_primary() {
        return;
    }
    let files = &mut member.files;
    for trim in orders.trims {
        let newer =
            files.trims.get(&trim.fid).is_none_or(|have| have.trim.trunc_gen < trim.trunc_gen);
        if newer && files.trims.len() < FILE_ORDERS_WAITING_MAX {
            let cutting = BTreeSet::new();
            let work = TrimWork { trim, cursor: None, listed: false, cutting };
            files.trims.insert(trim.fid, work);
        }
    }
    for measure in orders.measures {
        if files.measures.len() < FILE_ORDERS_WAITING_MAX {
            files.measures.insert(measure.fid, measure);
        }
    }
    advance(member, cx);
}

/// Moves the work on every file on and reports what is done.
pub fn advance<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.files.trims.is_empty() && member.files.measures.is_empty() {
        return;
    }
    if !member.is_primary() {
        member.files = FileOrders::default(); // The coordinator asks the new primary.
        return;
    }
    let active = member.phase == Phase::Ready && member.record.active && member.record.writable();
    if !active || cx.core.fenced || cx.now < member.files.retry_at {
        return;
    }
    let mut trimmed = Vec::new();
    let fids: Vec<Fid> = member.files.trims.keys().copied().take(FILE_ORDERS_MAX).collect();
    for fid in fids {
        let Some(mut work) = member.files.trims.remove(&fid) else { continue };
        if cut(member, cx, &mut work) {
            trimmed.push((fid, work.trim.trunc_gen));
        } else {
            member.files.trims.insert(fid, work);
        }
    }
    let measured = measure_all(member, cx);
    if !trimmed.is_empty() || !measured.is_empty() {
        let group = GroupReports { group: member.group, trimmed, measured };
        let report = FileReportsRequest { groups: vec![group] };
        cx.out.push(Effect::Report(ShardReport::FileReports(report)));
    }
}

/// Ends the work of an epoch; what was on its way is looked at again in the next.
pub fn leave(files: &mut FileOrders) {
    files.retry_at = Nanos(0);
    for work in files.trims.values_mut() {
        *work = TrimWork { cursor: None, listed: false, cutting: BTreeSet::new(), ..work.clone() };
    }
}

/// True when a write is of a time before a cut of its file that is on its way.
pub fn is_cut<P>(member: &Member<P>, fid: Fid, trunc_gen: u32) -> bool {
    member.files.trims.get(&fid).is_some_and(|work| trunc_gen < work.trim.trunc_gen)
}

/// Cuts chunks of one file, some at a time; true when every one is cut on every member.
fn cut<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, work: &mut TrimWork) -> bool {
    let trim = work.trim;
    let mut refused = false;
    for key in std::mem::take(&mut work.cutting) {
        if member.writes.has_op(key, op_of(&trim)) {
            work.cutting.insert(key);
        } else if !is_done(member, cx, key, &trim) {
            refused |= !submit(member, cx, key, &trim);
            work.cutting.insert(key);
        }
    }
    while !refused && !work.listed && work.cutting.len() < TRIMS_IN_FLIGHT_MAX {
        let Some(key) = next_chunk(member, cx, work) else {
            work.listed = true;
            break;
        };
        work.cursor = Some(key);
        if !is_done(member, cx, key, &trim) {
            refused |= !submit(member, cx, key, &trim);
            work.cutting.insert(key);
        }
    }
    if refused {
        member.files.retry_at = cx.now.after(cx.core.config.timeouts.resend);
    }
    work.listed && work.cutting.is_empty()
}

/// The next chunk that reaches beyond the new end of the file or begins there.
fn next_chunk<P>(member: &Member<P>, cx: &Cx<'_, P>, work: &TrimWork) -> Option<ChunkKey> {
    let trim = &work.trim;
    let first = u32::try_from(trim.len >> trim.chunk_log2).ok()?;
    let after = work.cursor.or_else(|| before(ChunkKey { fid: trim.fid, index: first }));
    let (entries, _) = cx.index.inventory(member.group, after, 1);
    entries.first().map(|entry| entry.key).filter(|key| key.fid == trim.fid)
}

/// True when the chunk was cut for this order or a later one and every member knows.
fn is_done<P>(member: &Member<P>, cx: &Cx<'_, P>, key: ChunkKey, trim: &Trim) -> bool {
    let info = cx.index.info(member.group, key);
    info.is_none_or(|info| info.trunc_gen >= trim.trunc_gen && member.is_committed(info.version))
}

/// Puts the cut of one chunk in its queue; false when it was refused for now.
fn submit<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    key: ChunkKey,
    trim: &Trim,
) -> bool {
    let Some(info) = cx.index.info(member.group, key) else { return true };
    let start = u64::from(key.index) << trim.chunk_log2;
    let left = u32::try_from(trim.len.saturating_sub(start)).unwrap_or(u32::MAX);
    let request = cut_request(member, key, trim, &info, left);
    write::admit_own(member, cx, request)
}

fn cut_request<P>(
    member: &Member<P>,
    key: ChunkKey,
    trim: &Trim,
    info: &ChunkInfo,
    left: u32,
) -> WriteRequest {
    let len = left.min(info.chunk_len);
    WriteRequest {
        group: member.group,
        key,
        op: op_of(trim),
        attempt: 0,
        class: WriteClass::Truncate,
        offset: len,
        len: 0,
        expect_len: len,
        trunc_gen: trim.trunc_gen,
        cell_log2: info.cell_log2,
        chunk_log2: info.chunk_log2,
        handle: Default::default(),
        sums: Vec::new(),
        aux: Vec::new(),
    }
}

fn op_of(trim: &Trim) -> OpId {
    OpId { session: TRIM_SESSION, seq: Seq(u64::from(trim.trunc_gen)) }
}

/// Measures the files of which nothing is on its way.
fn measure_all<P>(member: &mut Member<P>, cx: &Cx<'_, P>) -> Vec<Measured> {
    if cx.core.lease <= cx.now {
        return Vec::new(); // Another primary may have gone on.
    }
    let asked: Vec<Measure> =
        member.files.measures.values().copied().take(FILE_ORDERS_MAX).collect();
    let done: Vec<Measured> = asked.iter().filter_map(|it| measure(member, cx, it)).collect();
    for measured in &done {
        member.files.measures.remove(&measured.fid);
    }
    done
}

fn measure<P>(member: &Member<P>, cx: &Cx<'_, P>, asked: &Measure) -> Option<Measured> {
    let fid = asked.fid;
    let first = ChunkKey { fid, index: 0 };
    let last = ChunkKey { fid, index: u32::MAX };
    if member.writes.chunks.range(first..=last).next().is_some() {
        return None;
    }
    let mut chunks = Vec::new();
    let mut after = before(ChunkKey { fid, index: asked.first_chunk });
    while chunks.len() < MEASURED_CHUNKS_MAX {
        let (entries, more) = cx.index.inventory(member.group, after, MEASURED_CHUNKS_MAX);
        for entry in entries.iter().take_while(|entry| entry.key.fid == fid) {
            if !member.is_committed(entry.version) {
                return None; // Frozen or being settled.
            }
            chunks.push(ChunkLen { index: entry.key.index, len: entry.chunk_len });
        }
        after = entries.last().map(|entry| entry.key);
        if !more || after.is_none_or(|after| after.fid != fid) {
            break;
        }
    }
    chunks.truncate(MEASURED_CHUNKS_MAX);
    Some(Measured { fid, chunks })
}

/// The greatest key below a key; `None` for the least one.
fn before(key: ChunkKey) -> Option<ChunkKey> {
    match (key.index.checked_sub(1), key.fid.0.checked_sub(1)) {
        (Some(index), _) => Some(ChunkKey { index, ..key }),
        (None, Some(fid)) => Some(ChunkKey { fid: Fid(fid), index: u32::MAX }),
        (None, None) => None,
    }
}
