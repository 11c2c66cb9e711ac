//! One executor on a thread of its own.

use std::future::Future;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use glommio::{LocalExecutorBuilder, Placement};

use crate::limits::{IO_MEMORY_CONTROL, PREEMPT_TIMER_MS, RING_DEPTH};
use crate::watchdog::Pulse;

/// What an executor is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorOptions {
    /// Name of the thread.
    pub name: String,
    /// CPU it is pinned to.
    pub core: Option<u16>,
    /// Arena of registered buffers, in bytes; a power of two.
    pub io_memory: u64,
    /// Entries of each ring.
    pub ring_depth: u16,
    /// How long it looks for work before it sleeps.
    pub spin: Duration,
}

impl ExecutorOptions {
    /// An executor without disk I/O, on whichever core is free.
    pub fn without_disk(name: &str) -> ExecutorOptions {
        ExecutorOptions {
            name: name.to_owned(),
            core: None,
            io_memory: IO_MEMORY_CONTROL,
            ring_depth: RING_DEPTH,
            spin: Duration::ZERO,
        }
    }
}

/// Why an executor did not start: one line that says what and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecutorError {
    /// The runtime or the system refused.
    #[error("{name}: the runtime does not start: {reason}")]
    Start {
        /// Name of the executor.
        name: String,
        /// As the runtime words it.
        reason: String,
    },
    /// Its thread panicked.
    #[error("{name}: the executor panicked")]
    Panicked {
        /// Name of the executor.
        name: String,
    },
}

/// A running executor.
pub struct Executor<T> {
    name: String,
    thread: JoinHandle<Result<T, ExecutorError>>,
}

impl<T: Send + 'static> Executor<T> {
    /// Starts a thread with an executor that runs the future `main` makes, and its pulse beside it.
    ///
    /// # Errors
    /// When the system gives no thread; what happens inside it is told by [`Executor::join`].
    pub fn start<F: Future<Output = T> + 'static>(
        options: ExecutorOptions,
        pulse: Arc<Pulse>,
        main: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Executor<T>, ExecutorError> {
        let name = options.name.clone();
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || run(&options, pulse, main))
            .map_err(|cause| refused(&name, &cause))?;
        Ok(Executor { name, thread })
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// [`ExecutorError`] when it did not start or panicked.
    pub fn join(self) -> Result<T, ExecutorError> {
        self.thread.join().unwrap_or(Err(ExecutorError::Panicked { name: self.name }))
    }

    /// True when it has ended and [`Executor::join`] does not wait.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

impl<T> fmt::Debug for Executor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Ends the pulse however the executor ends, so that the watchdog does not take it for stuck.
struct EndPulse(Arc<Pulse>);

impl Drop for EndPulse {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn run<T, F: Future<Output = T> + 'static>(
    options: &ExecutorOptions,
    pulse: Arc<Pulse>,
    main: impl FnOnce() -> F,
) -> Result<T, ExecutorError> {
    let _end = EndPulse(Arc::clone(&pulse));
    let placement =
        options.core.map_or(Placement::Unbound, |core| Placement::Fixed(usize::from(core)));
    let executor = LocalExecutorBuilder::new(placement)
        .name(&options.name)
        .io_memory(usize::try_from(options.io_memory).unwrap_or(usize::MAX))
        .ring_depth(usize::from(options.ring_depth))
        .spin_before_park(options.spin)
        .preempt_timer(Duration::from_millis(PREEMPT_TIMER_MS))
        .make()
        .map_err(|cause| refused(&options.name, &cause))?;
    Ok(executor.run(async move {
        let beat = Arc::clone(&pulse);
        glommio::spawn_local(async move { beat.beat().await }).detach();
        let result = main().await;
        pulse.end();
        result
    }))
}

fn refused(name: &str, cause: &dyn fmt::Display) -> ExecutorError {
    let reason = cause.to_string().replace('\n', " ");
    ExecutorError::Start { name: name.to_owned(), reason }
}

impl From<ExecutorError> for io::Error {
    fn from(error: ExecutorError) -> io::Error {
        io::Error::other(error)
    }
}
