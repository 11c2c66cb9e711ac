//! Clients that share files: they grow them, change them in place and cut them.
//!
//! A file begins as one that only grows. Whoever reads it then may ask any replica, for as long as
//! the coordinator's word holds; the first change waits until all such words have run out. Every
//! slot is a register, and a cut empties slots for good: in the end no order of what was done may
//! be impossible, whoever was asked. The coordinator's sizes are compared with a model each time
//! that it names one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use client::limits::WORD_FRESH_MS;
use client::plan::{Failure, ReadTask};
use coordinator::state::Outcome;
use node::io::Nanos;
use protocol::ids::{ChunkKey, GroupId, Handle, Ino, Seq, SessionId};
use protocol::message::chunk::WriteClass;
use protocol::message::command::{Caller, Command};
use protocol::message::namespace::{Entry, FileContent, NamespaceOp, OpOutcome, SetAttributes};
use protocol::status::Status;

use super::client::SimClient;
use super::cluster::SimCluster;
use super::coordinator::SimCoordinator;
use super::executor::{Executor, ProcessId};
use super::profile::Mode;
use super::register::book::{Book, SLOT_LEN};
use super::rng::SimRng;
use super::watch::Watch;

/// The process of these clients.
const FILERS: ProcessId = ProcessId(903);
const CALLER: Caller = Caller { uid: 0, gid: 0, admin: true };
/// Files, slots of each, and the most slots one operation covers.
const FILES: u64 = 5;
const SLOTS: usize = 40;
const RANGE_MAX: usize = 12;
/// Tasks of each client, and the longest pause between two operations, in milliseconds.
const TASKS: u64 = 2;
const PAUSE_MS_MAX: u64 = 200;
/// Earliest and latest first change of a file, in milliseconds.
const FIRST_CHANGE_MS: (u64, u64) = (500, 6000);
/// Pause before something is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// Operations of these clients have numbers of their own in the session.
const SEQ_MIN: u64 = 1 << 33;

/// All clients that share files.
pub struct Filers {
    executor: Executor,
    coordinator: SimCoordinator,
    watch: Rc<Watch>,
    mode: Mode,
    book: RefCell<Book>,
    files: RefCell<Vec<Rc<File>>>,
    clients: Vec<Rc<SimClient>>,
    seq: Cell<u64>,
    stopping: Cell<bool>,
    running: Cell<u64>,
    /// Operations that were acknowledged.
    done: Cell<u64>,
}

/// One file: where its only chunk lies, and what the coordinator must say of it.
struct File {
    ino: Ino,
    key: ChunkKey,
    group: GroupId,
    /// Nobody changes it before.
    change_at: Nanos,
    size: Cell<u64>,
    trunc_gen: Cell<u32>,
    growth_only: Cell<bool>,
}

/// One task of one client.
struct Filer {
    all: Rc<Filers>,
    client: Rc<SimClient>,
    rng: SimRng,
    session: SessionId,
    seq: Cell<u64>,
    /// Files that are open for changes, and the newest cut that is known of each.
    opened: RefCell<BTreeMap<Ino, u32>>,
    /// What the coordinator said of each file, and until when that holds.
    words: RefCell<BTreeMap<Ino, (Entry, Nanos)>>,
}

