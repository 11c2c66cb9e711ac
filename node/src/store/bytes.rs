//! Little-endian fields, written to and read from device bytes.
//!
//! Reading never panics: what is not there is `None`.

use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, OpId, Seq, SessionId, Version};

use super::extent::Extent;

/// Appends fields to a byte string.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer::default()
    }

    /// One that will hold so many bytes.
    pub(super) fn of(len: usize) -> Writer {
        Writer { bytes: Vec::with_capacity(len) }
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Writer {
        self.raw(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    /// Writes the low 40 bits: a position in 4 KiB units.
    pub(super) fn u40(&mut self, value: u64) -> &mut Writer {
        self.raw(&value.to_le_bytes()[..5])
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn u128(&mut self, value: u128) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn key(&mut self, key: ChunkKey) -> &mut Writer {
        self.u64(key.fid.0).u32(key.index)
    }

    pub(super) fn version(&mut self, version: Version) -> &mut Writer {
        self.u32(version.epoch.0).u32(version.counter)
    }

    pub(super) fn op(&mut self, op: OpId) -> &mut Writer {
        self.u64(op.session.0).u64(op.seq.0)
    }

    /// Writes 8 bytes: 40 bits of start, 24 bits of length.
    pub(super) fn extent(&mut self, extent: Extent) -> &mut Writer {
        self.u40(extent.start).raw(&extent.units.to_le_bytes()[..3])
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Writes over bytes that were written before, from `at` on.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Fills with zeros up to `len`.
    pub(super) fn pad_to(&mut self, len: usize) -> &mut Writer {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        self
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes fields off the front of a byte string.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u40(&mut self) -> Option<u64> {
        let [a, b, c, d, e] = self.array()?;
        Some(u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        Some(u128::from_le_bytes(self.array()?))
    }

    pub(super) fn key(&mut self) -> Option<ChunkKey> {
        Some(ChunkKey { fid: Fid(self.u64()?), index: self.u32()? })
    }

    pub(super) fn version(&mut self) -> Option<Version> {
        Some(Version { epoch: Epoch(self.u32()?), counter: self.u32()? })
    }

    pub(super) fn op(&mut self) -> Option<OpId> {
        Some(OpId { session: SessionId(self.u64()?), seq: Seq(self.u64()?) })
    }

    pub(super) fn group(&mut self) -> Option<GroupId> {
        self.u32().map(GroupId)
    }

    pub(super) fn extent(&mut self) -> Option<Extent> {
        let start = self.u40()?;
        let [a, b, c] = self.array()?;
        Some(Extent { start, units: u32::from_le_bytes([a, b, c, 0]) })
    }

    /// Reads `count` items with one function.
    pub(super) fn list<T>(
        &mut self,
        count: usize,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Box<[T]>> {
        (0..count).map(|_| item(self)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
