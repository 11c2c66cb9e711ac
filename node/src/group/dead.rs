//! Dead files: the primary deletes their chunks here and on every member, then says so.

use std::collections::BTreeSet;

use protocol::guard::{self, Guard};
use protocol::ids::{Fid, GroupId, TargetId};
use protocol::message::cluster::DropDoneRequest;

use super::calls::{self, CallKind};
use super::member::{Cx, DeadFiles, Member, Phase};
use crate::limits::DEAD_FILES_WAITING_MAX;
use crate::shard::control::ShardReport;
use crate::shard::effect::{Effect, Task};
use crate::shard::event::Answer;
use crate::shard::state::{Core, Job};

/// Takes over dead files; what does not fit is left to the coordinator, who repeats it.
pub fn on_files<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, mut fids: Vec<Fid>) {
    fids.retain(|fid| !member.dead.iter().any(|dead| dead.fids.contains(fid)));
    if !member.is_primary() || fids.is_empty() || member.dead.len() >= DEAD_FILES_WAITING_MAX {
        return;
    }
    member.dead.push_back(DeadFiles { fids, waiting: BTreeSet::new(), started: false });
    advance(member, cx);
}

/// True for a file that is deleted before long: it is not copied any more.
pub fn is_dead<P>(member: &Member<P>, fid: Fid) -> bool {
    member.dead.iter().any(|dead| dead.fids.contains(&fid))
}

/// Starts the next deletion when no write of its files is in flight, and no copy: it goes over a
/// connection of its own, and would bring back there what was deleted.
pub fn advance<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if !member.is_primary() {
        member.dead.clear(); // The coordinator asks the new primary.
        return;
    }
    let active = member.phase == Phase::Ready && member.record.active;
    let Some(dead) = member.dead.front_mut().filter(|dead| active && !dead.started) else {
        return;
    };
    let busy = member.writes.chunks.keys().any(|key| dead.fids.contains(&key.fid))
        || member.takes.is_busy_with(&dead.fids)
        || (guard::holds(Guard::CopiesBeforeDrop) && is_copied(cx.core, member.group, &dead.fids));
    if busy || cx.now < member.store_retry_at {
        return;
    }
    dead.started = true;
    let fids = dead.fids.clone();
    dead.waiting = member.record.members.iter().map(|entry| entry.target).collect();
    let (group, epoch) = (member.group, member.record.epoch);
    let task = Task::Drop(group, fids.clone());
    cx.store(&mut member.storing, Job::LocalDrop(group, epoch), task);
    for entry in member.others(cx.core.me()) {
        calls::start(member, cx, entry.target, CallKind::Drop(fids.clone()));
    }
}

/// True while a chunk of these files is on its way to a syncing member.
fn is_copied(core: &Core, group: GroupId, fids: &[Fid]) -> bool {
    let mut calls = core.calls.values().filter(|call| call.group == group);
    calls.any(|call| matches!(&call.kind, CallKind::Copy(key, _) if fids.contains(&key.fid)))
}

/// Notes a member's answer to a deletion; true when the call has ended.
pub fn on_answer<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    fids: &[Fid],
    answer: &Answer,
) -> bool {
    if *answer != Answer::Done {
        return false;
    }
    if member.dead.front().is_some_and(|dead| dead.started && dead.fids == fids) {
        dropped(member, cx, target);
    }
    true
}

/// Notes that the local deletion ended.
pub fn on_local<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, durable: bool) {
    if durable {
        dropped(member, cx, cx.core.me());
    } else if let Some(dead) = member.dead.front_mut() {
        dead.started = false; // Deleting again where it is done is harmless.
        member.store_retry_at = cx.now.after(cx.core.config.timeouts.resend);
    }
}

fn dropped<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>, target: TargetId) {
    let Some(dead) = member.dead.front_mut() else { return };
    dead.waiting.remove(&target);
    if !dead.started || !dead.waiting.is_empty() {
        return;
    }
    let Some(done) = member.dead.pop_front() else { return };
    let request = DropDoneRequest { groups: vec![(member.group, done.fids)] };
    cx.out.push(Effect::Report(ShardReport::DropDone(request)));
    advance(member, cx);
}
