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
