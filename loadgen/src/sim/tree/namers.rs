//! Clients that change names, and what must come of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use coordinator::state::Outcome;
use protocol::ids::{Ino, Seq, SessionId};
use protocol::message::command::{Caller, Command};
use protocol::message::namespace::{NamespaceOp, OpOutcome, SetAttributes};

use super::Tree;
use crate::sim::coordinator::SimCoordinator;
use crate::sim::executor::{Executor, ProcessId};
use crate::sim::rng::SimRng;

/// The process of these clients.
const NAMERS: ProcessId = ProcessId(901);
/// Clients, and the longest pause between two changes of one, in milliseconds.
const COUNT: u64 = 3;
const PAUSE_MS_MAX: u64 = 400;
/// Different names; few, so that they meet.
const NAMES: u64 = 6;
/// One answer in this many is lost, and one request in this many arrives once more later.
const LOST: u64 = 8;
const REPEATED: u64 = 16;
/// Pause before a request is sent again.
const AGAIN: Duration = Duration::from_millis(200);

/// All clients that change names.
pub struct Namers {
    executor: Executor,
    coordinator: SimCoordinator,
    tree: RefCell<Tree>,
    /// Directories that exist or existed.
    directories: RefCell<Vec<Ino>>,
    /// First outcome of every change.
    outcomes: RefCell<BTreeMap<(SessionId, Seq), OpOutcome>>,
    stopping: Cell<bool>,
    running: Cell<u64>,
}

/// Who the clients are.
const CALLER: Caller = Caller { uid: 0, gid: 0, admin: true };

impl Namers {
    /// Starts them.
    pub fn start(executor: &Executor, coordinator: &SimCoordinator, rng: &SimRng) -> Rc<Namers> {
        let namers = Rc::new(Namers {
            executor: executor.clone(),
            coordinator: coordinator.clone(),
            tree: RefCell::default(),
            directories: RefCell::new(vec![Ino::ROOT]),
            outcomes: RefCell::default(),
            stopping: Cell::new(false),
            running: Cell::new(COUNT),
        });
        for _ in 0..COUNT {
            let (namers, rng) = (Rc::clone(&namers), rng.fork());
            let task = Rc::clone(&namers);
            executor.spawn(NAMERS, async move { task.work(rng).await });
        }
        namers
    }

    /// Asks them to end.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// Those that have not ended.
    pub fn running(&self) -> u64 {
        self.running.get()
    }

    /// Changes that were made or refused.
    pub fn changes(&self) -> usize {
        self.outcomes.borrow().len()
    }

    /// Compares every directory with the model.
    ///
    /// # Panics
    /// When they differ.
    pub fn check(&self) {
        let tree = self.tree.borrow();
        for (dir, names) in tree.listing() {
            let mut listed = self.coordinator.names_of(dir);
            // The names here are single letters; longer ones are those of others.
            listed.retain(|it| it.name.len() == 1);
            let told: BTreeMap<_, _> =
                listed.iter().map(|it| (it.name.clone(), it.entry.attributes.ino)).collect();
            assert_eq!(told, names, "a directory has the names it was given: {dir}");
            for entry in listed {
                let attributes = entry.entry.attributes;
                let names = tree.nlink(attributes.ino);
                assert_eq!(attributes.nlink as usize, names, "names are counted: {attributes:?}");
            }
        }
    }

    async fn work(self: Rc<Self>, rng: SimRng) {
        let open = Command::OpenSession { caller: CALLER, client: "namer".to_owned() };
        let Outcome::Session(session) = self.ask(&open, &rng).await else {
            panic!("a session is opened")
        };
        let mut seq = 0;
        let mut file = None;
        while !self.stopping.get() {
            seq += 1;
            let op = self.draw(&rng, &mut file);
            let outcome = self.change(session, Seq(seq), op, &rng).await;
            if let OpOutcome::Reserved(files) = &outcome {
                file = files.first().map(|entry| entry.attributes.ino);
            }
            let pause = Duration::from_millis(rng.below(PAUSE_MS_MAX));
            self.executor.sleep(pause).await;
        }
        self.running.set(self.running.get() - 1);
    }

