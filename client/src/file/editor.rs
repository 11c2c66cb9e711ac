//! Writing in place: a published file, opened for appending or for changing bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::checksum::piece_sums;
use protocol::ids::{ChunkKey, Handle, Ino, OpId, SessionId};
use protocol::message::chunk::WriteClass;
use protocol::message::namespace::{
    Entry, FileContent, LookupResult, NamespaceOp, OpOutcome, PathQuery,
};
use protocol::status::Status;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::error::Error;
use crate::file::reader::impossible;
use crate::limits::{SETTLE_LOOK_MS, SETTLE_WAIT_MS, WRITER_CHUNKS_IN_FLIGHT};
use crate::plan::WriteTask;
use crate::plan::range::{Piece, write_piece};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Adding bytes at the end; readers may go on reading from any replica.
    Append,
    /// Changing bytes anywhere.
    Change,
}

/// A published file, open for writing in place.
///
/// An operation whose outcome is unknown fails the handle for good: every later call repeats the
/// error, and closing has the file measured by the groups that hold it.
pub struct FileEditor {
    client: Client,
    session: SessionId,
    ino: Ino,
    content: Arc<FileContent>,
    /// Length, with everything that was written here.
    end: u64,
    mode: WriteMode,
    /// True while an operation is under way, and for ever when one was abandoned.
    unclean: bool,
    failed: Option<Error>,
    open: bool,
}

impl Client {
    /// Opens a published file for writing in place, by this session alone.
    ///
    /// The first opening for [`WriteMode::Change`] takes up to ten seconds when others have just
    /// opened the file for reading: they were told that it only grows.
    ///
    /// # Errors
    /// [`Error::Refused`]: another session writes to it, or the caller may not.
    ///
    /// # Cancel safety
    /// The file may stay open until the session ends; then it is measured.
    pub async fn open_write(&self, ino: Ino, mode: WriteMode) -> Result<FileEditor, Error> {
        let session = self.session().id().await?;
        let what = format!("open inode {ino} for writing");
        let op = NamespaceOp::OpenWrite { ino, mutate: mode == WriteMode::Change, shared: false };
        let entry = self.run_settled(&what, op).await?;
        let content = entry.content.ok_or_else(|| without_content(&what))?;
        content.layout.validate().map_err(|error| impossible(&what, error))?;
        if !content.growth_only {
            self.core().note_changed(content.fid);
        }
        Ok(FileEditor {
            client: self.clone(),
            session,
            ino,
            content: Arc::new(content),
            end: entry.attributes.size,
            mode,
            unclean: false,
            failed: None,
            open: true,
        })
    }

    /// Sets a file's length; returns when nothing beyond it is left anywhere.
    ///
    /// # Errors
    /// [`Error::Refused`]: another session writes to it, or the caller may not.
    /// [`Error::Deadline`]: the length is set, but some group has not cut the file yet; nobody can
    /// write to it until then.
    ///
    /// # Durability
    /// The new length survives a crash of every process.
    ///
    /// # Cancel safety
    /// The length may be set.
    pub async fn truncate(&self, ino: Ino, len: u64) -> Result<Entry, Error> {
        let what = format!("truncate inode {ino} to {len} bytes");
        let entry = self.run_settled(&what, NamespaceOp::Truncate { ino, len }).await?;
        if let Some(content) = &entry.content {
            self.core().note_changed(content.fid);
        }
        self.settled(&what, ino, entry).await
    }

    /// Looks at a file until the groups have cut or measured it.
    async fn settled(&self, what: &str, ino: Ino, mut entry: Entry) -> Result<Entry, Error> {
        let start = tokio::time::Instant::now();
        while entry.content.as_ref().is_some_and(|content| content.truncating) {
            if start.elapsed() >= Duration::from_millis(SETTLE_WAIT_MS) {
                return Err(still_settling(what));
            }
            tokio::time::sleep(Duration::from_millis(SETTLE_LOOK_MS)).await;
            let query =
                PathQuery { base: ino, path: Vec::new(), follow: false, with_content: true };
            entry = match self.lookup_once(query).await? {
                LookupResult::Found(entry) => entry,
                LookupResult::Refused(status) => return Err(Error::refused(what, status, "")),
            };
        }
        Ok(entry)
    }

