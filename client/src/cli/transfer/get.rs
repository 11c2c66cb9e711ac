//! `get`: from lanefs into the local file system.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use protocol::ids::Ino;
use protocol::message::namespace::{Attributes, Entry, FileType};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::get_large::get_large;
use super::get_small::get_small;
use super::remote::expect_many;
use super::wanted::Wanted;
use super::{Memory, local};
use crate::Client;
use crate::cli::args::CopyArgs;
use crate::cli::failure::Failure;
use crate::cli::limits::{
    DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, GET_FILES_IN_FLIGHT, JOBS_WAITING,
    SMALL_FILE_BYTES, SOURCES_AT_ONCE,
};
use crate::cli::path::{RemotePath, join_bytes};
use crate::cli::report::Report;
use crate::cli::tree::{TreeError, run_jobs, visit_all};

/// What one `get` shares between its tasks.
pub(super) struct Get {
    pub(super) client: Client,
    pub(super) report: Report,
    pub(super) memory: Memory,
    /// True when this process may give files away.
    pub(super) keep_owner: bool,
    /// Directories whose attributes are set at the end; a parent comes before what is in it.
    finals: Mutex<Vec<(PathBuf, Attributes)>>,
}

/// A directory of lanefs and the local one it fills.
struct Directory {
    ino: Ino,
    attributes: Attributes,
    /// Its path in lanefs, for people.
    path: Vec<u8>,
    local: PathBuf,
    /// True when the local directory is there, or a link that leads to one.
    exists: bool,
}

/// A file or symbolic link and the local name it gets.
pub(super) struct Job {
    pub(super) entry: Entry,
    /// When the coordinator said so.
    pub(super) seen: Instant,
    pub(super) path: Vec<u8>,
    pub(super) local: PathBuf,
}

/// Where jobs go: small files are read side by side, whatever the others wait for.
#[derive(Clone)]
struct Jobs {
    small: mpsc::Sender<Job>,
    others: mpsc::Sender<Job>,
}

/// Fetches files and trees.
///
/// # Errors
/// [`Failure::Reported`] when some of them could not be fetched; the others are.
pub(crate) async fn get(client: &Client, args: CopyArgs) -> Result<(), Failure> {
    let mut sources = args.paths;
    let destination = PathBuf::from(sources.pop().unwrap_or_default());
    let shared = Arc::new(Get {
        client: client.clone(),
        report: Report::new("get"),
        memory: Memory::new(),
        keep_owner: local::is_root(),
        finals: Mutex::new(Vec::new()),
    });
    let (small, small_queue) = mpsc::channel(JOBS_WAITING);
    let (others, queue) = mpsc::channel(JOBS_WAITING);
    let wanted = Wanted::new(sources, destination, args.recursive);
    let walk = walk(shared.clone(), wanted, Jobs { small, others });
    let work = run_jobs(queue, GET_FILES_IN_FLIGHT, |job| run(shared.clone(), job));
    let (walked, worked, read) = tokio::join!(walk, work, get_small(shared.clone(), small_queue));
    for result in [walked, worked, read] {
        result.map_err(|error| Failure::Failed(error.to_string()))?;
    }
    let last = shared.clone();
    spawn_blocking(move || last.set_directories())
        .await
        .map_err(|error| Failure::Failed(error.to_string()))?;
    shared.report.finish()
}

/// Finds what is to be fetched: the sources themselves first, then what is in directories.
async fn walk(get: Arc<Get>, wanted: Wanted, jobs: Jobs) -> Result<(), TreeError> {
    let mut roots = Vec::new();
    for sources in wanted.sources.chunks(SOURCES_AT_ONCE) {
        let first = get.look(&wanted, sources, &mut roots).await;
        if get.report.is_hopeless() || !jobs.send_all(first).await {
            return Ok(());
        }
    }
    visit_all(roots, DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, |directory| {
        visit(get.clone(), directory, jobs.clone())
    })
    .await
}

impl Jobs {
    /// Hands jobs over; false when nobody takes them any more.
    async fn send_all(&self, jobs: Vec<Job>) -> bool {
        for job in jobs {
            let attributes = &job.entry.attributes;
            let small =
                attributes.file_type == FileType::File && attributes.size <= SMALL_FILE_BYTES;
            let queue = if small { &self.small } else { &self.others };
            if queue.send(job).await.is_err() {
                return false;
            }
        }
        true
    }
}

