//! Notices when the machine itself stands still, while a time is measured on it.
//!
//! A shared machine stops its guests and their disks for tens of milliseconds now and then. Three
//! threads that have nothing to do with the cluster sleep, read and write in a file of their own;
//! the longest time one of them got nowhere is what no file system could have done better. Start
//! at [`Observer::start`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::workload::watch::Watch;
use crate::cluster::{StepError, file_error, now};

/// Bytes of one read and one write.
const PAGE: usize = 4096;
/// Pages of the file.
const PAGES: u64 = 256;
/// Repetitions that may be made again, for each that is wanted.
const AGAIN_FACTOR: u32 = 3;
/// Rest between two attempts: short against what is looked for, and little load.
const REST: Duration = Duration::from_millis(4);

/// Memory that direct I/O accepts.
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// The threads that observe; they end and the file is removed when it is dropped.
pub(super) struct Observer {
    shared: Arc<Shared>,
    path: PathBuf,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    watch: Watch,
    ended: AtomicBool,
    /// Errors of reads and writes: an observer that sees nothing must not say that all is well.
    failed: AtomicU64,
}

/// Repetitions of a measurement; those during which the machine stood still are shown and made again.
pub(super) struct Repetitions<T> {
    wanted: u32,
    still: Duration,
    /// Those that count.
    pub(super) counted: Vec<T>,
    /// Those that do not, with how long the machine stood still.
    pub(super) again: Vec<(T, Duration)>,
}

impl<T> Repetitions<T> {
    /// So many are wanted, each without a standstill as long as `still`.
    pub(super) fn new(wanted: u32, still: Duration) -> Repetitions<T> {
        Repetitions { wanted, still, counted: Vec::new(), again: Vec::new() }
    }

    /// The number of the next repetition, those made again included; `None` when all are there.
    ///
    /// # Errors
    /// [`StepError::Different`] when so many had to be made again that the machine is not fit.
    pub(super) fn next(&self) -> Result<Option<u32>, StepError> {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (counted, again) = (count(self.counted.len()), count(self.again.len()));
        if counted >= self.wanted {
            return Ok(None);
        }
        if again >= self.wanted.saturating_mul(AGAIN_FACTOR) {
            return Err(StepError::Different(format!(
                "the machine stood still for {} ms and longer in {again} of {} repetitions: measure on one that is idle and whose disk nobody else uses",
                self.still.as_millis(),
                counted + again
            )));
        }
        Ok(Some(counted + again))
    }

    /// Adds one.
    pub(super) fn push(&mut self, seen: T, stood_still: Duration) {
        if stood_still < self.still {
            self.counted.push(seen);
        } else {
            self.again.push((seen, stood_still));
        }
    }
}

/// What one thread does again and again.
type Attempt = Box<dyn FnMut() -> io::Result<()> + Send>;

impl Observer {
    /// Starts the threads, with a file in `folder`, which is on the disk that is observed.
    ///
    /// # Errors
    /// [`StepError`] when the file cannot be made.
    pub(super) fn start(folder: &Path) -> Result<Observer, StepError> {
        let path = folder.join("observer.bin");
        let attempts = [Box::new(|| Ok(())) as Attempt, reads(&path)?, writes(&path)?];
        let shared = Arc::new(Shared {
            watch: Watch::new(now()),
            ended: AtomicBool::new(false),
            failed: AtomicU64::new(0),
        });
        let threads = (0..)
            .zip(attempts)
            .map(|(task, attempt)| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.observe(task, attempt))
            })
            .collect();
        Ok(Observer { shared, path, threads })
    }

    /// Forgets what was seen so far.
    pub(super) fn restart(&self) {
        self.shared.watch.restart(now());
    }

    /// The longest time since the last restart in which one of the threads got nowhere.
    ///
    /// # Errors
    /// [`StepError::Different`] when a thread could not read or write, and so saw nothing.
    pub(super) fn worst(&self) -> Result<Duration, StepError> {
        match self.shared.failed.load(Ordering::Relaxed) {
            0 => Ok(self.shared.watch.gaps(now()).worst_task.saturating_sub(REST)),
            failed => Err(StepError::Different(format!(
                "{}: {failed} reads or writes of the one who observes the machine failed",
                self.path.display()
            ))),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked was seen: its gap never ended.
            let _ = thread.join();
        }
        // Its folder is removed with all that is in it.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    fn observe(&self, task: u32, mut attempt: Attempt) {
        while !self.ended.load(Ordering::Relaxed) {
            if attempt().is_err() {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            self.watch.success(task, now());
            rest();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "real time of the machine is what is observed")]
fn rest() {
    std::thread::sleep(REST);
}

fn open(path: &Path) -> Result<File, StepError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.custom_flags(libc::O_DIRECT).open(path).map_err(file_error(path))
}