impl Filers {
    /// Starts them.
    pub fn start(cluster: &SimCluster, mode: Mode, clients: &[Rc<SimClient>]) -> Rc<Filers> {
        let all = Rc::new(Filers {
            executor: cluster.executor().clone(),
            coordinator: cluster.coordinator().clone(),
            watch: Rc::clone(cluster.watch()),
            mode,
            book: RefCell::default(),
            files: RefCell::default(),
            clients: clients.to_vec(),
            seq: Cell::new(SEQ_MIN),
            stopping: Cell::new(false),
            running: Cell::new(0),
            done: Cell::new(0),
        });
        for (number, client) in clients.iter().enumerate() {
            for turn in 0..TASKS {
                let (client, rng) = (Rc::clone(client), cluster.fork_rng());
                all.spawn(client, rng, move |filer| async move {
                    if number == 0 && turn == 0 {
                        filer.make_files().await;
                    }
                    filer.work().await;
                });
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

    /// True when what was written may be lost.
    pub fn loses(&self) -> bool {
        self.mode == Mode::Unrestricted
    }

    /// Operations that were acknowledged.
    pub fn done(&self) -> u64 {
        self.done.get()
    }

    /// Reads every file once more, as it is now.
    pub fn read_all(self: &Rc<Self>) {
        let Some(client) = self.clients.first() else { return };
        self.spawn(Rc::clone(client), SimRng::new(0), |filer| async move {
            for file in filer.all.files() {
                let len = slots(file.size.get());
                let word = filer.word(&file).await;
                if let Some(content) = word.content.filter(|_| len > 0) {
                    filer.read_leased(&file, &content, 0..len, false).await;
                }
            }
        });
    }

    /// Checks the history of every slot.
    ///
    /// # Panics
    /// When one is impossible, unless bytes may be lost in this run.
    pub fn check(&self) {
        if self.loses() {
            return;
        }
        if let Err((key, slot, violation)) = self.book.borrow().check() {
            panic!("files are what was done to them: slot {slot} of {key}: {violation}");
        }
    }

    fn spawn<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        client: Rc<SimClient>,
        rng: SimRng,
        work: impl FnOnce(Filer) -> F + 'static,
    ) {
        self.running.set(self.running.get() + 1);
        let all = Rc::clone(self);
        self.executor.spawn(FILERS, async move {
            let open = Command::OpenSession { caller: CALLER, client: "filer".to_owned() };
            let outcome = all.ask(&open, &rng).await;
            let Outcome::Session(session) = outcome else { panic!("a session: {outcome:?}") };
            let filer = Filer {
                all: Rc::clone(&all),
                client,
                rng,
                session,
                seq: Cell::new(0),
                opened: RefCell::default(),
                words: RefCell::default(),
            };
            work(filer).await;
            all.running.set(all.running.get() - 1);
        });
    }

    /// Waits for a coordinator and hands the command in; nothing happens between the answer and
    /// what is done with it.
    async fn ask(&self, command: &Command, rng: &SimRng) -> Outcome {
        loop {
            self.executor.sleep(Duration::from_micros(50 + rng.below(800))).await;
            if self.coordinator.term().is_some() {
                return self.coordinator.propose(command);
            }
            self.executor.sleep(AGAIN).await;
        }
    }

    fn files(&self) -> Vec<Rc<File>> {
        self.files.borrow().clone()
    }

    fn count(&self) {
        self.done.set(self.done.get() + 1);
    }
}

impl Filer {
    /// Makes the files: each grows to some length and gets a name.
    async fn make_files(&self) {
        for number in 0..FILES {
            let reserve = NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: 1 << 20 };
            let OpOutcome::Reserved(mut made) = self.change(reserve).await else {
                panic!("a file is reserved")
            };
            let Some(entry) = made.pop() else { panic!("one file is reserved") };
            let Some(content) = entry.content else { panic!("a new file has a content") };
            let Some(group) = content.layout.group_of(0) else { panic!("its chunks have groups") };
            let (ino, key) = (entry.attributes.ino, ChunkKey { fid: content.fid, index: 0 });
            let (low, high) = FIRST_CHANGE_MS;
            let pause = Duration::from_millis(self.rng.between(low, high));
            let file = File {
                ino,
                key,
                group,
                change_at: self.all.executor.now().after(pause),
                size: Cell::new(0),
                trunc_gen: Cell::new(0),
                growth_only: Cell::new(true),
            };
            let grown = 1 + self.below(SLOTS / 2);
            let whole = self.write(&file, WriteClass::Growth, 0..grown, 0).await.is_ok();
            let size = if whole { grown * SLOT_LEN } else { 0 } as u64;
            let publish = NamespaceOp::Publish {
                ino,
                parent: Ino::ROOT,
                name: format!("file-{number}").into_bytes(),
                size,
                attributes: SetAttributes::default(),
                replace: false,
                growth_only: whole,
            };
            file.size.set(size);
            file.growth_only.set(whole);
            let outcome = self.change(publish).await;
            let OpOutcome::Done(Some(entry)) = outcome else {
                panic!("a file is published: {outcome:?}")
            };
            compare(&file, &entry);
            self.all.files.borrow_mut().push(Rc::new(file));
        }
    }

    async fn work(&self) {
        let all = &self.all;
        while !all.stopping.get() {
            let files = all.files();
            if !files.is_empty() {
                let file = &files[self.below(files.len())];
                let reads = all.executor.now() < file.change_at || self.rng.below(2) == 0;
                match self.rng.below(6) {
                    _ if reads => self.read(file).await,
                    0 => self.cut(file).await,
                    _ => self.overwrite(file).await,
                }
            }
            let pause = Duration::from_millis(self.rng.below(PAUSE_MS_MAX));
            all.executor.sleep(pause).await;
        }
    }

    /// Changes slots of a file, which is opened for that first, and at times makes it known how
    /// far they reach.
    async fn overwrite(&self, file: &File) {
        let Some(trunc_gen) = self.open(file).await else { return };
        let first = self.below(SLOTS);
        let slots = first..(first + 1 + self.below(RANGE_MAX)).min(SLOTS);
        let end = (slots.end * SLOT_LEN) as u64;
        match self.write(file, WriteClass::Mutation, slots, trunc_gen).await {
            Ok(()) if self.rng.below(3) > 0 => self.sync(file, end, trunc_gen).await,
            Ok(()) => {}
            Err(failure) => {
                if matches!(failure, Failure::Refused { status: Status::StaleFile, .. }) {
                    self.all.watch.hit("write that did not know of a cut");
                }
                self.opened.borrow_mut().remove(&file.ino);
            }
        }
    }

    /// As `fsync` does: whoever did not know of a cut changes nothing.
    async fn sync(&self, file: &File, end: u64, trunc_gen: u32) {
        let op = NamespaceOp::SetSize { ino: file.ino, end, trunc_gen };
        let outcome = self
            .change_and(op, |outcome| {
                if matches!(outcome, OpOutcome::Done(_)) && trunc_gen == file.trunc_gen.get() {
                    file.size.set(file.size.get().max(end));
                }
            })
            .await;
        if let OpOutcome::Done(Some(entry)) = outcome {
            compare_size(file, &entry);
        }
    }

    /// Opens a file for changes; the newest cut that is known of it then. Waits until nobody relies
    /// on the file having only grown.
    async fn open(&self, file: &File) -> Option<u32> {
        if let Some(trunc_gen) = self.opened.borrow().get(&file.ino) {
            return Some(*trunc_gen);
        }
        let op = NamespaceOp::OpenWrite { ino: file.ino, mutate: true, shared: true };
        let outcome = self
            .change_and(op, |outcome| {
                if matches!(outcome, OpOutcome::Done(_)) {
                    file.growth_only.set(false);
                }
            })
            .await;
        let entry = match outcome {
            OpOutcome::Done(Some(entry)) => entry,
            OpOutcome::Refused(Status::Busy) => return None,
            other => panic!("a file is opened: {other:?}"),
        };
        compare(file, &entry);
        let trunc_gen = entry.content.map_or(0, |content| content.trunc_gen);
        // Nobody waits for the word that was given to who changes the file: it knows itself.
        self.words.borrow_mut().remove(&file.ino);
        // A coordinator that restarted meanwhile knows less, and has us wait anew.
        let coordinator = &self.all.coordinator;
        loop {
            let now = self.all.executor.now();
            let until = coordinator.words_run_out(file.key.fid, self.session);
            if coordinator.term().is_some() && until <= now {
                break;
            }
            if self.all.stopping.get() {
                return None;
            }
            self.all.executor.sleep(AGAIN).await;
        }
        self.opened.borrow_mut().insert(file.ino, trunc_gen);
        Some(trunc_gen)
    }

    /// Cuts a file and waits until that is done everywhere.
    async fn cut(&self, file: &File) {
        let whole = slots(file.size.get());
        if whole < 2 || file.growth_only.get() {
            return;
        }
        let from = 1 + self.below(whole - 1);
        let len = (from * SLOT_LEN) as u64;
        let all = &self.all;
        let outcome = self
            .change_and(NamespaceOp::Truncate { ino: file.ino, len }, |outcome| {
                let OpOutcome::Done(Some(_)) = outcome else { return };
                if len < file.size.get() {
                    file.trunc_gen.set(file.trunc_gen.get() + 1);
                    let mut book = all.book.borrow_mut();
                    book.cut(file.key, from, file.trunc_gen.get(), all.executor.now());
                }
                file.size.set(len);
            })
            .await;
        let entry = match outcome {
            OpOutcome::Done(Some(entry)) => entry,
            OpOutcome::Refused(Status::Busy) => return,
            other => panic!("a file is cut: {other:?}"),
        };
        let trunc_gen = entry.content.map_or(0, |content| content.trunc_gen);
        loop {
            all.executor.sleep(AGAIN).await;
            if all.stopping.get() && all.loses() {
                return; // Its group may be gone for good.
            }
            if all.coordinator.term().is_none() {
                continue;
            }
            let entry = all.coordinator.look_up(self.session, file.ino);
            let Some(content) = entry.and_then(|entry| entry.content) else { return };
            if !content.truncating && content.trunc_gen >= trunc_gen {
                break;
            }
        }
        // Cuts that followed meanwhile are done as well.
        let newest = file.trunc_gen.get();
        all.book.borrow_mut().cut_done(file.key, newest, all.executor.now());
        all.watch.hit("file cut");
        all.count();
    }

    async fn write(
        &self,
        file: &File,
        class: WriteClass,
        slots: Range<usize>,
        trunc_gen: u32,
    ) -> Result<(), Failure> {
        let all = &self.all;
        all.seq.set(all.seq.get() + 1);
        let offset = number(slots.start * SLOT_LEN);
        let now = all.executor.now();
        let (value, bytes) = all.book.borrow_mut().begin_cut(file.key, slots, trunc_gen, now);
        let place = (file.group, file.key);
        self.client.write_cut(place, class, all.seq.get(), trunc_gen, offset, &bytes).await?;
        all.book.borrow_mut().end(value, all.executor.now());
        all.count();
        Ok(())
    }

    async fn read(&self, file: &File) {
        let word = self.word(file).await;
        let (len, content) = (slots(word.attributes.size), word.content);
        let Some(content) = content.filter(|_| len > 0) else { return };
        let first = self.below(len);
        let slots = first..(first + 1 + self.below(RANGE_MAX)).min(len);
        if content.growth_only && self.rng.below(2) == 0 {
            self.read_everywhere(file, &content, slots).await;
        } else {
            self.read_leased(file, &content, slots, true).await;
        }
    }

    /// Reads from every replica there is, also those outside the group: as long as the word holds
    /// that the file only grew, any of them may be asked.
    async fn read_everywhere(&self, file: &File, content: &FileContent, slots: Range<usize>) {
        for target in self.client.targets() {
            let still = |(_, until): &(Entry, Nanos)| self.all.executor.now() < *until;
            if !self.words.borrow().get(&file.ino).is_some_and(still) {
                return;
            }
            let late = !file.growth_only.get();
            let start = self.all.executor.now();
            let task = task(file, content, &slots);
            if let Some(bytes) = self.client.read_replica(task, target).await {
                self.take(file, slots.start, &bytes, start);
                if late {
                    self.all.watch.hit("F23 reader older than overwrite");
                }
            }
        }
    }

    /// Reads as a client does: under a lease, or anywhere while the word for growth holds.
    async fn read_leased(
        &self,
        file: &File,
        content: &FileContent,
        slots: Range<usize>,
        may_fail: bool,
    ) {
        let start = self.all.executor.now();
        match self.client.read_task(task(file, content, &slots)).await {
            Ok(bytes) => self.take(file, slots.start, &bytes, start),
            Err(_) if may_fail || self.all.loses() => {
                self.words.borrow_mut().remove(&file.ino);
                self.all.watch.hit("read of a file fails");
            }
            Err(failure) => panic!("bytes of a file are never missing: {}: {failure:?}", file.key),
        }
    }

    fn take(&self, file: &File, first: usize, bytes: &[u8], start: Nanos) {
        let span = (start, self.all.executor.now());
        if let Err(garbled) = self.all.book.borrow_mut().read(file.key, first, bytes, span) {
            panic!("a read returns what somebody wrote: {garbled}");
        }
        self.all.count();
    }

    /// What the coordinator says of a file: asked again when the word has run out; while no
    /// coordinator answers nobody can be let in either, so the old word holds.
    async fn word(&self, file: &File) -> Entry {
        loop {
            let known = self.words.borrow().get(&file.ino).cloned();
            let now = self.all.executor.now();
            let growing = |entry: &Entry| entry.content.as_ref().is_some_and(|it| it.growth_only);
            if let Some((entry, until)) = known {
                let fresh = if growing(&entry) { now < until } else { self.rng.below(8) > 0 };
                if fresh && !self.all.stopping.get() || !self.client.reaches_coordinator() {
                    return entry;
                }
            }
            if self.client.reaches_coordinator() {
                let flown = Duration::from_micros(50 + self.rng.below(800));
                self.all.executor.sleep(flown).await;
                let Some(entry) = self.all.coordinator.look_up(self.session, file.ino) else {
                    panic!("a file keeps its name")
                };
                compare(file, &entry);
                let until = now.after(Duration::from_millis(WORD_FRESH_MS));
                self.words.borrow_mut().insert(file.ino, (entry.clone(), until));
                return entry;
            }
            self.all.executor.sleep(AGAIN).await;
        }
    }

    async fn change(&self, op: NamespaceOp) -> OpOutcome {
        self.change_and(op, |_| {}).await
    }

    /// Makes a change of the namespace; `then` follows it in the model before anything else can
    /// happen.
    async fn change_and(&self, op: NamespaceOp, then: impl FnOnce(&OpOutcome)) -> OpOutcome {
        self.seq.set(self.seq.get() + 1);
        let ops = vec![(Seq(self.seq.get()), op)];
        let command = Command::Mutate { session: self.session, caller: CALLER, ops };
        match self.all.ask(&command, &self.rng).await {
            Outcome::Ops(mut outcomes) if outcomes.len() == 1 => {
                let outcome = outcomes.remove(0);
                then(&outcome);
                outcome
            }
            other => panic!("a change has an outcome: {command:?} {other:?}"),
        }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap_or(0)
    }
}

fn task(file: &File, content: &FileContent, slots: &Range<usize>) -> ReadTask {
    ReadTask {
        group: file.group,
        key: file.key,
        offset: number(slots.start * SLOT_LEN),
        len: number(slots.len() * SLOT_LEN),
        chunk_len: 0,
        trunc_gen: content.trunc_gen,
        handle: Handle(0),
        growth_only: content.growth_only,
        stamp: content.stamp,
    }
}

/// Compares what the coordinator says of a file with what was done to it.
fn compare(file: &File, entry: &Entry) {
    compare_size(file, entry);
    let Some(content) = &entry.content else { panic!("a file has a content: {entry:?}") };
    let told = (content.fid, content.trunc_gen, content.growth_only);
    let modelled = (file.key.fid, file.trunc_gen.get(), file.growth_only.get());
    assert_eq!(told, modelled, "a file is what was done to it: {}", file.key);
}

fn compare_size(file: &File, entry: &Entry) {
    assert_eq!(entry.attributes.size, file.size.get(), "a file has the size it got: {}", file.key);
}

fn slots(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX) / SLOT_LEN
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
