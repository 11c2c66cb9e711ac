//! Comparison: once a day, with every ordered scrub, when it begins to lead and when somebody serves
//! in a new generation, the primary asks the other members what the group amounts to there, and finds
//! the chunks where somebody silently differs. A device that lost writes which it had confirmed shows
//! at the next start of its node, and there nothing else tells.
//!
//! Digests say something only while nothing is on its way: no write, no pending, no deletion, every
//! member at the same mark. A difference counts when it is there again after a while; then the
//! members' lists are compared, and a chunk counts when two such comparisons found exactly the same.
//! Of what the serving members hold of it the newest version is right, because what is acknowledged
//! is on all of them; of other bytes under one version those that most of them have, and the
//! primary's where that decides nothing.
//!
//! Who is wrong cannot stay a serving member: it lacks something acknowledged. So the primary asks
//! for its eviction, of itself when it is the one. Where it is wrong together with others, it leaves
//! right after the first of them: who comes back is made equal to it. Whoever left comes back as a
//! syncing member, and resync sets aside what it alone had and copies the rest. Nobody is removed
//! from a group that lacks replicas and could not be written without it: the difference is reported,
//! and found again once the group has its replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::cluster_map::{GroupRecord, Member as Entry, Role};
use protocol::guard::{self, Guard};
use protocol::ids::{ChunkKey, GroupId, TargetId};
use protocol::message::chunk::{InventoryEntry, InventoryReply};
use protocol::message::cluster::EvictRequest;
use protocol::message::heal::DigestReply;

use super::calls::{self, CallKind};
use super::judge::{Differences, Held, Turn, wrong};
use super::member::{Cx, Member, Phase};
use crate::io::Nanos;
use crate::limits::{
    COMPARE_AGAIN_MS, COMPARE_CHUNKS_MAX, COMPARE_EVERY_MS, COMPARE_LATER_MS, COMPARE_PATIENCE_MS,
    COMPARE_SETTLE_MS, RESYNC_PAGE,
};
use crate::shard::control::ShardReport;
use crate::shard::effect::{Alert, Effect, Refusal, ReplyBody};
use crate::shard::event::{Answer, Asked};
use crate::shard::state::Core;

/// How equal the members of a group are, as its primary knows.
#[derive(Clone, Debug, Default)]
pub struct Compare {
    /// When the last comparison ended, or this target began to lead the group.
    last: Option<Nanos>,
    /// Ordered scrub pass that the last comparison was for, or that ended without one.
    pass: u32,
    /// Since when an ordered pass waits for a comparison.
    ordered: Option<Nanos>,
    step: Step,
    /// When a difference is looked at again.
    again: Option<Nanos>,
    /// Times in a row that the digests differed.
    strikes: u32,
    /// Differences of this look at the lists, and of the one before.
    found: Differences,
    before: Differences,
    /// The primary is wrong too and leaves after another one.
    turn: Option<Turn>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    /// Digests of these members are awaited; whether another one differed, or was not at rest.
    Digests { waiting: BTreeSet<TargetId>, differs: bool, restless: bool },
    /// Lists of these members are awaited.
    Lists { waiting: BTreeSet<TargetId> },
}

impl Compare {
    /// Has the group compared before long.
    fn settle(&mut self, now: Nanos) {
        self.again.get_or_insert(now.after(Duration::from_millis(COMPARE_SETTLE_MS)));
    }

    /// True while an ordered pass waits for a comparison; not for ever.
    fn is_ordered(&mut self, now: Nanos, pass: u32) -> bool {
        if pass <= self.pass {
            self.ordered = None;
            return false;
        }
        let since = *self.ordered.get_or_insert(now);
        if now.since(since) >= Duration::from_millis(COMPARE_PATIENCE_MS) {
            self.pass = pass;
            return false;
        }
        true
    }
}

