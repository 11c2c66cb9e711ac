//! `rm`.

use std::ffi::OsString;
use std::sync::{Arc, Mutex};

use protocol::ids::Ino;
use protocol::message::namespace::{FileType, NamespaceOp};
use protocol::status::Status;
use tokio::sync::mpsc;

use crate::cli::failure::Failure;
use crate::cli::limits::{
    CHANGES_IN_FLIGHT, DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, JOBS_WAITING,
};
use crate::cli::path::{RemotePath, join_bytes};
use crate::cli::report::Report;
use crate::cli::transfer::{expect, expect_directory, refused};
use crate::cli::tree::{TreeError, run_jobs, visit_all};
use crate::{Client, Error};

/// What one `rm` shares between its tasks.
struct Remove {
    client: Client,
    report: Report,
    /// Directories found, each with its depth; they go when they are empty.
    directories: Mutex<Vec<(usize, Name)>>,
}

/// A name to remove.
#[derive(Clone)]
struct Name {
    parent: Ino,
    name: Vec<u8>,
    path: Vec<u8>,
}

/// A directory to empty.
struct Directory {
    ino: Ino,
    depth: usize,
    own: Name,
}

/// Removes files, and directories when `recursive`.
pub(crate) async fn rm(
    client: &Client,
    paths: Vec<OsString>,
    recursive: bool,
) -> Result<(), Failure> {
    let shared = Arc::new(Remove {
        client: client.clone(),
        report: Report::new("rm"),
        directories: Mutex::new(Vec::new()),
    });
    let (mut roots, mut files) = (Vec::new(), Vec::new());
    for path in paths {
        match shared.look(&RemotePath::parse(&path), recursive).await {
            Ok(Found::File(name)) => files.push(name),
            Ok(Found::Directory(directory)) => roots.push(directory),
            Err(Failure::Failed(line)) => shared.report.line(&line),
            Err(other) => return Err(other),
        }
    }
    shared.clone().empty(roots, files).await.map_err(broken)?;
    shared.clone().remove_directories().await.map_err(broken)?;
    shared.report.finish()
}

enum Found {
    File(Name),
    Directory(Directory),
}

impl Remove {
    async fn look(&self, path: &RemotePath, recursive: bool) -> Result<Found, Failure> {
        let Some(name) = path.name() else {
            return Err(Failure::Failed("/: the root cannot be removed".to_owned()));
        };
        let entry = expect(&self.client, path, false).await?;
        let parent = expect_directory(&self.client, &path.parent()).await?;
        let own = Name { parent, name: name.to_vec(), path: path.bytes() };
        match entry.attributes.file_type {
            FileType::Directory if !recursive => Err(refused(path, Status::IsDirectory)),
            FileType::Directory => {
                Ok(Found::Directory(Directory { ino: entry.attributes.ino, depth: 0, own }))
            }
            FileType::File | FileType::Symlink => Ok(Found::File(own)),
        }
    }

    /// Removes everything that is not a directory, and notes the directories.
    async fn empty(
        self: Arc<Remove>,
        roots: Vec<Directory>,
        files: Vec<Name>,
    ) -> Result<(), TreeError> {
        let (send, receive) = mpsc::channel(JOBS_WAITING);
        let shared = self.clone();
        let walk = async move {
            for file in files {
                if send.send(file).await.is_err() {
                    return Ok(());
                }
            }
            visit_all(roots, DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, |directory| {
                visit(shared.clone(), directory, send.clone())
            })
            .await
        };
        let work = run_jobs(receive, CHANGES_IN_FLIGHT, |file: Name| {
            let op = NamespaceOp::Unlink { parent: file.parent, name: file.name };
            change(self.clone(), op, file.path)
        });
        let (walked, worked) = tokio::join!(walk, work);
        walked.and(worked)
    }

    /// Removes the directories, the deepest first; those of one depth together.
    async fn remove_directories(self: Arc<Remove>) -> Result<(), TreeError> {
        let mut directories = match self.directories.lock() {
            Ok(mut directories) => std::mem::take(&mut *directories),
            Err(_) => return Ok(()),
        };
        directories.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        for level in directories.chunk_by(|one, other| one.0 == other.0) {
            let (send, receive) = mpsc::channel(JOBS_WAITING);
            let feed = async move {
                for (_, name) in level {
                    if send.send(name.clone()).await.is_err() {
                        return;
                    }
                }
            };
            let work = run_jobs(receive, CHANGES_IN_FLIGHT, |name: Name| {
                let op = NamespaceOp::Rmdir { parent: name.parent, name: name.name };
                change(self.clone(), op, name.path)
            });
            let ((), worked) = tokio::join!(feed, work);
            worked?;
        }
        Ok(())
    }
}

async fn visit(
    remove: Arc<Remove>,
    directory: Directory,
    files: mpsc::Sender<Name>,
) -> Vec<Directory> {
    let Directory { ino, depth, own } = directory;
    let mut below = Vec::new();
    if let Ok(mut directories) = remove.directories.lock() {
        directories.push((depth, own.clone()));
    }
    let mut after = Vec::new();
    loop {
        if remove.report.is_hopeless() {
            return below;
        }
        let page = match remove.client.read_dir_page(ino, &after, false).await {
            Ok(page) => page,
            Err(error) => {
                remove.report.remote(&own.path, error);
                return below;
            }
        };
        let last = page.entries.last().map(|entry| entry.name.clone());
        for one in page.entries {
            let path = join_bytes(&own.path, &one.name);
            let name = Name { parent: ino, name: one.name, path };
            if one.entry.attributes.file_type == FileType::Directory {
                let ino = one.entry.attributes.ino;
                below.push(Directory { ino, depth: depth + 1, own: name });
            } else if files.send(name).await.is_err() {
                return below;
            }
        }
        match last {
            Some(name) if page.more => after = name,
            _ => return below,
        }
    }
}

async fn change(remove: Arc<Remove>, op: NamespaceOp, path: Vec<u8>) {
    if remove.report.is_hopeless() {
        return;
    }
    let result: Result<_, Error> = remove.client.mutate(op).await;
    if let Err(error) = result {
        remove.report.remote(&path, error);
    }
}

fn broken(error: TreeError) -> Failure {
    Failure::Failed(error.to_string())
}
