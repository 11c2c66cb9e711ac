//! What all changes of the namespace share: names, times, directories and their counts.
//!
//! Every operation first reads and checks, then writes: a refused one has written nothing.

use protocol::guard::{self, Guard};
use protocol::ids::{Ino, SessionId};
use protocol::limits::{CELL_LOG2_ALLOWED, NAME_LEN_MAX};
use protocol::message::command::{Caller, Stamp};
use protocol::message::namespace::{NamespaceOp, SetAttributes, Time};
use protocol::status::Status;

use super::codec::key;
use super::inode::{self, Body, Dentry, Inode};
use super::outcome::Made;
use super::permission::{self, SEARCH};
use super::{State, Step};
use crate::kv::Kv;

/// On whose behalf and when an operation is carried out.
pub(super) struct Asker {
    pub(super) session: SessionId,
    pub(super) caller: Caller,
    pub(super) now: Time,
    pub(super) stamp: Stamp,
}

impl<K: Kv> State<K> {
    /// Carries out one operation.
    pub(super) fn operate(&mut self, asker: &Asker, op: &NamespaceOp) -> Step<Made> {
        match op {
            NamespaceOp::Mkdir { parent, name, attributes } => {
                self.mkdir(asker, *parent, name, attributes)
            }
            NamespaceOp::Reserve { parent, count, expect_len } => {
                self.reserve(asker, *parent, *count, *expect_len)
            }
            NamespaceOp::Publish { .. } => self.publish(asker, op),
            NamespaceOp::Abandon { inos } => self.abandon(asker, inos),
            NamespaceOp::Symlink { parent, name, target, attributes, replace } => {
                self.symlink(asker, (*parent, name), target, attributes, *replace)
            }
            NamespaceOp::Link { ino, parent, name } => self.link(asker, *ino, *parent, name),
            NamespaceOp::Rename { from_parent, from_name, to_parent, to_name, replace } => {
                self.rename(asker, (*from_parent, from_name), (*to_parent, to_name), *replace)
            }
            NamespaceOp::Unlink { parent, name } => self.unlink(asker, *parent, name),
            NamespaceOp::Rmdir { parent, name } => self.rmdir(asker, *parent, name),
            NamespaceOp::SetAttr { ino, attributes } => self.set_attr(asker, *ino, attributes),
            NamespaceOp::SetSize { ino, end, trunc_gen } => {
                self.set_size(asker, *ino, *end, *trunc_gen)
            }
            NamespaceOp::OpenWrite { ino, mutate, shared } => {
                self.open_write(asker, *ino, *mutate, *shared)
            }
            NamespaceOp::CloseWrite { ino, size, trunc_gen, clean } => {
                self.close_write(asker, *ino, *size, *trunc_gen, *clean)
            }
            NamespaceOp::Truncate { ino, len } => self.truncate(asker, *ino, *len),
            NamespaceOp::ExtendLayout { ino, first_chunk, avoid } => {
                self.extend_layout(asker, *ino, *first_chunk, *avoid)
            }
            NamespaceOp::ReserveAppend { ino, len } => self.reserve_append(asker, *ino, *len),
        }
    }

    /// Reads an inode that must exist.
    pub(super) fn inode(&self, ino: Ino) -> Step<Inode> {
        inode::load(&self.kv, ino)?.ok_or_else(|| Status::NotFound.into())
    }

    /// Reads a directory that the caller may search.
    pub(super) fn directory(&self, asker: &Asker, ino: Ino) -> Step<Inode> {
        let dir = self.inode(ino)?;
        if !dir.is_directory() {
            return Err(Status::NotDirectory.into());
        }
        permission::access(&dir, &asker.caller, SEARCH)?;
        Ok(dir)
    }

    /// Reads what a name points to, if anything.
    pub(super) fn named(&self, parent: Ino, name: &[u8]) -> Step<Option<(Dentry, Inode)>> {
        let Some(dentry) = inode::load_dentry(&self.kv, parent, name)? else { return Ok(None) };
        let inode = inode::load(&self.kv, dentry.ino)?;
        let inode = inode.ok_or_else(|| {
            super::codec::damaged(&key::dentry(parent, name), "points to no inode")
        })?;
        Ok(Some((dentry, inode)))
    }