/// Has a member removed; the next epoch comes with the map.
fn remove<P>(member: &Member<P>, cx: &mut Cx<'_, P>, target: TargetId) {
    let (group, epoch, reporter) = (member.group, member.epoch(), cx.core.me());
    let request = EvictRequest { group, epoch, target, reporter };
    cx.out.push(Effect::Report(ShardReport::Evict(request)));
}

/// Begins a comparison when it is due and nothing is on its way.
pub fn tick<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    if !member.is_primary() || !guard::holds(Guard::DigestCompare) {
        member.compare = Compare::default();
        return;
    }
    let turn = member.compare.turn.as_ref();
    if let Some(leaves) = turn.and_then(|turn| turn.is_now(cx.core.me(), &member.record)) {
        member.compare.turn = None;
        if leaves {
            remove(member, cx, cx.core.me());
        }
    }
    let compare = &mut member.compare;
    if compare.last.is_none() {
        compare.settle(cx.now); // It leads from now on.
    }
    let last = *compare.last.get_or_insert(cx.now);
    let ordered = compare.is_ordered(cx.now, cx.core.orders.scrub_pass);
    let due = match compare.again {
        Some(again) => cx.now >= again,
        None => ordered || cx.now.since(last) >= cx.core.config.timeouts.compare,
    };
    let turn = cx.now >= cx.core.upkeep.compare_at && cx.core.stopping.is_none();
    if compare.step != Step::Idle || !due || !turn || !is_quiet(member, cx) {
        return;
    }
    cx.core.upkeep.compare_at = cx.now.after(Duration::from_millis(COMPARE_EVERY_MS));
    let waiting = ask(member, cx, |_| CallKind::Digest);
    if waiting.is_empty() {
        done(member, cx);
    } else {
        member.compare.step = Step::Digests { waiting, differs: false, restless: false };
    }
}

/// Notes the newest ordered pass that is finished here: everything was read, and every group that is
/// led from here was compared or passed over.
pub fn note_pass<P>(groups: &BTreeMap<GroupId, Member<P>>, core: &mut Core) {
    let finished = core.upkeep.scrub.finished;
    let compared = |member: &Member<P>| !member.is_primary() || member.compare.pass >= finished;
    if core.upkeep.scrub.reported < finished && groups.values().all(compared) {
        core.upkeep.scrub.reported = finished;
    }
}

/// Has the group compared before long when somebody serves in the next epoch who did not
/// catch up for it, but came back and was believed.
pub fn on_record(compare: &mut Compare, now: Nanos, before: &GroupRecord, next: &GroupRecord) {
    let known = |entry: &Entry| {
        let old = before.member(entry.target);
        old.is_some_and(|old| old.generation == entry.generation)
    };
    if !next.serving().all(known) {
        compare.settle(now);
    }
}

/// Says what the group amounts to here.
///
/// # Errors
/// The refusal to answer with.
pub fn on_asked<P>(member: &Member<P>, cx: &mut Cx<'_, P>, asked: &Asked) -> Result<(), Refusal> {
    super::follow::check_asked(member, cx, asked)?;
    let mine = cx.index.digest(member.group);
    let reply = DigestReply {
        chunks: mine.chunks,
        bytes: mine.bytes,
        hash: mine.hash,
        committed_through: mine.committed_through,
        pendings: u32::try_from(mine.pendings).unwrap_or(u32::MAX),
    };
    cx.reply(asked.reply, asked.epoch, Ok(ReplyBody::Digest(reply)));
    Ok(())
}

