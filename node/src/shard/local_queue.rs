//! A queue between the tasks of one core: no lock, no atomics.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::limits::EVENTS_WAITING_MAX;

/// Events on their way to the shard's loop.
pub(super) struct LocalQueue<T> {
    inner: RefCell<Inner<T>>,
}

struct Inner<T> {
    items: VecDeque<T>,
    reader: Option<Waker>,
    writers: Vec<Waker>,
}

impl<T> LocalQueue<T> {
    /// An empty queue whose patient writers wait while it holds [`EVENTS_WAITING_MAX`] items.
    pub(super) fn new() -> LocalQueue<T> {
        let inner = Inner { items: VecDeque::new(), reader: None, writers: Vec::new() };
        LocalQueue { inner: RefCell::new(inner) }
    }

    /// Adds an item at once: for facts whose number is bounded by what was started.
    pub(super) fn push_now(&self, item: T) {
        let reader = {
            let mut inner = self.inner.borrow_mut();
            inner.items.push_back(item);
            inner.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Adds an item once there is room: for what others send.
    ///
    /// # Cancel safety
    /// The item is dropped when the future is dropped before it completes.
    pub(super) async fn push(&self, item: T) {
        poll_fn(|context| {
            let mut inner = self.inner.borrow_mut();
            if inner.items.len() < EVENTS_WAITING_MAX {
                return Poll::Ready(());
            }
            inner.writers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.push_now(item);
    }

    /// Items that wait.
    pub(super) fn len(&self) -> usize {
        self.inner.borrow().items.len()
    }

    /// Takes the oldest item, waiting for one. One task calls it.
    ///
    /// # Cancel safety
    /// No item is lost.
    pub(super) async fn pop(&self) -> T {
        poll_fn(|context| {
            let (item, writers) = {
                let mut inner = self.inner.borrow_mut();
                let Some(item) = inner.items.pop_front() else {
                    inner.reader = Some(context.waker().clone());
                    return Poll::Pending;
                };
                let room = inner.items.len() < EVENTS_WAITING_MAX;
                (item, if room { std::mem::take(&mut inner.writers) } else { Vec::new() })
            };
            writers.into_iter().for_each(Waker::wake);
            Poll::Ready(item)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once, zip};

    #[test]
    fn items_keep_their_order_and_a_patient_writer_waits_at_the_bound() {
        let queue = LocalQueue::new();
        block_on(async {
            for item in 1..=EVENTS_WAITING_MAX {
                assert!(poll_once(queue.push(item)).await.is_some(), "there is room");
            }
            assert!(poll_once(queue.push(0)).await.is_none(), "the queue is full");
            let (own, last) = (EVENTS_WAITING_MAX + 1, EVENTS_WAITING_MAX + 2);
            queue.push_now(own);
            let mut patient = Box::pin(queue.push(last));
            assert!(poll_once(&mut patient).await.is_none());
            assert_eq!(queue.pop().await, 1);
            assert!(poll_once(&mut patient).await.is_none(), "one more than the bound was there");
            let (_, second) = zip(patient, queue.pop()).await;
            assert_eq!(second, 2);
            for item in 3..=last {
                assert_eq!(queue.pop().await, item);
            }
            assert!(poll_once(queue.pop()).await.is_none(), "the queue is empty");
        });
    }
}
