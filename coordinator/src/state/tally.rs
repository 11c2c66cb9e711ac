//! The counters and the settings: two single rows.

use protocol::ids::{ClusterId, MapVersion};

use super::Settings;
use super::codec::{Reader, Writer, key};
use crate::kv::{Kv, KvError, KvRead};

/// Everything that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Commands applied.
    pub(super) applied: u64,
    pub(super) map_version: MapVersion,
    /// Next inode, content and session to be named; numbers are never used twice.
    pub(super) next_ino: u64,
    pub(super) next_fid: u64,
    pub(super) next_session: u64,
    pub(super) next_group: u32,
    /// Files laid out so far; spreads them over the groups.
    pub(super) laid_out: u64,
    pub(super) inodes: u64,
    pub(super) file_bytes: u64,
    pub(super) dead_files: u64,
    /// Orders about single files that groups have not reported as done.
    pub(super) file_orders: u64,
}

impl Tally {
    pub(super) fn load<R: KvRead>(view: &R) -> Result<Tally, KvError> {
        let Some(value) = view.get(key::COUNTERS)? else {
            let first = Tally { next_fid: 1, next_session: 1, next_group: 1, ..Tally::default() };
            return Ok(Tally { next_ino: protocol::ids::Ino::ROOT.0, ..first });
        };
        let mut row = Reader::open(key::COUNTERS, &value)?;
        let tally = Tally {
            applied: row.u64()?,
            map_version: MapVersion(row.u64()?),
            next_ino: row.u64()?,
            next_fid: row.u64()?,
            next_session: row.u64()?,
            next_group: row.u32()?,
            laid_out: row.u64()?,
            inodes: row.u64()?,
            file_bytes: row.u64()?,
            dead_files: row.u64()?,
            file_orders: row.u64()?,
        };
        row.end()?;
        Ok(tally)
    }

    pub(super) fn store<K: Kv>(&self, kv: &mut K) {
        let mut row = Writer::new();
        row.u64(self.applied).u64(self.map_version.0);
        row.u64(self.next_ino).u64(self.next_fid).u64(self.next_session).u32(self.next_group);
        row.u64(self.laid_out).u64(self.inodes).u64(self.file_bytes).u64(self.dead_files);
        row.u64(self.file_orders);
        kv.put(key::COUNTERS.to_vec(), row.seal(key::COUNTERS));
    }
}

/// Reads the settings; `None` before the cluster was initialized.
pub(super) fn load_settings<R: KvRead>(view: &R) -> Result<Option<Settings>, KvError> {
    let Some(value) = view.get(key::SETTINGS)? else { return Ok(None) };
    let mut row = Reader::open(key::SETTINGS, &value)?;
    let settings = Settings {
        cluster: ClusterId(row.u128()?),
        replicas: row.u8()?,
        min_write: row.u8()?,
        groups_per_target: row.u16()?,
        targets_expected: row.u32()?,
    };
    row.end()?;
    Ok(Some(settings))
}

/// Writes the settings.
pub(super) fn store_settings<K: Kv>(kv: &mut K, settings: &Settings) {
    let mut row = Writer::new();
    row.u128(settings.cluster.0).u8(settings.replicas).u8(settings.min_write);
    row.u16(settings.groups_per_target).u32(settings.targets_expected);
    kv.put(key::SETTINGS.to_vec(), row.seal(key::SETTINGS));
}