    /// Checks that a name in `dir` may be given to a file or link: it is free, or what it points to
    /// may be replaced. Returns what it points to.
    pub(super) fn place(
        &self,
        asker: &Asker,
        (parent, name): (Ino, &[u8]),
        dir: &Inode,
        replace: bool,
    ) -> Step<Option<(Dentry, Inode)>> {
        let present = self.named(parent, name)?;
        match &present {
            None => permission::change(dir, &asker.caller)?,
            Some(_) if !replace => return Err(Status::Exists.into()),
            Some((_, victim)) if victim.is_directory() => return Err(Status::IsDirectory.into()),
            Some((_, victim)) => permission::remove(dir, victim, &asker.caller)?,
        }
        Ok(present)
    }

    /// Takes one name from a file or link; without names it is gone and its content dead.
    pub(super) fn drop_name(&mut self, asker: &Asker, ino: Ino, mut inode: Inode) {
        inode.nlink = inode.nlink.saturating_sub(1);
        inode.ctime = asker.now;
        if guard::holds(Guard::LinkCount) && inode.nlink > 0 {
            inode::store(&mut self.kv, ino, &inode);
            return;
        }
        self.kv.delete(key::inode(ino));
        self.tally.inodes = self.tally.inodes.saturating_sub(1);
        if let Body::File(file) = &inode.body {
            self.tally.file_bytes = self.tally.file_bytes.saturating_sub(inode.size);
            self.bury(file, asker.stamp.time_ms);
        }
    }

    /// Names a new inode.
    pub(super) fn next_ino(&mut self) -> Ino {
        let ino = Ino(self.tally.next_ino);
        self.tally.next_ino += 1;
        ino
    }
}

impl Inode {
    /// The directory after names came or went.
    ///
    /// # Units
    /// `entries` and `directories` are differences; directories count as links of their parent.
    pub(super) fn with_names(
        mut self,
        asker: &Asker,
        entries: i64,
        directories: i32,
    ) -> Step<Inode> {
        let size = self.size.checked_add_signed(entries);
        let nlink = self.nlink.checked_add_signed(directories);
        self.size = size.ok_or(Status::LimitReached)?;
        self.nlink = nlink.ok_or(Status::LimitReached)?;
        self.mtime = asker.now;
        self.ctime = asker.now;
        Ok(self)
    }
}

/// Checks a name that a directory is to hold or to be searched for.
pub(super) fn check_name(name: &[u8]) -> Result<(), Status> {
    if name.len() > NAME_LEN_MAX {
        return Err(Status::NameTooLong);
    }
    let special = matches!(name, b"" | b"." | b"..");
    if special || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Status::Invalid);
    }
    Ok(())
}

/// Checks attributes by themselves.
pub(super) fn check_attributes(wanted: &SetAttributes) -> Result<(), Status> {
    let mode = wanted.mode.is_none_or(|mode| mode <= MODE_MAX);
    let mtime = wanted.mtime.is_none_or(|time| time.nanos < NANOS_PER_S);
    let cells = wanted.cell_log2.is_none_or(|log2| CELL_LOG2_ALLOWED.contains(&log2));
    if mode && mtime && cells { Ok(()) } else { Err(Status::Invalid) }
}

/// Refuses a cell size where no files are made.
pub(super) fn no_cells(wanted: &SetAttributes) -> Result<(), Status> {
    if wanted.cell_log2.is_none() { Ok(()) } else { Err(Status::Invalid) }
}

/// The stamp's time as the file tree counts it.
pub(super) fn time_of(stamp: Stamp) -> Time {
    let secs = i64::try_from(stamp.time_ms / 1000).unwrap_or(i64::MAX);
    let millis = u32::try_from(stamp.time_ms % 1000).unwrap_or(0);
    Time { secs, nanos: millis * 1_000_000 }
}

const MODE_MAX: u32 = 0o7777;
const NANOS_PER_S: u32 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_directory_may_hold_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert_eq!(check_name(name), Err(Status::Invalid), "{name:?}");
        }
        assert_eq!(check_name(&[b'x'; 256]), Err(Status::NameTooLong));
        assert_eq!(check_name(&[0xff; 255]), Ok(()));
        assert_eq!(check_name(b"..."), Ok(()));
    }

    #[test]
    fn attributes_out_of_range_are_refused() {
        let mode = SetAttributes { mode: Some(0o10000), ..SetAttributes::default() };
        assert_eq!(check_attributes(&mode), Err(Status::Invalid));
        let time = Time { secs: 0, nanos: NANOS_PER_S };
        let mtime = SetAttributes { mtime: Some(time), ..SetAttributes::default() };
        assert_eq!(check_attributes(&mtime), Err(Status::Invalid));
        let stamp = Stamp { time_ms: 1_234, nonce: 0 };
        assert_eq!(time_of(stamp), Time { secs: 1, nanos: 234_000_000 });
    }
}
