//! Checks and conversions that the codecs share.

use std::net::IpAddr;

use flatbuffers::{Follow, ForwardsUOffset, Push, Vector, WIPOffset};

use super::{Out, Record, wire};
use crate::checksum::CellSum;
use crate::cluster_map::{Member, Role};
use crate::ids::{
    ChunkKey, ClusterId, Epoch, Fid, Generation, GroupId, OpId, Seq, SessionId, TargetId, Version,
};
use crate::layout::{cells_covered, cells_touched};
use crate::limits::{
    CELL_LOG2_ALLOWED, CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, NAME_LEN_MAX, PAYLOAD_LEN_MAX, TEXT_LEN_MAX,
};
use crate::message::MessageError;
use crate::message::cluster::GroupReport;
use crate::message::namespace::Time;
use crate::status::Status;

/// Bytes of encryption nonce and tag that each cell carries when there are any.
pub(super) const AUX_PER_CELL: usize = 28;

/// A vector of tables as the generated code returns it.
pub(super) type Tables<'a, T> = Option<Vector<'a, ForwardsUOffset<T>>>;

/// Names the message whose fields are being checked.
#[derive(Clone, Copy)]
pub(super) struct Check {
    message: &'static str,
}

impl Check {
    pub(super) fn new(message: &'static str) -> Check {
        Check { message }
    }

    pub(super) fn error(self, field: &'static str) -> MessageError {
        MessageError::Field { message: self.message, field }
    }

    /// Refuses the field unless the condition holds.
    pub(super) fn that(self, holds: bool, field: &'static str) -> Result<(), MessageError> {
        if holds { Ok(()) } else { Err(self.error(field)) }
    }

    pub(super) fn some<T>(self, value: Option<T>, field: &'static str) -> Result<T, MessageError> {
        value.ok_or_else(|| self.error(field))
    }

    pub(super) fn cell_log2(self, value: u8) -> Result<u8, MessageError> {
        self.that(CELL_LOG2_ALLOWED.contains(&value), "cell_log2")?;
        Ok(value)
    }

    pub(super) fn chunk_log2(self, value: u8) -> Result<u8, MessageError> {
        self.that((CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&value), "chunk_log2")?;
        Ok(value)
    }

    /// Refuses cells that a chunk of that length does not have, or too many for one payload.
    pub(super) fn cells(
        self,
        cell_log2: u8,
        first: u32,
        count: usize,
        chunk_len: u32,
    ) -> Result<(), MessageError> {
        let (_, cells) = cells_touched(cell_log2, 0, chunk_len);
        let last = u64::from(first) + count as u64;
        self.that(count == 0 || last <= u64::from(cells), "first_cell")?;
        let payload = cells_covered(cell_log2, first, count, chunk_len);
        self.that(payload.len() <= PAYLOAD_LEN_MAX, "sums")
    }

    /// Refuses a byte range that no chunk of the given size has.
    pub(super) fn range(
        self,
        offset: u32,
        len: u32,
        chunk_log2: u8,
        field: &'static str,
    ) -> Result<(), MessageError> {
        self.that(u64::from(offset) + u64::from(len) <= 1 << chunk_log2, field)
    }

    pub(super) fn aux(
        self,
        aux: Option<Vector<'_, u8>>,
        cells: usize,
    ) -> Result<Vec<u8>, MessageError> {
        let aux = aux.unwrap_or_default();
        self.that(aux.is_empty() || aux.len() == cells * AUX_PER_CELL, "aux")?;
        Ok(aux.bytes().to_vec())
    }

    /// Reads bytes of at most `max`, which may be none.
    pub(super) fn bytes(
        self,
        bytes: Option<Vector<'_, u8>>,
        max: usize,
        field: &'static str,
    ) -> Result<Vec<u8>, MessageError> {
        let bytes = bytes.unwrap_or_default().bytes();
        self.that(bytes.len() <= max, field)?;
        Ok(bytes.to_vec())
    }

    /// Reads a path or link target: bytes of at most `max` without NUL.
    pub(super) fn path(
        self,
        bytes: Option<Vector<'_, u8>>,
        max: usize,
        field: &'static str,
    ) -> Result<Vec<u8>, MessageError> {
        let bytes = self.bytes(bytes, max, field)?;
        self.that(!bytes.contains(&0), field)?;
        Ok(bytes)
    }

