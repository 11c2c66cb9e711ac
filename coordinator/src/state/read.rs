//! Lookups and listings on a snapshot, on any thread.
//!
//! Knows nothing of sessions and of the map: what it returns is what the rows of one commit say.

use protocol::ids::Ino;
use protocol::limits::{NAME_LEN_MAX, PATH_LEN_MAX, READ_DIR_PAGE_MAX};
use protocol::message::command::Caller;
use protocol::message::namespace::{DirEntry, Entry, PathQuery, ReadDirReply, ReadDirRequest};
use protocol::status::Status;

pub use super::census::dead_among;
use super::codec::{damaged, key};
use super::inode::{self, Body, Inode};
use super::permission::{self, READ, SEARCH};
use crate::kv::{KvError, KvRead};
use crate::limits::{
    LINKS_FOLLOWED_MAX, LOOKUP_REPLY_BYTES_MAX, READ_DIR_PAGE_BYTES_MAX, SCAN_PAGE_ROWS,
};

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It does not exist, or the caller may not reach it.
    #[error("{0}")]
    Refused(Status),
    /// The rows cannot be read: log it, answer [`ReadError::status`].
    #[error(transparent)]
    Table(#[from] KvError),
}

impl ReadError {
    /// What the asker is told.
    pub fn status(&self) -> Status {
        match self {
            ReadError::Refused(status) => *status,
            ReadError::Table(_) => Status::Internal,
        }
    }
}

/// Resolves one path.
///
/// Symbolic links on the way are followed; one in the last component when the query says so or the
/// path ends in `/`. A link that begins with `/` starts at the root directory.
///
/// # Errors
/// [`ReadError::Refused`] with the status POSIX would give; content of a file the caller may not
/// read is `PermissionDenied`. [`ReadError::Table`] when the table cannot be read.
pub fn lookup<R: KvRead>(view: &R, caller: &Caller, query: &PathQuery) -> Result<Entry, ReadError> {
    if query.path.len() > PATH_LEN_MAX {
        return Err(Status::NameTooLong.into());
    }
    let mut walk = Walk { view, caller, ino: query.base, inode: load(view, query.base)?, links: 0 };
    walk.path(&query.path, query.follow)?;
    if query.with_content && matches!(walk.inode.body, Body::File(_)) {
        permission::access(&walk.inode, caller, READ)?;
    }
    Ok(walk.inode.entry(walk.ino, query.with_content))
}

/// Resolves paths in their order, each by itself, all in the same view.
///
/// The results end early, after the first at least, when they fill [`LOOKUP_REPLY_BYTES_MAX`].
pub fn lookup_batch<R: KvRead>(
    view: &R,
    caller: &Caller,
    queries: &[PathQuery],
) -> Vec<Result<Entry, ReadError>> {
    let mut results = Vec::with_capacity(queries.len());
    let mut bytes = 0;
    for query in queries {
        let result = lookup(view, caller, query);
        bytes += result.as_ref().map_or(REFUSAL_LEN_MAX, encoded_len_max);
        if !results.is_empty() && bytes > LOOKUP_REPLY_BYTES_MAX {
            break;
        }
        results.push(result);
    }
    results
}

/// Reads one page of a directory.
///
/// The page ends early when its entries fill [`READ_DIR_PAGE_BYTES_MAX`]. Listing needs read and
/// search permission, because a page carries attributes; content is left out of files that the
/// caller may not read.
///
/// # Errors
/// As [`lookup`].
pub fn read_dir<R: KvRead>(
    view: &R,
    caller: &Caller,
    request: &ReadDirRequest,
) -> Result<ReadDirReply, ReadError> {
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    if !(1..=READ_DIR_PAGE_MAX).contains(&limit) || request.after.len() > NAME_LEN_MAX {
        return Err(Status::Invalid.into());
    }
    let dir = load(view, request.dir)?;
    if !dir.is_directory() {
        return Err(Status::NotDirectory.into());
    }
    permission::access(&dir, caller, READ | SEARCH)?;
    let (mut next, end) = key::dentries_of(request.dir);
    if !request.after.is_empty() {
        next = [&key::dentry(request.dir, &request.after), &[0][..]].concat();
    }
    let mut page = Page { entries: Vec::new(), bytes: 0 };
    loop {
        // One row more than wanted tells whether another page follows.
        let rows = view.scan(&next, &end, SCAN_PAGE_ROWS.min(limit - page.entries.len() + 1))?;
        let Some((last, _)) = rows.last() else {
            return Ok(ReadDirReply { entries: page.entries, more: false });
        };
        next = [last.as_slice(), &[0]].concat();
        for (key, value) in &rows {
            let entry = entry_of(view, caller, (key, value), request.with_content)?;
            if page.entries.len() >= limit || !page.add(entry) {
                return Ok(ReadDirReply { entries: page.entries, more: true });
            }
        }
    }
}

