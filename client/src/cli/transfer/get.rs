//! `get`: from lanefs into the local file system.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use protocol::ids::Ino;
use protocol::message::namespace::{Attributes, Entry, FileType};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::get_file::get_file;
use super::remote::expect;
use super::{Memory, local};
use crate::Client;
use crate::cli::args::CopyArgs;
use crate::cli::failure::Failure;
use crate::cli::limits::{
    DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, GET_FILES_IN_FLIGHT, JOBS_WAITING,
};
use crate::cli::path::{RemotePath, join_bytes};
use crate::cli::place::{Destination, Place, Source, place};
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
    let (roots, first) = shared.roots(&sources, &destination, args.recursive).await?;
    let (jobs, queue) = mpsc::channel(JOBS_WAITING);
    let walk = walk(shared.clone(), roots, first, jobs);
    let work = run_jobs(queue, GET_FILES_IN_FLIGHT, |job| run(shared.clone(), job));
    let (walked, worked) = tokio::join!(walk, work);
    for result in [walked, worked] {
        result.map_err(|error| Failure::Failed(error.to_string()))?;
    }
    let last = shared.clone();
    spawn_blocking(move || last.set_directories())
        .await
        .map_err(|error| Failure::Failed(error.to_string()))?;
    shared.report.finish()
}

async fn walk(
    get: Arc<Get>,
    roots: Vec<Directory>,
    first: Vec<Job>,
    jobs: mpsc::Sender<Job>,
) -> Result<(), TreeError> {
    for job in first {
        if jobs.send(job).await.is_err() {
            return Ok(());
        }
    }
    visit_all(roots, DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, |directory| {
        visit(get.clone(), directory, jobs.clone())
    })
    .await
}

impl Get {
    /// Decides where each source of the command line goes.
    async fn roots(
        &self,
        sources: &[OsString],
        destination: &Path,
        recursive: bool,
    ) -> Result<(Vec<Directory>, Vec<Job>), Failure> {
        let kind = match fs::metadata(destination) {
            Ok(metadata) if metadata.is_dir() => Destination::Directory,
            Ok(_) => Destination::File,
            Err(_) => Destination::Missing,
        };
        let as_folder = destination.as_os_str().as_bytes().ends_with(b"/");
        let (mut directories, mut jobs) = (Vec::new(), Vec::new());
        for source in sources {
            let path = RemotePath::parse(source);
            let seen = Instant::now();
            // As with cp, only a tree copy takes a link as a link.
            let entry = match expect(&self.client, &path, !recursive).await {
                Ok(entry) => entry,
                Err(Failure::Failed(line)) => {
                    self.report.line(&line);
                    continue;
                }
                Err(other) => return Err(other),
            };
            let is_folder = entry.attributes.file_type == FileType::Directory;
            if is_folder && !recursive {
                let hint = "is a directory; get -r fetches directories";
                self.report.failed(&path.bytes(), hint);
                continue;
            }
            let written = crate::cli::path::source_name(source.as_bytes());
            let source = Source { name: written, is_folder, one_of_many: sources.len() > 1 };
            let (local, exists) = match place(source, kind, as_folder) {
                Ok(Place::Into(name)) => (destination.join(OsStr::from_bytes(name)), false),
                Ok(Place::As) => (destination.to_owned(), kind == Destination::Directory),
                Err(error) => {
                    self.report.failed(destination.as_os_str().as_bytes(), error);
                    continue;
                }
            };
            let path = (path.bytes(), seen);
            self.sort(entry, path, local, exists, &mut directories, &mut jobs);
        }
        Ok((directories, jobs))
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
async fn visit(get: Arc<Get>, directory: Directory, jobs: mpsc::Sender<Job>) -> Vec<Directory> {
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
        for job in found {
            if jobs.send(job).await.is_err() {
                return below;
            }
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

/// Fetches one file or link.
async fn run(get: Arc<Get>, job: Job) {
    if get.report.is_hopeless() {
        return;
    }
    if job.entry.attributes.file_type == FileType::File {
        return get_file(&get, job).await;
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
