//! Fetches the bytes of one large file as a stream.

use std::io::{self, Write as _};
use std::path::PathBuf;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use super::get::{Get, Job};
use super::local::NewFile;
use crate::cli::limits::PIECES_IN_FLIGHT;
use crate::cli::output::shown;
use crate::{Error, FileReader};

/// Why a file could not be fetched.
enum Problem {
    Local(io::Error),
    Remote(Error),
}

/// Fetches one file; what has its local name stays when that fails.
pub(super) async fn get_large(get: &Get, job: Job) {
    let _room = get.memory.room(job.entry.attributes.size).await;
    let result = match get.client.reader_since(&job.entry, job.seen) {
        Ok(reader) => fetch(get, &job, reader.named(shown(&job.path))).await,
        Err(error) => Err(Problem::Remote(error)),
    };
    match result {
        Ok(()) => {}
        Err(Problem::Local(error)) => get.report.local(&job.local, &error),
        Err(Problem::Remote(error)) => get.report.remote(&job.path, error),
    }
}

async fn fetch(get: &Get, job: &Job, reader: FileReader) -> Result<(), Problem> {
    let (local, attributes) = (job.local.clone(), job.entry.attributes.clone());
    let (size, keep_owner) = (attributes.size, get.keep_owner);
    let new = stream(get, &reader, size, local.clone()).await?;
    finish(spawn_blocking(move || new.place(&local, &attributes, keep_owner)).await)
}

/// Writes a stream to a new file; writing lags behind by [`PIECES_IN_FLIGHT`] pieces at most.
async fn stream(
    get: &Get,
    reader: &FileReader,
    size: u64,
    local: PathBuf,
) -> Result<NewFile, Problem> {
    let (send, receive) = mpsc::channel(PIECES_IN_FLIGHT);
    let writing = spawn_blocking(move || write_pieces(&local, receive));
    let mut pieces = reader.stream(0, size);
    let mut failed = None;
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => {
                let length = piece.len() as u64;
                // A closed channel means that writing failed, which is reported below.
                if send.send(piece).await.is_err() {
                    break;
                }
                get.report.progress.done(length);
            }
            Err(error) => {
                failed = Some(Problem::Remote(error));
                break;
            }
        }
    }
    drop(send);
    let (new, written) = match writing.await {
        Ok(result) => result.map_err(Problem::Local)?,
        Err(error) => return Err(Problem::Local(io::Error::other(error))),
    };
    match failed {
        Some(problem) => Err(problem),
        None if written != size => {
            let text = format!("got {written} bytes instead of {size}");
            Err(Problem::Local(io::Error::other(text)))
        }
        None => Ok(new),
    }
}

fn write_pieces(
    local: &std::path::Path,
    mut pieces: mpsc::Receiver<Bytes>,
) -> io::Result<(NewFile, u64)> {
    let mut new = NewFile::beside(local)?;
    let mut written = 0;
    while let Some(piece) = pieces.blocking_recv() {
        new.file().write_all(&piece)?;
        written += piece.len() as u64;
    }
    Ok((new, written))
}

fn finish(result: Result<io::Result<()>, JoinError>) -> Result<(), Problem> {
    result.map_err(io::Error::other).and_then(|result| result).map_err(Problem::Local)
}