/// Upper bound of the bytes an entry takes in a reply.
pub fn encoded_len_max(entry: &Entry) -> usize {
    let content = entry.content.as_ref().map_or(0, |content| {
        let segments = content.layout.segments.iter();
        segments.map(|segment| 64 + 4 * segment.groups.len()).sum::<usize>() + 128
    });
    192 + entry.link.len() + content
}

struct Walk<'a, R> {
    view: &'a R,
    caller: &'a Caller,
    ino: Ino,
    inode: Inode,
    links: u32,
}

impl<R: KvRead> Walk<'_, R> {
    /// Goes along a path from where the walk is.
    fn path(&mut self, path: &[u8], follow: bool) -> Result<(), ReadError> {
        // Components still to go, the next one last; a link puts its own on top.
        let mut rest: Vec<Vec<u8>> = components(path);
        let must_be_dir = path.ends_with(b"/");
        while let Some(name) = rest.pop() {
            let (dir, dir_inode) = (self.ino, self.inode.clone());
            self.step(&name)?;
            let last = rest.is_empty();
            let Body::Symlink { target } = &self.inode.body else { continue };
            if last && !follow && !must_be_dir {
                break;
            }
            self.links += 1;
            if self.links > LINKS_FOLLOWED_MAX {
                return Err(Status::Loop.into());
            }
            let (target, absolute) = (components(target), target.starts_with(b"/"));
            rest.extend(target);
            // Each link adds at most its own components, so the walk ends within 40 of them.
            (self.ino, self.inode) =
                if absolute { (Ino::ROOT, load(self.view, Ino::ROOT)?) } else { (dir, dir_inode) };
        }
        if must_be_dir && !self.inode.is_directory() {
            return Err(Status::NotDirectory.into());
        }
        Ok(())
    }

    /// Goes to one name of the directory the walk is at.
    fn step(&mut self, name: &[u8]) -> Result<(), ReadError> {
        let Body::Directory { parent, .. } = self.inode.body else {
            return Err(Status::NotDirectory.into());
        };
        if name.len() > NAME_LEN_MAX {
            return Err(Status::NameTooLong.into());
        }
        permission::access(&self.inode, self.caller, SEARCH)?;
        let next = match name {
            b"." => self.ino,
            b".." => parent,
            _ => {
                let dentry = inode::load_dentry(self.view, self.ino, name)?;
                dentry.ok_or(Status::NotFound)?.ino
            }
        };
        self.inode = load(self.view, next)?;
        self.ino = next;
        Ok(())
    }
}

struct Page {
    entries: Vec<DirEntry>,
    bytes: usize,
}

impl Page {
    /// Adds an entry unless it no longer fits; one always does.
    fn add(&mut self, entry: DirEntry) -> bool {
        let bytes = entry.name.len() + encoded_len_max(&entry.entry);
        if !self.entries.is_empty() && self.bytes + bytes > READ_DIR_PAGE_BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        self.entries.push(entry);
        true
    }
}

fn entry_of<R: KvRead>(
    view: &R,
    caller: &Caller,
    (key, value): (&[u8], &[u8]),
    with_content: bool,
) -> Result<DirEntry, ReadError> {
    let dentry = inode::dentry_from_row(key, value)?;
    let found = inode::load(view, dentry.ino)?;
    let found = found.ok_or_else(|| damaged(key, "points to no inode"))?;
    let readable = permission::access(&found, caller, READ).is_ok();
    let name = key.get(DENTRY_NAME_AT..).unwrap_or_default().to_vec();
    Ok(DirEntry { name, entry: found.entry(dentry.ino, with_content && readable) })
}

fn load<R: KvRead>(view: &R, ino: Ino) -> Result<Inode, ReadError> {
    let found = inode::load(view, ino)?;
    // An unlinked file belongs to its session, which needs no lookup to know it.
    found.filter(|inode| inode.nlink > 0).ok_or(ReadError::Refused(Status::NotFound))
}

/// The components of a path, the first one last.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    names.rev().map(<[u8]>::to_vec).collect()
}

impl From<Status> for ReadError {
    fn from(status: Status) -> ReadError {
        ReadError::Refused(status)
    }
}

/// A directory entry's key: table byte, parent, name.
const DENTRY_NAME_AT: usize = 9;
/// Upper bound of the bytes a refused path takes in a reply.
const REFUSAL_LEN_MAX: usize = 64;
