//! Many files by their paths: looked up in batches ahead of the reads, read side by side.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::ids::Ino;
use protocol::message::namespace::{FileType, LookupResult, PathQuery};
use protocol::status::Status;
use tokio::task::{JoinError, JoinHandle};

use crate::client::Client;
use crate::error::Error;
use crate::file::reader::FileReader;
use crate::file::whole::{FileBytes, WholeFiles};
use crate::limits::{LOOKUP_BATCH_MAX, READ_MANY_AHEAD};
use crate::namespace::shown;

/// How many files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadManyOptions {
    /// True for files in the order of their paths; else each comes as soon as it is there, and one
    /// that is slow holds up no other.
    pub in_order: bool,
    /// True to follow a symbolic link in the last component of a path.
    pub follow: bool,
}

/// One of many files.
pub struct WholeFile {
    /// Position of its path among all, from 0.
    pub index: u64,
    /// The path as it was given.
    pub path: Vec<u8>,
    /// Its bytes; [`FileBytes::Long`] when it is read as a stream instead.
    pub result: Result<FileBytes, Error>,
}

/// Many files that are being read; see [`Client::read_many`].
///
/// Dropping it ends its lookups and reads.
pub struct ReadMany {
    client: Client,
    follow: bool,
    paths: Box<dyn Iterator<Item = Vec<u8>> + Send>,
    /// Paths taken so far.
    count: u64,
    lookup: Option<Lookup>,
    /// Looked up, and waiting for room.
    found: VecDeque<(Wanted, Result<FileReader, Error>)>,
    files: WholeFiles<Wanted>,
}

/// A path, and where it stood.
#[derive(Clone, Debug)]
struct Wanted {
    index: u64,
    path: Arc<[u8]>,
}

/// A batch that is being looked up.
struct Lookup {
    wanted: Vec<Wanted>,
    task: JoinHandle<Opened>,
}

/// One result for each path, in their order.
type Opened = Vec<Result<FileReader, Error>>;

impl Default for ReadManyOptions {
    fn default() -> ReadManyOptions {
        ReadManyOptions { in_order: false, follow: true }
    }
}

impl Client {
    /// Reads whole files by their absolute paths, many at a time.
    ///
    /// # Shape
    /// Paths are as for [`Client::lookup`]; they are taken from the iterator a batch at a time.
    /// Every path has one result, whatever becomes of the others. A batch of paths is looked up in one
    /// snapshot; each file is then as single reads find it. Files longer than
    /// [`READ_MANY_FILE_BYTES_MAX`](crate::limits::READ_MANY_FILE_BYTES_MAX) come as a reader.
    ///
    /// # Errors
    /// In the results: [`Error::Refused`] with the status of the path, as [`FileReader::read_at`], or,
    /// for each path of a batch, that no coordinator answered.
    ///
    /// # Cost
    /// One metadata request for [`LOOKUP_BATCH_MAX`] paths, while earlier files are read; at most
    /// [`READ_MANY_BYTES_MAX`](crate::limits::READ_MANY_BYTES_MAX) of content in memory.
    pub fn read_many<P>(&self, paths: P, options: ReadManyOptions) -> ReadMany
    where
        P: IntoIterator<Item = Vec<u8>, IntoIter: Send + 'static>,
    {
        ReadMany {
            client: self.clone(),
            follow: options.follow,
            paths: Box::new(paths.into_iter()),
            count: 0,
            lookup: None,
            found: VecDeque::new(),
            files: WholeFiles::new(options.in_order),
        }
    }
}

impl ReadMany {
    /// The next file; `None` after the last.
    ///
    /// # Cancel safety
    /// No file is lost. What is under way goes on; nothing new is begun until this is called again.
    pub async fn next(&mut self) -> Option<WholeFile> {
        loop {
            self.look_ahead();
            self.begin_reads();
            if let Some((Wanted { index, path }, result)) = self.files.take() {
                return Some(WholeFile { index, path: path.to_vec(), result });
            }
            let Some(lookup) = &mut self.lookup else {
                if self.files.progress().await {
                    continue;
                }
                return None;
            };
            tokio::select! {
                opened = &mut lookup.task => self.on_looked_up(opened),
                true = self.files.progress() => {}
            }
        }
    }

    /// Looks the next batch up when few files wait.
    fn look_ahead(&mut self) {
        if self.lookup.is_some() || self.found.len() > READ_MANY_AHEAD {
            return;
        }
        let paths = self.paths.by_ref().take(LOOKUP_BATCH_MAX);
        let wanted: Vec<Wanted> = (self.count..)
            .zip(paths)
            .map(|(index, path)| Wanted { index, path: path.into() })
            .collect();
        if wanted.is_empty() {
            return;
        }
        self.count += wanted.len() as u64;
        let task = tokio::spawn(open(self.client.clone(), wanted.clone(), self.follow));
        self.lookup = Some(Lookup { wanted, task });
    }

    fn on_looked_up(&mut self, opened: Result<Opened, JoinError>) {
        let Some(Lookup { wanted, .. }) = self.lookup.take() else { return };
        let opened = opened.unwrap_or_else(|error| {
            let detail = format!("lookup task ended: {error}");
            all_failed(&wanted, &Error::Stopped { what: String::new(), detail })
        });
        self.found.extend(wanted.into_iter().zip(opened));
    }

    /// Begins to read as many files as there is room for.
    fn begin_reads(&mut self) {
        while let Some((_, reader)) = self.found.front()
            && self.files.has_room_for(reader)
            && let Some((wanted, reader)) = self.found.pop_front()
        {
            self.files.push(wanted, reader);
        }
    }
}

impl Drop for ReadMany {
    fn drop(&mut self) {
        if let Some(lookup) = &self.lookup {
            lookup.task.abort();
        }
    }
}

/// Opens a batch of files.
async fn open(client: Client, wanted: Vec<Wanted>, follow: bool) -> Opened {
    let seen = tokio::time::Instant::now();
    let query = |one: &Wanted| PathQuery {
        base: Ino::ROOT,
        path: one.path.to_vec(),
        follow,
        with_content: true,
    };
    let results = match client.lookup_many(wanted.iter().map(query).collect()).await {
        Ok(results) => results,
        Err(error) => return all_failed(&wanted, &error),
    };
    let pairs = wanted.iter().zip(results);
    pairs.map(|(one, result)| opened(&client, &one.path, result, seen)).collect()
}

fn all_failed(wanted: &[Wanted], error: &Error) -> Opened {
    wanted.iter().map(|one| Err(error.clone().named(shown(&one.path)))).collect()
}

fn opened(
    client: &Client,
    path: &[u8],
    result: LookupResult,
    seen: tokio::time::Instant,
) -> Result<FileReader, Error> {
    let name = shown(path);
    match result {
        LookupResult::Found(entry) if entry.attributes.file_type == FileType::Directory => {
            Err(Error::refused(name, Status::IsDirectory, ""))
        }
        LookupResult::Found(entry) => match client.reader_since(&entry, seen) {
            Ok(reader) => Ok(reader.named(name)),
            Err(error) => Err(error.named(name)),
        },
        LookupResult::Refused(status) => Err(Error::refused(name, status, "")),
    }
}
