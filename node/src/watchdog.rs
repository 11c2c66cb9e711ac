//! Keeps executors awake and notices when one has stopped.
//!
//! The runtime's scheduler can park with runnable tasks in its queue; a wake-up from another thread
//! gets it going again. So one plain thread kicks every executor each 50 ms through the waker of a
//! task that never ends, and counts: an executor that answers none of 200 kicks in a row is stuck,
//! and a stuck shard must not hold on to its port and its place in its groups.
//!
//! Kicks are counted, not time, so a process that was stopped as a whole is not taken for stuck.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use crossbeam::queue::ArrayQueue;

use crate::limits::{KICK_PERIOD_MS, KICKS_UNANSWERED_MAX};

/// One executor's side: counts the kicks it answered.
#[derive(Debug)]
pub struct Pulse {
    name: String,
    count: AtomicU64,
    /// The newest waker of [`Pulse::beat`], until the kicking thread takes it.
    waker: ArrayQueue<Waker>,
    ended: AtomicBool,
}

impl Pulse {
    /// Makes the pulse of one executor; `name` is for the log.
    pub fn new(name: String) -> Arc<Pulse> {
        let waker = ArrayQueue::new(1);
        Arc::new(Pulse { name, count: AtomicU64::new(0), waker, ended: AtomicBool::new(false) })
    }

    /// Answers kicks, for ever. One task of the executor runs it.
    ///
    /// # Cancel safety
    /// A dropped future stops the pulse: call [`Pulse::end`] first.
    pub async fn beat(&self) {
        poll_fn(|context| {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.waker.force_push(context.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    /// Says that the executor ends on purpose and will answer no more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// The thread that kicks; it ends when it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread over all executors of the process. `stuck` is called once with the name of
    /// an executor that left [`KICKS_UNANSWERED_MAX`] kicks unanswered.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        pulses: Vec<Arc<Pulse>>,
        stuck: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Watchdog> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut watched: Vec<Watched> = pulses.into_iter().map(Watched::new).collect();
        let thread = thread::Builder::new().name("kick".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                for executor in &mut watched {
                    if executor.kick() == KICKS_UNANSWERED_MAX {
                        stuck(&executor.pulse.name);
                    }
                }
                thread::park_timeout(Duration::from_millis(KICK_PERIOD_MS));
            }
        })?;
        Ok(Watchdog { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the kicking thread panicked");
            }
        }
    }
}

/// The kicking thread's view of one executor.
struct Watched {
    pulse: Arc<Pulse>,
    waker: Option<Waker>,
    seen: u64,
    unanswered: u32,
}

impl Watched {
    fn new(pulse: Arc<Pulse>) -> Watched {
        Watched { pulse, waker: None, seen: 0, unanswered: 0 }
    }

    /// Wakes the executor and says how many kicks in a row it has not answered.
    fn kick(&mut self) -> u32 {
        if self.pulse.ended.load(Ordering::Acquire) {
            self.waker = None;
            self.unanswered = 0;
            return 0;
        }
        let count = self.pulse.count.load(Ordering::Relaxed);
        let begun = self.waker.is_some();
        let unanswered = begun && count == self.seen;
        self.unanswered = if unanswered { self.unanswered.saturating_add(1) } else { 0 };
        self.seen = count;
        self.waker = self.pulse.waker.pop().or(self.waker.take());
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
        self.unanswered
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::{Pulse, Watched};
    use crate::limits::KICKS_UNANSWERED_MAX;

    #[derive(Default)]
    struct Counted(AtomicU32);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn watchdog_counts_kicks_without_answer() {
        let pulse = Pulse::new("shard 0".to_owned());
        let woken = Arc::new(Counted::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut beat = pin!(pulse.beat());
        let mut watched = Watched::new(Arc::clone(&pulse));
        for _ in 0..10 {
            assert!(beat.as_mut().poll(&mut context).is_pending());
            assert_eq!(watched.kick(), 0, "an answered kick counts nothing");
        }
        for unanswered in 1..=KICKS_UNANSWERED_MAX {
            assert_eq!(watched.kick(), unanswered);
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 10 + KICKS_UNANSWERED_MAX);
        pulse.end();
        assert_eq!(watched.kick(), 0, "an executor that ended is not stuck");
    }
}
