//! Writing a new file: whole chunks, several at once, then a name.
//!
//! When a group takes no writes, the file is laid out anew from the first chunk that is not durable
//! and goes on elsewhere. Therefore a writer keeps the bytes of that chunk and of those it has sent
//! behind it: they are sent again under the same operations.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use protocol::checksum::cell_sums;
use protocol::ids::{ChunkKey, Handle, Ino, OpId, SessionId};
use protocol::layout::LayoutError;
use protocol::message::chunk::WriteClass;
use protocol::message::namespace::{Entry, FileContent, NamespaceOp, OpOutcome, SetAttributes};
use tokio::task::{JoinError, JoinSet};

use crate::client::Client;
use crate::core::Failed;
use crate::error::Error;
use crate::file::reader::impossible;
use crate::file::window::Window;
use crate::limits::{
    SMALL_FILE_LEN_MAX, WRITER_CHUNKS_IN_FLIGHT, WRITER_MOVES_MAX, WRITER_WINDOW_CHUNKS,
};
use crate::namespace::shown;
use crate::plan::WriteTask;
use crate::plan::range::{Piece, write_piece};

/// A new file that nobody sees until it is published.
///
/// Bytes are appended in order; whole chunks go out while the caller goes on. A writer that is
/// dropped gives its inode back.
///
/// # Cost
/// Bytes are copied once into a chunk, unless a call of [`FileWriter::write`] brings a whole one.
pub struct FileWriter {
    client: Client,
    session: SessionId,
    /// `None` once the inode is published or given back.
    entry: Option<Entry>,
    content: Arc<FileContent>,
    name: String,
    expect_len: u64,
    /// Bytes handed over in requests.
    sent: u64,
    /// Bytes of the piece that is being filled.
    filling: BytesMut,
    in_flight: JoinSet<(u64, Result<(), Trouble>)>,
    window: Window,
    /// Times the file was laid out anew since a chunk became durable.
    moves: u32,
    /// Nothing is left to be tried elsewhere: groups are waited for.
    stays: bool,
    /// The first failure: the file can only be abandoned.
    failed: Option<Error>,
}

impl Client {
    /// Starts a new file without a name.
    ///
    /// `expect_len` decides how wide the file is laid out; `u64::MAX` when it is not known.
    ///
    /// # Errors
    /// [`Error::Refused`] when the caller may not create files in `parent`.
    ///
    /// # Cancel safety
    /// Inodes may have been reserved; they are used later or end with the session.
    pub async fn create(&self, parent: Ino, expect_len: u64) -> Result<FileWriter, Error> {
        let session = self.session().id().await?;
        let entry = self.reservations().take(self.mutations(), session, parent, expect_len).await?;
        FileWriter::new(self.clone(), session, entry, expect_len)
    }
}

impl FileWriter {
    fn new(
        client: Client,
        session: SessionId,
        entry: Entry,
        expect_len: u64,
    ) -> Result<FileWriter, Error> {
        let name = format!("inode {}", entry.attributes.ino);
        let problem = |detail: String| Error::Protocol { what: name.clone(), detail };
        let content =
            entry.content.clone().ok_or_else(|| problem("reserved without a layout".into()))?;
        content.layout.validate().map_err(|error| impossible(&name, error))?;
        Ok(FileWriter {
            client,
            session,
            entry: Some(entry),
            content: Arc::new(content),
            name,
            expect_len,
            sent: 0,
            filling: BytesMut::new(),
            in_flight: JoinSet::new(),
            window: Window::default(),
            moves: 0,
            stays: false,
            failed: None,
        })
    }

