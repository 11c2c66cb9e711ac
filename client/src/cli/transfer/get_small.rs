//! Fetches small files: each read as a whole beside many others, then written beside many others.

use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::get::{Get, Job};
use super::local::NewFile;
use crate::cli::limits::FILES_PLACED_AT_ONCE;
use crate::cli::output::shown;
use crate::cli::tree::TreeError;
use crate::file::WholeFiles;
use crate::{Error, FileBytes, FileReader};

/// Fetches small files as they arrive, until the channel is closed and all are done.
///
/// # Errors
/// [`TreeError::Broken`] when a task ended in a way it should not.
///
/// # Cancel safety
/// Dropping the future ends the reads; a file that is being written gets its name or goes.
pub(super) async fn get_small(
    get: Arc<Get>,
    mut jobs: mpsc::Receiver<Job>,
) -> Result<(), TreeError> {
    let mut files = WholeFiles::new(false);
    let mut placing = JoinSet::new();
    let mut next: Option<(Job, Result<FileReader, Error>)> = None;
    let mut open = true;
    loop {
        if let Some((job, reader)) = next.take_if(|(_, reader)| files.has_room_for(reader)) {
            files.push(job, reader);
        }
        while placing.len() < FILES_PLACED_AT_ONCE
            && let Some((job, result)) = files.take()
        {
            placing.spawn(place(Arc::clone(&get), job, result));
        }
        tokio::select! {
            job = jobs.recv(), if open && next.is_none() => match job {
                Some(job) => next = begin(&get, job),
                None => open = false,
            },
            true = files.progress(), if placing.len() < FILES_PLACED_AT_ONCE => {}
            Some(ended) = placing.join_next() => ended?,
            else => return Ok(()),
        }
    }
}

/// Opens a file, unless the rest need not be tried.
fn begin(get: &Get, job: Job) -> Option<(Job, Result<FileReader, Error>)> {
    if get.report.is_hopeless() {
        return None;
    }
    let reader = get.client.reader_since(&job.entry, job.seen);
    let reader = reader.map(|reader| reader.named(shown(&job.path)));
    Some((job, reader))
}

/// Writes what was read under its local name; what has that name stays when it was not.
async fn place(get: Arc<Get>, job: Job, result: Result<FileBytes, Error>) {
    let bytes = match result {
        Ok(FileBytes::Whole(bytes)) => bytes,
        Ok(FileBytes::Long(_)) => {
            return get.report.failed(&job.path, "is too long to be read as a whole");
        }
        Err(error) => return get.report.remote(&job.path, error),
    };
    let (local, keep_owner) = (job.local.clone(), get.keep_owner);
    let length = bytes.len() as u64;
    let written = spawn_blocking(move || write(&job, &bytes, keep_owner)).await;
    match written.map_err(io::Error::other).and_then(|result| result) {
        Ok(()) => get.report.progress.done(length),
        Err(error) => get.report.local(&local, &error),
    }
}

fn write(job: &Job, bytes: &Bytes, keep_owner: bool) -> io::Result<()> {
    let mut new = NewFile::beside(&job.local)?;
    new.file().write_all(bytes)?;
    new.place(&job.local, &job.entry.attributes, keep_owner)
}
