//! Codec of replication, activation and resync.

use flatbuffers::WIPOffset;

use super::chunk::{class, class_code};
use super::fields::{Check, put_bytes, put_fids, put_items, put_sums};
use super::{Out, Record, empty_record, wire};
use crate::checksum::CellSum;
use crate::ids::{ChunkKey, Fid, Generation, GroupId, Lsn, OpId, TargetId};
use crate::layout::cells_touched;
use crate::limits::{
    CELLS_PER_MESSAGE_MAX, CHUNK_LOG2_MAX, CHUNK_OP_SESSIONS_MAX, DROP_FIDS_MAX,
    INVENTORY_PAGE_MAX, PAYLOAD_LEN_MAX, PENDINGS_PER_GROUP_MAX,
};
use crate::message::MessageError;
use crate::message::chunk::{
    AdoptReply, AdoptRequest, CommittedNotice, DiscardReply, DiscardRequest, DropReply,
    DropRequest, InventoryEntry, InventoryReply, InventoryRequest, Pending, QuarantineReply,
    QuarantineRequest, ReplicateMode, ReplicateReply, ReplicateRequest, WorkingNotice, WriteClass,
};

empty_record! {
    DiscardReply, DiscardReplyArgs;
    QuarantineReply, QuarantineReplyArgs;
    DropReply, DropReplyArgs;
}

impl Record for ReplicateRequest {
    type Table<'a> = wire::ReplicateRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ReplicateRequest<'b>> {
        let sums = put_sums(out, &self.sums);
        let aux = put_bytes(out, &self.aux);
        let ops = put_items(out, self.ops.iter().map(|&op| wire::OpId::from(op)));
        wire::ReplicateRequest::create(
            out,
            &wire::ReplicateRequestArgs {
                group: self.group.0,
                primary: self.primary.0,
                key: Some(&self.key.into()),
                mode: mode_code(self.mode),
                version: Some(&self.version.into()),
                base: Some(&self.base.into()),
                op: Some(&self.op.into()),
                class: class_code(self.class),
                offset: self.offset,
                len: self.len,
                chunk_len: self.chunk_len,
                expect_len: self.expect_len,
                trunc_gen: self.trunc_gen,
                cell_log2: self.cell_log2,
                chunk_log2: self.chunk_log2,
                sums,
                aux,
                ops,
                mutated: self.mutated,
                committed_through: Some(&self.committed_through.into()),
            },
        )
    }

    fn unpack(table: wire::ReplicateRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let sums = check.items(table.sums(), CELLS_PER_MESSAGE_MAX, "sums", CellSum)?;
        let request = ReplicateRequest {
            group: GroupId(table.group()),
            primary: TargetId(table.primary()),
            key: table.key().into(),
            mode: check.some(mode(table.mode()), "mode")?,
            version: table.version().into(),
            base: table.base().into(),
            op: table.op().into(),
            class: check.some(class(table.class()), "class")?,
            offset: table.offset(),
            len: table.len(),
            chunk_len: table.chunk_len(),
            expect_len: table.expect_len(),
            trunc_gen: table.trunc_gen(),
            cell_log2: check.cell_log2(table.cell_log2())?,
            chunk_log2: check.chunk_log2(table.chunk_log2())?,
            aux: check.aux(table.aux(), sums.len())?,
            sums,
            ops: check.items(table.ops(), CHUNK_OP_SESSIONS_MAX, "ops", OpId::from)?,
            mutated: table.mutated(),
            committed_through: table.committed_through().into(),
        };
        check_shape(&request, check)?;
        Ok(request)
    }

    fn payload_len(&self) -> u32 {
        self.len
    }

    fn size_hint(&self) -> usize {
        512 + self.sums.len() * 8 + self.aux.len()
    }
}

/// Checks how offset, lengths and sums of a `Replicate` hang together.
fn check_shape(request: &ReplicateRequest, check: Check) -> Result<(), MessageError> {
    let (offset, len, chunk_len) = (request.offset, request.len, request.chunk_len);
    check.that(len as usize <= PAYLOAD_LEN_MAX, "len")?;
    check.range(0, chunk_len, request.chunk_log2, "chunk_len")?;
    check.range(0, request.expect_len, request.chunk_log2, "expect_len")?;
    check.that(u64::from(offset) + u64::from(len) <= u64::from(chunk_len), "offset")?;
    match request.mode {
        ReplicateMode::Write if request.class == WriteClass::Truncate => {
            check.that(len == 0 && offset == chunk_len, "len")?;
        }
        ReplicateMode::Write => check.that(len > 0, "len")?,
        ReplicateMode::Whole => check.that(offset == 0 && len == chunk_len, "len")?,
    }
    let (_, cells) = cells_touched(request.cell_log2, offset, len);
    check.that(request.sums.len() == cells as usize, "sums")
}

