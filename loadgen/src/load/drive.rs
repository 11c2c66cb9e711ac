//! Puts the load on: threads with a runtime and clients each, which share nothing but a counter.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, LocalSet};

use super::pacer::{Pace, Pacer};
use super::record::{Done, Tally};
use super::scenario::Scenario;
use super::subject::{Numbers, Share, Subject, Target};
use crate::cluster::{StepError, now, thread_cpu_seconds};

/// What one thread counted in one second.
pub(super) struct Second {
    /// 0 is the first that counts.
    pub(super) number: u64,
    pub(super) tally: Tally,
}

/// One thread of a load.
pub(super) struct Driver {
    pub(super) target: Target,
    pub(super) scenario: Scenario,
    pub(super) share: Share,
    /// Of this process.
    pub(super) thread: u32,
    /// Operations of all threads of this process so far.
    pub(super) next: Arc<AtomicU64>,
    pub(super) seconds: Sender<Second>,
    /// Passed by every thread once its clients are connected.
    pub(super) start: Arc<std::sync::Barrier>,
}

/// What the operations of a thread share.
struct Shared {
    tally: RefCell<Tally>,
    /// Operations that are due from then on count.
    counts_from: Instant,
    end: Instant,
}

impl Driver {
    /// Runs the load to its end, operations under way included; the CPU seconds that took.
    ///
    /// # Errors
    /// [`StepError`] when a client cannot be connected. A failed operation is counted, not an error.
    pub(super) fn run(self) -> Result<f64, StepError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StepError::Start { program: "a thread".to_owned(), source })?;
        LocalSet::new().block_on(&runtime, self.drive())
    }

    async fn drive(self) -> Result<f64, StepError> {
        let opened = self.open().await;
        // Whoever failed passes too: the others would wait for ever.
        self.start.wait();
        let subjects = opened?;
        let begun = now();
        let cpu = thread_cpu_seconds();
        let counts_from = begun + Duration::from_secs_f64(self.scenario.warm_up);
        let end = counts_from + Duration::from_secs(self.scenario.seconds.into());
        let shared = Rc::new(Shared { tally: RefCell::new(Tally::new()?), counts_from, end });
        let last = {
            let mut load = std::pin::pin!(self.load(&subjects, &shared, begun));
            let mut number = 0;
            loop {
                let due = counts_from + Duration::from_secs(number + 1);
                tokio::select! {
                    done = &mut load => {
                        done?;
                        break number;
                    }
                    () = tokio::time::sleep_until(due.into()) => {
                        self.ship(number, &shared)?;
                        number += 1;
                    }
                }
            }
        };
        let cpu_seconds = thread_cpu_seconds() - cpu;
        self.ship(last, &shared)?;
        for subject in subjects {
            if let Ok(subject) = Rc::try_unwrap(subject) {
                subject.close().await?;
            }
        }
        Ok(cpu_seconds)
    }

    async fn open(&self) -> Result<Vec<Rc<Subject>>, StepError> {
        let (thread, all) = self.place();
        let each = self.scenario.clients.div_ceil(all);
        let mut subjects = Vec::new();
        for client in 0..each {
            let own = u64::from(thread) * u64::from(each) + u64::from(client);
            let numbers = Numbers { next: Arc::clone(&self.next), share: self.share };
            let subject = Subject::open(&self.target, &self.scenario, own, numbers).await?;
            subjects.push(Rc::new(subject));
        }
        Ok(subjects)
    }

    /// This thread's number among those of all processes, and how many those are.
    fn place(&self) -> (u32, u32) {
        let each = self.share.threads(&self.scenario);
        (self.share.part * each + self.thread, self.share.of * each)
    }

    /// Hands over what was counted since the last time.
    fn ship(&self, number: u64, shared: &Shared) -> Result<(), StepError> {
        let tally = shared.tally.replace(Tally::new()?);
        // The receiver is gone only when the whole run has failed.
        let _ = self.seconds.send(Second { number, tally });
        Ok(())
    }

    async fn load(
        &self,
        subjects: &[Rc<Subject>],
        shared: &Rc<Shared>,
        begun: Instant,
    ) -> Result<(), StepError> {
        match self.scenario.rate {
            None => self.closed(subjects, shared).await,
            Some(rate) => {
                let (thread, threads) = self.place();
                self.open_loop(subjects, shared, begun, Pace { rate, threads, thread }).await
            }
        }
    }

    /// Operations or outstanding ones of this thread.
    fn at_once(&self) -> u32 {
        self.scenario.at_once.div_ceil(self.place().1)
    }

    /// Keeps so many operations running.
    async fn closed(&self, subjects: &[Rc<Subject>], shared: &Rc<Shared>) -> Result<(), StepError> {
        let mut tasks = JoinSet::new();
        for (_, subject) in (0..self.at_once()).zip(subjects.iter().cycle()) {
            let (subject, shared) = (Rc::clone(subject), Rc::clone(shared));
            tasks.spawn_local(async move {
                while now() < shared.end {
                    let begun = now();
                    operate(&subject, &shared, begun, begun).await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| StepError::Different(error.to_string()))?;
        }
        Ok(())
    }

    /// Begins each operation when it is due, whatever became of the others.
    async fn open_loop(
        &self,
        subjects: &[Rc<Subject>],
        shared: &Rc<Shared>,
        begun: Instant,
        pace: Pace,
    ) -> Result<(), StepError> {
        let failed = |source| StepError::Start { program: "a timer".to_owned(), source };
        let pacer = Pacer::new().map_err(failed)?;
        let mut tasks = JoinSet::new();
        let mut waited = None;
        for (number, subject) in (0..).zip(subjects.iter().cycle()) {
            let due = begun + pace.due(number);
            if due >= shared.end {
                break;
            }
            if waited.replace(due) != Some(due) {
                pacer.until(due).await.map_err(failed)?;
            }
            // Who waits here is late, and counts so: the time runs from when it was due.
            while tasks.len() >= self.at_once() as usize {
                tasks.join_next().await;
            }
            let (subject, shared) = (Rc::clone(subject), Rc::clone(shared));
            tasks.spawn_local(async move { operate(&subject, &shared, due, now()).await });
            while tasks.try_join_next().is_some() {}
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| StepError::Different(error.to_string()))?;
        }
        Ok(())
    }
}

/// One operation that was due at `due` and is begun at `begun`.
async fn operate(subject: &Subject, shared: &Shared, due: Instant, begun: Instant) {
    let outcome = subject.operate().await;
    if due < shared.counts_from {
        return;
    }
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let done = Done { took_us: us(due.elapsed()), late_us: us(begun - due), outcome };
    shared.tally.borrow_mut().note(done);
}