impl Get {
    /// Looks some of the sources up with one request, and decides where each goes.
    async fn look(
        &self,
        wanted: &Wanted,
        sources: &[OsString],
        directories: &mut Vec<Directory>,
    ) -> Vec<Job> {
        let paths: Vec<_> = sources.iter().map(|source| RemotePath::parse(source)).collect();
        let seen = Instant::now();
        // As with cp, only a tree copy takes a link as a link.
        let found = match expect_many(&self.client, &paths, !wanted.recursive).await {
            Ok(found) => found,
            // Nobody answered, so nothing is known of any of them.
            Err(error) => paths.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut jobs = Vec::new();
        for ((source, path), found) in sources.iter().zip(&paths).zip(found) {
            let path = path.bytes();
            let entry = match found {
                Ok(entry) => entry,
                Err(error) => {
                    self.report.remote(&path, error);
                    continue;
                }
            };
            let is_folder = entry.attributes.file_type == FileType::Directory;
            if is_folder && !wanted.recursive {
                let hint = "is a directory; get -r fetches directories";
                self.report.failed(&path, hint);
                continue;
            }
            match wanted.place(source, is_folder) {
                Ok((local, exists)) => {
                    self.sort(entry, (path, seen), local, exists, directories, &mut jobs);
                }
                Err(error) => {
                    self.report.failed(wanted.destination.as_os_str().as_bytes(), error);
                }
            }
        }
        jobs
    }

    fn sort(
        &self,
        entry: Entry,
        (path, seen): (Vec<u8>, Instant),
        local: PathBuf,
        exists: bool,
        directories: &mut Vec<Directory>,
        jobs: &mut Vec<Job>,
    ) {
        match entry.attributes.file_type {
            FileType::Directory => {
                let (ino, attributes) = (entry.attributes.ino, entry.attributes);
                directories.push(Directory { ino, attributes, path, local, exists });
            }
            FileType::File => {
                self.report.progress.expect(entry.attributes.size);
                jobs.push(Job { entry, seen, path, local });
            }
            FileType::Symlink => jobs.push(Job { entry, seen, path, local }),
        }
    }

    fn set_directories(&self) {
        let finals = match self.finals.lock() {
            Ok(mut finals) => std::mem::take(&mut *finals),
            Err(_) => return,
        };
        // What lies deeper comes first: a parent may end up closed to its owner.
        for (path, attributes) in finals.iter().rev() {
            if let Err(error) = local::finish_directory(path, attributes, self.keep_owner) {
                self.report.local(path, &error);
            }
        }
    }
}

/// Makes one local directory and finds what goes into it.
async fn visit(get: Arc<Get>, directory: Directory, jobs: Jobs) -> Vec<Directory> {
    let mut below = Vec::new();
    let Directory { ino, attributes, path, local, exists } = directory;
    if !exists {
        let make = local.clone();
        let made = spawn_blocking(move || local::make_directory(&make)).await;
        if let Err(error) = made.map_err(std::io::Error::other).and_then(|result| result) {
            get.report.local(&local, &error);
            return below;
        }
    }
    if let Ok(mut finals) = get.finals.lock() {
        finals.push((local.clone(), attributes));
    }
    let mut after = Vec::new();
    loop {
        if get.report.is_hopeless() {
            return below;
        }
        let seen = Instant::now();
        let page = match get.client.read_dir_page(ino, &after, true).await {
            Ok(page) => page,
            Err(error) => {
                get.report.remote(&path, error);
                return below;
            }
        };
        let mut found = Vec::new();
        let last = page.entries.last().map(|entry| entry.name.clone());
        for entry in page.entries {
            let whole = join_bytes(&path, &entry.name);
            if !is_plain(&entry.name) {
                get.report.failed(&whole, "is not a name for a local file");
                continue;
            }
            let to = local.join(OsString::from_vec(entry.name));
            get.sort(entry.entry, (whole, seen), to, false, &mut below, &mut found);
        }
        if !jobs.send_all(found).await {
            return below;
        }
        match last {
            Some(name) if page.more => after = name,
            _ => return below,
        }
    }
}

/// True for a name that stays inside the directory it is joined to.
fn is_plain(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

/// Fetches one large file or link.
async fn run(get: Arc<Get>, job: Job) {
    if get.report.is_hopeless() {
        return;
    }
    if job.entry.attributes.file_type == FileType::File {
        return get_large(&get, job).await;
    }
    let Job { entry, local, .. } = job;
    let (to, keep_owner) = (local.clone(), get.keep_owner);
    let placed = spawn_blocking(move || {
        let target = PathBuf::from(OsString::from_vec(entry.link));
        local::place_link(&to, &target, &entry.attributes, keep_owner)
    });
    if let Err(error) = placed.await.map_err(std::io::Error::other).and_then(|result| result) {
        get.report.local(&local, &error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_out_of_the_destination() {
        for name in [b"..".as_slice(), b".", b"", b"a/b", b"a\0b"] {
            assert!(!is_plain(name));
        }
        assert!(is_plain(b"..a") && is_plain(b"\xff"));
    }
}
