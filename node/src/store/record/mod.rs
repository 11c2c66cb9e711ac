//! Records of the journal: one change of the index each.

use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, Lsn, Version};

use super::bytes::{Reader, Writer};
use super::state::ChunkState;

/// Fields in front of every record.
#[cfg(test)]
pub(super) const RECORD_FIELDS: &[(&str, usize)] = &[("kind", 1), ("reserved", 1), ("len", 2)];
/// Bytes of those fields.
pub(super) const RECORD_HEADER_LEN: usize = 4;
/// Bytes of an install before its state.
pub(super) const INSTALL_HEAD_LEN: usize = 17;
/// Longest record, header included, in bytes.
pub(super) const RECORD_LEN_MAX: usize = 16 << 10;

/// Code, name and fields of one kind.
#[cfg(test)]
type Kind = (u8, &'static str, &'static [(&'static str, usize)]);

/// Body of each kind before any list: code, name, fields in order with their sizes.
#[cfg(test)]
pub(super) const RECORD_KINDS: &[Kind] = &[
    (1, "Put", &[("group", 4), ("key", 12), ("state", 56)]),
    (2, "Install", &[("group", 4), ("key", 12), ("committed", 1), ("state", 56)]),
    (3, "Committed", &[("group", 4), ("through", 8)]),
    (4, "Adopt", &[("group", 4), ("epoch", 4)]),
    (5, "Discard", &[("group", 4), ("key", 12), ("version", 8)]),
    (6, "Quarantine", &[("group", 4), ("key", 12), ("since", 8)]),
    (7, "DropFid", &[("group", 4), ("fid", 8)]),
    (8, "Suspect", &[("group", 4), ("key", 12), ("version", 8)]),
    (9, "Repair", &[("group", 4), ("key", 12), ("state", 56)]),
    (10, "Release", &[("group", 4), ("fid", 8), ("until", 8)]),
];

/// One change of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A version that builds on the newest one.
    Put { group: GroupId, key: ChunkKey, state: ChunkState },
    /// A whole chunk that replaces what was there.
    Install { group: GroupId, key: ChunkKey, committed: bool, state: ChunkState },
    /// Everything at or below is committed.
    Committed { group: GroupId, through: Version },
    /// The group's epoch.
    Adopt { group: GroupId, epoch: Epoch },
    /// A pending version, and those that build on it, are gone.
    Discard { group: GroupId, key: ChunkKey, version: Version },
    /// The chunk is kept but no longer served.
    Quarantine { group: GroupId, key: ChunkKey, since_s: u64 },
    /// Every chunk of the file is gone.
    DropFid { group: GroupId, fid: Fid },
    /// The store found out that it cannot trust this version.
    Suspect { group: GroupId, key: ChunkKey, version: Version },
    /// A version that is here, its bytes at other places.
    Repair { group: GroupId, key: ChunkKey, state: ChunkState },
    /// Chunks of the file that were set aside at or before a time are gone.
    Release { group: GroupId, fid: Fid, until_s: u64 },
}

impl Record {
    /// Appends the record.
    pub(super) fn encode(&self, out: &mut Writer) {
        let start = out.len();
        out.raw(&[0; RECORD_HEADER_LEN]);
        let kind = match self {
            Record::Put { group, key, state } => {
                state.encode(out.u32(group.0).key(*key));
                1
            }
            Record::Install { group, key, committed, state } => {
                state.encode(out.u32(group.0).key(*key).u8(u8::from(*committed)));
                2
            }
            Record::Committed { group, through } => {
                out.u32(group.0).version(*through);
                3
            }
            Record::Adopt { group, epoch } => {
                out.u32(group.0).u32(epoch.0);
                4
            }
            Record::Discard { group, key, version } => {
                out.u32(group.0).key(*key).version(*version);
                5
            }
            Record::Quarantine { group, key, since_s } => {
                out.u32(group.0).key(*key).u64(*since_s);
                6
            }
            Record::DropFid { group, fid } => {
                out.u32(group.0).u64(fid.0);
                7
            }
            Record::Suspect { group, key, version } => {
                out.u32(group.0).key(*key).version(*version);
                8
            }
            Record::Repair { group, key, state } => {
                state.encode(out.u32(group.0).key(*key));
                9
            }
            Record::Release { group, fid, until_s } => {
                out.u32(group.0).u64(fid.0).u64(*until_s);
                10
            }
        };
        let len = u16::try_from(out.len() - start - RECORD_HEADER_LEN).unwrap_or(u16::MAX);
        let [low, high] = len.to_le_bytes();
        out.put(start, &[kind, 0, low, high]);
    }

    /// The record as part of a batch, whose number it remembers.
    pub(super) fn at(mut self, lsn: Lsn) -> Record {
        if let Record::Put { state, .. } | Record::Install { state, .. } = &mut self {
            state.lsn = lsn;
        }
        self
    }

    /// The batch that a repair was read from.
    pub(super) fn repair_lsn(&self) -> Option<Lsn> {
        match self {
            Record::Repair { state, .. } => Some(state.lsn),
            _ => None,
        }
    }

    /// Takes one record off the front; `None` when it is not one this release knows.
    pub(super) fn decode(from: &mut Reader<'_>, lsn: Lsn) -> Option<Record> {
        let (kind, reserved, len) = (from.u8()?, from.u8()?, from.u16()?);
        let mut body = Reader::new(from.take(usize::from(len))?);
        let from = &mut body;
        let record = match kind {
            1 => Record::Put {
                group: from.group()?,
                key: from.key()?,
                state: ChunkState::decode(from, lsn)?,
            },
            2 => Record::Install {
                group: from.group()?,
                key: from.key()?,
                committed: from.u8()? != 0,
                state: ChunkState::decode(from, lsn)?,
            },
            3 => Record::Committed { group: from.group()?, through: from.version()? },
            4 => Record::Adopt { group: from.group()?, epoch: Epoch(from.u32()?) },
            5 => {
                Record::Discard { group: from.group()?, key: from.key()?, version: from.version()? }
            }
            6 => {
                Record::Quarantine { group: from.group()?, key: from.key()?, since_s: from.u64()? }
            }
            7 => Record::DropFid { group: from.group()?, fid: Fid(from.u64()?) },
            8 => {
                Record::Suspect { group: from.group()?, key: from.key()?, version: from.version()? }
            }
            9 => Record::Repair {
                group: from.group()?,
                key: from.key()?,
                state: ChunkState::decode(from, lsn)?,
            },
            10 => Record::Release {
                group: from.group()?,
                fid: Fid(from.u64()?),
                until_s: from.u64()?,
            },
            _ => return None,
        };
        (reserved == 0 && body.is_empty()).then_some(record)
    }
}

#[cfg(test)]
mod tests;