/// Compares a member's digest with the own one; true when the call has ended.
pub fn on_digest<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    answer: &Answer,
) -> bool {
    let theirs = match answer {
        Answer::Digest(theirs) => Some(theirs),
        _ => None, // It was not at rest, or does not know the question.
    };
    let mine = cx.index.digest(member.group);
    let quiet = is_quiet(member, cx);
    let Step::Digests { waiting, differs, restless } = &mut member.compare.step else {
        return true;
    };
    waiting.remove(&target);
    let same_mark = |it: &&DigestReply| it.committed_through == mine.committed_through;
    let settled = theirs.filter(|it| it.pendings == 0 && mine.pendings == 0).filter(same_mark);
    *restless |= !quiet || settled.is_none();
    let own = (mine.chunks, mine.bytes, mine.hash);
    *differs |= settled.is_some_and(|it| own != (it.chunks, it.bytes, it.hash));
    if !waiting.is_empty() {
        return true;
    }
    match (*restless, *differs) {
        (true, _) => again(member, cx),
        (false, false) => done(member, cx),
        (false, true) => {
            member.compare.strikes += 1;
            if member.compare.strikes < STRIKES {
                again(member, cx);
            } else {
                member.compare.found.clear();
                let waiting = ask(member, cx, |_| CallKind::List(None));
                member.compare.step = Step::Lists { waiting };
            }
        }
    }
    true
}

/// Compares a page of a member's list; true when the call has ended.
pub fn on_list<P: Clone>(
    member: &mut Member<P>,
    cx: &mut Cx<'_, P>,
    target: TargetId,
    after: Option<ChunkKey>,
    answer: &Answer,
) -> bool {
    if !matches!(member.compare.step, Step::Lists { .. }) {
        return true;
    }
    let Answer::Inventory(theirs) = answer else {
        again(member, cx);
        return true;
    };
    if let Some(next) = compare_page(member, cx, target, after, theirs) {
        calls::start(member, cx, target, CallKind::List(Some(next)));
        return true;
    }
    let Step::Lists { waiting } = &mut member.compare.step else { return true };
    waiting.remove(&target);
    if waiting.is_empty() {
        judge(member, cx);
    }
    true
}

/// Forgets what belongs to an epoch that has ended; a difference is looked for again.
pub fn leave(compare: &mut Compare) {
    let differed = compare.strikes > 0;
    let Compare { last, pass, ordered, again, turn, .. } = std::mem::take(compare);
    let again = if differed { Some(Nanos(0)) } else { again };
    *compare = Compare { last, pass, ordered, again, turn, ..Compare::default() };
}

/// Looks again after a while.
fn again<P>(member: &mut Member<P>, cx: &Cx<'_, P>) {
    member.compare.step = Step::Idle;
    member.compare.again = Some(cx.now.after(Duration::from_millis(COMPARE_AGAIN_MS)));
}

/// The members are equal, as far as anything can be done about it.
fn done<P>(member: &mut Member<P>, cx: &Cx<'_, P>) {
    let (last, pass) = (Some(cx.now), cx.core.orders.scrub_pass);
    member.compare = Compare { last, pass, ..Compare::default() };
}

/// Asks every other serving member; who was asked.
fn ask<P: Clone>(
    member: &Member<P>,
    cx: &mut Cx<'_, P>,
    kind: impl Fn(TargetId) -> CallKind,
) -> BTreeSet<TargetId> {
    let others = member.others(cx.core.me());
    let backups = others.iter().filter(|entry| entry.role == Role::Backup);
    let targets: BTreeSet<TargetId> = backups.map(|entry| entry.target).collect();
    for &target in &targets {
        calls::start(member, cx, target, kind(target));
    }
    targets
}

/// True while no change of the group is on its way and every member serves.
fn is_quiet<P>(member: &Member<P>, cx: &Cx<'_, P>) -> bool {
    let at_rest = member.phase == Phase::Ready && member.storing == 0 && member.dead.is_empty();
    let writes = member.writes.chunks.is_empty() && member.writes.in_flight.is_empty();
    let serving = member.record.members.iter().all(|entry| entry.role != Role::Syncing);
    let active = member.record.active && member.record.writable();
    at_rest && writes && serving && active && !cx.core.fenced && member.files.is_idle()
}

