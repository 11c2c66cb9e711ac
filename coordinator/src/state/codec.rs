//! Bytes of a row: little-endian fields, a version in front, a checksum behind.
//!
//! ```text
//! 0      1 u8    version of the table's rows
//! 1      n       fields, little-endian, in the order their record's file gives
//! 1+n    4 u32   low half of xxh3-64 over key, version and fields
//! ```
//! The sum covers the key, so a row never verifies under another one's name.

use protocol::checksum::sum64;
use protocol::ids::{Fid, GroupId, Ino, NodeId, SessionId, TargetId};

use crate::kv::KvError;

/// Builds the value of one row.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

/// Takes the value of one row apart. A short or long row is damage, never a panic.
pub(super) struct Reader<'a> {
    key: &'a [u8],
    rest: &'a [u8],
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer { bytes: vec![VERSION] }
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Writer {
        self.bytes.push(value);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Writer {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Writer {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Writer {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u128(&mut self, value: u128) -> &mut Writer {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A length of 16 bits, then the bytes; every string here is limited far below that.
    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Writer {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.u16(len);
        self.bytes.extend_from_slice(&value[..usize::from(len)]);
        self
    }

    /// The row without its last byte, as an older release would have written it.
    #[cfg(test)]
    pub(super) fn without_last(mut self) -> Writer {
        self.bytes.pop();
        self
    }

    /// Ends the row that will be stored under `key`.
    pub(super) fn seal(mut self, key: &[u8]) -> Vec<u8> {
        let sum = row_sum(key, &self.bytes);
        self.bytes.extend_from_slice(&sum.to_le_bytes());
        self.bytes
    }
}

impl<'a> Reader<'a> {
    /// True when every field was taken.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Verifies the row's checksum and version.
    pub(super) fn open(key: &'a [u8], value: &'a [u8]) -> Result<Reader<'a>, KvError> {
        let (fields, sum) = value.split_last_chunk::<4>().ok_or_else(|| damaged(key, "short"))?;
        if row_sum(key, fields) != u32::from_le_bytes(*sum) {
            return Err(damaged(key, "checksum mismatch"));
        }
        match fields.split_first() {
            Some((&VERSION, rest)) => Ok(Reader { key, rest }),
            _ => Err(damaged(key, "written by another release")),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, KvError> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, KvError> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, KvError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, KvError> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, KvError> {
        self.take().map(u128::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, KvError> {
        let len = usize::from(self.u16()?);
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.bad("short"))?;
        self.rest = rest;
        Ok(bytes.to_vec())
    }

    /// Checks that every byte was used.
    pub(super) fn end(self) -> Result<(), KvError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("bytes left over")) }
    }

    /// The error for a field that has no meaning.
    pub(super) fn bad(&self, reason: &'static str) -> KvError {
        damaged(self.key, reason)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], KvError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.bad("short"))?;
        self.rest = rest;
        Ok(*bytes)
    }
}

/// The error for a row that is not what was written.
pub(super) fn damaged(key: &[u8], reason: &'static str) -> KvError {
    let key = key.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    KvError::Damaged { key, reason }
}

fn row_sum(key: &[u8], fields: &[u8]) -> u32 {
    let sum = sum64(fields) ^ sum64(key).rotate_left(1);
    u32::try_from(sum & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// Version of all rows; raised when the meaning of a field changes.
const VERSION: u8 = 1;

/// Keys of the rows: one byte for the table, then big-endian numbers, so that keys sort as the
/// numbers do.
pub(super) mod key {
    #![expect(clippy::big_endian_bytes, reason = "keys must sort as the numbers in them do")]

    use super::*;

    pub(crate) const COUNTERS: &[u8] = b"C";
    pub(crate) const SETTINGS: &[u8] = b"c";
    pub(crate) const DENTRY: u8 = b'D';
    pub(crate) const GROUP: u8 = b'G';
    pub(crate) const INODE: u8 = b'I';
    pub(crate) const DURABLE: u8 = b'L';
    pub(crate) const NODE: u8 = b'N';
    pub(crate) const WISHES: u8 = b'O';
    /// What operators want.
    pub(crate) const ORDERS: &[u8] = &[WISHES];
    const MEASURED: u8 = b'M';
    pub(crate) const OPENED: u8 = b'F';
    pub(crate) const ORDER: u8 = b'P';
    pub(crate) const RESERVED: u8 = b'R';
    const SESSION: u8 = b'S';
    pub(crate) const TARGET: u8 = b'T';
    pub(crate) const WINDOW: u8 = b'W';
    pub(crate) const DEAD: u8 = b'X';

    /// Keys of a whole table or of a part of it: first key, first key after it.
    pub(crate) type Span = (Vec<u8>, Vec<u8>);

    pub(crate) fn inode(ino: Ino) -> Vec<u8> {
        wide(INODE, ino.0)
    }

    pub(crate) fn dentry(parent: Ino, name: &[u8]) -> Vec<u8> {
        let mut key = wide(DENTRY, parent.0);
        key.extend_from_slice(name);
        key
    }

    pub(crate) fn reserved(session: SessionId, ino: Ino) -> Vec<u8> {
        let mut key = wide(RESERVED, session.0);
        key.extend_from_slice(&ino.0.to_be_bytes());
        key
    }

    pub(crate) fn opened(session: SessionId, ino: Ino) -> Vec<u8> {
        let mut key = wide(OPENED, session.0);
        key.extend_from_slice(&ino.0.to_be_bytes());
        key
    }

    pub(crate) fn order(group: GroupId, fid: Fid, kind: u8) -> Vec<u8> {
        let mut key = narrow(ORDER, group.0);
        key.extend_from_slice(&fid.0.to_be_bytes());
        key.push(kind);
        key
    }

    pub(crate) fn measured(fid: Fid, group: GroupId) -> Vec<u8> {
        let mut key = wide(MEASURED, fid.0);
        key.extend_from_slice(&group.0.to_be_bytes());
        key
    }

    pub(crate) fn window(session: SessionId, seq: u64) -> Vec<u8> {
        let mut key = wide(WINDOW, session.0);
        key.extend_from_slice(&seq.to_be_bytes());
        key
    }

    pub(crate) fn dead(group: GroupId, fid: Fid) -> Vec<u8> {
        let mut key = narrow(DEAD, group.0);
        key.extend_from_slice(&fid.0.to_be_bytes());
        key
    }

    pub(crate) fn session(session: SessionId) -> Vec<u8> {
        wide(SESSION, session.0)
    }

    pub(crate) fn node(node: NodeId) -> Vec<u8> {
        narrow(NODE, node.0)
    }

    pub(crate) fn target(target: TargetId) -> Vec<u8> {
        narrow(TARGET, target.0)
    }

    pub(crate) fn group(group: GroupId) -> Vec<u8> {
        narrow(GROUP, group.0)
    }

    pub(crate) fn durable(target: TargetId) -> Vec<u8> {
        narrow(DURABLE, target.0)
    }

    /// The table of a row: the first byte of its key; 0 for a key that has none.
    pub(crate) fn table_of(key: &[u8]) -> u8 {
        key.first().copied().unwrap_or(0)
    }

    pub(crate) fn inodes() -> Span {
        table(INODE)
    }

    pub(crate) fn dentries_of(parent: Ino) -> Span {
        below(wide(DENTRY, parent.0))
    }

    pub(crate) fn reserved_of(session: SessionId) -> Span {
        below(wide(RESERVED, session.0))
    }

    pub(crate) fn opened_of(session: SessionId) -> Span {
        below(wide(OPENED, session.0))
    }

    pub(crate) fn orders() -> Span {
        table(ORDER)
    }

    pub(crate) fn measured_of(fid: Fid) -> Span {
        below(wide(MEASURED, fid.0))
    }

    pub(crate) fn window_of(session: SessionId) -> Span {
        below(wide(WINDOW, session.0))
    }

    pub(crate) fn deads() -> Span {
        table(DEAD)
    }

    pub(crate) fn sessions() -> Span {
        table(SESSION)
    }

    pub(crate) fn nodes() -> Span {
        table(NODE)
    }

    pub(crate) fn targets() -> Span {
        table(TARGET)
    }

    pub(crate) fn groups() -> Span {
        table(GROUP)
    }

    pub(crate) fn durables() -> Span {
        table(DURABLE)
    }

    /// The one row of what operators want.
    pub(crate) fn orders_row() -> Span {
        (ORDERS.to_vec(), [ORDERS, &[0]].concat())
    }

    pub(crate) fn everything() -> Span {
        (Vec::new(), vec![u8::MAX])
    }

    /// The 64-bit number that begins `skip` bytes into a key.
    pub(crate) fn number(key: &[u8], skip: usize) -> Option<u64> {
        key.get(skip..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// The 32-bit number right after a key's table byte.
    pub(crate) fn small_number(key: &[u8]) -> Option<u32> {
        key.get(1..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    fn wide(table: u8, number: u64) -> Vec<u8> {
        let mut key = Vec::with_capacity(24);
        key.push(table);
        key.extend_from_slice(&number.to_be_bytes());
        key
    }

    fn narrow(table: u8, number: u32) -> Vec<u8> {
        let mut key = Vec::with_capacity(13);
        key.push(table);
        key.extend_from_slice(&number.to_be_bytes());
        key
    }

    fn table(table: u8) -> Span {
        (vec![table], vec![table + 1])
    }

    /// Every key that begins with `prefix`, whose last byte a number's end is.
    fn below(prefix: Vec<u8>) -> Span {
        let mut end = prefix.clone();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                break;
            }
        }
        (prefix, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_no_change_and_no_other_key() -> Result<(), KvError> {
        let mut writer = Writer::new();
        writer.u8(1).u16(2).u32(3).u64(4).u128(5).bytes(b"name");
        let row = writer.seal(b"key");
        let mut reader = Reader::open(b"key", &row)?;
        assert_eq!((reader.u8()?, reader.u16()?, reader.u32()?), (1, 2, 3));
        assert_eq!((reader.u64()?, reader.u128()?, reader.bytes()?), (4, 5, b"name".to_vec()));
        reader.end()?;
        assert!(Reader::open(b"kez", &row).is_err());
        for at in 0..row.len() {
            let mut broken = row.clone();
            broken[at] ^= 4;
            assert!(Reader::open(b"key", &broken).is_err(), "byte {at}");
            assert!(Reader::open(b"key", &row[..at]).is_err(), "cut at {at}");
        }
        Ok(())
    }

    #[test]
    fn a_field_that_is_not_there_is_damage() -> Result<(), KvError> {
        let row = Writer::new().seal(b"k");
        assert!(Reader::open(b"k", &row)?.u64().is_err());
        assert!(Reader::open(b"k", &row)?.bytes().is_err());
        let mut writer = Writer::new();
        writer.u8(0);
        let row = writer.seal(b"k");
        assert!(Reader::open(b"k", &row)?.end().is_err());
        Ok(())
    }

    #[test]
    fn keys_sort_as_their_numbers_and_names() {
        assert!(key::inode(Ino(255)) < key::inode(Ino(256)));
        assert!(key::dentry(Ino(1), b"\xff\xff") < key::dentry(Ino(2), b""));
        let (from, to) = key::dentries_of(Ino(0xff));
        assert!(from <= key::dentry(Ino(0xff), b"") && key::dentry(Ino(0xff), b"\xff") < to);
        assert!(to <= key::dentry(Ino(0x100), b""));
        assert_eq!(key::number(&key::reserved(SessionId(3), Ino(9)), 9), Some(9));
        assert_eq!(key::small_number(&key::group(GroupId(7))), Some(7));
    }
}
