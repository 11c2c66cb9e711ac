//! `put`: from the local file system into lanefs.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use protocol::ids::Ino;
use protocol::message::namespace::{FileType, NamespaceOp, SetAttributes, Time};
use protocol::status::Status;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::put_file::put_file;
use super::remote::{Found, RemoteDestination, RemoteName, RemotePlace, find_in};
use super::{Memory, local};
use crate::cli::args::CopyArgs;
use crate::cli::failure::Failure;
use crate::cli::limits::{
    CHANGES_IN_FLIGHT, DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, JOBS_WAITING,
    PUT_FILES_IN_FLIGHT,
};
use crate::cli::path::{RemotePath, join_bytes, source_name};
use crate::cli::place::Source;
use crate::cli::report::Report;
use crate::cli::tree::{run_jobs, visit_all};
use crate::{Client, Error};

/// What one `put` shares between its tasks.
pub(super) struct Put {
    pub(super) client: Client,
    pub(super) report: Report,
    pub(super) memory: Memory,
    /// True when the caller may set owners.
    pub(super) keep_owner: bool,
    /// Directories whose attributes are set at the end.
    finals: Mutex<Vec<Final>>,
}

struct Final {
    ino: Ino,
    attributes: SetAttributes,
    path: Vec<u8>,
}

/// A local directory and where it goes.
struct Directory {
    local: PathBuf,
    to: RemotePlace,
    attributes: SetAttributes,
}

/// A file or symbolic link and the name it gets.
pub(super) struct Job {
    pub(super) local: PathBuf,
    pub(super) to: RemoteName,
    is_link: bool,
}

/// Stores files and trees.
///
/// # Errors
/// [`Failure::Reported`] when some of them could not be stored; the others are.
pub(crate) async fn put(client: &Client, args: CopyArgs) -> Result<(), Failure> {
    let mut sources = args.paths;
    let destination = sources.pop().unwrap_or_default();
    let destination = RemotePath::parse(&destination);
    let destination = RemoteDestination::look(client, destination).await?;
    let keep_owner = client.is_admin().await?;
    let shared = Arc::new(Put {
        client: client.clone(),
        report: Report::new("put"),
        memory: Memory::new(),
        keep_owner,
        finals: Mutex::new(Vec::new()),
    });
    let (roots, first) = shared.roots(&sources, &destination, args.recursive);
    let (jobs, queue) = mpsc::channel(JOBS_WAITING);
    let walk = walk(shared.clone(), roots, first, jobs);
    let work = run_jobs(queue, PUT_FILES_IN_FLIGHT, |job| run(shared.clone(), job));
    let (walked, worked) = tokio::join!(walk, work);
    for result in [walked, worked] {
        result.map_err(|error| Failure::Failed(error.to_string()))?;
    }
    shared.set_directories().await;
    shared.report.finish()
}

/// Feeds the jobs: first those named on the command line, then those found in directories.
async fn walk(
    put: Arc<Put>,
    roots: Vec<Directory>,
    first: Vec<Job>,
    jobs: mpsc::Sender<Job>,
) -> Result<(), crate::cli::tree::TreeError> {
    for job in first {
        if jobs.send(job).await.is_err() {
            return Ok(());
        }
    }
    visit_all(roots, DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, |directory| {
        visit(put.clone(), directory, jobs.clone())
    })
    .await
}

