//! Files that groups have to cut or to measure before anybody writes to them again.
//!
//! Cutting: after a truncation the chunks beyond the new length must be gone everywhere, or old
//! bytes would come back when the file grows. Measuring: after a writer died, how far its bytes
//! reach is known to the groups alone; what is found becomes the size, and the rest is cut.
//!
//! One row for each group of the file and each kind of order; it goes when the group's primary
//! reports that it is done on every member.

use std::collections::BTreeMap;

use protocol::ids::{Fid, GroupId, Ino, SessionId};
use protocol::message::heal::{ChunkLen, GroupReports, Measure, Measured, Trim};
use protocol::status::Status;

use super::codec::{Reader, Writer, damaged, key};
use super::inode::{self, Body, Inode};
use super::map_rows::for_each;
use super::namespace::Asker;
use super::outcome::Made;
use super::writing::file_of;
use super::{Outcome, State, Step};
use crate::kv::{Kv, KvError};

/// One order about a file to the primary of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOrder {
    /// Cut it; not before nobody reads it as a file that only ever grew, except `session`.
    Trim(Trim, SessionId),
    /// Measure it.
    Measure(Measure),
}

const TRIM: u8 = 1;
const MEASURE: u8 = 2;

/// An order as its row holds it.
struct Row {
    ino: Ino,
    order: FileOrder,
}

impl<K: Kv> State<K> {
    /// Orders about files that groups have not reported as done, ascending by group: at most
    /// `limit`.
    ///
    /// # Errors
    /// [`KvError`] when the table cannot be read.
    pub fn file_orders(&self, limit: usize) -> Result<Vec<(GroupId, FileOrder)>, KvError> {
        let mut orders = Vec::new();
        let (from, to) = key::orders();
        for (key, value) in self.kv.scan(&from, &to, limit)? {
            let group = key::small_number(&key).ok_or_else(|| damaged(&key, "short key"))?;
            orders.push((GroupId(group), read_row(&key, &value)?.order));
        }
        Ok(orders)
    }

    /// Sets a file's length. To zero it gets a new, empty content, and the old one dies.
    pub(super) fn truncate(&mut self, asker: &Asker, ino: Ino, len: u64) -> Step<Made> {
        let mut inode = self.writable_inode(asker, ino)?;
        let mine = self.opened_by(asker.session, ino)? > 0;
        let (size, map_version) = (inode.size, self.map.version);
        let file = file_of(&mut inode)?;
        if file.writers > u32::from(mine) && file.exclusive {
            return Err(Status::Conflict.into());
        }
        if file.measures > 0 {
            return Err(Status::Busy.into());
        }
        if len > super::content::len_max(&file.layout) {
            return Err(Status::Invalid.into());
        }
        file.stamp = map_version;
        if len == 0 {
            self.replace_content(asker, &mut inode)?;
        } else if len < size {
            self.trim(asker.session, ino, &mut inode, len)?;
        } else if len > size {
            // What lies between is read as zeros, which a file that only grew never has.
            file.growth_only = false;
            self.grow(&mut inode, len)?;
        }
        inode.mtime = asker.now;
        inode.ctime = asker.now;
        inode::store(&mut self.kv, ino, &inode);
        Ok(Made::File(ino, inode))
    }

    /// Orders every group of the file to measure it.
    pub(super) fn measure(&mut self, ino: Ino, inode: &mut Inode) -> Step<()> {
        let size = inode.size;
        let file = file_of(inode)?;
        file.growth_only = false;
        let first_chunk = u32::try_from(size >> file.layout.chunk_log2()).unwrap_or(u32::MAX);
        let order = FileOrder::Measure(Measure { fid: file.fid, first_chunk });
        let groups = file.groups();
        file.measures = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        for group in groups {
            self.store_order(group, ino, order)?;
        }
        Ok(())
    }

    /// Takes what groups have done; what is not asked for any more is no error, because nodes
    /// repeat themselves.
    pub(super) fn file_reports(&mut self, reports: &[GroupReports]) -> Step<Outcome> {
        for report in reports {
            for (fid, trunc_gen) in &report.trimmed {
                self.trimmed(report.group, *fid, *trunc_gen)?;
            }
            for measured in &report.measured {
                self.measured(report.group, measured)?;
            }
        }
        Ok(Outcome::Done)
    }

