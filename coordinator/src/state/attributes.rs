//! Attributes of existing inodes.

use protocol::ids::Ino;
use protocol::message::namespace::SetAttributes;
use protocol::status::Status;

use super::inode::{self, Body};
use super::namespace::{Asker, check_attributes, no_cells};
use super::outcome::Made;
use super::{State, Step, permission};
use crate::kv::Kv;

impl<K: Kv> State<K> {
    /// Sets attributes of a linked inode.
    pub(super) fn set_attr(
        &mut self,
        asker: &Asker,
        ino: Ino,
        wanted: &SetAttributes,
    ) -> Step<Made> {
        check_attributes(wanted)?;
        let mut inode = self.inode(ino)?;
        if inode.nlink == 0 {
            return Err(Status::NotFound.into());
        }
        permission::set(&inode, &asker.caller, wanted)?;
        match &mut inode.body {
            Body::Directory { cell_log2, .. } => {
                *cell_log2 = wanted.cell_log2.unwrap_or(*cell_log2);
            }
            Body::File(_) | Body::Symlink { .. } => no_cells(wanted)?,
        }
        inode.uid = wanted.uid.unwrap_or(inode.uid);
        inode.gid = wanted.gid.unwrap_or(inode.gid);
        if let Some(mode) = wanted.mode {
            let is_directory = inode.is_directory();
            inode.mode = permission::mode(mode, inode.gid, is_directory, &asker.caller);
        }
        inode.mtime = wanted.mtime.unwrap_or(inode.mtime);
        inode.ctime = asker.now;
        inode::store(&mut self.kv, ino, &inode);
        Ok(Made::Inode(ino, inode))
    }
}