/// Notes where a page of a member's list differs; where to go on, or nothing at the end.
fn compare_page<P>(
    member: &mut Member<P>,
    cx: &Cx<'_, P>,
    target: TargetId,
    after: Option<ChunkKey>,
    theirs: &InventoryReply,
) -> Option<ChunkKey> {
    let (ours, more) = cx.index.inventory(member.group, after, RESYNC_PAGE);
    let our_reach = ours.last().filter(|_| more).map(|entry| entry.key);
    let their_reach = theirs.entries.last().filter(|_| theirs.more).map(|entry| entry.key);
    let reach = our_reach.into_iter().chain(their_reach).min();
    let by_key = |entries: &[InventoryEntry]| -> BTreeMap<ChunkKey, InventoryEntry> {
        let within = entries.iter().filter(|it| reach.is_none_or(|reach| it.key <= reach));
        within.map(|entry| (entry.key, entry.clone())).collect()
    };
    let (ours, theirs) = (by_key(&ours), by_key(&theirs.entries));
    let keys: BTreeSet<ChunkKey> = ours.keys().chain(theirs.keys()).copied().collect();
    for key in keys {
        let (own, other) = (ours.get(&key), theirs.get(&key));
        let suspect = own.into_iter().chain(other).any(|entry| entry.suspect);
        // What is known to be damaged is repaired anyway.
        if held(own) == held(other) || suspect || member.repairs.holds(key) {
            continue;
        }
        let found = &mut member.compare.found;
        if found.contains_key(&key) || found.len() < COMPARE_CHUNKS_MAX {
            let entry = found.entry(key).or_default();
            entry.insert(cx.core.me(), held(own));
            entry.insert(target, held(other));
        }
    }
    reach
}

fn held(entry: Option<&InventoryEntry>) -> Held {
    entry.map(|entry| (entry.version, entry.hash))
}

/// Decides who is wrong about what was found twice, and has one of them removed.
fn judge<P: Clone>(member: &mut Member<P>, cx: &mut Cx<'_, P>) {
    let me = cx.core.me();
    let found = std::mem::take(&mut member.compare.found);
    let before = std::mem::replace(&mut member.compare.before, found.clone());
    let serving: Vec<TargetId> = member.record.serving().map(|entry| entry.target).collect();
    let mut guilty: BTreeMap<TargetId, ChunkKey> = BTreeMap::new();
    for (key, holders) in found.iter().filter(|(key, held)| before.get(*key) == Some(*held)) {
        for target in wrong(me, &serving, holders) {
            cx.core.upkeep.counts.differing += 1;
            guilty.entry(target).or_insert(*key);
        }
    }
    // One at a time, itself last; the others are found again when it is back.
    let first = guilty.iter().min_by_key(|(target, _)| (**target == me, **target));
    let Some((&target, &key)) = first else {
        // Something was still on its way, or is damage that is known; not for ever.
        return if member.compare.strikes < STRIKES_MAX {
            again(member, cx)
        } else {
            done(member, cx)
        };
    };
    let group = member.group;
    cx.out.push(Effect::Alert(Alert::Differs { group, key, target }));
    let record = &member.record;
    let complete = serving.len() >= usize::from(record.replicas);
    if complete || serving.len() > usize::from(record.min_write).max(1) {
        let right = serving.into_iter().filter(|target| !guilty.contains_key(target)).collect();
        let turn = Turn { since: member.epoch(), right };
        let too = target != me && guilty.contains_key(&me);
        member.compare.turn = too.then_some(turn);
        remove(member, cx, target);
        again(member, cx);
    } else {
        member.compare.step = Step::Idle;
        member.compare.again = Some(cx.now.after(Duration::from_millis(COMPARE_LATER_MS)));
    }
}

/// Times in a row that digests must differ before the lists are compared.
const STRIKES: u32 = 2;
/// Times in a row after which a difference that nobody is guilty of is left for the next period.
const STRIKES_MAX: u32 = 6;