    /// Reads a directory entry's name.
    pub(super) fn name(
        self,
        name: Vector<'_, u8>,
        field: &'static str,
    ) -> Result<Vec<u8>, MessageError> {
        let name = name.bytes();
        let sound = !name.is_empty()
            && name.len() <= NAME_LEN_MAX
            && !name.contains(&0)
            && !name.contains(&b'/')
            && name != b"."
            && name != b"..";
        self.that(sound, field)?;
        Ok(name.to_vec())
    }

    /// Reads text for people, of at most [`TEXT_LEN_MAX`] bytes.
    pub(super) fn text(
        self,
        text: Option<&str>,
        field: &'static str,
    ) -> Result<String, MessageError> {
        let text = text.unwrap_or_default();
        self.that(text.len() <= TEXT_LEN_MAX, field)?;
        Ok(text.to_owned())
    }

    pub(super) fn address(self, bytes: Vector<'_, u8>) -> Result<IpAddr, MessageError> {
        let bytes = bytes.bytes();
        if let Ok(four) = <[u8; 4]>::try_from(bytes) {
            return Ok(IpAddr::from(four));
        }
        let sixteen = <[u8; 16]>::try_from(bytes).map_err(|_| self.error("address"))?;
        Ok(IpAddr::from(sixteen))
    }

    /// Reads the status of something refused, which cannot be `Ok`.
    pub(super) fn refusal(self, code: u16) -> Result<Status, MessageError> {
        let status = self.some(Status::from_code(code), "status")?;
        self.that(status != Status::Ok, "status")?;
        Ok(status)
    }

    /// Reads a vector of at most `max` scalars or structs.
    pub(super) fn items<'a, T, U>(
        self,
        items: Option<Vector<'a, T>>,
        max: usize,
        field: &'static str,
        convert: impl Fn(T::Inner) -> U,
    ) -> Result<Vec<U>, MessageError>
    where
        T: Follow<'a> + 'a,
    {
        let Some(items) = items else { return Ok(Vec::new()) };
        self.that(items.len() <= max, field)?;
        Ok(items.iter().map(convert).collect())
    }

    /// Reads a vector of at most `max` tables.
    pub(super) fn records<'a, R: Record>(
        self,
        tables: Tables<'a, R::Table<'a>>,
        max: usize,
        field: &'static str,
    ) -> Result<Vec<R>, MessageError> {
        let Some(tables) = tables else { return Ok(Vec::new()) };
        self.that(tables.len() <= max, field)?;
        tables.iter().map(|table| R::unpack(table, self)).collect()
    }

    /// Reads the members of a group: a bounded list with at most one primary, no target twice.
    pub(super) fn members(
        self,
        members: Option<Vector<'_, wire::Member>>,
        max: usize,
    ) -> Result<Vec<Member>, MessageError> {
        let members = members.unwrap_or_default();
        self.that(members.len() <= max, "members")?;
        let mut out: Vec<Member> = Vec::with_capacity(members.len());
        for member in members {
            let role = self.some(role(member.role()), "role")?;
            let target = TargetId(member.target());
            let again = out.iter().any(|other| {
                other.target == target || (role == Role::Primary && other.role == Role::Primary)
            });
            self.that(!again, "members")?;
            out.push(Member { target, generation: Generation(member.generation()), role });
        }
        Ok(out)
    }
}

/// Writes a vector of scalars or structs; an empty one is left out.
pub(super) fn put_items<'b, T: Push + Copy>(
    out: &mut Out<'b>,
    items: impl ExactSizeIterator<Item = T> + DoubleEndedIterator,
) -> Option<WIPOffset<Vector<'b, T::Output>>> {
    if items.len() == 0 { None } else { Some(out.create_vector_from_iter(items)) }
}

/// Writes a vector of bytes; an empty one is left out.
pub(super) fn put_bytes<'b>(out: &mut Out<'b>, bytes: &[u8]) -> Option<WIPOffset<Vector<'b, u8>>> {
    if bytes.is_empty() { None } else { Some(out.create_vector(bytes)) }
}

/// Writes text; an empty one is left out.
pub(super) fn put_text<'b>(out: &mut Out<'b>, text: &str) -> Option<WIPOffset<&'b str>> {
    if text.is_empty() { None } else { Some(out.create_string(text)) }
}

