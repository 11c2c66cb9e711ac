//! Clients that keep writing chunks of their own and reading anything that was acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use client::plan::Failure;
use node::io::Nanos;
use protocol::ids::{ChunkKey, Fid, GroupId};
use protocol::limits::READ_LEN_MAX;
use protocol::status::Status;

use super::check::Ledger;
use super::client::SimClient;
use super::cluster::SimCluster;
use super::executor::{Executor, ProcessId};
use super::profile::{Load, Mode};
use super::rng::SimRng;
use super::watch::Watch;

/// Process of the workload itself.
const WORKLOAD: ProcessId = ProcessId(900);
/// One write in this many is given up while it is under way.
const GIVEN_UP: u64 = 40;
/// First file of these clients; those that a coordinator names lie below.
pub const FID_GROWN_MIN: u64 = 1 << 32;
/// Chunks that are checked at the same time in the end.
const CHECKS_AT_ONCE: usize = 64;

/// All tasks of the clients.
pub struct Workload {
    executor: Executor,
    ledger: Rc<Ledger>,
    watch: Rc<Watch>,
    load: Load,
    /// Time between two operations of one task.
    interval: Duration,
    groups: Vec<GroupId>,
    stopping: Cell<bool>,
    running: Cell<u64>,
}

/// What one task works with.
struct Worker {
    all: Rc<Workload>,
    client: Rc<SimClient>,
    rng: SimRng,
    /// Sequence numbers of the client's session, shared by its tasks.
    seq: Rc<Cell<u64>>,
    /// Differs for each task, so that files do.
    number: u64,
    /// When the next operation is due.
    next: Cell<Nanos>,
}

impl Workload {
    /// Starts the tasks of some clients.
    pub fn start(
        cluster: &SimCluster,
        ledger: &Rc<Ledger>,
        load: &Load,
        clients: &[Rc<SimClient>],
    ) -> Rc<Self> {
        let mut groups: Vec<_> = cluster.coordinator().map().groups.keys().copied().collect();
        groups.truncate(if load.groups == 0 { groups.len() } else { load.groups });
        let tasks = load.clients * (load.writers + load.readers);
        let interval =
            Duration::from_secs(tasks) / u32::try_from(load.operations_per_s).unwrap_or(1);
        let workload = Rc::new(Workload {
            executor: cluster.executor().clone(),
            ledger: Rc::clone(ledger),
            watch: Rc::clone(cluster.watch()),
            load: load.clone(),
            interval,
            groups,
            stopping: Cell::new(false),
            running: Cell::new(0),
        });
        for (place, client) in (0u64..).zip(clients) {
            let seq = Rc::new(Cell::new(0));
            for turn in 0..load.writers + load.readers {
                let worker = Worker {
                    all: Rc::clone(&workload),
                    client: Rc::clone(client),
                    rng: cluster.fork_rng(),
                    seq: Rc::clone(&seq),
                    number: place * (load.writers + load.readers) + turn,
                    next: Cell::new(cluster.executor().now()),
                };
                worker.start(turn < load.writers);
            }
        }
        workload
    }

    /// Asks the tasks to end after the operation they are in.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// True when what it wrote may be lost.
    pub fn loses(&self) -> bool {
        self.ledger.mode() == Mode::Unrestricted
    }

    /// Tasks that have not ended.
    pub fn running(&self) -> u64 {
        self.running.get()
    }

    /// Reads everything that is acknowledged, and every replica of it, some chunks at a time.
    pub fn read_all(self: &Rc<Self>, clients: &[Rc<SimClient>]) {
        let left: Rc<RefCell<VecDeque<_>>> =
            Rc::new(RefCell::new(self.ledger.chunks().into_iter().collect()));
        for turn in 0..CHECKS_AT_ONCE {
            self.running.set(self.running.get() + 1);
            let (all, left) = (Rc::clone(self), Rc::clone(&left));
            let client = Rc::clone(&clients[turn % clients.len()]);
            self.executor.spawn(WORKLOAD, async move {
                loop {
                    let next = left.borrow_mut().pop_front();
                    let Some((group, key, acknowledged)) = next else { break };
                    let whole = u32::try_from(acknowledged).unwrap_or(u32::MAX);
                    let mut at = 0;
                    while at < whole {
                        let len = READ_LEN_MAX.min(whole - at);
                        match client.read(group, key, at, len, whole).await {
                            Ok(bytes) => all.ledger.on_read(group, key, at as usize, &bytes),
                            Err(failure) => all.ledger.on_lost(group, key, &failure),
                        }
                        at += len;
                    }
                    all.ledger.check_replicas(group, key, acknowledged).await;
                }
                all.running.set(all.running.get() - 1);
            });
        }
    }
}

