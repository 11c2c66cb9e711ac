//! Dead files: contents that no inode names any more and that nodes still hold.
//!
//! One row for each group of the file's layout; it goes when the group's primary confirms.

use protocol::ids::{Fid, GroupId};

use super::codec::{Reader, Writer, key};
use super::inode::File;
use super::map_rows::for_each;
use super::{Outcome, State, Step};
use crate::kv::{Kv, KvError};

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
            row.u64(died_ms);
            let value = row.seal(&key);
            self.kv.put(key, value);
            self.tally.dead_files += 1;
        }
    }

    /// Forgets dead files that are gone from every member of their group; unknown ones are no
    /// error, because nodes repeat themselves.
    pub(super) fn drop_done(&mut self, groups: &[(GroupId, Vec<Fid>)]) -> Step<Outcome> {
        for (group, fids) in groups {
            for fid in fids {
                let key = key::dead(*group, *fid);
                if self.kv.get(&key)?.is_some() {
                    self.kv.delete(key);
                    self.tally.dead_files = self.tally.dead_files.saturating_sub(1);
                }
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