/// Writes a vector of tables; an empty one is left out.
pub(super) fn put_records<'b, R: Record>(
    out: &mut Out<'b>,
    records: &[R],
) -> Option<WIPOffset<Vector<'b, ForwardsUOffset<R::Table<'b>>>>> {
    if records.is_empty() {
        return None;
    }
    let offsets: Vec<_> = records.iter().map(|record| record.pack(out)).collect();
    Some(out.create_vector(&offsets))
}

pub(super) fn put_sums<'b>(
    out: &mut Out<'b>,
    sums: &[CellSum],
) -> Option<WIPOffset<Vector<'b, u64>>> {
    put_items(out, sums.iter().map(|sum| sum.0))
}

pub(super) fn put_fids<'b>(out: &mut Out<'b>, fids: &[Fid]) -> Option<WIPOffset<Vector<'b, u64>>> {
    put_items(out, fids.iter().map(|fid| fid.0))
}

pub(super) fn put_address<'b>(out: &mut Out<'b>, address: IpAddr) -> WIPOffset<Vector<'b, u8>> {
    match address {
        IpAddr::V4(address) => out.create_vector(&address.octets()),
        IpAddr::V6(address) => out.create_vector(&address.octets()),
    }
}

pub(super) fn role_code(role: Role) -> u8 {
    match role {
        Role::Primary => wire::Role::Primary.0,
        Role::Backup => wire::Role::Backup.0,
        Role::Syncing => wire::Role::Syncing.0,
    }
}

fn role(code: u8) -> Option<Role> {
    match wire::Role(code) {
        wire::Role::Primary => Some(Role::Primary),
        wire::Role::Backup => Some(Role::Backup),
        wire::Role::Syncing => Some(Role::Syncing),
        _ => None,
    }
}

impl From<Member> for wire::Member {
    fn from(member: Member) -> wire::Member {
        wire::Member::new(member.target.0, member.generation.0, role_code(member.role), 0, 0)
    }
}

impl From<ChunkKey> for wire::ChunkKey {
    fn from(key: ChunkKey) -> wire::ChunkKey {
        wire::ChunkKey::new(key.fid.0, key.index, 0)
    }
}

impl From<&wire::ChunkKey> for ChunkKey {
    fn from(key: &wire::ChunkKey) -> ChunkKey {
        ChunkKey { fid: Fid(key.fid()), index: key.index() }
    }
}

impl From<Version> for wire::Version {
    fn from(version: Version) -> wire::Version {
        wire::Version::new(version.epoch.0, version.counter)
    }
}

impl From<&wire::Version> for Version {
    fn from(version: &wire::Version) -> Version {
        Version { epoch: Epoch(version.epoch()), counter: version.counter() }
    }
}

impl From<OpId> for wire::OpId {
    fn from(op: OpId) -> wire::OpId {
        wire::OpId::new(op.session.0, op.seq.0)
    }
}

impl From<&wire::OpId> for OpId {
    fn from(op: &wire::OpId) -> OpId {
        OpId { session: SessionId(op.session()), seq: Seq(op.seq()) }
    }
}

impl From<Time> for wire::Time {
    fn from(time: Time) -> wire::Time {
        wire::Time::new(time.secs, time.nanos, 0)
    }
}

impl From<GroupReport> for wire::GroupReport {
    fn from(report: GroupReport) -> wire::GroupReport {
        let through = wire::Version::from(report.committed_through);
        wire::GroupReport::new(report.group.0, report.epoch.0, &through)
    }
}

impl From<&wire::GroupReport> for GroupReport {
    fn from(report: &wire::GroupReport) -> GroupReport {
        GroupReport {
            group: GroupId(report.group()),
            epoch: Epoch(report.epoch()),
            committed_through: report.committed_through().into(),
        }
    }
}

impl From<u128> for wire::U128 {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    fn from(value: u128) -> wire::U128 {
        wire::U128::new(value as u64, (value >> 64) as u64)
    }
}

impl From<&wire::U128> for u128 {
    fn from(value: &wire::U128) -> u128 {
        u128::from(value.lo()) | (u128::from(value.hi()) << 64)
    }
}

impl From<ClusterId> for wire::U128 {
    fn from(cluster: ClusterId) -> wire::U128 {
        cluster.0.into()
    }
}

impl From<&wire::U128> for ClusterId {
    fn from(value: &wire::U128) -> ClusterId {
        ClusterId(value.into())
    }
}
