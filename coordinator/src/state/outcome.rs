//! Outcomes of operations, as they are remembered for a retry.

use protocol::ids::Ino;
use protocol::message::namespace::OpOutcome;
use protocol::status::Status;

use super::codec::{Reader, Writer};
use super::inode::Inode;
use crate::kv::KvError;

/// What an operation made or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Nothing that is left.
    Nothing,
    /// One inode; its attributes are returned.
    Inode(Ino, Inode),
    /// One file; its content is returned too.
    File(Ino, Inode),
    /// Unlinked files.
    Reserved(Vec<(Ino, Inode)>),
    /// Refused; nothing changed.
    Refused(Status),
}

impl Made {
    /// The outcome as the asker gets it.
    pub(super) fn outcome(&self) -> OpOutcome {
        match self {
            Made::Nothing => OpOutcome::Done(None),
            Made::Inode(ino, inode) => OpOutcome::Done(Some(inode.entry(*ino, false))),
            Made::File(ino, inode) => OpOutcome::Done(Some(inode.entry(*ino, true))),
            Made::Reserved(files) => OpOutcome::Reserved(
                files.iter().map(|(ino, inode)| inode.entry(*ino, true)).collect(),
            ),
            Made::Refused(status) => OpOutcome::Refused(*status),
        }
    }

    /// The row that remembers the outcome under `key`.
    pub(super) fn row(&self, key: &[u8]) -> Vec<u8> {
        let mut row = Writer::new();
        match self {
            Made::Nothing => {
                row.u8(0);
            }
            Made::Inode(ino, inode) => inode.encode(row.u8(1).u64(ino.0)),
            Made::File(ino, inode) => inode.encode(row.u8(2).u64(ino.0)),
            Made::Reserved(files) => {
                row.u8(3).u16(u16::try_from(files.len()).unwrap_or(u16::MAX));
                for (ino, inode) in files {
                    inode.encode(row.u64(ino.0));
                }
            }
            Made::Refused(status) => {
                row.u8(4).u16(status.code());
            }
        }
        row.seal(key)
    }

    /// Reads a remembered outcome.
    pub(super) fn from_row(key: &[u8], value: &[u8]) -> Result<Made, KvError> {
        let mut row = Reader::open(key, value)?;
        let made = match row.u8()? {
            0 => Made::Nothing,
            1 => Made::Inode(Ino(row.u64()?), Inode::decode(&mut row)?),
            2 => Made::File(Ino(row.u64()?), Inode::decode(&mut row)?),
            3 => {
                let count = row.u16()?;
                let one = |_| Ok((Ino(row.u64()?), Inode::decode(&mut row)?));
                Made::Reserved((0..count).map(one).collect::<Result<_, KvError>>()?)
            }
            4 => {
                let status = Status::from_code(row.u16()?);
                Made::Refused(status.ok_or_else(|| row.bad("unknown status"))?)
            }
            _ => return Err(row.bad("unknown outcome")),
        };
        row.end()?;
        Ok(made)
    }
}
