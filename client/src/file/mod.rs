//! Files: writing a new one, reading a published one.

use bytes::Bytes;
use protocol::ids::Ino;
use protocol::message::namespace::{Entry, SetAttributes};

use crate::error::Error;

/// A new file that nobody sees until it is published.
pub struct FileWriter {
    _private: (),
}

/// A published file, open for reading.
#[derive(Clone)]
pub struct FileReader {
    _private: (),
}

/// The bytes of a range of a file, in order.
pub struct ReadStream {
    _private: (),
}

fn pending(what: &str) -> Error {
    Error::Closed { what: what.into() }
}

impl FileWriter {
    /// Names the file in errors, in place of its inode number.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> FileWriter {
        let _ = name.into();
        self
    }

    /// Appends bytes; whole chunks go out while the caller reads on.
    pub async fn write(&mut self, data: impl Into<Bytes>) -> Result<(), Error> {
        let _ = data.into();
        Err(pending("write"))
    }

    /// Waits until every byte is durable, then gives the file its name, size and attributes.
    pub async fn publish(
        self,
        parent: Ino,
        name: &[u8],
        attributes: SetAttributes,
        replace: bool,
    ) -> Result<Entry, Error> {
        let _ = (parent, name, attributes, replace);
        Err(pending("publish"))
    }

    /// Gives the file back unpublished.
    pub async fn abandon(self) {}
}

impl FileReader {
    /// Names the file in errors, in place of its inode number.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> FileReader {
        let _ = name.into();
        self
    }

    /// Length of the file, in bytes.
    pub fn size(&self) -> u64 {
        0
    }

    /// Reads `len` bytes at `offset`, fewer at the end of the file.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        let _ = (offset, len);
        Err(pending("read"))
    }

    /// Reads a range in order, ahead of the consumer.
    pub fn stream(&self, offset: u64, len: u64) -> ReadStream {
        let _ = (offset, len);
        ReadStream { _private: () }
    }
}

impl ReadStream {
    /// The next piece; `None` at the end of the range.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        None
    }
}
