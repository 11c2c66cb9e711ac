//! `cat`: bytes of files to standard output.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use bytes::Bytes;
use protocol::message::namespace::FileType;
use protocol::status::Status;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::remote::{expect, refused};
use crate::Client;
use crate::cli::failure::Failure;
use crate::cli::limits::PIECES_IN_FLIGHT;
use crate::cli::output::shown;
use crate::cli::path::RemotePath;

/// Writes files to standard output, one after the other.
///
/// # Errors
/// The first file that cannot be read ends the command; [`Failure::ReaderGone`] when nobody reads
/// on.
pub(crate) async fn cat(client: &Client, sources: Vec<OsString>) -> Result<(), Failure> {
    // Standard output itself, because the library's own handle looks for line ends in every byte.
    let out = io::stdout().as_fd().try_clone_to_owned().map_err(Failure::output)?;
    let (send, receive) = mpsc::channel(PIECES_IN_FLIGHT);
    let writing = spawn_blocking(move || write_pieces(File::from(out), receive));
    let mut result = Ok(());
    for source in sources {
        result = copy(client, &RemotePath::parse(&source), &send).await;
        if result.is_err() {
            break;
        }
    }
    drop(send);
    let written = writing.await.map_err(io::Error::other).and_then(|result| result);
    // When writing failed, that is why copying ended.
    written.map_err(Failure::output)?;
    result
}

async fn copy(
    client: &Client,
    path: &RemotePath,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<(), Failure> {
    let entry = expect(client, path, true).await?;
    if entry.attributes.file_type != FileType::File {
        return Err(refused(path, Status::IsDirectory));
    }
    let bytes = path.bytes();
    let reader = client.reader(&entry).map_err(|error| Failure::at(&bytes, error))?;
    let reader = reader.named(shown(&bytes));
    let mut stream = reader.stream(0, reader.size());
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| Failure::at(&bytes, error))?;
        if pieces.send(piece).await.is_err() {
            return Err(Failure::ReaderGone);
        }
    }
    Ok(())
}

fn write_pieces(mut out: File, mut pieces: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        out.write_all(&piece)?;
    }
    Ok(())
}