impl Put {
    /// Decides where each source of the command line goes.
    fn roots(
        &self,
        sources: &[OsString],
        destination: &RemoteDestination,
        recursive: bool,
    ) -> (Vec<Directory>, Vec<Job>) {
        let (mut directories, mut jobs) = (Vec::new(), Vec::new());
        for source in sources {
            let local = PathBuf::from(source);
            // As with cp, only a tree copy takes a link as a link.
            let as_link = recursive && !source.as_bytes().ends_with(b"/");
            let read = if as_link { fs::symlink_metadata(&local) } else { fs::metadata(&local) };
            let metadata = match read {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.report.local(&local, &error);
                    continue;
                }
            };
            if metadata.is_dir() && !recursive {
                self.report.failed(source.as_bytes(), "is a directory; put -r stores directories");
                continue;
            }
            let place = destination.place(Source {
                name: source_name(source.as_bytes()),
                is_folder: metadata.is_dir(),
                one_of_many: sources.len() > 1,
            });
            match place {
                Ok(to) => self.sort(local, &metadata, to, &mut directories, &mut jobs),
                Err(failure) => self.report.failed(source.as_bytes(), failure),
            }
        }
        (directories, jobs)
    }

    /// Puts one found entry where it belongs: a directory to visit, a job, or a skipped special.
    fn sort(
        &self,
        local: PathBuf,
        metadata: &Metadata,
        to: RemotePlace,
        directories: &mut Vec<Directory>,
        jobs: &mut Vec<Job>,
    ) {
        let file_type = metadata.file_type();
        if file_type.is_dir() {
            let attributes = self.attributes(metadata);
            directories.push(Directory { local, to, attributes });
            return;
        }
        let RemotePlace::Named(to) = to else {
            self.report.failed(local.as_os_str().as_bytes(), "is not a directory");
            return;
        };
        if file_type.is_file() || file_type.is_symlink() {
            if file_type.is_file() {
                self.report.progress.expect(metadata.len());
            }
            jobs.push(Job { local, to, is_link: file_type.is_symlink() });
        } else {
            let what = local::special_name(file_type);
            self.report.failed(local.as_os_str().as_bytes(), format_args!("skipped: is a {what}"));
        }
    }

    /// What is kept of a local file's attributes.
    pub(super) fn attributes(&self, metadata: &Metadata) -> SetAttributes {
        SetAttributes {
            mode: Some(metadata.mode() & 0o7777),
            uid: self.keep_owner.then_some(metadata.uid()),
            gid: self.keep_owner.then_some(metadata.gid()),
            mtime: Some(Time {
                secs: metadata.mtime(),
                nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            }),
            cell_log2: None,
        }
    }

    /// The directory a place names, made when it is missing.
    async fn directory(&self, to: &RemotePlace, mode: u32) -> Result<(Ino, Vec<u8>), Error> {
        let name = match to {
            RemotePlace::Content { dir, path } => return Ok((*dir, path.clone())),
            RemotePlace::Named(name) => name,
        };
        // Whatever it ends with, its owner must be able to fill it.
        let attributes = SetAttributes { mode: Some(mode | 0o700), ..SetAttributes::default() };
        let made = self.client.mutate(NamespaceOp::Mkdir {
            parent: name.parent,
            name: name.name.clone(),
            attributes,
        });
        match made.await {
            Ok(Some(entry)) => Ok((entry.attributes.ino, name.path.clone())),
            Err(error) if error.status() != Some(Status::Exists) => Err(error),
            // It exists, or a server that answers without the entry made it.
            _ => match find_in(&self.client, name.parent, &name.name).await? {
                Found::Entry(entry) if entry.attributes.file_type == FileType::Directory => {
                    Ok((entry.attributes.ino, name.path.clone()))
                }
                Found::Entry(_) => Err(Error::refused("", Status::NotDirectory, "")),
                Found::Missing => Err(Error::refused("", Status::NotFound, "")),
            },
        }
    }

    fn finish_later(&self, ino: Ino, attributes: SetAttributes, path: Vec<u8>) {
        if let Ok(mut finals) = self.finals.lock() {
            finals.push(Final { ino, attributes, path });
        }
    }

    /// Gives every directory the attributes of its source.
    async fn set_directories(self: &Arc<Put>) {
        let finals = match self.finals.lock() {
            Ok(mut finals) => std::mem::take(&mut *finals),
            Err(_) => return,
        };
        let (send, receive) = mpsc::channel(JOBS_WAITING);
        let feed = async move {
            for one in finals {
                if send.send(one).await.is_err() {
                    return;
                }
            }
        };
        let work = run_jobs(receive, CHANGES_IN_FLIGHT, |one: Final| {
            let put = self.clone();
            async move {
                if put.report.is_hopeless() {
                    return;
                }
                let op = NamespaceOp::SetAttr { ino: one.ino, attributes: one.attributes };
                if let Err(error) = put.client.mutate(op).await {
                    put.report.remote(&one.path, error);
                }
            }
        });
        let ((), worked) = tokio::join!(feed, work);
        if let Err(error) = worked {
            self.report.failed(b"/", error);
        }
    }
}

/// Makes one directory and finds what is in it.
async fn visit(put: Arc<Put>, directory: Directory, jobs: mpsc::Sender<Job>) -> Vec<Directory> {
    let mut below = Vec::new();
    if put.report.is_hopeless() {
        return below;
    }
    let Directory { local, to, attributes } = directory;
    let (ino, path) = match put.directory(&to, attributes.mode.unwrap_or(0)).await {
        Ok(made) => made,
        Err(error) => {
            let path = match &to {
                RemotePlace::Named(name) => &name.path,
                RemotePlace::Content { path, .. } => path,
            };
            put.report.remote(path, error);
            return below;
        }
    };
    put.finish_later(ino, attributes, path.clone());
    let mut listing = local::Listing::new(local.clone());
    loop {
        let read = spawn_blocking(move || {
            let page = listing.page();
            (listing, page)
        });
        let page = match read.await {
            Ok((next, page)) => {
                listing = next;
                page
            }
            Err(error) => {
                put.report.failed(local.as_os_str().as_bytes(), error);
                return below;
            }
        };
        if page.is_empty() {
            return below;
        }
        let mut found = Vec::new();
        for (name, result) in page {
            let entry = local.join(&name);
            let name = name.into_vec();
            let to = RemotePlace::Named(RemoteName {
                parent: ino,
                path: join_bytes(&path, &name),
                name,
            });
            match result {
                Ok(metadata) => put.sort(entry, &metadata, to, &mut below, &mut found),
                Err(error) => put.report.local(&entry, &error),
            }
        }
        for job in found {
            if jobs.send(job).await.is_err() {
                return below;
            }
        }
    }
}

/// Stores one file or link.
async fn run(put: Arc<Put>, job: Job) {
    if put.report.is_hopeless() {
        return;
    }
    if !job.is_link {
        return put_file(&put, job).await;
    }
    let Job { local, to, .. } = job;
    let (target, metadata) = match read_link(&local) {
        Ok(read) => read,
        Err(error) => return put.report.local(&local, &error),
    };
    let op = NamespaceOp::Symlink {
        parent: to.parent,
        name: to.name,
        target,
        attributes: put.attributes(&metadata),
        replace: true,
    };
    if let Err(error) = put.client.mutate(op).await {
        put.report.remote(&to.path, error);
    }
}

fn read_link(path: &Path) -> std::io::Result<(Vec<u8>, Metadata)> {
    let target = fs::read_link(path)?.into_os_string().into_vec();
    Ok((target, fs::symlink_metadata(path)?))
}
