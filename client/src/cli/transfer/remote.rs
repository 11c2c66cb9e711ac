//! Looking at what is in lanefs, and where a source goes there.

use protocol::ids::Ino;
use protocol::message::namespace::{Entry, FileType, LookupResult, PathQuery};
use protocol::status::Status;

use crate::cli::failure::Failure;
use crate::cli::path::RemotePath;
use crate::cli::place::{Destination, Place, PlaceError, Source, place};
use crate::{Client, Error};

/// What a path leads to.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// Nothing has the name.
    Missing,
    /// It is there.
    Entry(Box<Entry>),
}

/// A name to be given in lanefs.
#[derive(Clone, Debug)]
pub(crate) struct RemoteName {
    /// Directory that gets the name.
    pub(crate) parent: Ino,
    /// The name; empty for the root itself.
    pub(crate) name: Vec<u8>,
    /// The whole path, for people.
    pub(crate) path: Vec<u8>,
}

impl Found {
    pub(crate) fn destination(&self) -> Destination {
        match self {
            Found::Missing => Destination::Missing,
            Found::Entry(entry) if entry.attributes.file_type == FileType::Directory => {
                Destination::Directory
            }
            Found::Entry(_) => Destination::File,
        }
    }
}

/// Looks a path up, with its content.
///
/// # Errors
/// Every failure but "no such file or directory".
pub(crate) async fn find(
    client: &Client,
    path: &RemotePath,
    follow: bool,
) -> Result<Found, Failure> {
    let bytes = path.bytes();
    let found = query(client, Ino::ROOT, &bytes[1..], follow).await;
    found.map_err(|error| Failure::at(&bytes, error))
}

/// Looks a name up in a directory, without following it.
///
/// # Errors
/// Every failure but "no such file or directory".
pub(crate) async fn find_in(client: &Client, dir: Ino, name: &[u8]) -> Result<Found, Error> {
    query(client, dir, name, false).await
}

async fn query(client: &Client, base: Ino, path: &[u8], follow: bool) -> Result<Found, Error> {
    let query = PathQuery { base, path: path.to_vec(), follow, with_content: true };
    match client.lookup_many(vec![query]).await?.pop() {
        Some(LookupResult::Found(entry)) => Ok(Found::Entry(Box::new(entry))),
        Some(LookupResult::Refused(Status::NotFound)) => Ok(Found::Missing),
        Some(LookupResult::Refused(status)) => Err(Error::refused("lookup", status, "")),
        None => Err(no_result()),
    }
}

fn no_result() -> Error {
    Error::Protocol { what: "lookup".to_owned(), detail: "no result in the reply".to_owned() }
}

/// The entry at a path, which must be there.
///
/// # Errors
/// With the path, when it is not there or cannot be reached.
pub(crate) async fn expect(
    client: &Client,
    path: &RemotePath,
    follow: bool,
) -> Result<Entry, Failure> {
    let bytes = path.bytes();
    let many = expect_many(client, std::slice::from_ref(path), follow).await;
    let one = many.and_then(|mut found| found.pop().unwrap_or_else(|| Err(no_result())));
    one.map_err(|error| Failure::at(&bytes, error))
}

/// The entries at many paths, each of which must be there, in their order.
///
/// # Errors
/// That no coordinator answered; what is wrong with one path is in its place.
pub(crate) async fn expect_many(
    client: &Client,
    paths: &[RemotePath],
    follow: bool,
) -> Result<Vec<Result<Entry, Error>>, Error> {
    let query = |path: &RemotePath| PathQuery {
        base: Ino::ROOT,
        path: path.bytes(),
        follow: follow || path.is_folder,
        with_content: true,
    };
    let results = client.lookup_many(paths.iter().map(query).collect()).await?;
    let pairs = paths.iter().zip(results);
    Ok(pairs.map(|(path, result)| judge(path, result)).collect())
}

/// What was found at a path that must be there.
fn judge(path: &RemotePath, result: LookupResult) -> Result<Entry, Error> {
    let refused = |status| Err(Error::refused("", status, ""));
    match result {
        LookupResult::Refused(status) => refused(status),
        LookupResult::Found(entry)
            if path.is_folder && entry.attributes.file_type != FileType::Directory =>
        {
            refused(Status::NotDirectory)
        }
        LookupResult::Found(entry) => Ok(entry),
    }
}

/// The directory at a path, which must be there.
///
/// # Errors
/// With the path, when it is something else.
pub(crate) async fn expect_directory(client: &Client, path: &RemotePath) -> Result<Ino, Failure> {
    let entry = expect(client, path, true).await?;
    match entry.attributes.file_type {
        FileType::Directory => Ok(entry.attributes.ino),
        _ => Err(refused(path, Status::NotDirectory)),
    }
}

/// A refusal at a path.
pub(crate) fn refused(path: &RemotePath, status: Status) -> Failure {
    Failure::at(&path.bytes(), Error::refused("", status, ""))
}

/// A destination in lanefs, looked at once for all sources.
#[derive(Debug)]
pub(crate) struct RemoteDestination {
    path: RemotePath,
    found: Found,
    /// The directory that holds the destination's own name.
    parent: Option<Ino>,
}

impl RemoteDestination {
    /// Looks at a destination.
    ///
    /// # Errors
    /// When its parent directory is missing, or it cannot be reached.
    pub(crate) async fn look(client: &Client, path: RemotePath) -> Result<Self, Failure> {
        let found = find(client, &path, true).await?;
        let parent = match found.destination() {
            Destination::Directory => None,
            _ => Some(expect_directory(client, &path.parent()).await?),
        };
        Ok(RemoteDestination { path, found, parent })
    }

    /// Where a source goes.
    ///
    /// # Errors
    /// With the destination's path.
    pub(crate) fn place(&self, source: Source<'_>) -> Result<RemotePlace, Failure> {
        let placed = place(source, self.found.destination(), self.path.is_folder);
        let bytes = self.path.bytes();
        let fail = |error: PlaceError| {
            Failure::Failed(format!("{}: {error}", crate::cli::output::shown(&bytes)))
        };
        match (placed.map_err(fail)?, &self.found) {
            (Place::Into(name), Found::Entry(entry)) => Ok(RemotePlace::Named(RemoteName {
                parent: entry.attributes.ino,
                name: name.to_vec(),
                path: self.path.join(name).bytes(),
            })),
            (Place::As, Found::Entry(entry)) if self.parent.is_none() => {
                Ok(RemotePlace::Content { dir: entry.attributes.ino, path: bytes })
            }
            _ => Ok(RemotePlace::Named(RemoteName {
                parent: self.parent.unwrap_or(Ino::ROOT),
                name: self.path.name().unwrap_or_default().to_vec(),
                path: bytes,
            })),
        }
    }
}

/// Where a source goes in lanefs.
#[derive(Clone, Debug)]
pub(crate) enum RemotePlace {
    /// It gets this name.
    Named(RemoteName),
    /// It merges into this directory.
    Content {
        /// The directory.
        dir: Ino,
        /// Its path, for people.
        path: Vec<u8>,
    },
}
