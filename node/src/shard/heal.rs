//! Orders and facts of what heals replicas, and where they go in the step.

use std::collections::BTreeMap;

use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, RequestId, TargetId, Version};
use protocol::message::heal::{FetchReply, ReportCorruptRequest};
use protocol::status::Status;

use super::event::{Answer, ReplyTo};
use crate::group::member::{Cx, Member};
use crate::group::{census, repair, scrub, take};

/// An order to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealOrder {
    /// Read cells and answer with them; [`HealEvent::FetchServed`] when done.
    ServeFetch(ReplyTo, Epoch, FetchTask),
    /// Read cells again, past all caches, and answer whoever asked; [`HealEvent::Rechecked`] when
    /// done.
    Recheck(Option<(ReplyTo, Epoch)>, ReportCorruptRequest),
    /// Check some bytes more of what is here; [`HealEvent::Scrubbed`] when done.
    Scrub {
        /// True at the start of a pass.
        restart: bool,
        /// About as many.
        bytes: u64,
    },
    /// Ask the coordinator about the files of what is set aside.
    Census,
    /// Free what is set aside of these dead files and is old enough.
    Release(Vec<(GroupId, Vec<Fid>)>),
}

/// Cells to read for another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchTask {
    /// Group that holds the chunk.
    pub group: GroupId,
    /// The chunk.
    pub key: ChunkKey,
    /// The version: exactly this one.
    pub version: Version,
    /// True when it is committed here.
    pub committed: bool,
    /// First byte; a multiple of the cell size.
    pub offset: u32,
    /// Bytes; also what is reserved for it.
    pub len: u32,
    /// True when every cell is checked before it is sent.
    pub verify: bool,
}

/// A fact about healing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealEvent<P> {
    /// A member sent cells.
    Fetched(TargetId, RequestId, Box<FetchReply>, P),
    /// Cells were sent, or could not be; so many bytes had been reserved.
    FetchServed(u32),
    /// A read of this shard met bytes that do not match their checksum.
    FoundCorrupt(ReportCorruptRequest),
    /// A recheck ended.
    Rechecked,
    /// A step of the scrub ended.
    Scrubbed {
        /// Bytes that were read.
        bytes: u64,
        /// True when the pass is over.
        last: bool,
    },
}

type Groups<P> = BTreeMap<GroupId, Member<P>>;

/// Takes in a fact.
pub fn on_event<P: Clone>(groups: &mut Groups<P>, cx: &mut Cx<'_, P>, event: HealEvent<P>) {
    match event {
        HealEvent::Fetched(target, request, reply, payload) => {
            let Some((group, fetch)) = take_fetch(cx, target, request) else { return };
            if let Some(member) = groups.get_mut(&group) {
                match fetch.takes {
                    true => take::on_fetched(member, cx, &fetch, &reply, payload),
                    false => repair::on_fetched(member, cx, &fetch, &reply, payload),
                }
            }
        }
        HealEvent::FetchServed(bytes) => cx.core.budget.peers.give(bytes),
        HealEvent::FoundCorrupt(report) => repair::on_found_corrupt(cx, report),
        HealEvent::Rechecked => cx.core.upkeep.rechecks -= 1,
        HealEvent::Scrubbed { bytes, last } => scrub::on_step(cx.core, bytes, last),
    }
}

/// Takes in an answer that refuses cells; true when it was one.
pub fn on_answer<P: Clone>(
    groups: &mut Groups<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    request: RequestId,
    answer: &Answer,
) -> bool {
    let Some((group, fetch)) = take_fetch(cx, target, request) else { return false };
    let status = match answer {
        Answer::Refused(status) => *status,
        _ => Status::Internal,
    };
    if let Some(member) = groups.get_mut(&group) {
        match fetch.takes {
            true => take::on_refused(member, cx.now, &fetch, status),
            false => repair::on_refused(member, cx.now, &fetch, status),
        }
    }
    true
}

/// Notes that a request did not leave.
pub fn on_unsent<P>(groups: &mut Groups<P>, cx: &mut Cx<'_, P>, request: RequestId) {
    let Some((group, fetch)) = cx.core.upkeep.fetches.remove(&request) else { return };
    if let Some(member) = groups.get_mut(&group) {
        match fetch.takes {
            true => take::on_unsent(member, cx.core, cx.now, &fetch),
            false => repair::on_unsent(member, cx.core, cx.now, &fetch),
        }
    }
}

/// Notes that the connection to a member is gone.
pub fn on_peer_lost<P>(groups: &mut Groups<P>, cx: &mut Cx<'_, P>, target: TargetId) {
    let of_target = cx.core.upkeep.fetches.iter().filter(|(_, (_, fetch))| fetch.target == target);
    let lost: Vec<RequestId> = of_target.map(|(request, _)| *request).collect();
    for request in lost {
        on_unsent(groups, cx, request);
    }
}

/// Lets time pass.
pub fn tick<P>(cx: &mut Cx<'_, P>) {
    repair::note_time(cx);
    scrub::tick(cx);
    census::tick(cx);
}

fn take_fetch<P>(
    cx: &mut Cx<'_, P>,
    target: TargetId,
    request: RequestId,
) -> Option<(GroupId, repair::Fetch)> {
    let fetches = &mut cx.core.upkeep.fetches;
    fetches.get(&request).filter(|(_, fetch)| fetch.target == target)?;
    fetches.remove(&request)
}