    /// Runs an operation on a file, again while groups cut or measure it.
    async fn run_settled(&self, what: &str, op: NamespaceOp) -> Result<Entry, Error> {
        let start = tokio::time::Instant::now();
        loop {
            match self.mutations().run_alone(what, op.clone()).await {
                Ok(OpOutcome::Done(Some(entry))) => return Ok(entry),
                Ok(_) => return Err(without_content(what)),
                Err(error) if error.status() == Some(Status::Busy) => {
                    if start.elapsed() >= Duration::from_millis(SETTLE_WAIT_MS) {
                        return Err(still_settling(what));
                    }
                    tokio::time::sleep(Duration::from_millis(SETTLE_LOOK_MS)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl FileEditor {
    /// Length of the file, with everything that was written here, in bytes.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Writes bytes at the end.
    ///
    /// # Errors
    /// As [`FileEditor::write_at`].
    pub async fn append(&mut self, data: impl Into<Bytes>) -> Result<(), Error> {
        self.write_at(self.end, data).await
    }

    /// Writes bytes at an offset; what lies between the old end and it reads as zeros.
    ///
    /// # Errors
    /// [`Error::Usage`] when the file was opened for appending and `offset` is not its end. Any
    /// other error is repeated by every later call.
    ///
    /// # Durability
    /// The bytes are on stable media on every member; a reader sees a longer file after
    /// [`FileEditor::sync`] or [`FileEditor::close`].
    ///
    /// # Cancel safety
    /// The bytes may be written wholly, partly or not; the handle has failed.
    pub async fn write_at(&mut self, offset: u64, data: impl Into<Bytes>) -> Result<(), Error> {
        self.check()?;
        if self.mode == WriteMode::Append && offset != self.end {
            let detail = format!("opened for appending: write at {}, not at {offset}", self.end);
            return Err(Error::Usage { what: self.name(), detail });
        }
        let mut data = data.into();
        let end = offset.saturating_add(data.len() as u64);
        self.unclean = true;
        let mut in_flight = JoinSet::new();
        let mut at = offset;
        while let Some(piece) = self.next_piece(at, end)? {
            let bytes = data.split_to(piece.len as usize);
            // Pieces of one chunk go out in order; those of different chunks together.
            let room = if piece.offset > 0 { 0 } else { WRITER_CHUNKS_IN_FLIGHT - 1 };
            self.wait_for(&mut in_flight, room).await?;
            let (client, task, name) =
                (self.client.clone(), self.task(&piece, &bytes), self.name());
            in_flight.spawn(async move {
                let result = client.core().write(task, bytes).await;
                let at = format!("write {name} chunk {}", piece.index);
                result.map(drop).map_err(|failed| failed.at(&at))
            });
            at += u64::from(piece.len);
        }
        self.wait_for(&mut in_flight, 0).await?;
        self.unclean = false;
        self.end = self.end.max(end);
        Ok(())
    }

    /// Publishes the length that was written.
    ///
    /// # Errors
    /// The handle's failure, every time; or why the coordinator refuses.
    ///
    /// # Durability
    /// On return bytes and length survive a crash of every process.
    ///
    /// # Cancel safety
    /// The length may be published.
    pub async fn sync(&mut self) -> Result<(), Error> {
        self.check()?;
        let (ino, end, trunc_gen) = (self.ino, self.end, self.content.trunc_gen);
        self.client.mutate(NamespaceOp::SetSize { ino, end, trunc_gen }).await.map(drop)
    }

    /// Publishes the length and ends writing.
    ///
    /// # Errors
    /// The handle's failure, after the file was given back to be measured; or why the coordinator
    /// refuses.
    ///
    /// # Durability
    /// On return bytes and length survive a crash of every process.
    ///
    /// # Cancel safety
    /// The file is closed, or is when the session ends.
    pub async fn close(mut self) -> Result<Entry, Error> {
        let what = self.name();
        self.open = false;
        let outcome = self.client.mutations().run(&what, self.closing()).await;
        match (self.failed.take(), outcome?) {
            (Some(error), _) => Err(error),
            (None, OpOutcome::Done(Some(entry))) => Ok(entry),
            (None, _) => Err(Error::refused(what, Status::NotFound, "removed while it was open")),
        }
    }

    fn closing(&self) -> NamespaceOp {
        NamespaceOp::CloseWrite {
            ino: self.ino,
            size: self.end,
            trunc_gen: self.content.trunc_gen,
            clean: !self.unclean,
        }
    }

    fn check(&self) -> Result<(), Error> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.unclean => Err(Error::Stopped {
                what: self.name(),
                detail: "an earlier write was abandoned".into(),
            }),
            None => Ok(()),
        }
    }

    fn next_piece(&self, at: u64, end: u64) -> Result<Option<Piece>, Error> {
        write_piece(&self.content.layout, at, end).map_err(|error| impossible(&self.name(), error))
    }

    fn task(&self, piece: &Piece, bytes: &Bytes) -> WriteTask {
        let layout = &self.content.layout;
        let key = ChunkKey { fid: self.content.fid, index: piece.index };
        // Only where nothing but growth ever happened is a chunk as long as the file says.
        let grows = self.mode == WriteMode::Append && self.content.growth_only;
        WriteTask {
            group: piece.group,
            key,
            op: OpId { session: self.session, seq: self.client.core().next_write_seq() },
            class: if grows { WriteClass::Growth } else { WriteClass::Mutation },
            offset: piece.offset,
            len: piece.len,
            expect_len: piece.offset + piece.len,
            trunc_gen: self.content.trunc_gen,
            cell_log2: layout.cell_log2,
            chunk_log2: layout.chunk_log2(),
            handle: Handle(0),
            sums: piece_sums(key, piece.offset, layout.cell_log2, bytes),
        }
    }

    /// Waits until at most `count` writes are in flight; the first failure is the handle's.
    async fn wait_for(
        &mut self,
        in_flight: &mut JoinSet<Result<(), Error>>,
        count: usize,
    ) -> Result<(), Error> {
        while in_flight.len() > count
            && let Some(ended) = in_flight.join_next().await
        {
            let result = ended.unwrap_or_else(|error| {
                let detail = format!("the task of a write ended: {error}");
                Err(Error::Stopped { what: self.name(), detail })
            });
            if let Err(error) = result {
                self.failed.get_or_insert(error);
            }
        }
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn name(&self) -> String {
        format!("inode {}", self.ino)
    }
}

impl Drop for FileEditor {
    fn drop(&mut self) {
        if self.open && !self.client.mutations().try_run(self.closing()) {
            tracing::debug!(ino = self.ino.0, "closed when the session ends");
        }
    }
}

fn without_content(what: &str) -> Error {
    let detail = "the outcome is without a content".into();
    Error::Protocol { what: what.into(), detail }
}

fn still_settling(what: &str) -> Error {
    Error::Deadline {
        what: what.into(),
        waited_ms: SETTLE_WAIT_MS,
        attempts: 1,
        last: "groups of the file have not answered; see `lanefs status`".into(),
    }
}