impl Record for ReplicateReply {
    type Table<'a> = wire::ReplicateReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ReplicateReply<'b>> {
        let args = wire::ReplicateReplyArgs { lsn: self.lsn.0, free: self.free };
        wire::ReplicateReply::create(out, &args)
    }

    fn unpack(table: wire::ReplicateReply<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(ReplicateReply { lsn: Lsn(table.lsn()), free: table.free() })
    }
}

impl Record for CommittedNotice {
    type Table<'a> = wire::CommittedNotice<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::CommittedNotice<'b>> {
        let through = self.through.into();
        let args = wire::CommittedNoticeArgs { group: self.group.0, through: Some(&through) };
        wire::CommittedNotice::create(out, &args)
    }

    fn unpack(table: wire::CommittedNotice<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(CommittedNotice { group: GroupId(table.group()), through: table.through().into() })
    }
}

impl Record for WorkingNotice {
    type Table<'a> = wire::WorkingNotice<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::WorkingNotice<'b>> {
        let args = wire::WorkingNoticeArgs { group: self.group.0, outstanding: self.outstanding };
        wire::WorkingNotice::create(out, &args)
    }

    fn unpack(table: wire::WorkingNotice<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(WorkingNotice { group: GroupId(table.group()), outstanding: table.outstanding() })
    }
}

impl Record for AdoptRequest {
    type Table<'a> = wire::AdoptRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::AdoptRequest<'b>> {
        wire::AdoptRequest::create(
            out,
            &wire::AdoptRequestArgs {
                group: self.group.0,
                primary: self.primary.0,
                generation: self.generation.0,
            },
        )
    }

    fn unpack(table: wire::AdoptRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(AdoptRequest {
            group: GroupId(table.group()),
            primary: TargetId(table.primary()),
            generation: Generation(table.generation()),
        })
    }
}

impl Record for AdoptReply {
    type Table<'a> = wire::AdoptReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::AdoptReply<'b>> {
        let pendings = put_items(out, self.pendings.iter().map(wire::Pending::from));
        let committed_through = self.committed_through.into();
        let args = wire::AdoptReplyArgs { pendings, committed_through: Some(&committed_through) };
        wire::AdoptReply::create(out, &args)
    }

    fn unpack(table: wire::AdoptReply<'_>, check: Check) -> Result<Self, MessageError> {
        let pendings =
            check.items(table.pendings(), PENDINGS_PER_GROUP_MAX, "pendings", |item| {
                Pending::from(item)
            })?;
        // A chunk may have several pendings in a row, so keys may repeat.
        check.that(pendings.windows(2).all(|pair| pair[0].key <= pair[1].key), "pendings")?;
        let short = pendings.iter().all(|pending| pending.chunk_len <= 1 << CHUNK_LOG2_MAX);
        check.that(short, "chunk_len")?;
        Ok(AdoptReply { pendings, committed_through: table.committed_through().into() })
    }

    fn size_hint(&self) -> usize {
        128 + self.pendings.len() * 56
    }
}

impl Record for DiscardRequest {
    type Table<'a> = wire::DiscardRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::DiscardRequest<'b>> {
        let item = |&(key, version): &(ChunkKey, _)| {
            wire::DiscardItem::new(&key.into(), &wire::Version::from(version))
        };
        let items = put_items(out, self.items.iter().map(item));
        let args = wire::DiscardRequestArgs { group: self.group.0, items };
        wire::DiscardRequest::create(out, &args)
    }

    fn unpack(table: wire::DiscardRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let items = check.items(table.items(), PENDINGS_PER_GROUP_MAX, "items", |item| {
            (item.key().into(), item.version().into())
        })?;
        Ok(DiscardRequest { group: GroupId(table.group()), items })
    }
}

impl Record for InventoryRequest {
    type Table<'a> = wire::InventoryRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::InventoryRequest<'b>> {
        let after = self.after.map(wire::ChunkKey::from);
        wire::InventoryRequest::create(
            out,
            &wire::InventoryRequestArgs {
                group: self.group.0,
                after: after.as_ref(),
                limit: self.limit,
            },
        )
    }

