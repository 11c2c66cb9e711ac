//! A single-threaded executor with virtual time whose every choice comes from the seed.
//!
//! Among the tasks that can run, the seed picks the next; when none can, time jumps to the next
//! timer. Tasks belong to a process, and a process can be killed: its tasks are dropped where they
//! stand. It can also be frozen: its tasks are woken but do not run until it thaws. The same seed gives the same sequence, summed up in [`Executor::event_hash`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use node::io::Nanos;
use protocol::checksum::sum64;

use super::rng::SimRng;

/// Who a task belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u32);

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The condition holds.
    Reached,
    /// Virtual time ran out first.
    TimeUp,
    /// Nothing can ever happen again.
    Stalled,
}

/// Handle to the executor; clones share it.
#[derive(Clone)]
pub struct Executor {
    inner: Rc<Inner>,
}

struct Inner {
    now: Cell<Nanos>,
    rng: SimRng,
    hash: Cell<u64>,
    task_next: Cell<u64>,
    timer_next: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    timers: RefCell<BTreeMap<(Nanos, u64), Waker>>,
    ready: Arc<Ready>,
    frozen: RefCell<BTreeSet<ProcessId>>,
    /// Tasks of frozen processes that were woken.
    parked: RefCell<Vec<u64>>,
}

struct Task {
    process: ProcessId,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

/// Tasks that were woken, in order. `Waker` demands `Send`, so this one queue has a lock; the
/// executor never runs on two threads.
#[derive(Default)]
struct Ready {
    queue: Mutex<Vec<u64>>,
}

struct TaskWaker {
    task: u64,
    ready: Arc<Ready>,
}

impl Executor {
    /// Starts at time 1 ms, so that "zero" never means "now".
    pub fn new(rng: SimRng) -> Executor {
        Executor {
            inner: Rc::new(Inner {
                now: Cell::new(Nanos(1_000_000)),
                rng,
                hash: Cell::new(0),
                task_next: Cell::new(1),
                timer_next: Cell::new(1),
                tasks: RefCell::new(BTreeMap::new()),
                timers: RefCell::new(BTreeMap::new()),
                ready: Arc::default(),
                frozen: RefCell::default(),
                parked: RefCell::default(),
            }),
        }
    }

    /// Virtual time.
    pub fn now(&self) -> Nanos {
        self.inner.now.get()
    }

    /// Digest of everything that happened so far.
    pub fn event_hash(&self) -> u64 {
        self.inner.hash.get()
    }

    /// Adds a fact to the digest.
    pub fn record(&self, fact: &[u8]) {
        let mut bytes = [0u8; 24];
        bytes[..8].copy_from_slice(&self.inner.hash.get().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.now().0.to_le_bytes());
        bytes[16..].copy_from_slice(&sum64(fact).to_le_bytes());
        self.inner.hash.set(sum64(&bytes));
    }

    /// Starts a task of a process.
    pub fn spawn(&self, process: ProcessId, future: impl Future<Output = ()> + 'static) {
        let id = self.inner.task_next.get();
        self.inner.task_next.set(id + 1);
        self.inner.tasks.borrow_mut().insert(id, Task { process, future: Box::pin(future) });
        self.inner.ready.push(id);
    }

    /// Drops every task of a process where it stands.
    pub fn kill(&self, process: ProcessId) {
        self.record(b"kill");
        self.inner.frozen.borrow_mut().remove(&process);
        let mut dead = Vec::new();
        {
            let mut tasks = self.inner.tasks.borrow_mut();
            let ids: Vec<u64> = tasks
                .iter()
                .filter(|(_, task)| task.process == process)
                .map(|(&id, _)| id)
                .collect();
            dead.extend(ids.into_iter().filter_map(|id| tasks.remove(&id)));
        }
        // Dropping a future may wake or spawn others, so no borrow is held here.
        drop(dead);
    }

    /// Stops a process where it stands; time goes on around it.
    pub fn freeze(&self, process: ProcessId) {
        self.record(b"freeze");
        self.inner.frozen.borrow_mut().insert(process);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self, process: ProcessId) {
        self.record(b"thaw");
        self.inner.frozen.borrow_mut().remove(&process);
        for task in self.inner.parked.take() {
            self.inner.ready.push(task);
        }
    }

    /// Waits for `duration` of virtual time.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        self.until(self.now().after(duration))
    }

    /// Waits until virtual time `at`.
    pub fn until(&self, at: Nanos) -> impl Future<Output = ()> + 'static {
        Sleep { executor: self.clone(), at, armed: false }
    }

    /// Runs until the condition holds, at most for `limit` of virtual time.
    pub fn run_until(&self, limit: Duration, mut reached: impl FnMut() -> bool) -> Stop {
        let end = self.now().after(limit);
        loop {
            if reached() {
                return Stop::Reached;
            }
            if self.poll_one() {
                continue;
            }
            match self.next_timer() {
                None => return Stop::Stalled,
                Some(at) if at > end => {
                    self.inner.now.set(end);
                    return Stop::TimeUp;
                }
                Some(at) => self.advance(at),
            }
        }
    }

    fn poll_one(&self) -> bool {
        let Some(id) = self.inner.ready.take(&self.inner.rng) else { return false };
        let Some(mut task) = self.inner.tasks.borrow_mut().remove(&id) else { return true };
        if self.inner.frozen.borrow().contains(&task.process) {
            self.inner.tasks.borrow_mut().insert(id, task);
            self.inner.parked.borrow_mut().push(id);
            return true;
        }
        self.record(&id.to_le_bytes());
        let waker = Waker::from(Arc::new(TaskWaker { task: id, ready: self.inner.ready.clone() }));
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.inner.tasks.borrow_mut().insert(id, task);
        }
        true
    }

    fn next_timer(&self) -> Option<Nanos> {
        self.inner.timers.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    fn advance(&self, at: Nanos) {
        self.inner.now.set(self.now().max(at));
        loop {
            let due = {
                let mut timers = self.inner.timers.borrow_mut();
                match timers.first_entry() {
                    Some(entry) if entry.key().0 <= at => entry.remove(),
                    _ => return,
                }
            };
            due.wake();
        }
    }
}

impl Ready {
    fn push(&self, task: u64) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.contains(&task) {
            queue.push(task);
        }
    }

    fn take(&self, rng: &SimRng) -> Option<u64> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() {
            return None;
        }
        let turn = usize::try_from(rng.below(queue.len() as u64)).unwrap_or(0);
        Some(queue.remove(turn))
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.task);
    }
}

struct Sleep {
    executor: Executor,
    at: Nanos,
    armed: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.executor.now() >= self.at {
            return Poll::Ready(());
        }
        if !self.armed {
            self.armed = true;
            let inner = &self.executor.inner;
            let turn = inner.timer_next.get();
            inner.timer_next.set(turn + 1);
            inner.timers.borrow_mut().insert((self.at, turn), context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
