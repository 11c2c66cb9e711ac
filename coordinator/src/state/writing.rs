//! Files open for writing in place: who may write, and where writing goes on when a group cannot.
//!
//! A file has one writing session, or several that share it; a file that is being cut or measured
//! has none. That a file only ever grew is forgotten here, in the command that admits the first
//! other change, so that no write of that kind can come before it.

use protocol::guard::{self, Guard};
use protocol::ids::{GroupId, Ino, SessionId};
use protocol::layout::Segment;
use protocol::limits::SEGMENTS_MAX;
use protocol::status::Status;

use super::codec::{Reader, Writer, damaged, key};
use super::content::len_max;
use super::inode::{self, Body, File, Inode};
use super::map_rows::for_each;
use super::namespace::Asker;
use super::outcome::Made;
use super::permission::{self, WRITE};
use super::{State, Step};
use crate::kv::{Kv, KvError};
use crate::limits::{OPENED_PER_SESSION_MAX, WIDE_GROUPS};

impl<K: Kv> State<K> {
    /// Opens a file for writing in place.
    pub(super) fn open_write(
        &mut self,
        asker: &Asker,
        ino: Ino,
        mutate: bool,
        shared: bool,
    ) -> Step<Made> {
        let mut inode = self.writable_inode(asker, ino)?;
        let file = file_of(&mut inode)?;
        if file.is_settling() {
            return Err(Status::Busy.into());
        }
        let mine = self.opened_by(asker.session, ino)?;
        let others = file.writers > u32::from(mine > 0);
        if others && (file.exclusive || !shared) {
            return Err(Status::Conflict.into());
        }
        if mine == 0 {
            let opened = self.sessions.get(&asker.session).map_or(0, |session| session.opened);
            if opened >= OPENED_PER_SESSION_MAX {
                return Err(Status::LimitReached.into());
            }
            file.writers = file.writers.checked_add(1).ok_or(Status::LimitReached)?;
        }
        file.exclusive = !shared;
        // Whoever reads after this command is told that bytes may change.
        file.growth_only &= !(guard::holds(Guard::GrowthFlag) && (mutate || shared));
        file.stamp = self.map.version;
        self.store_opened(asker.session, ino, (mine, mine + 1));
        inode::store(&mut self.kv, ino, &inode);
        Ok(Made::File(ino, inode))
    }

    /// Ends writing in place; the size is raised to what the writer made durable.
    pub(super) fn close_write(
        &mut self,
        asker: &Asker,
        ino: Ino,
        size: u64,
        trunc_gen: u32,
        clean: bool,
    ) -> Step<Made> {
        let mine = self.opened_by(asker.session, ino)?;
        if mine == 0 {
            return Err(Status::NotFound.into());
        }
        let Some(mut inode) = inode::load(&self.kv, ino)? else {
            // It lost its last name meanwhile.
            self.store_opened(asker.session, ino, (mine, mine - 1));
            return Ok(Made::Nothing);
        };
        let file = file_of(&mut inode)?;
        if trunc_gen == file.trunc_gen && size > len_max(&file.layout) {
            return Err(Status::Invalid.into());
        }
        let current = !guard::holds(Guard::StaleSize) || trunc_gen == file.trunc_gen;
        file.stamp = self.map.version;
        if mine == 1 {
            file.writers = file.writers.saturating_sub(1);
        }
        self.store_opened(asker.session, ino, (mine, mine - 1));
        if current && size > inode.size {
            self.grow(&mut inode, size)?;
        }
        inode.mtime = asker.now;
        inode.ctime = asker.now;
        if !clean {
            self.measure(ino, &mut inode)?;
        }
        inode::store(&mut self.kv, ino, &inode);
        Ok(Made::File(ino, inode))
    }

    /// Raises the size by `len`; the range before the new end is the caller's.
    pub(super) fn reserve_append(&mut self, asker: &Asker, ino: Ino, len: u64) -> Step<Made> {
        if self.opened_by(asker.session, ino)? == 0 {
            return Err(Status::NotFound.into());
        }
        let mut inode = self.writable_inode(asker, ino)?;
        let file = file_of(&mut inode)?;
        if file.is_settling() {
            return Err(Status::Busy.into());
        }
        let most = len_max(&file.layout);
        file.stamp = self.map.version;
        // A range that is never written reads as zeros, which a file that only grew never has.
        file.growth_only = false;
        let end = inode.size.checked_add(len).filter(|end| *end <= most).ok_or(Status::Invalid)?;
        self.grow(&mut inode, end)?;
        inode.mtime = asker.now;
        inode.ctime = asker.now;
        inode::store(&mut self.kv, ino, &inode);
        Ok(Made::File(ino, inode))
    }

