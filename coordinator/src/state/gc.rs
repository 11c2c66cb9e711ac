//! Dead files: contents that no inode names any more and that nodes still hold.
//!
//! One row for each group of the file's layout. It goes when the group's primary confirms while
//! nobody is missing from the group. Otherwise it is parked for the epoch in which it was confirmed:
//! whoever returns does so in a later epoch, and is told then.

use protocol::ids::{Epoch, Fid, GroupId};

use super::codec::{Reader, Writer, key};
use super::inode::File;
use super::map_rows::for_each;
use super::{Outcome, State, Step};
use crate::kv::{Kv, KvError};

/// Some of the dead files that nodes still hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadFiles {
    /// Group and files, ascending.
    pub groups: Vec<(GroupId, Vec<Fid>)>,
    /// Continue after this one; `None` when these were the last.
    pub next: Option<(GroupId, Fid)>,
}

impl<K: Kv> State<K> {
    /// Dead files that nodes still hold, ascending by group: at most `limit` pairs of group and
    /// file that died before `before_ms`.
    ///
    /// # Units
    /// `before_ms` is compared with the stamp of the command that removed the last name; contents
    /// that never had a name died at 0, because nobody can be reading them. `u64::MAX` lists all.
    ///
    /// # Errors
    /// [`KvError`] when the table cannot be read.
    ///
    /// # Cost
    /// Reads the rows of all dead files up to the last one returned.
    pub fn dead_files_before(
        &self,
        before_ms: u64,
        limit: usize,
    ) -> Result<Vec<(GroupId, Vec<Fid>)>, KvError> {
        let mut groups: Vec<(GroupId, Vec<Fid>)> = Vec::new();
        let mut found = 0;
        let (mut next, end) = key::deads();
        while found < limit {
            let rows = self.kv.scan(&next, &end, crate::limits::SCAN_PAGE_ROWS.min(limit))?;
            let Some((last, _)) = rows.last() else { break };
            next = [last.as_slice(), &[0]].concat();
            for (key, value) in &rows {
                let mut row = Reader::open(key, value)?;
                if row.u64()? >= before_ms || found >= limit {
                    continue;
                }
                row.u32()?;
                let (group, fid) = (key::small_number(key), key::number(key, 5));
                let group = GroupId(group.ok_or_else(|| row.bad("short key"))?);
                let fid = Fid(fid.ok_or_else(|| row.bad("short key"))?);
                found += 1;
                match groups.last_mut() {
                    Some((last, fids)) if *last == group => fids.push(fid),
                    _ => groups.push((group, vec![fid])),
                }
            }
        }
        Ok(groups)
    }

    /// Dead files that some member may still hold, ascending by group: those of the next `limit`
    /// rows after `from`, `None` for the start.
    ///
    /// # Errors
    /// [`KvError`] when the table cannot be read.
    pub fn dead_files_from(
        &self,
        from: Option<(GroupId, Fid)>,
        limit: usize,
    ) -> Result<DeadFiles, KvError> {
        let mut groups: Vec<(GroupId, Vec<Fid>)> = Vec::new();
        let (start, end) = key::deads();
        let mut next =
            from.map_or(start, |(group, fid)| [&key::dead(group, fid)[..], &[0]].concat());
        let (mut seen, mut last) = (0, None);
        while seen < limit {
            let page = crate::limits::SCAN_PAGE_ROWS.min(limit - seen);
            let rows = self.kv.scan(&next, &end, page)?;
            for (key, value) in &rows {
                let mut row = Reader::open(key, value)?;
                let (_, parked) = (row.u64()?, Epoch(row.u32()?));
                let (group, fid) = (key::small_number(key), key::number(key, 5));
                let group = GroupId(group.ok_or_else(|| row.bad("short key"))?);
                let fid = Fid(fid.ok_or_else(|| row.bad("short key"))?);
                last = Some((group, fid));
                if self.is_parked(group, parked) {
                    continue;
                }
                match groups.last_mut() {
                    Some((last, fids)) if *last == group => fids.push(fid),
                    _ => groups.push((group, vec![fid])),
                }
            }
            seen += rows.len();
            if rows.len() < page {
                return Ok(DeadFiles { groups, next: None });
            }
            let Some((key, _)) = rows.last() else { break };
            next = [key.as_slice(), &[0]].concat();
        }
        Ok(DeadFiles { groups, next: last })
    }

    /// True when every member dropped it in this epoch and somebody is missing.
    fn is_parked(&self, group: GroupId, parked: Epoch) -> bool {
        let record = self.map.groups.get(&group);
        record.is_some_and(|it| it.epoch == parked && !it.evicted.is_empty())
    }

    /// Dead files that nodes still hold: at most `limit` pairs of group and file.
    ///
    /// # Errors
    /// [`KvError`] when the table cannot be read.
    pub fn dead_files(&self, limit: usize) -> Result<Vec<(GroupId, Vec<Fid>)>, KvError> {
        self.dead_files_before(u64::MAX, limit)
    }

    /// Notes that a content lost its last name.
    pub(super) fn bury(&mut self, file: &File, died_ms: u64) {
        for group in file.groups() {
            let key = key::dead(group, file.fid);
            let mut row = Writer::new();
            row.u64(died_ms).u32(0);
            let value = row.seal(&key);
            self.kv.put(key, value);
            self.tally.dead_files += 1;
        }
    }

    /// Forgets dead files that are gone from every member of their group; unknown ones are no
    /// error, because nodes repeat themselves.
    pub(super) fn drop_done(&mut self, groups: &[(GroupId, Vec<Fid>)]) -> Step<Outcome> {
        for (group, fids) in groups {
            let record = self.map.groups.get(group);
            let missing = record.filter(|it| !it.evicted.is_empty()).map(|it| it.epoch);
            for fid in fids {
                let key = key::dead(*group, *fid);
                let Some(value) = self.kv.get(&key)? else { continue };
                if let Some(epoch) = missing {
                    let died_ms = Reader::open(&key, &value)?.u64()?;
                    let mut row = Writer::new();
                    row.u64(died_ms).u32(epoch.0);
                    let value = row.seal(&key);
                    self.kv.put(key, value);
                    continue;
                }
                self.kv.delete(key);
                self.tally.dead_files = self.tally.dead_files.saturating_sub(1);
            }
        }
        Ok(Outcome::Done)
    }

    /// Hash of every row of the state, the open batch among them.
    ///
    /// # Errors
    /// [`KvError`] when the table cannot be read.
    ///
    /// # Cost
    /// Reads the whole table.
    pub fn digest(&self) -> Result<u128, KvError> {
        let mut digest: u128 = 0;
        for_each(&self.kv, key::everything(), |(key, value)| {
            let mut row = Vec::with_capacity(key.len() + value.len() + 16);
            row.extend_from_slice(&digest.to_le_bytes());
            row.extend_from_slice(&u64::try_from(key.len()).unwrap_or(u64::MAX).to_le_bytes());
            row.extend_from_slice(key);
            row.extend_from_slice(value);
            digest = protocol::checksum::sum128(&row);
            Ok(())
        })?;
        Ok(digest)
    }
}
