//! Bounded queues between executors, one for each ordered pair.
//!
//! They carry maps, leases, metrics and shutdown, never a data request. Nobody waits for room: a
//! sender whose queue is full keeps the message and tries again on its next turn, so two executors
//! with full queues towards each other both go on.
//!
//! A receiver leaves its waker in a slot of its own; whoever put a message into one of its queues
//! takes the waker out and wakes it. Wakers of this runtime may be woken from other threads. Both
//! queue and slot use sequentially consistent fences, so either the sender sees the waker or the
//! receiver sees the message; the kick of [`crate::watchdog`] is the second net.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crossbeam::queue::ArrayQueue;

/// Where a receiving executor leaves its waker.
#[derive(Clone, Debug)]
pub struct Wakeup {
    slot: Arc<ArrayQueue<Waker>>,
}

/// One end of the two queues between a pair of executors.
#[derive(Debug)]
pub struct Port<Out, In> {
    outbound: Arc<ArrayQueue<Out>>,
    inbound: Arc<ArrayQueue<In>>,
    here: Wakeup,
    there: Wakeup,
}

/// Makes the two ends of a pair. `first` and `second` are where the two executors are woken;
/// `to_second` and `to_first` bound the queues.
pub fn pair<A, B>(
    (first, to_first): (&Wakeup, usize),
    (second, to_second): (&Wakeup, usize),
) -> (Port<A, B>, Port<B, A>) {
    let forth = Arc::new(ArrayQueue::new(to_second));
    let back = Arc::new(ArrayQueue::new(to_first));
    let near = Port {
        outbound: Arc::clone(&forth),
        inbound: Arc::clone(&back),
        here: first.clone(),
        there: second.clone(),
    };
    let far = Port { outbound: back, inbound: forth, here: second.clone(), there: first.clone() };
    (near, far)
}

impl Default for Wakeup {
    fn default() -> Wakeup {
        Wakeup { slot: Arc::new(ArrayQueue::new(1)) }
    }
}

impl Wakeup {
    /// Leaves the waker of the task that looks at this executor's queues. Look again after it.
    pub fn register(&self, waker: &Waker) {
        self.slot.force_push(waker.clone());
    }

    /// Wakes the executor, if it waits.
    pub fn wake(&self) {
        if let Some(waker) = self.slot.pop() {
            waker.wake();
        }
    }
}

impl<Out, In> Port<Out, In> {
    /// Puts a message into the queue to the other executor and wakes it.
    ///
    /// # Errors
    /// Gives the message back when the queue is full; the other side wakes this one when there is
    /// room again. Never waits.
    pub fn send(&self, message: Out) -> Result<(), Out> {
        let sent = self.outbound.push(message);
        self.there.wake();
        sent
    }

    /// Takes the next message, if there is one.
    pub fn try_receive(&self) -> Option<In> {
        let was_full = self.inbound.is_full();
        let message = self.inbound.pop();
        if was_full {
            self.there.wake();
        }
        message
    }

    /// Waits for the next message. One task of an executor waits at a time.
    ///
    /// # Cancel safety
    /// No message is lost.
    pub async fn receive(&self) -> In {
        poll_fn(|context| {
            if let Some(message) = self.try_receive() {
                return Poll::Ready(message);
            }
            self.here.register(context.waker());
            self.try_receive().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::{Port, Wakeup, pair};

    #[test]
    fn mesh_full_queue_gives_the_message_back() {
        let (here, there) = (Wakeup::default(), Wakeup::default());
        let (near, far): (Port<u32, ()>, Port<(), u32>) = pair((&here, 1), (&there, 2));
        assert_eq!(near.send(1), Ok(()));
        assert_eq!(near.send(2), Ok(()));
        assert_eq!(near.send(3), Err(3));
        assert_eq!(far.try_receive(), Some(1));
        assert_eq!(near.send(3), Ok(()));
        assert_eq!(
            [far.try_receive(), far.try_receive(), far.try_receive()],
            [Some(2), Some(3), None]
        );
    }
}
