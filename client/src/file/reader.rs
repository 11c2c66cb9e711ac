//! Reading a published file.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use protocol::ids::{ChunkKey, Handle};
use protocol::layout::LayoutError;
use protocol::message::namespace::{Entry, FileContent, FileType};

use crate::client::Client;
use crate::error::Error;
use crate::file::stream::ReadStream;
use crate::file::word::Word;
use crate::plan::ReadTask;
use crate::plan::range::{Piece, read_piece};

/// A published file, open for reading; clones share it.
#[derive(Clone)]
pub struct FileReader {
    client: Client,
    /// As it was when the file was opened; its layout and identity stay.
    content: Arc<FileContent>,
    word: Arc<Word>,
    size: u64,
    name: Arc<str>,
}

impl Client {
    /// Opens a file that was looked up with its content.
    ///
    /// # Errors
    /// - [`Error::Usage`]: the entry is no regular file or came without its content.
    /// - [`Error::Protocol`]: the content is laid out in a way that has no meaning.
    pub fn reader(&self, entry: &Entry) -> Result<FileReader, Error> {
        self.reader_since(entry, tokio::time::Instant::now())
    }

    /// Opens a file that was looked up or listed at `seen`, with its content.
    ///
    /// # Errors
    /// As [`Client::reader`].
    pub fn reader_since(
        &self,
        entry: &Entry,
        seen: tokio::time::Instant,
    ) -> Result<FileReader, Error> {
        let name = format!("inode {}", entry.attributes.ino);
        let problem = |detail: &str| Error::Usage { what: name.clone(), detail: detail.into() };
        if entry.attributes.file_type != FileType::File {
            return Err(problem("not a regular file"));
        }
        let content = entry.content.clone().ok_or_else(|| problem("looked up without content"))?;
        content.layout.validate().map_err(|error| impossible(&name, error))?;
        let word = Word::new(entry.attributes.ino, content.clone(), self.core().at(seen));
        Ok(FileReader {
            client: self.clone(),
            content: Arc::new(content),
            word: Arc::new(word),
            size: entry.attributes.size,
            name: name.as_str().into(),
        })
    }
}

impl FileReader {
    /// Names the file in errors, in place of its inode number.
    #[must_use]
    pub fn named(mut self, name: impl AsRef<str>) -> FileReader {
        self.name = name.as_ref().into();
        self
    }

    /// Length of the file when it was looked up, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads `len` bytes at `offset`, fewer at the end of the file.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when no replica of some chunk has bytes that verify.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    ///
    /// # Cost
    /// No copy when the range lies in one piece (1 MiB); one copy otherwise.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        let end = offset.saturating_add(len as u64).min(self.size);
        if let Some(piece) = self.piece(offset, end)?
            && offset + u64::from(piece.len) == end
        {
            // By whoever awaits it: a task of its own would only add a switch.
            return self.clone().read(piece).await;
        }
        let mut stream = self.stream(offset, end.saturating_sub(offset));
        let Some(first) = stream.next().await.transpose()? else { return Ok(Bytes::new()) };
        if offset + first.len() as u64 == end {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(usize::try_from(end - offset).unwrap_or(len));
        all.extend_from_slice(&first);
        while let Some(piece) = stream.next().await.transpose()? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Reads the whole file, as long as it was when it was looked up.
    pub(super) async fn read_all(&self) -> Result<Bytes, Error> {
        let len = usize::try_from(self.size).unwrap_or(usize::MAX);
        let bytes = self.read_at(0, len).await?;
        if bytes.len() == len {
            return Ok(bytes);
        }
        let detail = format!("got {} bytes instead of {len}", bytes.len());
        Err(Error::Protocol { what: self.name.to_string(), detail })
    }

    /// Reads a range in order, ahead of the consumer; it is cut at the end of the file.
    pub fn stream(&self, offset: u64, len: u64) -> ReadStream {
        ReadStream::new(self.clone(), offset, offset.saturating_add(len).min(self.size))
    }

    /// The piece of a read that starts at `at`.
    pub(super) fn piece(&self, at: u64, end: u64) -> Result<Option<Piece>, Error> {
        read_piece(&self.content.layout, self.size, at, end)
            .map_err(|error| impossible(&self.name, error))
    }

    /// Reads one piece.
    pub(super) async fn read(self, piece: Piece) -> Result<Bytes, Error> {
        let said = self.word.content(&self.client).await;
        let task = ReadTask {
            group: piece.group,
            key: ChunkKey { fid: self.content.fid, index: piece.index },
            offset: piece.offset,
            len: piece.len,
            chunk_len: piece.chunk_len,
            trunc_gen: said.trunc_gen,
            handle: Handle(0),
            growth_only: said.growth_only && !self.client.core().is_changed(said.fid),
            stamp: said.stamp,
        };
        let result = self.client.core().read(task).await;
        result.map_err(|failed| failed.at(&format!("read {} chunk {}", self.name, piece.index)))
    }
}

/// A layout that no server may hand out.
pub(super) fn impossible(name: &str, error: LayoutError) -> Error {
    Error::Protocol { what: name.to_owned(), detail: error.to_string() }
}