    fn unpack(table: wire::InventoryRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let limit = table.limit();
        check.that((1..=INVENTORY_PAGE_MAX).contains(&(limit as usize)), "limit")?;
        let after = table.after().map(ChunkKey::from);
        Ok(InventoryRequest { group: GroupId(table.group()), after, limit })
    }
}

impl Record for InventoryReply {
    type Table<'a> = wire::InventoryReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::InventoryReply<'b>> {
        let entries = put_items(out, self.entries.iter().map(wire::InventoryEntry::from));
        let args = wire::InventoryReplyArgs { entries, more: self.more };
        wire::InventoryReply::create(out, &args)
    }

    fn unpack(table: wire::InventoryReply<'_>, check: Check) -> Result<Self, MessageError> {
        let entries = check.items(table.entries(), INVENTORY_PAGE_MAX, "entries", |entry| {
            InventoryEntry::from(entry)
        })?;
        check.that(entries.windows(2).all(|pair| pair[0].key < pair[1].key), "entries")?;
        let short = entries.iter().all(|entry| entry.chunk_len <= 1 << CHUNK_LOG2_MAX);
        check.that(short, "chunk_len")?;
        // A page without entries that promises another would be asked for for ever.
        check.that(!(table.more() && entries.is_empty()), "more")?;
        Ok(InventoryReply { entries, more: table.more() })
    }

    fn size_hint(&self) -> usize {
        128 + self.entries.len() * 40
    }
}

impl Record for QuarantineRequest {
    type Table<'a> = wire::QuarantineRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::QuarantineRequest<'b>> {
        let keys = put_items(out, self.keys.iter().map(|&key| wire::ChunkKey::from(key)));
        let args = wire::QuarantineRequestArgs { group: self.group.0, keys };
        wire::QuarantineRequest::create(out, &args)
    }

    fn unpack(table: wire::QuarantineRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let keys = check.items(table.keys(), INVENTORY_PAGE_MAX, "keys", ChunkKey::from)?;
        Ok(QuarantineRequest { group: GroupId(table.group()), keys })
    }
}

impl Record for DropRequest {
    type Table<'a> = wire::DropRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::DropRequest<'b>> {
        let fids = put_fids(out, &self.fids);
        wire::DropRequest::create(out, &wire::DropRequestArgs { group: self.group.0, fids })
    }

    fn unpack(table: wire::DropRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let fids = check.items(table.fids(), DROP_FIDS_MAX, "fids", Fid)?;
        Ok(DropRequest { group: GroupId(table.group()), fids })
    }
}

fn mode_code(mode: ReplicateMode) -> wire::ReplicateMode {
    match mode {
        ReplicateMode::Write => wire::ReplicateMode::Write,
        ReplicateMode::Whole => wire::ReplicateMode::Whole,
    }
}

fn mode(code: wire::ReplicateMode) -> Option<ReplicateMode> {
    match code {
        wire::ReplicateMode::Write => Some(ReplicateMode::Write),
        wire::ReplicateMode::Whole => Some(ReplicateMode::Whole),
        _ => None,
    }
}

impl From<&Pending> for wire::Pending {
    fn from(pending: &Pending) -> wire::Pending {
        wire::Pending::new(
            &pending.key.into(),
            &pending.version.into(),
            &pending.op.into(),
            pending.hash,
            pending.chunk_len,
            0,
        )
    }
}

impl From<&wire::Pending> for Pending {
    fn from(pending: &wire::Pending) -> Pending {
        Pending {
            key: pending.key().into(),
            version: pending.version().into(),
            chunk_len: pending.chunk_len(),
            op: pending.op().into(),
            hash: pending.hash(),
        }
    }
}

impl From<&InventoryEntry> for wire::InventoryEntry {
    fn from(entry: &InventoryEntry) -> wire::InventoryEntry {
        wire::InventoryEntry::new(
            &entry.key.into(),
            &entry.version.into(),
            entry.hash,
            entry.chunk_len,
            entry.suspect,
            0,
            0,
        )
    }
}

impl From<&wire::InventoryEntry> for InventoryEntry {
    fn from(entry: &wire::InventoryEntry) -> InventoryEntry {
        InventoryEntry {
            key: entry.key().into(),
            version: entry.version().into(),
            chunk_len: entry.chunk_len(),
            hash: entry.hash(),
            suspect: entry.suspect(),
        }
    }
}