impl Worker {
    fn start(self, writes: bool) {
        let all = Rc::clone(&self.all);
        all.running.set(all.running.get() + 1);
        let executor = all.executor.clone();
        executor.spawn(WORKLOAD, async move {
            let mut file = (self.number + 1) * FID_GROWN_MIN;
            self.all.executor.sleep(self.part_of(self.all.interval)).await;
            while !self.all.stopping.get() {
                file += 1;
                if writes {
                    self.write_chunk(Fid(file)).await;
                } else {
                    self.read_once().await;
                }
                self.pause().await;
            }
            self.all.running.set(self.all.running.get() - 1);
        });
    }

    /// Writes a chunk piece by piece; one whose fate stays unknown is tried again or given up.
    async fn write_chunk(&self, fid: Fid) {
        let groups = &self.all.groups;
        let group = groups[self.below(groups.len())];
        let key = ChunkKey { fid, index: 0 };
        let mut len = 0usize;
        for _ in 0..=self.rng.below(self.all.load.pieces_max) {
            let bytes = self.piece();
            self.seq.set(self.seq.get() + 1);
            let seq = self.seq.get();
            self.all.ledger.on_submit(group, key, &bytes);
            let offset = u32::try_from(len).unwrap_or(u32::MAX);
            len += bytes.len();
            while !self.append(group, key, (seq, offset), &bytes, len).await {
                if self.rng.below(2) == 0 || self.all.stopping.get() {
                    return;
                }
            }
            if self.all.stopping.get() {
                return;
            }
            self.pause().await;
        }
    }

    /// True when the piece is acknowledged, false when its fate is unknown.
    async fn append(
        &self,
        group: GroupId,
        key: ChunkKey,
        (seq, offset): (u64, u32),
        bytes: &[u8],
        len: usize,
    ) -> bool {
        let wait =
            if self.rng.below(GIVEN_UP) == 0 { self.rng.below(10_000) } else { u64::MAX >> 20 };
        let given_up = async {
            self.all.executor.sleep(Duration::from_micros(wait)).await;
            None
        };
        let written = async { Some(self.client.append(group, key, seq, offset, bytes).await) };
        let Some(written) = super::first(written, given_up).await else {
            self.all.watch.hit("F2 client gives up a write");
            return false;
        };
        match written {
            Ok((reply, epoch)) => {
                assert_eq!(reply.chunk_len as usize, len, "a growth ends where it should: {key}");
                self.all.ledger.on_acknowledged(group, key, reply.version, epoch);
                true
            }
            Err(Failure::Deadline { .. }) => false,
            // A full device, or one that failed; whether an earlier attempt took effect is open.
            Err(Failure::Refused { status: Status::NoSpace | Status::DeviceError, .. }) => false,
            // What it builds on may be lost.
            Err(_) if self.all.ledger.mode() == Mode::Unrestricted => false,
            Err(failure) => {
                let known = self.all.ledger.describe(group, key);
                panic!("a write is acknowledged or unknown: {len} bytes: {failure:?}: {known}")
            }
        }
    }

    /// Reads some acknowledged bytes from whichever replica the plan picks.
    async fn read_once(&self) {
        let chunk = self.all.ledger.any_chunk(|chunks| self.below(chunks));
        let Some((group, key, acknowledged)) = chunk else { return };
        let offset = self.below(acknowledged);
        let len = 1 + self.below((acknowledged - offset).min(READ_LEN_MAX as usize));
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let whole = number(acknowledged);
        match self.client.read(group, key, number(offset), number(len), whole).await {
            Ok(bytes) => {
                assert_eq!(bytes.len(), len, "a read returns what was asked for: {key}");
                self.all.ledger.on_read(group, key, offset, &bytes);
            }
            Err(Failure::Deadline { .. }) => {}
            // The only copy within reach cannot be read at the moment, and says so.
            Err(Failure::Unreadable { detail }) => {
                self.all.ledger.on_unreadable(group, key, &detail);
                self.all.watch.hit("read fails while things are broken");
            }
            Err(failure) => self.all.ledger.on_lost(group, key, &failure),
        }
    }

    /// Bytes that occur nowhere else.
    fn piece(&self) -> Vec<u8> {
        let max = self.all.load.piece_len_max;
        // Mostly small, at times long.
        let max = if self.rng.below(4) == 0 { max } else { max / 8 };
        let len = 1 + self.below(usize::try_from(max).unwrap_or(1));
        let mut bytes: Vec<u8> =
            (0..len.div_ceil(8)).flat_map(|_| self.rng.draw().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    /// Waits until the next operation is due; what is late is left out.
    async fn pause(&self) {
        let due = self.next.get().after(self.all.interval).max(self.all.executor.now());
        self.next.set(due);
        let jitter = self.part_of(self.all.interval) / 8;
        self.all.executor.until(due.after(jitter)).await;
    }

    fn part_of(&self, time: Duration) -> Duration {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.rng.below(us))
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap_or(0)
    }
}
