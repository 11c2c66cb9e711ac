//! Forgetting: a target gives back the space of a group that goes on without it for good.
//!
//! Unconditional deletion is the classic loss of data, so the rule asks for more than that this
//! target is no member. It frees a group's chunks only while the newest map, a committed record of
//! the coordinator, says all of this: the group is active, has all its replicas serving and may
//! acknowledge writes; its epoch is newer than the one adopted here; it names this target neither
//! as a member, in whatever generation, nor as one to let in again, nor as one whose lease is
//! waited for; and the node's lease runs, so the map is no old one.
//!
//! That is enough because of what the coordinator keeps: with the first epoch that may acknowledge
//! writes, whoever does not serve in it is struck from the targets that may revive the group, and
//! comes back only by resync (`coordinator/src/state/ledger.rs`). What is here can then neither
//! serve nor repair anybody any more. It is kept for [`FORGET_AFTER_MS`] all the same.
//!
//! What was set aside stays: it may be the one good copy, and the census decides about it. Batches
//! are small and rare, end before another epoch is adopted, and go through the journal, so a
//! restart in the middle goes on with the rest: the groups on the device are compared with the map.

use std::time::Duration;

use protocol::cluster_map::GroupRecord;
use protocol::guard::{self, Guard};
use protocol::ids::TargetId;

use super::member::{Cx, Member};
use crate::limits::{FOREGROUND_BUSY_BYTES, FORGET_AFTER_MS, FORGET_EVERY_MS, FORGET_FILES_MAX};
use crate::shard::effect::Task;
use crate::shard::state::Job;

/// Frees a few files more of a group that this target left, when it is time.
pub fn tick<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if member.role.is_some() || !may_forget(member, cx) {
        member.unneeded = None;
        return;
    }
    let since = *member.unneeded.get_or_insert(cx.now);
    let waited = cx.now.since(since) >= Duration::from_millis(FORGET_AFTER_MS);
    let turn = cx.now >= cx.core.upkeep.forget_at && cx.now >= member.store_retry_at;
    let busy = cx.core.budget.clients.bytes() >= FOREGROUND_BUSY_BYTES;
    let idle = member.storing == 0 && !cx.core.fenced && cx.core.stopping.is_none();
    if !waited || !turn || busy || !idle {
        return;
    }
    let files = cx.index.files(member.group, FORGET_FILES_MAX);
    if files.is_empty() {
        return;
    }
    cx.core.upkeep.forget_at = cx.now.after(Duration::from_millis(FORGET_EVERY_MS));
    cx.core.upkeep.counts.files_forgotten += files.len() as u64;
    let task = Task::Drop(member.group, files);
    cx.store(&mut member.storing, Job::Forget(member.group), task);
}

/// Notes how a batch ended; what is still there is found again.
pub fn on_forgotten<P>(member: &mut Member<P>, cx: &mut Cx<'_, P>, durable: bool) {
    if !durable {
        member.store_retry_at = cx.now.after(cx.core.config.timeouts.silence);
    }
}

fn may_forget<P>(member: &Member<P>, cx: &Cx<'_, P>) -> bool {
    if !guard::holds(Guard::KeptUntilWhole) {
        return true;
    }
    let newer = member.record.epoch > member.adopted;
    newer && cx.core.lease > cx.now && goes_on_without(&member.record, cx.core.me())
}

/// True when a group has everything it should have and waits for nothing of a target.
fn goes_on_without(record: &GroupRecord, target: TargetId) -> bool {
    let named = record.member(target).is_some()
        || record.evicted.contains(&target)
        || record.departed.contains(&target);
    record.healthy() && record.writable() && record.mutations && !named
}
