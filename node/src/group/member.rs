//! The state of one member of one group, and what every rule needs at hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::cluster_map::{GroupRecord, Member as Entry, Role};
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, OpId, RequestId, TargetId, Version};
use protocol::limits::PENDINGS_PER_GROUP_MAX;

use super::ChunkIndex;
use super::compare::Compare;
use super::files::FileOrders;
use super::repair::Repairs;
use super::replicate::InFlight;
use super::resync::Resync;
use super::take::Takes;
use super::write::ChunkQueue;
use crate::io::Nanos;
use crate::shard::effect::{Effect, Effects, Refusal, ReplyBody, Task};
use crate::shard::event::{ConnId, JobId, ReplyTo};
use crate::shard::state::{Core, Job};
use crate::store::GroupInfo;

/// What this target is in one group and what it is doing there.
#[derive(Clone, Debug)]
pub struct Member<P> {
    /// The group.
    pub group: GroupId,
    /// Newest membership this shard knows.
    pub record: GroupRecord,
    /// Own role; `None` when the record does not name this incarnation of the target.
    pub role: Option<Role>,
    /// Newest epoch that is durable here.
    pub adopted: Epoch,
    /// How far the adoption of `record.epoch` has come.
    pub phase: Phase,
    /// Store tasks of the group that have not ended, whatever epoch they are of.
    pub storing: usize,
    /// Everything at or below is committed here.
    pub through: Version,
    /// As primary: writes.
    pub writes: Writes<P>,
    /// As backup or syncing member: what the primary asked for.
    pub follow: Follow,
    /// As primary: progress of activation.
    pub activation: Activation,
    /// As primary: progress of each syncing member.
    pub resync: BTreeMap<TargetId, Resync>,
    /// As primary: versions of other members that are taken over.
    pub takes: Takes,
    /// True when this start of the target serves without having caught up, until an epoch of it
    /// can be written.
    pub believed: bool,
    /// Damaged versions here and their repair.
    pub repairs: Repairs,
    /// As primary: dead files on their way out of the group.
    pub dead: VecDeque<DeadFiles>,
    /// As primary: what the coordinator wants done with single files.
    pub files: FileOrders,
    /// As primary: how equal the members are.
    pub compare: Compare,
    /// As primary: what is known of the other members' liveness.
    pub contacts: BTreeMap<TargetId, Contact>,
    /// As primary: when the activation was last reported.
    pub reported: Nanos,
    /// After the store refused a task: when to try again.
    pub store_retry_at: Nanos,
    /// No member: since when the map says that nothing here is needed.
    pub unneeded: Option<Nanos>,
}

/// How far the adoption of the newest epoch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Store tasks of older epochs have to end first.
    Fencing,
    /// The epoch is on its way to the journal.
    Adopting,
    /// Primary only: the other members adopt, pendings are settled.
    Activating,
    /// Adopted; for a primary: activation is finished.
    Ready,
}

/// The primary's writes.
#[derive(Clone, Debug)]
pub struct Writes<P> {
    /// Counter of the version assigned last in this epoch.
    pub counter: u32,
    /// Versions that are not on every member yet, oldest first.
    pub in_flight: BTreeMap<Version, InFlight<P>>,
    /// Chunks with a version in flight or writes waiting.
    pub chunks: BTreeMap<ChunkKey, ChunkQueue<P>>,
    /// Committed versions above the mark: an older one is still in flight.
    pub done: BTreeSet<Version>,
    /// The mark that members were told last.
    pub announced: Version,
    /// Versions that are on every member and wait for a lease: of members that left, or the own.
    pub held: BTreeSet<Version>,
    /// True while the mark may not pass what older epochs left pending: changes of existing bytes
    /// that members which left may still contradict.
    pub mark_held: bool,
}

