//! Clients that overwrite each other's bytes, and what readers may see of it.
//!
//! Every slot of a few chunks is a register; several clients write ranges of them at the same time
//! and read them under lease. In the end the history of every slot must be linearizable. Where loss
//! is possible only what no order explains counts: bytes that nobody wrote.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use protocol::ids::{ChunkKey, Fid, GroupId};
use protocol::message::chunk::WriteClass;

use super::client::SimClient;
use super::cluster::SimCluster;
use super::executor::{Executor, ProcessId};
use super::profile::Mode;
use super::register::book::{Book, SLOT_LEN};
use super::rng::SimRng;
use super::watch::Watch;

/// The process of these clients.
const OVERWRITERS: ProcessId = ProcessId(902);
/// First file of these clients; those of the growing load lie below.
pub const FID_MIN: u64 = 1 << 60;
/// Chunks, slots of each, and the most slots one operation covers.
const CHUNKS: u64 = 6;
const SLOTS: usize = 40;
const RANGE_MAX: usize = 20;
/// Tasks of each client, and the longest pause between two operations, in milliseconds. One more
/// task only reads: it goes on where no write can end.
const TASKS: u64 = 2;
const PAUSE_MS_MAX: u64 = 300;
const READ_PAUSE_MS_MAX: u64 = 100;
/// Operations of these clients have numbers of their own in the session.
const SEQ_MIN: u64 = 1 << 32;

/// All clients that overwrite.
pub struct Overwriters {
    executor: Executor,
    watch: Rc<Watch>,
    mode: Mode,
    book: RefCell<Book>,
    chunks: Vec<(GroupId, ChunkKey)>,
    /// Slots of each chunk that certainly exist.
    lengths: RefCell<Vec<usize>>,
    seq: Cell<u64>,
    stopping: Cell<bool>,
    running: Cell<u64>,
    /// Operations that were acknowledged.
    done: Cell<u64>,
}

impl Overwriters {
    /// Starts them.
    pub fn start(cluster: &SimCluster, mode: Mode, clients: &[Rc<SimClient>]) -> Rc<Overwriters> {
        let groups: Vec<GroupId> = cluster.coordinator().map().groups.keys().copied().collect();
        let rng = cluster.fork_rng();
        let chunk = |number| {
            let turn = usize::try_from(rng.below(groups.len() as u64)).unwrap_or(0);
            (groups[turn], ChunkKey { fid: Fid(FID_MIN + number), index: 0 })
        };
        let all = Rc::new(Overwriters {
            executor: cluster.executor().clone(),
            watch: Rc::clone(cluster.watch()),
            mode,
            book: RefCell::default(),
            chunks: (0..CHUNKS).map(chunk).collect(),
            lengths: RefCell::new(vec![0; usize::try_from(CHUNKS).unwrap_or(0)]),
            seq: Cell::new(SEQ_MIN),
            stopping: Cell::new(false),
            running: Cell::new(0),
            done: Cell::new(0),
        });
        for client in clients {
            for turn in 0..=TASKS {
                let (task, client, rng) = (Rc::clone(&all), Rc::clone(client), rng.fork());
                all.running.set(all.running.get() + 1);
                let may_write = turn < TASKS;
                let work = async move { task.work(client, rng, may_write).await };
                all.executor.spawn(OVERWRITERS, work);
            }
        }
        all
    }

    /// Asks them to end.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// Those that have not ended.
    pub fn running(&self) -> u64 {
        self.running.get()
    }

    /// Operations that were acknowledged.
    pub fn done(&self) -> u64 {
        self.done.get()
    }

    /// Reads everything once more.
    pub fn read_all(self: &Rc<Self>, client: &Rc<SimClient>) {
        for at in 0..self.chunks.len() {
            let (task, client) = (Rc::clone(self), Rc::clone(client));
            self.running.set(self.running.get() + 1);
            self.executor.spawn(OVERWRITERS, async move {
                let len = task.lengths.borrow()[at];
                if len > 0 {
                    task.read(&client, at, 0..len, false).await;
                }
                task.running.set(task.running.get() - 1);
            });
        }
    }

    /// Checks the history of every slot.
    ///
    /// # Panics
    /// When one is not linearizable, unless bytes may be lost in this run.
    pub fn check(&self) {
        if self.mode == Mode::Unrestricted {
            return;
        }
        if let Err((key, slot, violation)) = self.book.borrow().check() {
            panic!("overwrites are linearizable: slot {slot} of {key}: {violation}");
        }
    }

    async fn work(self: Rc<Self>, client: Rc<SimClient>, rng: SimRng, may_write: bool) {
        let pause_ms_max = if may_write { PAUSE_MS_MAX } else { READ_PAUSE_MS_MAX };
        while !self.stopping.get() {
            let at = below(&rng, self.chunks.len());
            let len = self.lengths.borrow()[at];
            let pause = Duration::from_millis(rng.below(pause_ms_max));
            self.executor.sleep(pause).await;
            let writes = may_write && (len == 0 || rng.below(2) == 0);
            if !writes && len == 0 {
                continue;
            }
            let bound = if writes { SLOTS } else { len };
            let first = below(&rng, bound);
            let slots = first..(first + 1 + below(&rng, RANGE_MAX)).min(bound);
            if writes {
                self.write(&client, at, slots).await;
            } else {
                self.read(&client, at, slots, true).await;
            }
        }
        self.running.set(self.running.get() - 1);
    }

    async fn write(&self, client: &SimClient, at: usize, slots: Range<usize>) {
        let (group, key) = self.chunks[at];
        self.seq.set(self.seq.get() + 1);
        let offset = u32::try_from(slots.start * SLOT_LEN).unwrap_or(u32::MAX);
        let end = slots.end;
        let (value, bytes) = self.book.borrow_mut().begin(key, slots, self.executor.now());
        let class = WriteClass::Mutation;
        match client.write((group, key), class, self.seq.get(), offset, &bytes).await {
            Ok(_) => {
                self.book.borrow_mut().end(value, self.executor.now());
                let mut lengths = self.lengths.borrow_mut();
                lengths[at] = lengths[at].max(end);
                self.watch.hit("overwrite");
                self.done.set(self.done.get() + 1);
            }
            // Whether it took effect is open, now and later.
            Err(_) => self.watch.hit("overwrite of unknown outcome"),
        }
    }

    async fn read(&self, client: &SimClient, at: usize, slots: Range<usize>, may_fail: bool) {
        let (group, key) = self.chunks[at];
        let number = |slots: usize| u32::try_from(slots * SLOT_LEN).unwrap_or(u32::MAX);
        let start = self.executor.now();
        let (offset, len) = (number(slots.start), number(slots.len()));
        match client.read_as((group, key), false, offset, len, 0).await {
            Ok(bytes) => {
                let span = (start, self.executor.now());
                let read = self.book.borrow_mut().read(key, slots.start, &bytes, span);
                if let Err(garbled) = read {
                    panic!("a read returns what somebody wrote: {garbled}");
                }
                self.done.set(self.done.get() + 1);
            }
            Err(_) if may_fail || self.mode == Mode::Unrestricted => {
                self.watch.hit("leased read fails");
            }
            Err(failure) => panic!("overwritten bytes are never missing: {key}: {failure:?}"),
        }
    }
}

fn below(rng: &SimRng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap_or(0)
}
