//! Waiting between tasks of one core.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::entry::Name;

/// Wakes whoever waits for a condition to be looked at again.
#[derive(Default)]
pub(super) struct Bell {
    wakers: RefCell<Vec<Waker>>,
}

impl Bell {
    /// Wakes all waiters; each looks at its condition again.
    pub(super) fn ring(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Waits until the condition gives a value.
    ///
    /// # Cancel safety
    /// Nothing is lost: the condition is only looked at.
    pub(super) async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| {
            if let Some(value) = ready() {
                return Poll::Ready(value);
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// A result that many wait for.
pub(super) struct Outcome<T> {
    value: RefCell<Option<T>>,
    bell: Bell,
}

impl<T: Clone> Outcome<T> {
    pub(super) fn new() -> Outcome<T> {
        Outcome { value: RefCell::new(None), bell: Bell::default() }
    }

    pub(super) fn set(&self, value: T) {
        self.value.borrow_mut().get_or_insert(value);
        self.bell.ring();
    }

    pub(super) async fn wait(&self) -> T {
        self.bell.until(|| self.value.borrow().clone()).await
    }
}

/// Lets one writer of a chunk at a time prepare its version, in the order they came.
#[derive(Default)]
pub(super) struct Gates {
    queues: RefCell<BTreeMap<Name, VecDeque<u64>>>,
    next: Cell<u64>,
    bell: Bell,
}

/// A place in the queue of one chunk; leaves it when dropped.
pub(super) struct Turn<'a> {
    gates: &'a Gates,
    name: Name,
    number: u64,
}

impl Gates {
    /// Waits for this chunk's turn.
    ///
    /// # Cancel safety
    /// The place in the queue is given up.
    pub(super) async fn enter(&self, name: Name) -> Turn<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.queues.borrow_mut().entry(name).or_default().push_back(number);
        let turn = Turn { gates: self, name, number };
        self.bell.until(|| turn.is_first().then_some(())).await;
        turn
    }

    /// True when nobody prepares a version of this chunk or waits to.
    pub(super) fn is_idle(&self, name: Name) -> bool {
        !self.queues.borrow().contains_key(&name)
    }
}

impl Turn<'_> {
    fn is_first(&self) -> bool {
        let queues = self.gates.queues.borrow();
        queues.get(&self.name).and_then(VecDeque::front) == Some(&self.number)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queues = self.gates.queues.borrow_mut();
        if let Some(queue) = queues.get_mut(&self.name) {
            queue.retain(|number| *number != self.number);
            if queue.is_empty() {
                queues.remove(&self.name);
            }
        }
        drop(queues);
        self.gates.bell.ring();
    }
}

/// Runs futures together; their outputs in their order.
///
/// # Cancel safety
/// Drops all of them.
pub(super) async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, output) in running.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