/// What a backup or syncing member does for its primary.
#[derive(Clone, Debug, Default)]
pub struct Follow {
    /// Versions on their way to the device, by chunk, ascending.
    pub storing: BTreeMap<ChunkKey, Vec<Storing>>,
    /// Versions of this epoch that the primary had dropped, above the mark: a repeat that comes
    /// late must not bring one back. At most [`PENDINGS_PER_GROUP_MAX`], the newest.
    pub dropped: BTreeSet<Version>,
    /// Other tasks of the primary in the store.
    pub answering: usize,
    /// Adopt requests that wait for the epoch to be durable.
    pub adopts: Vec<ReplyTo>,
    /// Connection of the primary and when it was last told that work goes on.
    pub noticed: Option<(ConnId, Nanos)>,
}

/// A version on its way to the device of a backup or syncing member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storing {
    /// The version.
    pub version: Version,
    /// Who waits for it.
    pub waiters: Vec<ReplyTo>,
}

/// Progress of a new primary.
#[derive(Clone, Debug, Default)]
pub struct Activation {
    /// Members whose pendings are not known yet.
    pub adopts: BTreeSet<TargetId>,
    /// Members that have pendings to drop.
    pub discards: BTreeSet<TargetId>,
    /// Pendings to bring to a member under their old version.
    pub rolls: VecDeque<(TargetId, ChunkKey)>,
    /// Pendings being sent.
    pub rolling: usize,
    /// Pendings that are here and not trusted, undecided.
    pub doubts: BTreeMap<(ChunkKey, Version), Doubt>,
    /// Those of them that are to be dropped everywhere.
    pub drops: Vec<(ChunkKey, Version)>,
    /// Pendings that are here and that a serving member does not have at all.
    pub lacking: BTreeSet<(ChunkKey, Version)>,
    /// Those of them that turned out to be damaged here when they were to be sent, and to whom.
    pub broken: BTreeMap<(ChunkKey, Version), BTreeSet<TargetId>>,
}

/// What a primary knows of a pending that it has and does not trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    /// Members that have it and trust it.
    pub good: BTreeSet<TargetId>,
    /// True when a serving member does not have it at all.
    pub lacking: bool,
    /// Since when it is in doubt.
    pub since: Nanos,
}

impl Doubt {
    /// A pending of which nothing is known yet.
    pub fn new(now: Nanos) -> Doubt {
        Doubt { good: BTreeSet::new(), lacking: false, since: now }
    }
}

/// Dead files that are being deleted from every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadFiles {
    /// The files.
    pub fids: Vec<Fid>,
    /// Who has not deleted them yet, this target included; empty before the deletion starts.
    pub waiting: BTreeSet<TargetId>,
    /// True once the deletion has started in this epoch.
    pub started: bool,
}

/// What the primary knows of another member's liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Last sign of life about this group.
    pub heard: Nanos,
    /// True when its port refused the last connection.
    pub refused: bool,
    /// True when an answer showed that it cannot stay a member.
    pub accused: bool,
    /// When its eviction was last asked for.
    pub reported: Option<Nanos>,
    /// Free bytes of its target as it last said, and when.
    pub free: Option<(u64, Nanos)>,
}

/// What a rule has at hand besides the member: time, facts, the shard's tables, the way out.
pub struct Cx<'a, P> {
    /// Now.
    pub now: Nanos,
    /// Facts about chunks.
    pub index: &'a dyn ChunkIndex,
    /// Orders of this step.
    pub out: &'a mut Effects<P>,
    /// What the groups of a shard share.
    pub core: &'a mut Core,
}

impl<P> Member<P> {
    /// Makes a member that has adopted what the store says and knows no membership yet.
    pub fn new(group: GroupId, known: GroupInfo) -> Member<P> {
        Member {
            group,
            record: no_record(group),
            role: None,
            adopted: known.epoch,
            phase: Phase::Fencing,
            storing: 0,
            through: known.committed_through,
            writes: Writes::default(),
            follow: Follow::default(),
            activation: Activation::default(),
            resync: BTreeMap::new(),
            takes: Takes::default(),
            believed: false,
            repairs: Repairs::default(),
            dead: VecDeque::new(),
            files: FileOrders::default(),
            compare: Compare::default(),
            contacts: BTreeMap::new(),
            reported: Nanos(0),
            store_retry_at: Nanos(0),
            unneeded: None,
        }
    }