    fn replace_content(&mut self, asker: &Asker, inode: &mut Inode) -> Step<()> {
        let size = inode.size;
        let cell_log2 = file_of(inode)?.layout.cell_log2;
        let fresh = self.new_file(asker, size, cell_log2);
        let file = file_of(inode)?;
        let (writers, exclusive) = (file.writers, file.exclusive);
        let old = std::mem::replace(file, super::inode::File { writers, exclusive, ..fresh });
        self.bury(&old, asker.stamp.time_ms);
        if inode.nlink > 0 {
            self.tally.file_bytes = self.tally.file_bytes.saturating_sub(size);
        }
        inode.size = 0;
        Ok(())
    }

    /// Lowers the size and orders every group of the file to cut it.
    fn trim(&mut self, session: SessionId, ino: Ino, inode: &mut Inode, len: u64) -> Step<()> {
        if inode.nlink > 0 {
            let lost = inode.size.saturating_sub(len);
            self.tally.file_bytes = self.tally.file_bytes.saturating_sub(lost);
        }
        inode.size = len;
        let file = file_of(inode)?;
        file.growth_only = false;
        file.trunc_gen = file.trunc_gen.checked_add(1).ok_or(Status::LimitReached)?;
        let (fid, trunc_gen) = (file.fid, file.trunc_gen);
        let trim = Trim { fid, len, trunc_gen, chunk_log2: file.layout.chunk_log2() };
        let groups = file.groups();
        file.trims = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        for group in groups {
            self.store_order(group, ino, FileOrder::Trim(trim, session))?;
        }
        Ok(())
    }

    fn trimmed(&mut self, group: GroupId, fid: Fid, trunc_gen: u32) -> Step<()> {
        let key = key::order(group, fid, TRIM);
        let Some(value) = self.kv.get(&key)? else { return Ok(()) };
        let row = read_row(&key, &value)?;
        let current = matches!(row.order, FileOrder::Trim(trim, _) if trim.trunc_gen == trunc_gen);
        if !current {
            return Ok(());
        }
        self.drop_order(key);
        let Some(mut inode) = self.inode_with(row.ino, fid)? else { return Ok(()) };
        let file = file_of(&mut inode)?;
        file.trims = file.trims.saturating_sub(1);
        inode::store(&mut self.kv, row.ino, &inode);
        Ok(())
    }

    fn measured(&mut self, group: GroupId, measured: &Measured) -> Step<()> {
        let order = key::order(group, measured.fid, MEASURE);
        let Some(value) = self.kv.get(&order)? else { return Ok(()) };
        let ino = read_row(&order, &value)?.ino;
        self.drop_order(order);
        let Some(mut inode) = self.inode_with(ino, measured.fid)? else {
            return self.forget_lengths(measured.fid);
        };
        let key = key::measured(measured.fid, group);
        let mut row = Writer::new();
        row.u32(u32::try_from(measured.chunks.len()).unwrap_or(u32::MAX));
        for chunk in &measured.chunks {
            row.u32(chunk.index).u32(chunk.len);
        }
        let value = row.seal(&key);
        self.kv.put(key, value);
        let file = file_of(&mut inode)?;
        file.measures = file.measures.saturating_sub(1);
        if file.measures == 0 {
            self.conclude(ino, &mut inode)?;
        }
        inode::store(&mut self.kv, ino, &inode);
        Ok(())
    }

    /// Every group has answered: the size is what can be read without a gap, the rest is cut.
    fn conclude(&mut self, ino: Ino, inode: &mut Inode) -> Step<()> {
        let size = inode.size;
        let file = file_of(inode)?;
        let (fid, chunk_log2) = (file.fid, file.layout.chunk_log2());
        file.recovered = true;
        let lengths = self.lengths(fid)?;
        self.forget_lengths(fid)?;
        let found = reach(size, chunk_log2, &lengths);
        self.grow(inode, found)?;
        self.trim(SessionId(0), ino, inode, found)
    }

    fn lengths(&self, fid: Fid) -> Result<BTreeMap<u32, u32>, KvError> {
        let mut lengths: BTreeMap<u32, u32> = BTreeMap::new();
        for_each(&self.kv, key::measured_of(fid), |(key, value)| {
            let mut row = Reader::open(key, value)?;
            for _ in 0..row.u32()? {
                let ChunkLen { index, len } = ChunkLen { index: row.u32()?, len: row.u32()? };
                let known = lengths.entry(index).or_default();
                *known = len.max(*known);
            }
            row.end()
        })?;
        Ok(lengths)
    }