    /// Names the file in errors, in place of its inode number.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> FileWriter {
        self.name = name.into();
        self
    }

    /// Appends bytes; returns when at most a bounded number of chunks is in flight.
    ///
    /// # Errors
    /// The first failure of any chunk so far, in this call and every later one.
    ///
    /// # Durability
    /// None; see [`FileWriter::publish`].
    ///
    /// # Cancel safety
    /// The bytes are appended wholly, partly or not: publish only after every call returned.
    pub async fn write(&mut self, data: impl Into<Bytes>) -> Result<(), Error> {
        let mut data = data.into();
        while !data.is_empty() {
            let piece = self.next_piece(u64::MAX)?;
            let wanted = piece.len as usize - self.filling.len();
            let part = data.split_to(wanted.min(data.len()));
            if self.filling.is_empty() && part.len() == wanted {
                self.send(piece, part).await?;
                continue;
            }
            if self.filling.is_empty() {
                self.filling.reserve(self.room_for(piece.len, part.len() + data.len()));
            }
            self.filling.extend_from_slice(&part);
            if self.filling.len() == piece.len as usize {
                let filled = self.filling.split().freeze();
                self.send(piece, filled).await?;
            }
        }
        Ok(())
    }

    /// Waits until every byte is durable, then gives the file its name, size and attributes.
    ///
    /// # Errors
    /// The first failure of any chunk, or why the name was refused; the file is given back.
    ///
    /// # Durability
    /// On return bytes and name survive a crash of every process.
    ///
    /// # Cancel safety
    /// The file is published or given back.
    pub async fn publish(
        mut self,
        parent: Ino,
        name: &[u8],
        attributes: SetAttributes,
        replace: bool,
    ) -> Result<Entry, Error> {
        let size = self.finish().await?;
        let Some(entry) = self.entry.clone() else {
            return Err(Error::Closed { what: self.name.clone() });
        };
        let op = NamespaceOp::Publish {
            ino: entry.attributes.ino,
            parent,
            name: name.to_vec(),
            size,
            attributes,
            replace,
            // Every operation of this writer is known to have succeeded.
            growth_only: true,
        };
        let what = format!("publish {}", shown(name));
        let outcome = self.client.mutations().run(&what, op).await;
        if outcome.is_ok() {
            self.entry = None;
        }
        match outcome? {
            OpOutcome::Done(Some(entry)) => Ok(entry),
            _ => {
                let detail = "published without an inode in the outcome".into();
                Err(Error::Protocol { what, detail })
            }
        }
    }

    /// Gives the file back unpublished.
    ///
    /// # Cancel safety
    /// The file is given back all the same, by dropping the writer.
    pub async fn abandon(mut self) {
        self.in_flight.shutdown().await;
        if self.sent == 0
            && self.expect_len <= SMALL_FILE_LEN_MAX
            && let Some(entry) = self.entry.take()
        {
            // Nothing was sent, so the inode is as good as new.
            self.client.reservations().put_back(self.session, entry).await;
        }
    }

    /// Sends what is left and waits for everything; the length of the file.
    async fn finish(&mut self) -> Result<u64, Error> {
        if !self.filling.is_empty() {
            // Nothing follows, so nothing is to be kept for it.
            self.expect_len = self.sent + self.filling.len() as u64;
            let piece = self.next_piece(self.expect_len)?;
            let rest = self.filling.split().freeze();
            self.send(piece, rest).await?;
        }
        self.wait_for_room(0).await?;
        Ok(self.sent)
    }

    /// The piece that starts after the bytes already sent, of a file that ends at `end`.
    fn next_piece(&self, end: u64) -> Result<Piece, Error> {
        match write_piece(&self.content.layout, self.sent, end) {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) | Err(LayoutError::Range) => Err(Error::TooLong { what: self.name.clone() }),
            Err(error) => Err(impossible(&self.name, error)),
        }
    }

    /// Memory to take at once for a piece: all of it, unless the file is expected to end before.
    fn room_for(&self, piece_len: u32, at_hand: usize) -> usize {
        let left = self.expect_len.saturating_sub(self.sent);
        let expected = usize::try_from(left).unwrap_or(usize::MAX).max(at_hand);
        expected.min(piece_len as usize)
    }

    async fn send(&mut self, piece: Piece, bytes: Bytes) -> Result<(), Error> {
        // Writes of one chunk are issued in offset order, so a piece that goes on in a chunk
        // waits for the one before it.
        let room = if piece.offset > 0 { 0 } else { WRITER_CHUNKS_IN_FLIGHT - 1 };
        self.wait_for_room(room).await?;
        let task = self.task(piece, &bytes);
        self.sent += bytes.len() as u64;
        self.window.push(piece.at, task, bytes);
        self.start(piece.at);
        Ok(())
    }

    /// Starts the write of a piece in the window.
    fn start(&mut self, at: u64) {
        let Some((task, bytes)) = self.window.begin(at) else { return };
        let (client, name, stays) = (self.client.clone(), self.name.clone(), self.stays);
        self.in_flight.spawn(async move {
            let index = task.key.index;
            let core = client.core();
            let result = match stays {
                true => core.write(task, bytes).await,
                false => core.write_or_leave(task, bytes).await,
            };
            let what = |failed: Failed| match failed.has_left() {
                true => Trouble::Left,
                false => Trouble::Failed(failed.at(&format!("write {name} chunk {index}"))),
            };
            (at, result.map(drop).map_err(what))
        });
    }

    fn task(&self, piece: Piece, bytes: &Bytes) -> WriteTask {
        let layout = &self.content.layout;
        let key = ChunkKey { fid: self.content.fid, index: piece.index };
        let first_cell = piece.offset >> layout.cell_log2;
        WriteTask {
            // The layout may have changed since the piece was cut.
            group: layout.group_of(piece.index).unwrap_or(piece.group),
            key,
            op: OpId { session: self.session, seq: self.client.core().next_write_seq() },
            class: WriteClass::Growth,
            offset: piece.offset,
            len: piece.len,
            expect_len: self.expect_chunk_len(&piece),
            trunc_gen: self.content.trunc_gen,
            cell_log2: layout.cell_log2,
            chunk_log2: layout.chunk_log2(),
            handle: Handle(0),
            sums: cell_sums(key, first_cell, layout.cell_log2, bytes),
        }
    }

    /// Length the chunk will have, as far as the expected length of the file tells.
    fn expect_chunk_len(&self, piece: &Piece) -> u32 {
        let start = piece.at - u64::from(piece.offset);
        let left = self.expect_len.saturating_sub(start).min(1 << self.content.layout.chunk_log2());
        u32::try_from(left).unwrap_or(u32::MAX).max(piece.offset + piece.len)
    }

    /// Waits until at most `count` requests are in flight and the window has room for another one,
    /// or is empty when `count` is 0; tells of any that has failed.
    async fn wait_for_room(&mut self, count: usize) -> Result<(), Error> {
        // Whatever has ended is taken, so that a failure is not found behind later successes.
        while let Some(ended) = self.in_flight.try_join_next() {
            self.on_ended(ended);
        }
        let held = if count == 0 { 0 } else { WRITER_WINDOW_CHUNKS - 1 };
        loop {
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            if self.window.has_left() {
                self.go_elsewhere().await?;
            } else if self.in_flight.len() <= count && self.window.len() <= held {
                return Ok(());
            } else if let Some(ended) = self.in_flight.join_next().await {
                self.on_ended(ended);
            } else {
                let detail = "a chunk was never sent".into();
                return Err(Error::Stopped { what: self.name.clone(), detail });
            }
        }
    }

    /// Has the file laid out anew from the first chunk that is not durable, and sends from there.
    ///
    /// When that is not possible the groups are waited for, as long as an operation may take.
    async fn go_elsewhere(&mut self) -> Result<(), Error> {
        // Each of them is durable, has failed or has left its group before long.
        while let Some(ended) = self.in_flight.join_next().await {
            self.on_ended(ended);
        }
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let again = match self.lay_out_anew().await {
            Ok(content) => {
                self.content = Arc::new(content);
                self.window.move_to(&self.content.layout)
            }
            Err(error) => {
                tracing::debug!(file = self.name, %error, "writing waits for its groups");
                self.stays = true;
                self.window.stay()
            }
        };
        again.into_iter().for_each(|at| self.start(at));
        Ok(())
    }

    async fn lay_out_anew(&mut self) -> Result<FileContent, Error> {
        let what = || format!("lay out {} anew", self.name);
        let problem = |detail: &str| Error::Usage { what: what(), detail: detail.into() };
        if self.moves >= WRITER_MOVES_MAX {
            return Err(problem("no group took a chunk since it last was"));
        }
        self.moves += 1;
        let entry = self.entry.as_ref().ok_or_else(|| Error::Closed { what: what() })?;
        let first = self.window.first().ok_or_else(|| problem("nothing is left to write"))?;
        if first.offset > 0 {
            return Err(problem("a part of the chunk is durable already"));
        }
        let (ino, first_chunk, avoid) = (entry.attributes.ino, first.key.index, first.group);
        let op = NamespaceOp::ExtendLayout { ino, first_chunk, avoid };
        tracing::info!(file = self.name, first_chunk, group = %avoid, "writing goes on elsewhere");
        let OpOutcome::Done(Some(entry)) = self.client.mutations().run(&what(), op).await? else {
            return Err(problem("the outcome is of another operation"));
        };
        let content = entry.content.ok_or_else(|| problem("the outcome is without a layout"))?;
        content.layout.validate().map_err(|error| impossible(&self.name, error))?;
        let same = content.fid == self.content.fid
            && content.layout.chunk_log2() == self.content.layout.chunk_log2()
            && content.layout.cell_log2 == self.content.layout.cell_log2;
        if same { Ok(content) } else { Err(problem("the outcome is of another content")) }
    }

    fn on_ended(&mut self, ended: Result<(u64, Result<(), Trouble>), JoinError>) {
        let (at, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let detail = format!("the task of a write ended: {error}");
                let error = Error::Stopped { what: self.name.clone(), detail };
                self.failed.get_or_insert(error);
                return;
            }
        };
        match result {
            Ok(()) => {
                self.moves = 0;
                self.window.on_durable(at);
            }
            Err(Trouble::Left) => self.window.on_left(at),
            Err(Trouble::Failed(error)) => {
                self.failed.get_or_insert(error);
            }
        }
    }
}

/// Why a piece is not durable.
enum Trouble {
    /// Its group takes no writes for now.
    Left,
    /// It never will be.
    Failed(Error),
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            let inos = vec![entry.attributes.ino];
            if !self.client.mutations().try_run(NamespaceOp::Abandon { inos }) {
                tracing::debug!(ino = entry.attributes.ino.0, "given back when the session ends");
            }
        }
    }
}
