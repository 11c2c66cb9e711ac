//! A queue between the tasks of one core: no lock, no atomics.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Events on their way to the shard's loop.
pub(super) struct LocalQueue<T> {
    inner: RefCell<Inner<T>>,
    bound: usize,
}

struct Inner<T> {
    items: VecDeque<T>,
    reader: Option<Waker>,
    writers: Vec<Waker>,
}

impl<T> LocalQueue<T> {
    /// An empty queue whose patient writers wait while it holds `bound` items.
    pub(super) fn new(bound: usize) -> LocalQueue<T> {
        let inner = Inner { items: VecDeque::new(), reader: None, writers: Vec::new() };
        LocalQueue { inner: RefCell::new(inner), bound }
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
            if inner.items.len() < self.bound {
                return Poll::Ready(());
            }
            inner.writers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.push_now(item);
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
                let room = inner.items.len() < self.bound;
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
        let queue = LocalQueue::new(2);
        block_on(async {
            queue.push(1).await;
            queue.push(2).await;
            assert!(poll_once(queue.push(3)).await.is_none(), "the queue is full");
            queue.push_now(4);
            let (_, first) = zip(queue.push(5), async {
                [queue.pop().await, queue.pop().await, queue.pop().await]
            })
            .await;
            assert_eq!(first, [1, 2, 4]);
            assert_eq!(queue.pop().await, 5);
            assert!(poll_once(queue.pop()).await.is_none(), "the queue is empty");
        });
    }
}
