//! Whole files that are read at once, each with a tag of its owner's.
//!
//! Every file goes the way of a single read: its replicas, hedges, retries and verification are
//! those of [`FileReader::read_at`]. Owns the window; knows nothing of names.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tokio::task::{Id, JoinSet};

use crate::error::Error;
use crate::file::reader::FileReader;
use crate::file::room::Room;
use crate::limits::READ_MANY_FILE_BYTES_MAX;

/// What a file turned out to be.
pub enum FileBytes {
    /// All its bytes, verified.
    Whole(Bytes),
    /// Longer than [`READ_MANY_FILE_BYTES_MAX`]: nothing of it was read.
    Long(FileReader),
}

/// Files in the window: being read, or read and not taken.
pub(crate) struct WholeFiles<T> {
    in_order: bool,
    room: Room,
    reads: JoinSet<Result<Bytes, Error>>,
    under_way: HashMap<Id, Place<T>>,
    /// By the order in which they were pushed.
    ended: BTreeMap<u64, (Place<T>, Result<FileBytes, Error>)>,
    pushed: u64,
    taken: u64,
}

struct Place<T> {
    number: u64,
    tag: T,
    len: u64,
}

impl<T> WholeFiles<T> {
    /// Nothing yet; `in_order` hands files out in the order in which they were pushed.
    pub(crate) fn new(in_order: bool) -> WholeFiles<T> {
        WholeFiles {
            in_order,
            room: Room::default(),
            reads: JoinSet::new(),
            under_way: HashMap::new(),
            ended: BTreeMap::new(),
            pushed: 0,
            taken: 0,
        }
    }

    /// True when a file may be pushed now.
    pub(crate) fn has_room_for(&self, reader: &Result<FileReader, Error>) -> bool {
        self.room.fits(held(reader))
    }

    /// Begins to read a file, or notes that it cannot be read.
    pub(crate) fn push(&mut self, tag: T, reader: Result<FileReader, Error>) {
        let place = Place { number: self.pushed, tag, len: held(&reader) };
        self.pushed += 1;
        self.room.enter(place.len);
        match reader {
            Ok(reader) if is_long(&reader) => self.end(place, Ok(FileBytes::Long(reader))),
            Ok(reader) if reader.size() == 0 => self.end(place, Ok(FileBytes::Whole(Bytes::new()))),
            Ok(reader) => {
                let read = self.reads.spawn(async move { reader.read_all().await });
                self.under_way.insert(read.id(), place);
            }
            Err(error) => self.end(place, Err(error)),
        }
    }

    /// The next file that has ended, when there is one.
    pub(crate) fn take(&mut self) -> Option<(T, Result<FileBytes, Error>)> {
        let first = self.ended.first_entry()?;
        if self.in_order && *first.key() != self.taken {
            return None;
        }
        let (place, result) = first.remove();
        self.taken += 1;
        self.room.leave(place.len);
        Some((place.tag, result))
    }

    /// Waits until one more read has ended; false when none is under way.
    ///
    /// # Cancel safety
    /// No file is lost.
    pub(crate) async fn progress(&mut self) -> bool {
        let Some(ended) = self.reads.join_next_with_id().await else { return false };
        let (id, result) = match ended {
            Ok((id, result)) => (id, result.map(FileBytes::Whole)),
            Err(error) => {
                let detail = format!("read task ended: {error}");
                (error.id(), Err(Error::Stopped { what: "read".into(), detail }))
            }
        };
        if let Some(place) = self.under_way.remove(&id) {
            self.end(place, result);
        }
        true
    }

    fn end(&mut self, place: Place<T>, result: Result<FileBytes, Error>) {
        self.ended.insert(place.number, (place, result));
    }
}

fn is_long(reader: &FileReader) -> bool {
    reader.size() > READ_MANY_FILE_BYTES_MAX
}

/// Bytes that a file takes in the window.
fn held(reader: &Result<FileReader, Error>) -> u64 {
    match reader {
        Ok(reader) if !is_long(reader) => reader.size(),
        _ => 0,
    }
}