    /// Epoch of the newest membership.
    pub fn epoch(&self) -> Epoch {
        self.record.epoch
    }

    /// True for the primary of the newest membership.
    pub fn is_primary(&self) -> bool {
        self.role == Some(Role::Primary)
    }

    /// The other members.
    pub fn others(&self, me: TargetId) -> Vec<Entry> {
        self.record.members.iter().filter(|entry| entry.target != me).copied().collect()
    }

    /// Role of another member.
    pub fn role_of(&self, target: TargetId) -> Option<Role> {
        self.record.member(target).map(|entry| entry.role)
    }

    /// The mark other members may apply: none before their foreign pendings are gone.
    pub fn mark_for_members(&self) -> Version {
        if self.phase == Phase::Ready { self.through } else { Version::ZERO }
    }

    /// True when the newest version of a chunk is committed, also where the mark lags behind.
    pub fn is_committed(&self, version: Version) -> bool {
        version <= self.through || self.writes.done.contains(&version)
    }
}

impl<P> Cx<'_, P> {
    /// Hands a task to the store.
    pub fn store(&mut self, member_storing: &mut usize, owner: Job, task: Task<P>) -> JobId {
        let job = self.core.new_job(owner);
        *member_storing += 1;
        self.out.push(Effect::Store { job, task });
        job
    }

    /// Answers a request.
    pub fn reply(&mut self, to: ReplyTo, epoch: Epoch, answer: Result<ReplyBody, Refusal>) {
        self.out.push(Effect::Reply { to, epoch, answer });
    }

    /// Draws a request id.
    pub fn request_id(&mut self) -> RequestId {
        self.core.new_request()
    }
}

impl<P> Writes<P> {
    /// True while a version of the chunk is not on every member.
    pub fn is_flying(&self, key: ChunkKey) -> bool {
        self.chunks.get(&key).is_some_and(|chunk| !chunk.in_flight.is_empty())
    }

    /// True while an operation waits in a chunk's queue or is in flight.
    pub fn has_op(&self, key: ChunkKey, op: OpId) -> bool {
        let Some(chunk) = self.chunks.get(&key) else { return false };
        let flying = |version: &Version| {
            self.in_flight.get(version).is_some_and(|write| write.request.op == op)
        };
        chunk.in_flight.iter().any(flying)
            || chunk.queue.iter().any(|queued| queued.request.op == op)
    }
}

impl Follow {
    /// Remembers versions that the primary had dropped.
    pub fn note_dropped(&mut self, versions: impl Iterator<Item = Version>) {
        self.dropped.extend(versions);
        while self.dropped.len() > PENDINGS_PER_GROUP_MAX {
            self.dropped.pop_first();
        }
    }
}

impl<P> Default for Writes<P> {
    fn default() -> Writes<P> {
        Writes {
            counter: 0,
            in_flight: BTreeMap::new(),
            chunks: BTreeMap::new(),
            done: BTreeSet::new(),
            announced: Version::ZERO,
            held: BTreeSet::new(),
            mark_held: false,
        }
    }
}

impl Contact {
    /// A member that counts as heard of at `now`.
    pub fn new(now: Nanos) -> Contact {
        Contact { heard: now, refused: false, accused: false, reported: None, free: None }
    }
}

fn no_record(group: GroupId) -> GroupRecord {
    GroupRecord {
        id: group,
        kind: 0,
        epoch: Epoch(0),
        last_writable_epoch: Epoch(0),
        active: false,
        down: true,
        replicas: 0,
        min_write: 0,
        members: Vec::new(),
        evicted: Vec::new(),
        mutations: true,
        ..GroupRecord::default()
    }
}