    fn forget_lengths(&mut self, fid: Fid) -> Step<()> {
        let mut keys = Vec::new();
        for_each(&self.kv, key::measured_of(fid), |(key, _)| {
            keys.push(key.clone());
            Ok(())
        })?;
        keys.into_iter().for_each(|key| self.kv.delete(key));
        Ok(())
    }

    /// The inode, when it still has that content.
    fn inode_with(&self, ino: Ino, fid: Fid) -> Step<Option<Inode>> {
        let inode = inode::load(&self.kv, ino)?;
        Ok(inode.filter(|inode| matches!(&inode.body, Body::File(file) if file.fid == fid)))
    }

    fn drop_order(&mut self, key: Vec<u8>) {
        self.kv.delete(key);
        self.tally.file_orders = self.tally.file_orders.saturating_sub(1);
    }

    fn store_order(&mut self, group: GroupId, ino: Ino, order: FileOrder) -> Step<()> {
        let mut row = Writer::new();
        row.u64(ino.0);
        let key = match order {
            FileOrder::Trim(trim, session) => {
                row.u64(trim.len).u32(trim.trunc_gen).u8(trim.chunk_log2).u64(session.0);
                key::order(group, trim.fid, TRIM)
            }
            FileOrder::Measure(measure) => {
                row.u32(measure.first_chunk);
                key::order(group, measure.fid, MEASURE)
            }
        };
        self.tally.file_orders += u64::from(self.kv.get(&key)?.is_none());
        let value = row.seal(&key);
        self.kv.put(key, value);
        Ok(())
    }
}

/// How far a file of `size` bytes can be read without a gap, given the lengths of its chunks.
fn reach(size: u64, chunk_log2: u8, lengths: &BTreeMap<u32, u32>) -> u64 {
    let mut end = size;
    while let Ok(index) = u32::try_from(end >> chunk_log2) {
        let start = u64::from(index) << chunk_log2;
        let len = lengths.get(&index).copied().unwrap_or(0);
        if start + u64::from(len) <= end {
            break;
        }
        end = start + u64::from(len);
        if len < 1 << chunk_log2 {
            break;
        }
    }
    end
}

/// The order that a row holds.
pub(super) fn order_from_row(key: &[u8], value: &[u8]) -> Result<FileOrder, KvError> {
    key::small_number(key).ok_or_else(|| damaged(key, "short key"))?;
    Ok(read_row(key, value)?.order)
}

fn read_row(key: &[u8], value: &[u8]) -> Result<Row, KvError> {
    let mut row = Reader::open(key, value)?;
    let fid = Fid(key::number(key, 5).ok_or_else(|| row.bad("short key"))?);
    let ino = Ino(row.u64()?);
    let order = match key.last() {
        Some(&TRIM) => {
            let (len, trunc_gen, chunk_log2) = (row.u64()?, row.u32()?, row.u8()?);
            FileOrder::Trim(Trim { fid, len, trunc_gen, chunk_log2 }, SessionId(row.u64()?))
        }
        Some(&MEASURE) => FileOrder::Measure(Measure { fid, first_chunk: row.u32()? }),
        _ => return Err(row.bad("unknown order")),
    };
    row.end()?;
    Ok(Row { ino, order })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reaches_as_far_as_its_chunks_follow_each_other() {
        let of = |size, chunks: &[(u32, u32)]| reach(size, 20, &chunks.iter().copied().collect());
        let whole = 1 << 20;
        assert_eq!(of(0, &[]), 0);
        assert_eq!(of(0, &[(0, 10)]), 10);
        assert_eq!(of(5, &[(0, 10)]), 10);
        assert_eq!(of(20, &[(0, 10)]), 20, "never less than what was promised");
        assert_eq!(of(0, &[(0, whole), (1, 7)]), (1 << 20) + 7);
        assert_eq!(of(0, &[(0, whole), (2, 7)]), 1 << 20, "a gap ends it");
        assert_eq!(of(0, &[(0, 3), (1, whole)]), 3, "a short chunk ends it");
        assert_eq!(of(1 << 20, &[(0, whole), (1, whole), (2, whole)]), 3 << 20);
    }
}