    /// Lays the file out anew from `first_chunk` on, over other groups than `avoid`.
    pub(super) fn extend_layout(
        &mut self,
        asker: &Asker,
        ino: Ino,
        first_chunk: u32,
        avoid: GroupId,
    ) -> Step<Made> {
        let owns = self.is_reserved(asker.session, ino)? || self.opened_by(asker.session, ino)? > 0;
        if !owns {
            return Err(Status::NotFound.into());
        }
        let mut inode = self.inode(ino)?;
        let size = inode.size;
        let groups = self.other_groups(asker, avoid);
        let stamp = self.map.version;
        let file = file_of(&mut inode)?;
        let chunk_log2 = file.layout.chunk_log2();
        // Whatever has a size was committed where it lies, and stays there.
        if u64::from(first_chunk) << chunk_log2 < size || groups.is_empty() {
            return Err(Status::Invalid.into());
        }
        let (kept, dropped): (Vec<Segment>, Vec<Segment>) =
            file.layout.segments.drain(..).partition(|segment| segment.first_chunk < first_chunk);
        file.layout.segments = kept;
        if file.layout.segments.len() >= SEGMENTS_MAX {
            return Err(Status::LimitReached.into());
        }
        let gone = dropped.into_iter().flat_map(|segment| segment.groups);
        file.abandoned.extend(gone);
        file.abandoned.sort_unstable();
        file.abandoned.dedup();
        file.layout.segments.push(Segment { first_chunk, chunk_log2, groups });
        file.stamp = stamp;
        file.layout.validate().map_err(|_| Status::Invalid)?;
        inode::store(&mut self.kv, ino, &inode);
        Ok(Made::File(ino, inode))
    }

    /// Takes the files of a session that ends without having closed them: their sizes have to be
    /// found by asking the groups.
    pub(super) fn end_writing(&mut self, session: SessionId) -> Step<()> {
        for ino in self.opened_of(session)? {
            self.store_opened(session, ino, (1, 0));
            let Some(mut inode) = inode::load(&self.kv, ino)? else { continue };
            let Body::File(file) = &mut inode.body else { continue };
            file.writers = file.writers.saturating_sub(1);
            if file.exclusive {
                self.measure(ino, &mut inode)?;
            }
            inode::store(&mut self.kv, ino, &inode);
        }
        Ok(())
    }

    /// Files that a session has open for writing, ascending.
    pub(super) fn opened_of(&self, session: SessionId) -> Result<Vec<Ino>, KvError> {
        let mut inos = Vec::new();
        for_each(&self.kv, key::opened_of(session), |(key, _)| {
            inos.push(Ino(key::number(key, 9).ok_or_else(|| damaged(key, "short key"))?));
            Ok(())
        })?;
        Ok(inos)
    }

    /// How often a session has a file open for writing.
    pub(super) fn opened_by(&self, session: SessionId, ino: Ino) -> Result<u32, KvError> {
        let key = key::opened(session, ino);
        let Some(value) = self.kv.get(&key)? else { return Ok(0) };
        let mut row = Reader::open(&key, &value)?;
        let count = row.u32()?;
        row.end()?;
        Ok(count)
    }

    /// Raises the size of a file, and the sum of all sizes with it.
    pub(super) fn grow(&mut self, inode: &mut Inode, size: u64) -> Step<()> {
        if inode.nlink > 0 {
            self.add_file_bytes(size.saturating_sub(inode.size))?;
        }
        inode.size = size;
        Ok(())
    }

    /// Reads a file that the caller may write.
    pub(super) fn writable_inode(&self, asker: &Asker, ino: Ino) -> Step<Inode> {
        let inode = self.inode(ino)?;
        if inode.nlink == 0 && !self.is_reserved(asker.session, ino)? {
            return Err(Status::NotFound.into());
        }
        permission::access(&inode, &asker.caller, WRITE)?;
        Ok(inode)
    }

    /// Notes how often a session has a file open: before and now.
    fn store_opened(&mut self, session: SessionId, ino: Ino, (before, count): (u32, u32)) {
        let key = key::opened(session, ino);
        if let Some(session) = self.sessions.get_mut(&session) {
            session.opened += usize::from(before == 0);
            session.opened = session.opened.saturating_sub(usize::from(count == 0));
        }
        if count == 0 {
            self.kv.delete(key);
            return;
        }
        let mut row = Writer::new();
        row.u32(count);
        let value = row.seal(&key);
        self.kv.put(key, value);
    }

    /// Writable groups without the one that cannot be written.
    fn other_groups(&mut self, asker: &Asker, avoid: GroupId) -> Vec<GroupId> {
        let turn = asker.stamp.nonce.wrapping_add(self.tally.laid_out);
        self.tally.laid_out += 1;
        let mut groups = self.choose_groups(turn, WIDE_GROUPS + 1);
        groups.retain(|group| *group != avoid);
        groups.truncate(WIDE_GROUPS);
        groups
    }
}

/// The content of an inode that must be a file.
pub(super) fn file_of(inode: &mut Inode) -> Result<&mut File, Status> {
    match &mut inode.body {
        Body::File(file) => Ok(file),
        Body::Directory { .. } => Err(Status::IsDirectory),
        Body::Symlink { .. } => Err(Status::Invalid),
    }
}
