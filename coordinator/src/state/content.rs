//! Files and their contents: reserve, publish, abandon, grow.

use std::collections::BTreeSet;

use protocol::guard::{self, Guard};
use protocol::ids::{Fid, GroupId, Ino};
use protocol::layout::{Layout, Segment};
use protocol::limits::{CELL_LOG2_DEFAULT, CHUNK_LOG2_DEFAULT, RESERVE_MAX};
use protocol::message::namespace::NamespaceOp;
use protocol::status::Status;

use super::codec::key;
use super::inode::{self, Body, File, Inode};
use super::namespace::{Asker, check_attributes, check_name, no_cells};
use super::outcome::Made;
use super::permission::{self, WRITE};
use super::{State, Step};
use crate::kv::Kv;
use crate::limits::{
    FIRST_SEGMENT_CHUNKS, NARROW_FILE_LEN_MAX, RESERVED_PER_SESSION_MAX, WIDE_GROUPS,
};

impl<K: Kv> State<K> {
    /// Makes unlinked, empty files that belong to the session.
    pub(super) fn reserve(
        &mut self,
        asker: &Asker,
        parent: Ino,
        count: u32,
        expect_len: u64,
    ) -> Step<Made> {
        if !(1..=RESERVE_MAX).contains(&count) {
            return Err(Status::Invalid.into());
        }
        if usize::try_from(count).map_or(true, |count| count > self.reserve_room(asker.session)) {
            return Err(Status::LimitReached.into());
        }
        let cell_log2 = self.directory(asker, parent)?.cell_log2();
        if self.writable.is_empty() {
            return Err(Status::NotReady.into());
        }
        let mut files = Vec::new();
        for _ in 0..count {
            let inode = Inode {
                mode: 0o600,
                uid: asker.caller.uid,
                gid: asker.caller.gid,
                nlink: 0,
                size: 0,
                mtime: asker.now,
                ctime: asker.now,
                body: Body::File(self.new_file(asker, expect_len, cell_log2)),
            };
            let ino = self.next_ino();
            inode::store(&mut self.kv, ino, &inode);
            self.reserve_for(asker.session, ino);
            files.push((ino, inode));
        }
        Ok(Made::Reserved(files))
    }

    /// Gives an unlinked file of the session its size, attributes and name.
    pub(super) fn publish(&mut self, asker: &Asker, op: &NamespaceOp) -> Step<Made> {
        let NamespaceOp::Publish { ino, parent, name, size, attributes, replace, growth_only } = op
        else {
            return Err(Status::Internal.into());
        };
        check_name(name)?;
        check_attributes(attributes)?;
        no_cells(attributes)?;
        if !self.is_reserved(asker.session, *ino)? {
            return Err(Status::NotFound.into());
        }
        let mut inode = self.inode(*ino)?;
        let dir = self.directory(asker, *parent)?;
        let replaced = self.place(asker, (*parent, name), &dir, *replace)?;
        let (uid, gid) = permission::owner_of_new(&dir, &asker.caller, attributes)?;
        let Body::File(file) = &mut inode.body else { return Err(Status::NotFound.into()) };
        if *size > len_max(&file.layout) {
            return Err(Status::Invalid.into());
        }
        file.growth_only = *growth_only;
        file.stamp = self.map.version;
        let mode = attributes.mode.unwrap_or(0o644);
        let inode = Inode {
            mode: permission::mode(mode, gid, false, &asker.caller),
            uid,
            gid,
            nlink: 1,
            size: *size,
            mtime: attributes.mtime.unwrap_or(asker.now),
            ctime: asker.now,
            body: inode.body,
        };
        let dir = dir.with_names(asker, i64::from(replaced.is_none()), 0)?;
        self.add_file_bytes(inode.size)?;
        if let Some((dentry, victim)) = replaced {
            self.drop_name(asker, dentry.ino, victim);
        }
        self.release_from(asker.session, *ino);
        self.enter(*parent, name, *ino, &inode);
        inode::store(&mut self.kv, *parent, &dir);
        self.tally.inodes += 1;
        Ok(Made::File(*ino, inode))
    }

