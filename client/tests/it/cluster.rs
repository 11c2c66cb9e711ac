//! A cluster in memory: one coordinator, three targets, one group, and faults on request.

#![expect(clippy::unwrap_used, reason = "a stand-in that cannot go on fails its test")]
#![expect(clippy::cast_possible_truncation, reason = "its chunks are 1 MiB long")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use client::Client;
use client::plan::LinkFailure;
use client::transport::memory::{MemoryTransport, Service};
use client::transport::{Answer, Call, CallError, CallFuture, Notice, Notices, Peer, PeerId};
use protocol::checksum::{cell_sums, piece_sums};
use protocol::cluster_map::{
    ClusterMap, GroupRecord, Member, NodeRecord, NodeState, Role, TargetRecord, TargetState,
};
use protocol::ids::{
    ChunkKey, ClusterId, CoordinatorId, Epoch, Fid, Generation, GroupId, Ino, MapVersion, NodeId,
    OpId, Seq, SessionId, ShardId, TargetId, Version,
};
use protocol::layout::{Layout, Segment};
use protocol::message::chunk::{ReadReply, ReadRequest, WriteClass, WriteReply, WriteRequest};
use protocol::message::cluster::{
    ErrorReply, MapFetchReply, SessionCloseReply, SessionOpenReply, SessionRenewReply,
};
use protocol::message::heal::{ReportCorruptReply, ReportCorruptRequest};
use protocol::message::namespace::{
    Attributes, DirEntry, Entry, FileContent, FileType, LookupReply, LookupRequest, LookupResult,
    MutateReply, MutateRequest, NamespaceOp, OpOutcome, PathQuery, ReadDirReply, ReadDirRequest,
    Time, WordsReturnedReply, WordsReturnedRequest,
};
use protocol::message::operate::{UnreachableReply, UnreachableRequest};
use protocol::message::{Kind, Message};
use protocol::status::Status;
use tokio::sync::mpsc;

pub(crate) const CLUSTER: ClusterId = ClusterId(0x1234);
pub(crate) const GROUP: GroupId = GroupId(9);
/// Holds what is laid out anew.
pub(crate) const OTHER: GroupId = GroupId(10);
const CELL_LOG2: u8 = 14;
const CHUNK_LOG2: u8 = 20;
/// Length of a chunk, and of the longest read.
pub(crate) const CHUNK_LEN: usize = 1 << CHUNK_LOG2;

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The link fails before the request arrives.
    Link(LinkFailure),
    /// The request is executed and its answer lost.
    LoseAnswer,
    /// It is answered with this status and not executed.
    Status(Status),
    /// One byte of the answer's payload is another one.
    Corrupt,
    /// It is executed and never answered.
    Silent,
    /// It never arrives.
    Unheard,
    /// It is executed at once and answered after so many milliseconds.
    Late(u64),
}

/// Decides what goes wrong with a call; the last argument counts calls of that kind from 0.
pub(crate) type Script = Box<dyn FnMut(&mut State, &Peer, Kind, u32) -> Option<Fault> + Send>;

/// Everything the cluster holds.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) map: ClusterMap,
    /// Groups never report that they have cut a file.
    pub(crate) never_cut: bool,
    pub(crate) chunks: BTreeMap<(TargetId, ChunkKey), Vec<u8>>,
    /// Cells of every chunk that do not verify on a target.
    pub(crate) damaged: BTreeMap<TargetId, Vec<u32>>,
    /// Targets know of that, and refuse them.
    pub(crate) damage_known: bool,
    /// How often each write took effect.
    pub(crate) applied: BTreeMap<OpId, u32>,
    /// Where each did.
    applied_in: BTreeSet<(GroupId, OpId)>,
    /// Operation ids and attempt numbers of every write that arrived.
    pub(crate) writes: Vec<(OpId, u8)>,
    pub(crate) outcomes: BTreeMap<(SessionId, Seq), OpOutcome>,
    /// Number of operations of each mutation frame that arrived.
    pub(crate) batches: Vec<usize>,
    pub(crate) files: BTreeMap<Vec<u8>, Entry>,
    pub(crate) unlinked: BTreeMap<Ino, Entry>,
    pub(crate) sessions: u64,
    pub(crate) open_sessions: Vec<SessionId>,
    pub(crate) calls: BTreeMap<Kind, u32>,
    /// Damage that clients reported, and to whom.
    pub(crate) reported: Vec<(TargetId, ReportCorruptRequest)>,
    /// Contents that clients no longer take for ones that only grew, in each answer.
    pub(crate) returned: Vec<Vec<Fid>>,
    /// For each read, whether it was one of a file that only grew.
    pub(crate) grown_reads: Vec<bool>,
    /// Primaries that clients could not reach.
    pub(crate) unreachable: Vec<UnreachableRequest>,
    /// How often a file was laid out anew.
    pub(crate) moves: u32,
    /// Results of one reply to a lookup, when there may not be one for each query.
    pub(crate) results_max: Option<usize>,
    /// Entries of the longest page of a listing.
    pub(crate) page_max: usize,
    next_ino: u64,
}

