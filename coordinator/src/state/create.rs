//! New names: directories, symbolic links and further names of files.

use protocol::ids::Ino;
use protocol::limits::LINK_LEN_MAX;
use protocol::message::namespace::SetAttributes;
use protocol::status::Status;

use super::inode::{self, Body, Dentry, Inode};
use super::namespace::{Asker, check_attributes, check_name, no_cells};
use super::outcome::Made;
use super::{State, Step, permission};
use crate::kv::Kv;

impl<K: Kv> State<K> {
    /// Makes a directory.
    pub(super) fn mkdir(
        &mut self,
        asker: &Asker,
        parent: Ino,
        name: &[u8],
        wanted: &SetAttributes,
    ) -> Step<Made> {
        check_name(name)?;
        check_attributes(wanted)?;
        let dir = self.directory(asker, parent)?;
        self.place(asker, (parent, name), &dir, false)?;
        let (uid, gid) = permission::owner_of_new(&dir, &asker.caller, wanted)?;
        let inode = Inode {
            mode: wanted.mode.unwrap_or(0o755) | permission::inherited(&dir),
            uid,
            gid,
            nlink: 2,
            size: 0,
            mtime: wanted.mtime.unwrap_or(asker.now),
            ctime: asker.now,
            body: Body::Directory {
                parent,
                cell_log2: wanted.cell_log2.unwrap_or(dir.cell_log2()),
            },
        };
        let dir = dir.with_names(asker, 1, 1)?;
        let ino = self.next_ino();
        self.enter(parent, name, ino, &inode);
        inode::store(&mut self.kv, parent, &dir);
        self.tally.inodes += 1;
        Ok(Made::Inode(ino, inode))
    }

    /// Makes a symbolic link.
    pub(super) fn symlink(
        &mut self,
        asker: &Asker,
        (parent, name): (Ino, &[u8]),
        target: &[u8],
        wanted: &SetAttributes,
        replace: bool,
    ) -> Step<Made> {
        check_name(name)?;
        check_attributes(wanted)?;
        no_cells(wanted)?;
        if target.len() > LINK_LEN_MAX {
            return Err(Status::NameTooLong.into());
        }
        if target.is_empty() || target.contains(&0) {
            return Err(Status::Invalid.into());
        }
        let dir = self.directory(asker, parent)?;
        let replaced = self.place(asker, (parent, name), &dir, replace)?;
        let (uid, gid) = permission::owner_of_new(&dir, &asker.caller, wanted)?;
        let inode = Inode {
            mode: 0o777,
            uid,
            gid,
            nlink: 1,
            size: u64::try_from(target.len()).unwrap_or(u64::MAX),
            mtime: wanted.mtime.unwrap_or(asker.now),
            ctime: asker.now,
            body: Body::Symlink { target: target.to_vec() },
        };
        let dir = dir.with_names(asker, i64::from(replaced.is_none()), 0)?;
        if let Some((dentry, victim)) = replaced {
            self.drop_name(asker, dentry.ino, victim);
        }
        let ino = self.next_ino();
        self.enter(parent, name, ino, &inode);
        inode::store(&mut self.kv, parent, &dir);
        self.tally.inodes += 1;
        Ok(Made::Inode(ino, inode))
    }

    /// Adds a name to a file or link.
    pub(super) fn link(&mut self, asker: &Asker, ino: Ino, parent: Ino, name: &[u8]) -> Step<Made> {
        check_name(name)?;
        let mut inode = self.inode(ino)?;
        // An unlinked file gets its first name by being published, and only then is it anyone's.
        if inode.nlink == 0 {
            return Err(Status::NotFound.into());
        }
        if inode.is_directory() {
            return Err(Status::PermissionDenied.into());
        }
        let dir = self.directory(asker, parent)?;
        self.place(asker, (parent, name), &dir, false)?;
        inode.nlink = inode.nlink.checked_add(1).ok_or(Status::LimitReached)?;
        inode.ctime = asker.now;
        let dir = dir.with_names(asker, 1, 0)?;
        self.enter(parent, name, ino, &inode);
        inode::store(&mut self.kv, parent, &dir);
        Ok(Made::Inode(ino, inode))
    }

    /// Writes an inode and a name that points to it.
    pub(super) fn enter(&mut self, parent: Ino, name: &[u8], ino: Ino, inode: &Inode) {
        inode::store(&mut self.kv, ino, inode);
        let dentry = Dentry { ino, file_type: inode.file_type() };
        inode::store_dentry(&mut self.kv, parent, name, dentry);
    }
}