    /// Gives back unlinked files of the session, all or none.
    pub(super) fn abandon(&mut self, asker: &Asker, inos: &[Ino]) -> Step<Made> {
        if inos.len() > RESERVED_PER_SESSION_MAX {
            return Err(Status::LimitReached.into());
        }
        let inos: BTreeSet<_> = inos.iter().copied().collect();
        let mut files = Vec::new();
        for ino in inos {
            if !self.is_reserved(asker.session, ino)? {
                return Err(Status::NotFound.into());
            }
            files.push((ino, self.inode(ino)?));
        }
        for (ino, inode) in files {
            self.release_from(asker.session, ino);
            self.kv.delete(key::inode(ino));
            if let Body::File(file) = &inode.body {
                // Nobody but the session knew the file, so no reader has to be waited for.
                self.bury(file, 0);
            }
        }
        Ok(Made::Nothing)
    }

    /// Raises a file's size to `end`.
    pub(super) fn set_size(
        &mut self,
        asker: &Asker,
        ino: Ino,
        end: u64,
        trunc_gen: u32,
    ) -> Step<Made> {
        let mut inode = self.inode(ino)?;
        if inode.nlink == 0 && !self.is_reserved(asker.session, ino)? {
            return Err(Status::NotFound.into());
        }
        permission::access(&inode, &asker.caller, WRITE)?;
        let Body::File(file) = &mut inode.body else { return Err(Status::IsDirectory.into()) };
        if guard::holds(Guard::StaleSize) && trunc_gen < file.trunc_gen {
            return Err(Status::StaleFile.into());
        }
        if trunc_gen > file.trunc_gen || end > len_max(&file.layout) {
            return Err(Status::Invalid.into());
        }
        file.stamp = self.map.version;
        let growth = end.saturating_sub(inode.size);
        if growth > 0 {
            inode.size = end;
            inode.mtime = asker.now;
            inode.ctime = asker.now;
        }
        if inode.nlink > 0 {
            self.add_file_bytes(growth)?;
        }
        inode::store(&mut self.kv, ino, &inode);
        Ok(Made::File(ino, inode))
    }

    pub(super) fn add_file_bytes(&mut self, bytes: u64) -> Step<()> {
        let sum = self.tally.file_bytes.checked_add(bytes);
        self.tally.file_bytes = sum.ok_or(Status::LimitReached)?;
        Ok(())
    }

    /// An empty file with a layout of its own; a cell size of 0 is the default.
    pub(super) fn new_file(&mut self, asker: &Asker, expect_len: u64, cell_log2: u8) -> File {
        let cell_log2 = if cell_log2 == 0 { CELL_LOG2_DEFAULT } else { cell_log2 };
        let fid = Fid(self.tally.next_fid);
        self.tally.next_fid += 1;
        let turn = asker.stamp.nonce.wrapping_add(self.tally.laid_out);
        self.tally.laid_out += 1;
        let segment =
            |first_chunk, groups| Segment { first_chunk, chunk_log2: CHUNK_LOG2_DEFAULT, groups };
        let mut segments = vec![segment(0, self.choose_groups(turn, 1))];
        if expect_len > NARROW_FILE_LEN_MAX {
            let wide = self.choose_groups(turn.wrapping_add(1), WIDE_GROUPS);
            segments.push(segment(FIRST_SEGMENT_CHUNKS, wide));
        }
        File {
            fid,
            trunc_gen: 0,
            growth_only: true,
            stamp: self.map.version,
            layout: Layout { segments, cell_log2 },
            recovered: false,
            writers: 0,
            exclusive: false,
            trims: 0,
            measures: 0,
            abandoned: Vec::new(),
        }
    }

    /// Chooses up to `count` different groups, from the one whose turn it is.
    pub(super) fn choose_groups(&self, turn: u64, count: usize) -> Vec<GroupId> {
        let len = self.writable.len();
        let turns = u64::try_from(len).unwrap_or(u64::MAX).max(1);
        let first = usize::try_from(turn % turns).unwrap_or(0);
        self.writable.iter().cycle().skip(first).take(count.min(len)).copied().collect()
    }
}

/// Longest file that a layout's chunk index can name, in bytes.
pub(super) fn len_max(layout: &Layout) -> u64 {
    u64::from(u32::MAX) << layout.chunk_log2()
}