/// The service behind the client's transport.
#[derive(Clone)]
pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<Script>>,
    notices: Arc<Mutex<Option<Notices>>>,
    notify: mpsc::Sender<Notice>,
}

impl Cluster {
    pub(crate) fn new(script: Script) -> Cluster {
        let state = State { map: first_map(), ..State::default() };
        let (notify, notices) = mpsc::channel(1);
        Cluster {
            state: Arc::new(Mutex::new(state)),
            script: Arc::new(Mutex::new(script)),
            notices: Arc::new(Mutex::new(Some(notices))),
            notify,
        }
    }

    /// Tells the first client that was made something.
    pub(crate) async fn tell(&self, notice: &impl Message, kind: Kind) {
        self.notify.send(Notice { kind, body: notice.encode() }).await.unwrap();
    }

    pub(crate) fn healthy() -> Cluster {
        Cluster::new(Box::new(|_, _, _, _| None))
    }

    /// Puts other faults in place of the present ones.
    pub(crate) fn set_script(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    pub(crate) fn client(&self) -> Client {
        let coordinator =
            Peer { id: PeerId::Coordinator(CoordinatorId(1)), address: "127.0.0.1:7400".into() };
        let transport = Arc::new(MemoryTransport::new(self.clone()));
        Client::over(CLUSTER, transport, vec![coordinator], 42)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Service for Cluster {
    fn serve(&self, peer: Peer, call: Call) -> CallFuture<'static> {
        let mut state = self.state();
        let count = state.calls.entry(call.kind).or_default();
        let number = *count;
        *count += 1;
        let fault = (self.script.lock().unwrap())(&mut state, &peer, call.kind, number);
        let broken = || Err(CallError::link(LinkFailure::Broken, "connection reset"));
        let result = match fault {
            Some(Fault::Link(failure)) => Err(CallError::link(failure, failure.text())),
            Some(Fault::Status(status)) => Ok(refused(&state, status)),
            Some(Fault::LoseAnswer) => {
                state.answer(&peer, &call);
                broken()
            }
            Some(Fault::Silent) => {
                state.answer(&peer, &call);
                return Box::pin(std::future::pending());
            }
            Some(Fault::Unheard) => return Box::pin(std::future::pending()),
            Some(Fault::Late(millis)) => {
                let answer = state.answer(&peer, &call);
                return Box::pin(async move {
                    tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
                    Ok(answer)
                });
            }
            Some(Fault::Corrupt) => {
                let mut answer = state.answer(&peer, &call);
                let mut payload = answer.payload.to_vec();
                payload[0] ^= 1;
                answer.payload = payload.into();
                Ok(answer)
            }
            None => Ok(state.answer(&peer, &call)),
        };
        // As on a real link, no answer comes before its request is on its way.
        Box::pin(async move {
            tokio::task::yield_now().await;
            result
        })
    }

    fn notices(&self) -> Option<Notices> {
        self.notices.lock().unwrap().take()
    }
}

impl State {
    fn answer(&mut self, peer: &Peer, call: &Call) -> Answer {
        match (peer.id, call.kind) {
            (PeerId::Target { target, .. }, Kind::Read) => self.read(target, call),
            (PeerId::Target { target, .. }, Kind::Write) => self.write(target, call),
            (PeerId::Target { target, .. }, Kind::ReportCorrupt) => {
                let report = ReportCorruptRequest::decode(&call.body).unwrap();
                self.reported.push((target, report));
                self.ok(&ReportCorruptReply { confirmed: true })
            }
            (PeerId::Coordinator(_), Kind::WordsReturned) => {
                self.returned.push(WordsReturnedRequest::decode(&call.body).unwrap().fids);
                self.ok(&WordsReturnedReply)
            }
            (PeerId::Coordinator(_), Kind::Unreachable) => {
                self.unreachable.push(UnreachableRequest::decode(&call.body).unwrap());
                self.ok(&UnreachableReply)
            }
            (PeerId::Coordinator(_), Kind::MapFetch) => {
                self.ok(&MapFetchReply { delta: self.map.to_delta() })
            }
            (PeerId::Coordinator(_), Kind::SessionOpen) => {
                self.sessions += 1;
                let session = SessionId(self.sessions);
                self.open_sessions.push(session);
                self.ok(&SessionOpenReply {
                    session,
                    lease_ms: 30_000,
                    uid: 0,
                    gid: 0,
                    admin: true,
                })
            }
            (PeerId::Coordinator(_), Kind::SessionRenew) => self.ok(&SessionRenewReply),
            (PeerId::Coordinator(_), Kind::SessionClose) => {
                self.open_sessions.clear();
                self.ok(&SessionCloseReply)
            }
            (PeerId::Coordinator(_), Kind::Mutate) => self.mutate(call),
            (PeerId::Coordinator(_), Kind::Lookup) => self.lookup(call),
            (PeerId::Coordinator(_), Kind::ReadDir) => self.read_dir(call),
            _ => refused(self, Status::Unsupported),
        }
    }

    fn ok(&self, message: &impl Message) -> Answer {
        answer(self, Status::Ok, message.encode(), Bytes::new())
    }

    fn read(&mut self, target: TargetId, call: &Call) -> Answer {
        let request = ReadRequest::decode(&call.body).unwrap();
        self.grown_reads.push(request.growth_only);
        let Some(chunk) = self.chunks.get(&(target, request.key)) else {
            return refused(self, Status::ChunkNotFound);
        };
        let mut len = request.len;
        if (chunk.len() as u32) < request.offset + len {
            let primary = self.map.groups[&request.group].primary();
            let leads = primary.is_some_and(|member| member.target == target);
            if request.expect_len != 0 || !leads || chunk.len() as u32 <= request.offset {
                return refused(self, Status::ChunkShort);
            }
            len = chunk.len() as u32 - request.offset;
        }
        let first_cell = request.offset >> CELL_LOG2;
        let start = (first_cell << CELL_LOG2) as usize;
        let end = (request.offset + len).next_multiple_of(1 << CELL_LOG2) as usize;
        let payload = &chunk[start..end.min(chunk.len())];
        let mut sent = payload.to_vec();
        for cell in self.damaged.get(&target).into_iter().flatten() {
            let at = (*cell as usize * (1 << CELL_LOG2)).wrapping_sub(start);
            if at < sent.len() && self.damage_known {
                return refused(self, Status::Corrupt);
            }
            sent.get_mut(at).into_iter().for_each(|byte| *byte ^= 1);
        }
        let reply = ReadReply {
            version: Version { epoch: Epoch(1), counter: 1 },
            chunk_len: chunk.len() as u32,
            cell_log2: CELL_LOG2,
            first_cell,
            sums: cell_sums(request.key, first_cell, CELL_LOG2, payload),
            aux: Vec::new(),
        };
        answer(self, Status::Ok, reply.encode(), sent.into())
    }

    fn write(&mut self, target: TargetId, call: &Call) -> Answer {
        let request = WriteRequest::decode(&call.body).unwrap();
        self.writes.push((request.op, request.attempt));
        let group = self.map.groups[&request.group].clone();
        if call.epoch != group.epoch {
            return refused(self, Status::StaleEpoch);
        }
        if group.primary().map(|member| member.target) != Some(target) {
            return refused(self, Status::NotPrimary);
        }
        if !group.writable() {
            return refused(self, Status::NotWritable);
        }
        let sums = piece_sums(request.key, request.offset, CELL_LOG2, &call.payload);
        if sums != request.sums {
            return refused(self, Status::PayloadCorrupt);
        }
        if self.applied_in.insert((request.group, request.op)) {
            for member in &group.members {
                let chunk = self.chunks.entry((member.target, request.key)).or_default();
                let (start, end) =
                    (request.offset as usize, (request.offset + request.len) as usize);
                if request.class == WriteClass::Growth && chunk.len() != start {
                    let text = format!("{} bytes are there, not {start}", chunk.len());
                    panic!("growth of {} in {}: {text}", request.key, group.id);
                }
                if chunk.len() < end {
                    chunk.resize(end, 0);
                }
                chunk[start..end].copy_from_slice(&call.payload);
            }
            *self.applied.entry(request.op).or_default() += 1;
        }
        self.ok(&WriteReply {
            version: Version { epoch: group.epoch, counter: 1 },
            chunk_len: request.offset + request.len,
            free: 1 << 30,
        })
    }

    fn mutate(&mut self, call: &Call) -> Answer {
        let request = MutateRequest::decode(&call.body).unwrap();
        if !self.open_sessions.contains(&request.session) {
            return refused(self, Status::SessionEnded);
        }
        self.batches.push(request.ops.len());
        let mut outcomes = Vec::new();
        for (seq, op) in request.ops {
            let known = self.outcomes.get(&(request.session, seq)).cloned();
            let outcome = known.unwrap_or_else(|| self.apply(op));
            self.outcomes.insert((request.session, seq), outcome.clone());
            outcomes.push(outcome);
        }
        self.ok(&MutateReply { outcomes })
    }

    fn apply(&mut self, op: NamespaceOp) -> OpOutcome {
        match op {
            NamespaceOp::Reserve { count, .. } => {
                let entries: Vec<_> = (0..count).map(|_| self.new_file()).collect();
                let by_ino = entries.iter().map(|entry| (entry.attributes.ino, entry.clone()));
                self.unlinked.extend(by_ino);
                OpOutcome::Reserved(entries)
            }
            NamespaceOp::Publish { ino, name, size, replace, .. } => {
                if self.files.contains_key(&name) && !replace {
                    return OpOutcome::Refused(Status::Exists);
                }
                let Some(mut entry) = self.unlinked.remove(&ino) else {
                    return OpOutcome::Refused(Status::NotFound);
                };
                entry.attributes.size = size;
                self.files.insert(name, entry.clone());
                OpOutcome::Done(Some(entry))
            }
            NamespaceOp::Abandon { inos } => {
                self.unlinked.retain(|ino, _| !inos.contains(ino));
                OpOutcome::Done(None)
            }
            NamespaceOp::Mkdir { name, .. } => {
                if self.files.contains_key(&name) {
                    return OpOutcome::Refused(Status::Exists);
                }
                let entry = self.new_file();
                self.files.insert(name, entry.clone());
                OpOutcome::Done(Some(entry))
            }
            NamespaceOp::OpenWrite { ino, mutate, .. } => self.edit(ino, |entry, content| {
                if std::mem::take(&mut content.truncating) {
                    return Err(Status::Busy);
                }
                content.writing = true;
                content.growth_only &= !mutate;
                entry.nlink = 1;
                Ok(())
            }),
            NamespaceOp::CloseWrite { ino, size, clean, .. } => self.edit(ino, |entry, content| {
                content.writing = false;
                content.recovered = !clean;
                entry.size = entry.size.max(size);
                Ok(())
            }),
            NamespaceOp::SetSize { ino, end, .. } => self.edit(ino, |entry, _| {
                entry.size = entry.size.max(end);
                Ok(())
            }),
            NamespaceOp::Truncate { ino, len } => self.edit(ino, |entry, content| {
                entry.size = len;
                content.trunc_gen += 1;
                content.truncating = true;
                content.growth_only = false;
                Ok(())
            }),
            NamespaceOp::ExtendLayout { ino, first_chunk, avoid } => {
                self.moves += 1;
                let Some(entry) = self.unlinked.get_mut(&ino) else {
                    return OpOutcome::Refused(Status::Invalid);
                };
                let layout = &mut entry.content.as_mut().unwrap().layout;
                layout.segments.retain(|segment| segment.first_chunk < first_chunk);
                let groups = vec![if avoid == GROUP { OTHER } else { GROUP }];
                layout.segments.push(Segment { first_chunk, chunk_log2: CHUNK_LOG2, groups });
                OpOutcome::Done(Some(entry.clone()))
            }
            NamespaceOp::Unlink { name, .. } => match self.files.remove(&name) {
                Some(_) => OpOutcome::Done(None),
                None => OpOutcome::Refused(Status::NotFound),
            },
            _ => OpOutcome::Refused(Status::Unsupported),
        }
    }

    /// Changes a published file.
    fn edit(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Attributes, &mut FileContent) -> Result<(), Status>,
    ) -> OpOutcome {
        let found = self.files.values_mut().find(|entry| entry.attributes.ino == ino);
        let Some(entry) = found else { return OpOutcome::Refused(Status::NotFound) };
        let content = entry.content.as_mut().unwrap();
        match change(&mut entry.attributes, content) {
            Ok(()) => OpOutcome::Done(Some(entry.clone())),
            Err(status) => OpOutcome::Refused(status),
        }
    }

    fn lookup(&mut self, call: &Call) -> Answer {
        let request = LookupRequest::decode(&call.body).unwrap();
        let mut results = Vec::new();
        for query in request.queries.iter().take(self.results_max.unwrap_or(usize::MAX)) {
            let by_ino = |entry: &&mut Entry| entry.attributes.ino == query.base;
            let found = match query.path.as_slice() {
                b"" => self.files.values_mut().find(by_ino),
                path => self.files.get_mut(path),
            };
            results.push(match found {
                Some(entry) => LookupResult::Found(entry.clone()),
                None => LookupResult::Refused(Status::NotFound),
            });
            // Groups have cut a file by the time it is looked at again.
            let cut = !self.never_cut;
            if let Some(content) = found_content(&mut self.files, query).filter(|_| cut) {
                content.truncating = false;
            }
        }
        self.ok(&LookupReply { results })
    }

    /// Lists every file, whatever directory is asked for.
    fn read_dir(&mut self, call: &Call) -> Answer {
        let request = ReadDirRequest::decode(&call.body).unwrap();
        let after = (Bound::Excluded(request.after), Bound::Unbounded);
        let mut rest = self.files.range(after);
        let named = |(name, entry): (&Vec<u8>, &Entry)| DirEntry {
            name: name.clone(),
            entry: Entry { content: None, ..entry.clone() },
        };
        let entries: Vec<_> = rest.by_ref().take(request.limit as usize).map(named).collect();
        let more = rest.next().is_some();
        self.page_max = self.page_max.max(entries.len());
        self.ok(&ReadDirReply { entries, more })
    }

    fn new_file(&mut self) -> Entry {
        self.next_ino += 1;
        let segment = Segment { first_chunk: 0, chunk_log2: CHUNK_LOG2, groups: vec![GROUP] };
        Entry {
            attributes: Attributes {
                ino: Ino(100 + self.next_ino),
                file_type: FileType::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                nlink: 1,
                size: 0,
                mtime: Time::default(),
                ctime: Time::default(),
            },
            content: Some(FileContent {
                truncating: false,
                writing: false,
                recovered: false,
                fid: Fid(100 + self.next_ino),
                layout: Layout { segments: vec![segment], cell_log2: CELL_LOG2 },
                trunc_gen: 0,
                growth_only: true,
                stamp: MapVersion(1),
                token: Vec::new(),
            }),
            link: Vec::new(),
        }
    }

    /// A new epoch of the group without one target; a backup leads if that was the primary.
    pub(crate) fn evict(&mut self, target: TargetId) {
        self.map.version.0 += 1;
        let mut groups = self.map.groups.values_mut();
        let group = groups.find(|group| group.member(target).is_some()).unwrap();
        group.epoch.0 += 1;
        group.members.retain(|member| member.target != target);
        if group.primary().is_none() {
            group.members[0].role = Role::Primary;
        }
    }
}

fn refused(state: &State, status: Status) -> Answer {
    answer(state, status, ErrorReply::new(status, "").encode(), Bytes::new())
}

fn answer(state: &State, status: Status, body: Vec<u8>, payload: Bytes) -> Answer {
    Answer { status, map_version: state.map.version, body, payload }
}

fn first_map() -> ClusterMap {
    let mut map = ClusterMap { cluster: CLUSTER, version: MapVersion(1), ..ClusterMap::default() };
    for id in 1..=6u16 {
        let (node, target) = (NodeId(u32::from(id)), TargetId(u32::from(id)));
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        map.nodes
            .insert(node, NodeRecord { id: node, state: NodeState::Up, address, draining: false });
        let record = TargetRecord {
            id: target,
            node,
            shard: ShardId(0),
            device: 0,
            port: 7410 + id,
            generation: Generation(1),
            capacity: 1 << 30,
            state: TargetState::Up,
        };
        map.targets.insert(target, record);
    }
    for (id, targets) in [(GROUP, [1, 2, 3]), (OTHER, [4, 5, 6])] {
        let member = |(at, target)| Member {
            target: TargetId(target),
            generation: Generation(1),
            role: if at == 0 { Role::Primary } else { Role::Backup },
        };
        let group = GroupRecord {
            id,
            kind: 0,
            epoch: Epoch(1),
            last_writable_epoch: Epoch(1),
            active: true,
            down: false,
            replicas: 3,
            min_write: 2,
            members: targets.into_iter().enumerate().map(member).collect(),
            evicted: Vec::new(),
            mutations: true,
            ..GroupRecord::default()
        };
        map.groups.insert(id, group);
    }
    map
}

fn found_content<'a>(
    files: &'a mut BTreeMap<Vec<u8>, Entry>,
    query: &PathQuery,
) -> Option<&'a mut FileContent> {
    let found = files.values_mut().find(|entry| entry.attributes.ino == query.base);
    found.filter(|_| query.path.is_empty()).and_then(|entry| entry.content.as_mut())
}
