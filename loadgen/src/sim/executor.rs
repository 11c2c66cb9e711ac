//! A single-threaded executor with virtual time whose every choice comes from the seed.
//!
//! Among the tasks that can run, the seed picks the next; when none can, time jumps to the next
//! timer. Tasks belong to a process, and a process can be killed: its tasks are dropped where they
//! stand. It can also be frozen: its tasks are woken but do not run until it thaws. The same seed
//! gives the same sequence, summed up in [`Executor::event_hash`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    polls: Cell<u64>,
    timer_next: Cell<u64>,
    tasks: RefCell<Slots>,
    timers: RefCell<BTreeMap<(Nanos, u64), Waker>>,
    ready: Arc<Ready>,
    frozen: RefCell<BTreeSet<ProcessId>>,
    /// Tasks of frozen processes that were woken.
    parked: RefCell<Vec<TaskId>>,
    log: RefCell<Option<Box<Log>>>,
}

/// Takes the lines of a run.
type Log = dyn Fn(Nanos, &str);

/// Every task, in slots that are used again.
#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    spawned: u32,
}

#[derive(Default)]
struct Slot {
    /// Which task the slot holds or held last; wakers of older ones mean nothing any more.
    turn: u32,
    task: Option<Task>,
}

/// A task: its slot, and which of the slot's tasks it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TaskId {
    slot: u32,
    turn: u32,
}

struct Task {
    process: ProcessId,
    waker: Waker,
    signal: Arc<Signal>,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

/// Tasks that were woken. `Waker` demands `Send`, so this one queue has a lock; the executor never
/// runs on two threads.
#[derive(Default)]
struct Ready {
    queue: Mutex<Vec<TaskId>>,
}

/// Wakes one task, once until it runs.
struct Signal {
    task: TaskId,
    queued: AtomicBool,
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
                polls: Cell::new(0),
                timer_next: Cell::new(1),
                tasks: RefCell::default(),
                timers: RefCell::new(BTreeMap::new()),
                ready: Arc::default(),
                frozen: RefCell::default(),
                parked: RefCell::default(),
                log: RefCell::default(),
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
        self.note(sum64(fact));
    }

    fn note(&self, fact: u64) {
        let mut bytes = [0u8; 24];
        bytes[..8].copy_from_slice(&self.inner.hash.get().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.now().0.to_le_bytes());
        bytes[16..].copy_from_slice(&fact.to_le_bytes());
        self.inner.hash.set(sum64(&bytes));
    }

    /// Times that a task ran.
    pub fn polls(&self) -> u64 {
        self.inner.polls.get()
    }

    /// Starts a task of a process.
    pub fn spawn(&self, process: ProcessId, future: impl Future<Output = ()> + 'static) {
        let future = Box::pin(future);
        let signal = self.inner.tasks.borrow_mut().add(&self.inner.ready, process, future);
        signal.ring();
    }

    /// Drops every task of a process where it stands.
    pub fn kill(&self, process: ProcessId) {
        self.record(b"kill");
        self.inner.frozen.borrow_mut().remove(&process);
        let dead = self.inner.tasks.borrow_mut().remove_all(process);
        // Dropping a future may wake or spawn others, so no borrow is held here.
        drop(dead);
    }

    /// Drops every task and timer: nothing happens any more, and what tasks hold is given back.
    pub fn finish(&self) {
        let tasks = std::mem::take(&mut *self.inner.tasks.borrow_mut());
        drop(tasks);
        self.inner.timers.take();
        self.inner.parked.take();
    }

    /// Adds a line to the digest and, when one is kept, to the log.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        let line = line();
        self.record(line.as_bytes());
        self.log(|| line);
    }

    /// Adds a line to the log only, when one is kept.
    pub fn log(&self, line: impl FnOnce() -> String) {
        if let Some(log) = &*self.inner.log.borrow() {
            log(self.now(), &line());
        }
    }

    /// Hands every line to `log` from now on.
    pub fn keep_log(&self, log: impl Fn(Nanos, &str) + 'static) {
        *self.inner.log.borrow_mut() = Some(Box::new(log));
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
        Sleep { executor: self.clone(), at, turn: None }
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
        let Some(mut task) = self.inner.tasks.borrow_mut().take(id) else { return true };
        if self.inner.frozen.borrow().contains(&task.process) {
            self.inner.tasks.borrow_mut().put(id, task);
            self.inner.parked.borrow_mut().push(id);
            return true;
        }
        self.note(u64::from(id.slot) << 32 | u64::from(id.turn));
        self.inner.polls.set(self.inner.polls.get() + 1);
        task.signal.queued.store(false, Ordering::Relaxed);
        if task.future.as_mut().poll(&mut Context::from_waker(&task.waker)).is_pending() {
            self.inner.tasks.borrow_mut().put(id, task);
        } else {
            self.inner.tasks.borrow_mut().free(id);
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

impl Slots {
    fn add(
        &mut self,
        ready: &Arc<Ready>,
        process: ProcessId,
        future: Pin<Box<dyn Future<Output = ()>>>,
    ) -> Arc<Signal> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.spawned = self.spawned.wrapping_add(1);
        let task = TaskId { slot, turn: self.spawned };
        let signal =
            Arc::new(Signal { task, queued: AtomicBool::new(false), ready: Arc::clone(ready) });
        let waker = Waker::from(Arc::clone(&signal));
        let task = Task { process, waker, signal: Arc::clone(&signal), future };
        self.slots[slot as usize] = Slot { turn: self.spawned, task: Some(task) };
        signal
    }

    /// Takes a task out to run it; `None` when it has ended.
    fn take(&mut self, id: TaskId) -> Option<Task> {
        let slot = &mut self.slots[id.slot as usize];
        if slot.turn == id.turn { slot.task.take() } else { None }
    }

    fn put(&mut self, id: TaskId, task: Task) {
        self.slots[id.slot as usize].task = Some(task);
    }

    fn free(&mut self, id: TaskId) {
        self.free.push(id.slot);
    }

    fn remove_all(&mut self, process: ProcessId) -> Vec<Task> {
        let mut removed = Vec::new();
        for (number, slot) in (0u32..).zip(&mut self.slots) {
            if slot.task.as_ref().is_some_and(|task| task.process == process) {
                removed.extend(slot.task.take());
                self.free.push(number);
            }
        }
        removed
    }
}

impl Ready {
    fn push(&self, task: TaskId) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    fn take(&self, rng: &SimRng) -> Option<TaskId> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.len() {
            0 => None,
            1 => queue.pop(),
            len => {
                let turn = usize::try_from(rng.below(len as u64)).unwrap_or(0);
                Some(queue.swap_remove(turn))
            }
        }
    }
}

impl Signal {
    fn ring(&self) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.push(self.task);
        }
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

struct Sleep {
    executor: Executor,
    at: Nanos,
    /// Which of the timers of that time it is, once it waits.
    turn: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.executor.now() >= self.at {
            return Poll::Ready(());
        }
        if self.turn.is_none() {
            let inner = Rc::clone(&self.executor.inner);
            let turn = inner.timer_next.get();
            inner.timer_next.set(turn + 1);
            inner.timers.borrow_mut().insert((self.at, turn), context.waker().clone());
            self.turn = Some(turn);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            self.executor.inner.timers.borrow_mut().remove(&(self.at, turn));
        }
    }
}

#[cfg(test)]
mod tests;
