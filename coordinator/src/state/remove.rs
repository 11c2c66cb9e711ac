//! Names that go: files, links and empty directories.

use protocol::ids::Ino;
use protocol::status::Status;

use super::codec::key;
use super::inode;
use super::namespace::{Asker, check_name};
use super::outcome::Made;
use super::{State, Step, permission};
use crate::kv::Kv;

impl<K: Kv> State<K> {
    /// Removes the name of a file or link.
    pub(super) fn unlink(&mut self, asker: &Asker, parent: Ino, name: &[u8]) -> Step<Made> {
        check_name(name)?;
        let dir = self.directory(asker, parent)?;
        let (dentry, victim) = self.named(parent, name)?.ok_or(Status::NotFound)?;
        permission::remove(&dir, &victim, &asker.caller)?;
        if victim.is_directory() {
            return Err(Status::IsDirectory.into());
        }
        let dir = dir.with_names(asker, -1, 0)?;
        self.kv.delete(key::dentry(parent, name));
        self.drop_name(asker, dentry.ino, victim);
        inode::store(&mut self.kv, parent, &dir);
        Ok(Made::Nothing)
    }

    /// Removes an empty directory.
    pub(super) fn rmdir(&mut self, asker: &Asker, parent: Ino, name: &[u8]) -> Step<Made> {
        check_name(name)?;
        let dir = self.directory(asker, parent)?;
        let (dentry, victim) = self.named(parent, name)?.ok_or(Status::NotFound)?;
        permission::remove(&dir, &victim, &asker.caller)?;
        if !victim.is_directory() {
            return Err(Status::NotDirectory.into());
        }
        if victim.size > 0 {
            return Err(Status::NotEmpty.into());
        }
        let dir = dir.with_names(asker, -1, -1)?;
        self.kv.delete(key::dentry(parent, name));
        self.kv.delete(key::inode(dentry.ino));
        self.tally.inodes = self.tally.inodes.saturating_sub(1);
        inode::store(&mut self.kv, parent, &dir);
        Ok(Made::Nothing)
    }
}