fn reads(path: &Path) -> Result<Attempt, StepError> {
    let file = open(path)?;
    let mut page = Box::new(Page([0; PAGE]));
    for at in 0..PAGES {
        file.write_all_at(&page.0, at * PAGE as u64).map_err(file_error(path))?;
    }
    file.sync_all().map_err(file_error(path))?;
    let mut pages = pages();
    Ok(Box::new(move || file.read_exact_at(&mut page.0, pages.next().unwrap_or(0))))
}

fn writes(path: &Path) -> Result<Attempt, StepError> {
    let file = open(path)?;
    let page = Box::new(Page([1; PAGE]));
    let mut pages = pages();
    Ok(Box::new(move || {
        file.write_all_at(&page.0, pages.next().unwrap_or(0))?;
        file.sync_data()
    }))
}

/// Offsets of the pages, one after the other, without end.
fn pages() -> impl Iterator<Item = u64> + Send {
    (0..PAGES).map(|page| page * PAGE as u64).cycle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_gets_nowhere_is_seen_and_so_is_a_disk_that_fails() {
        let shared = Arc::new(Shared {
            watch: Watch::new(now()),
            ended: AtomicBool::new(false),
            failed: AtomicU64::new(0),
        });
        let stuck = Duration::from_millis(60);
        let attempt: Attempt = Box::new(move || {
            #[expect(clippy::disallowed_methods, reason = "stands for a disk that stalls")]
            std::thread::sleep(stuck);
            Err(io::ErrorKind::Other.into())
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || own.observe(0, attempt));
        while shared.watch.count() < 3 {
            rest();
        }
        shared.ended.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        assert!(shared.watch.gaps(now()).worst_task >= stuck);
        let observer = Observer { shared, path: PathBuf::from("x"), threads: Vec::new() };
        assert!(observer.worst().is_err(), "an observer that sees nothing says so");
    }

    #[test]
    fn repetitions_are_made_again_until_enough_count_and_never_for_ever() {
        let (still, ms) = (Duration::from_millis(25), Duration::from_millis);
        let mut repetitions = Repetitions::new(2, still);
        for stood_still in [1, 30, 24] {
            let number = repetitions.next().unwrap().unwrap();
            repetitions.push(number, ms(stood_still));
        }
        assert_eq!((&repetitions.counted[..], repetitions.next().unwrap()), (&[0, 2][..], None));
        assert_eq!(repetitions.again, [(1, ms(30))]);
        let mut never = Repetitions::new(2, still);
        for _ in 0..2 * AGAIN_FACTOR {
            assert!(never.next().unwrap().is_some());
            never.push((), still);
        }
        assert!(never.next().unwrap_err().to_string().contains("in 6 of 6 repetitions"));
    }

    #[test]
    fn all_three_threads_get_on_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let observer = Observer::start(folder.path()).unwrap();
        while observer.shared.watch.count() < 30 {
            rest();
        }
        observer.worst().unwrap();
        drop(observer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
