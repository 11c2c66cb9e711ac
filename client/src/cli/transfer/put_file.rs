//! Stores the bytes of one file: a small one as a whole, a large one as a stream.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::put::{Job, Put};
use crate::cli::limits::{PIECE_BYTES, PIECES_IN_FLIGHT, SMALL_FILE_BYTES};
use crate::{Error, FileWriter};

/// Why a file could not be stored.
enum Problem {
    Local(io::Error),
    Remote(Error),
}

/// A file as it was opened.
enum Opened {
    /// All its bytes.
    Small(Vec<u8>, Metadata),
    /// Too large to hold.
    Large(File, Metadata),
}

/// Stores one file under its name; nothing is visible when that fails.
pub(super) async fn put_file(put: &Put, job: Job) {
    let result = store(put, &job).await;
    match result {
        Ok(bytes) => put.report.progress.done(bytes),
        Err(Problem::Local(error)) => put.report.local(&job.local, &error),
        Err(Problem::Remote(error)) => put.report.remote(&job.to.path, error),
    }
}

async fn store(put: &Put, job: &Job) -> Result<u64, Problem> {
    let path = job.local.clone();
    // Room for a small file is taken before it is read; a large one gives it back at once.
    let small_room = put.memory.room(SMALL_FILE_BYTES).await;
    let opened = spawn_blocking(move || open(&path)).await.map_err(broken)?;
    match opened.map_err(Problem::Local)? {
        Opened::Small(data, metadata) => {
            let mut writer = create(put, job, data.len() as u64).await?;
            let bytes = data.len() as u64;
            if !data.is_empty()
                && let Err(error) = writer.write(data).await
            {
                writer.abandon().await;
                return Err(Problem::Remote(error));
            }
            publish(put, job, writer, &metadata).await?;
            Ok(bytes)
        }
        Opened::Large(file, metadata) => {
            drop(small_room);
            let _room = put.memory.room(metadata.len()).await;
            let mut writer = create(put, job, metadata.len()).await?;
            match stream(put, file, &mut writer).await {
                Ok(()) => publish(put, job, writer, &metadata).await.map(|()| 0),
                Err(problem) => {
                    writer.abandon().await;
                    Err(problem)
                }
            }
        }
    }
}

async fn create(put: &Put, job: &Job, length: u64) -> Result<FileWriter, Problem> {
    let writer = put.client.create(job.to.parent, length).await.map_err(Problem::Remote)?;
    Ok(writer.named(crate::cli::output::shown(&job.to.path)))
}

async fn publish(
    put: &Put,
    job: &Job,
    writer: FileWriter,
    metadata: &Metadata,
) -> Result<(), Problem> {
    let attributes = put.attributes(metadata);
    let published = writer.publish(job.to.parent, &job.to.name, attributes, true).await;
    published.map(drop).map_err(Problem::Remote)
}

/// Sends the rest of a file; reading runs ahead by [`PIECES_IN_FLIGHT`] pieces.
async fn stream(put: &Put, file: File, writer: &mut FileWriter) -> Result<(), Problem> {
    let (send, mut receive) = mpsc::channel(PIECES_IN_FLIGHT);
    let reading = spawn_blocking(move || read_pieces(&file, &send));
    while let Some(piece) = receive.recv().await {
        let piece: Vec<u8> = piece;
        let length = piece.len() as u64;
        writer.write(piece).await.map_err(Problem::Remote)?;
        put.report.progress.done(length);
    }
    reading.await.map_err(broken)?.map_err(Problem::Local)
}

fn read_pieces(mut file: &File, send: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(usize::try_from(PIECE_BYTES).unwrap_or(0));
        (&mut file).take(PIECE_BYTES).read_to_end(&mut piece)?;
        // A closed channel means that the writer failed, which is reported there.
        if piece.is_empty() || send.blocking_send(piece).is_err() {
            return Ok(());
        }
    }
}

fn open(path: &Path) -> io::Result<Opened> {
    // A FIFO that took the file's place meanwhile must not block this thread.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is no longer a regular file"));
    }
    if metadata.len() > SMALL_FILE_BYTES {
        return Ok(Opened::Large(file, metadata));
    }
    let mut data = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    (&mut file).take(SMALL_FILE_BYTES + 1).read_to_end(&mut data)?;
    if data.len() as u64 > SMALL_FILE_BYTES {
        let path = String::from_utf8_lossy(path.as_os_str().as_bytes());
        return Err(io::Error::other(format!("{path} grows while it is read")));
    }
    Ok(Opened::Small(data, metadata))
}

fn broken(error: tokio::task::JoinError) -> Problem {
    Problem::Local(io::Error::other(error))
}