    /// Makes one change; its answer may be lost, then it is asked for again.
    async fn change(
        self: &Rc<Self>,
        session: SessionId,
        seq: Seq,
        op: NamespaceOp,
        rng: &SimRng,
    ) -> OpOutcome {
        loop {
            let outcome = self.apply(session, seq, &op, rng).await;
            if rng.below(REPEATED) == 0 {
                let (namers, op, rng) = (Rc::clone(self), op.clone(), rng.fork());
                self.executor.spawn(NAMERS, async move {
                    namers.executor.sleep(Duration::from_millis(rng.below(3000))).await;
                    namers.apply(session, seq, &op, &rng).await;
                });
            }
            if rng.below(LOST) != 0 {
                return outcome;
            }
            self.executor.sleep(AGAIN).await;
        }
    }

    /// Has a change applied and compares its outcome: the first time with the model, then with
    /// the first time.
    async fn apply(
        &self,
        session: SessionId,
        seq: Seq,
        op: &NamespaceOp,
        rng: &SimRng,
    ) -> OpOutcome {
        let ops = vec![(seq, op.clone())];
        let outcome = self.ask(&Command::Mutate { session, caller: CALLER, ops }, rng).await;
        let Outcome::Ops(mut outcomes) = outcome else {
            panic!("{op:?} has an outcome: {outcome:?}")
        };
        let Some(told) = outcomes.pop() else { panic!("{op:?} has one outcome") };
        let first = self.outcomes.borrow().get(&(session, seq)).cloned();
        match first {
            Some(first) => {
                assert_eq!(first, told, "a repeated change has the outcome it had: {op:?}")
            }
            None => {
                if let Err(error) = self.tree.borrow_mut().follow(op, &told) {
                    panic!("names are as the model says: {error}");
                }
                if let (NamespaceOp::Mkdir { .. }, OpOutcome::Done(Some(entry))) = (op, &told) {
                    self.directories.borrow_mut().push(entry.attributes.ino);
                }
                self.outcomes.borrow_mut().insert((session, seq), told.clone());
            }
        }
        told
    }

    /// Waits for a coordinator and hands the command in; nothing happens between the answer and
    /// its comparison.
    async fn ask(&self, command: &Command, rng: &SimRng) -> Outcome {
        loop {
            self.executor.sleep(Duration::from_micros(50 + rng.below(800))).await;
            if self.coordinator.term().is_some() {
                return self.coordinator.propose(command);
            }
            self.executor.sleep(AGAIN).await;
        }
    }

    /// A change at random; `file` is a reserved one that is not published.
    fn draw(&self, rng: &SimRng, file: &mut Option<Ino>) -> NamespaceOp {
        let directories = self.directories.borrow();
        let place = || {
            let turn = usize::try_from(rng.below(directories.len() as u64)).unwrap_or(0);
            (directories[turn], vec![b'a' + u8::try_from(rng.below(NAMES)).unwrap_or(0)])
        };
        let ((parent, name), attributes) = (place(), SetAttributes::default());
        let replace = rng.below(2) == 0;
        match rng.below(12) {
            0..=1 => NamespaceOp::Mkdir { parent, name, attributes },
            2 => {
                let target = b"somewhere".to_vec();
                NamespaceOp::Symlink { parent, name, target, attributes, replace }
            }
            3..=5 => match file.take() {
                None => NamespaceOp::Reserve { parent: Ino::ROOT, count: 1, expect_len: 10 },
                Some(ino) => {
                    let (size, growth_only) = (rng.below(1 << 20), true);
                    let at = (parent, name);
                    let (parent, name) = at;
                    NamespaceOp::Publish {
                        ino,
                        parent,
                        name,
                        size,
                        attributes,
                        replace,
                        growth_only,
                    }
                }
            },
            6 => {
                let known = self.tree.borrow().listing();
                let inos: Vec<Ino> =
                    known.values().flat_map(|names| names.values()).copied().collect();
                let turn = usize::try_from(rng.below(inos.len() as u64)).unwrap_or(0);
                let ino = inos.get(turn).copied().unwrap_or(Ino::ROOT);
                NamespaceOp::Link { ino, parent, name }
            }
            7 => NamespaceOp::Unlink { parent, name },
            8 => NamespaceOp::Rmdir { parent, name },
            _ => {
                let (to_parent, to_name) = place();
                let (from_parent, from_name) = (parent, name);
                NamespaceOp::Rename { from_parent, from_name, to_parent, to_name, replace }
            }
        }
    }
}
