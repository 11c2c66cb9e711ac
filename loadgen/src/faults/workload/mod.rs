//! Files that are written, read and removed without pause while things break.
//!
//! Owns the tasks and what they know ([`ledger`]); knows nothing of faults. Every error that
//! reaches a task and every byte that is not as written is noted, none is forgiven here. Start at
//! [`Workload::start`].

pub mod changer;
pub mod ledger;
pub mod reader;
pub mod stamp;
pub mod watch;
pub mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::Client;
use protocol::ids::Ino;
use protocol::message::namespace::{NamespaceOp, SetAttributes};
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::task::JoinSet;

use self::ledger::{Ledger, Totals};
use self::watch::Watch;
use crate::cluster::{StepError, now};
use crate::dice::{Dice, mix};

/// Time between two looks at how much was written.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest that the operations under way may take to end: each call of the client ends within its
/// deadline of 30 s, and the longest of them, a file, is a few calls.
const ENDS_WITHIN: Duration = Duration::from_secs(150);

/// How much is done at once.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Tasks that write and remove.
    pub writers: u32,
    /// Tasks that read.
    pub readers: u32,
    /// Rest of a writer between two files.
    pub write_rest: Duration,
    /// Rest of a reader between two reads.
    pub read_rest: Duration,
    /// Longest file, in bytes; most are much shorter.
    pub file_bytes_max: u64,
    /// Bytes of live files above which writers remove their oldest.
    pub live_bytes_max: u64,
    /// Bytes that are written without any rest before the pace is kept to.
    pub fill_bytes: u64,
    /// Tasks that change bytes of files of their own, in place.
    pub changers: u32,
}

/// What the tasks share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) run: u64,
    pub(super) pace: Pace,
    pub(super) ledger: Ledger,
    pub(super) reads: Watch,
    pub(super) lookups: Watch,
    pub(super) writes: Watch,
    pub(super) changes: Watch,
    /// Held for reading by every operation, for writing while everything rests.
    pub(super) gate: RwLock<()>,
    pub(super) folders: Vec<Ino>,
    stop: AtomicBool,
}

/// The running tasks.
pub struct Workload {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Workload {
    /// Makes a folder for each writer and starts all tasks.
    ///
    /// # Errors
    /// [`StepError`] when the folders cannot be made.
    pub async fn start(client: Client, seed: u64, pace: Pace) -> Result<Workload, StepError> {
        let mut folders = Vec::new();
        for writer in 0..pace.writers {
            folders.push(folder(&client, &format!("w{writer}")).await?);
        }
        let shared = Arc::new(Shared {
            client,
            run: mix(seed),
            pace,
            ledger: Ledger::default(),
            reads: Watch::new(now()),
            lookups: Watch::new(now()),
            writes: Watch::new(now()),
            changes: Watch::new(now()),
            gate: RwLock::new(()),
            folders,
            stop: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        let mut dice = Dice::new(seed);
        // First: opening their files may take as long as a reader may rely on a word.
        for changer in 0..shared.pace.changers {
            let changer = changer::Changer::make(&shared, changer).await?;
            tasks.spawn(changer.run(Arc::clone(&shared), Dice::new(dice.draw())));
        }
        for (writer, &folder) in (0..).zip(&shared.folders) {
            tasks.spawn(writer::run(Arc::clone(&shared), writer, folder, Dice::new(dice.draw())));
        }
        for reader in 0..shared.pace.readers {
            tasks.spawn(reader::run(Arc::clone(&shared), reader, Dice::new(dice.draw())));
        }
        Ok(Workload { shared, tasks })
    }

    /// What is known of every file.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// The number every stamp of this run carries.
    pub fn run(&self) -> u64 {
        self.shared.run
    }

    /// The client of the tasks.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Starts counting gaps anew.
    pub fn restart_watches(&self) {
        let at = now();
        for watch in [self.reads(), self.lookups(), self.writes(), self.changes()] {
            watch.restart(at);
        }
    }

    /// Successes of the readers that look every file up first.
    pub fn lookups(&self) -> &Watch {
        &self.shared.lookups
    }

    /// Successes of the readers of open files.
    pub fn reads(&self) -> &Watch {
        &self.shared.reads
    }

    /// Successes of the writers.
    pub fn writes(&self) -> &Watch {
        &self.shared.writes
    }

    /// Successes of those who change files in place.
    pub fn changes(&self) -> &Watch {
        &self.shared.changes
    }

    /// Waits until so many files have been written.
    ///
    /// # Errors
    /// [`StepError::Different`] quotes an error that reached a writer, or says that nothing was
    /// written for longer than a file may take.
    pub async fn written(&self, enough: impl Fn(Totals) -> bool) -> Result<(), StepError> {
        let (mut last, mut since) = (0, now());
        loop {
            let totals = self.ledger().totals();
            if enough(totals) {
                return Ok(());
            }
            if let Some(error) = self.ledger().take_errors().pop() {
                return Err(StepError::Different(error.text));
            }
            if totals.written_files != last {
                (last, since) = (totals.written_files, now());
            }
            if since.elapsed() > ENDS_WITHIN {
                return Err(stuck("writing a file"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets every task finish its operation and rest until the result is dropped.
    ///
    /// # Errors
    /// [`StepError::Different`] when an operation takes longer than any may.
    ///
    /// # Cancel safety
    /// Nothing rests.
    pub async fn rest(&self) -> Result<RwLockWriteGuard<'_, ()>, StepError> {
        let rest = self.shared.gate.write();
        tokio::time::timeout(ENDS_WITHIN, rest).await.map_err(|_| stuck("an operation"))
    }

    /// Ends every task after its operation; one that does not end is an error of the ledger.
    pub async fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let end = tokio::time::Instant::now() + ENDS_WITHIN;
        while let Ok(Some(ended)) = tokio::time::timeout_at(end, self.tasks.join_next()).await {
            if let Err(error) = ended {
                self.shared.ledger.error(None, format!("a task of the workload ended: {error}"));
            }
        }
        if !self.tasks.is_empty() {
            self.shared.ledger.error(None, stuck("a task").to_string());
            self.tasks.shutdown().await;
        }
    }
}

/// Says that the workload waits for something that should have ended.
fn stuck(what: &str) -> StepError {
    let limit = ENDS_WITHIN.as_secs();
    StepError::Different(format!("{what} of the workload has not ended within {limit} s"))
}

impl Shared {
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

async fn folder(client: &Client, name: &str) -> Result<Ino, StepError> {
    let op = NamespaceOp::Mkdir {
        parent: Ino::ROOT,
        name: name.as_bytes().to_vec(),
        attributes: SetAttributes { mode: Some(0o755), ..SetAttributes::default() },
    };
    let made = client.mutate(op).await.map_err(|error| StepError::Different(error.to_string()))?;
    let missing = || StepError::Different(format!("mkdir /{name}: no inode in the outcome"));
    made.map(|entry| entry.attributes.ino).ok_or_else(missing)
}
