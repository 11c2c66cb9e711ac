//! Codec of repair, digests and the coordinator's orders about single files.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_bytes, put_items, put_records, put_sums};
use super::{Out, Record, empty_record, wire};
use crate::checksum::CellSum;
use crate::ids::{Fid, GroupId, OpId, TargetId};
use crate::limits::{
    CELLS_PER_MESSAGE_MAX, CHUNK_LOG2_MAX, CHUNK_OP_SESSIONS_MAX, FILE_ORDERS_MAX, MAP_RECORDS_MAX,
    MEASURED_CHUNKS_MAX,
};
use crate::message::MessageError;
use crate::message::heal::{
    CensusReply, CensusRequest, ChunkLen, DigestReply, DigestRequest, FetchReply, FetchRequest,
    FileOrdersNotice, FileReportsReply, FileReportsRequest, GroupOrders, GroupReports, Measure,
    Measured, ReportCorruptReply, ReportCorruptRequest, Trim,
};

empty_record! {
    FileReportsReply, FileReportsReplyArgs;
}

impl Record for FetchRequest {
    type Table<'a> = wire::FetchRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::FetchRequest<'b>> {
        wire::FetchRequest::create(
            out,
            &wire::FetchRequestArgs {
                group: self.group.0,
                member: self.member.0,
                key: Some(&self.key.into()),
                version: Some(&self.version.into()),
                first_cell: self.first_cell,
                cells: self.cells,
            },
        )
    }

    fn unpack(table: wire::FetchRequest<'_>, check: Check) -> Result<Self, MessageError> {
        // The smallest cells of the largest chunk.
        let most = 1_u64 << (CHUNK_LOG2_MAX - 12);
        let end = u64::from(table.first_cell()) + u64::from(table.cells());
        check.that(end <= most, "cells")?;
        Ok(FetchRequest {
            group: GroupId(table.group()),
            member: TargetId(table.member()),
            key: table.key().into(),
            version: table.version().into(),
            first_cell: table.first_cell(),
            cells: table.cells(),
        })
    }
}

impl Record for FetchReply {
    type Table<'a> = wire::FetchReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::FetchReply<'b>> {
        let sums = put_sums(out, &self.sums);
        let aux = put_bytes(out, &self.aux);
        let ops = put_items(out, self.ops.iter().map(|&op| wire::OpId::from(op)));
        wire::FetchReply::create(
            out,
            &wire::FetchReplyArgs {
                version: Some(&self.version.into()),
                committed: self.committed,
                chunk_len: self.chunk_len,
                trunc_gen: self.trunc_gen,
                cell_log2: self.cell_log2,
                chunk_log2: self.chunk_log2,
                mutated: self.mutated,
                first_cell: self.first_cell,
                sums,
                aux,
                ops,
            },
        )
    }

    fn unpack(table: wire::FetchReply<'_>, check: Check) -> Result<Self, MessageError> {
        let sums = check.items(table.sums(), CELLS_PER_MESSAGE_MAX, "sums", CellSum)?;
        let reply = FetchReply {
            version: table.version().into(),
            committed: table.committed(),
            chunk_len: table.chunk_len(),
            trunc_gen: table.trunc_gen(),
            cell_log2: check.cell_log2(table.cell_log2())?,
            chunk_log2: check.chunk_log2(table.chunk_log2())?,
            mutated: table.mutated(),
            first_cell: table.first_cell(),
            aux: check.aux(table.aux(), sums.len())?,
            sums,
            ops: check.items(table.ops(), CHUNK_OP_SESSIONS_MAX, "ops", OpId::from)?,
        };
        check.range(0, reply.chunk_len, reply.chunk_log2, "chunk_len")?;
        check.cells(reply.cell_log2, reply.first_cell, reply.sums.len(), reply.chunk_len)?;
        Ok(reply)
    }

    fn payload_len(&self) -> u32 {
        u32::try_from(self.payload_range().len()).unwrap_or(u32::MAX)
    }

    fn size_hint(&self) -> usize {
        512 + self.sums.len() * 8 + self.aux.len()
    }
}

impl Record for DigestRequest {
    type Table<'a> = wire::DigestRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::DigestRequest<'b>> {
        wire::DigestRequest::create(out, &wire::DigestRequestArgs { group: self.group.0 })
    }

    fn unpack(table: wire::DigestRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(DigestRequest { group: GroupId(table.group()) })
    }
}

impl Record for DigestReply {
    type Table<'a> = wire::DigestReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::DigestReply<'b>> {
        wire::DigestReply::create(
            out,
            &wire::DigestReplyArgs {
                chunks: self.chunks,
                bytes: self.bytes,
                hash: Some(&self.hash.into()),
                committed_through: Some(&self.committed_through.into()),
                pendings: self.pendings,
            },
        )
    }

    fn unpack(table: wire::DigestReply<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(DigestReply {
            chunks: table.chunks(),
            bytes: table.bytes(),
            hash: table.hash().into(),
            committed_through: table.committed_through().into(),
            pendings: table.pendings(),
        })
    }
}

impl Record for ReportCorruptRequest {
    type Table<'a> = wire::ReportCorruptRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ReportCorruptRequest<'b>> {
        let cells = put_items(out, self.cells.iter().copied());
        wire::ReportCorruptRequest::create(
            out,
            &wire::ReportCorruptRequestArgs {
                group: self.group.0,
                key: Some(&self.key.into()),
                version: Some(&self.version.into()),
                cells,
            },
        )
    }

    fn unpack(table: wire::ReportCorruptRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let cells = check.items(table.cells(), CELLS_PER_MESSAGE_MAX, "cells", |cell| cell)?;
        let ascend = cells.windows(2).all(|pair| pair[0] < pair[1]);
        check.that(!cells.is_empty() && ascend, "cells")?;
        Ok(ReportCorruptRequest {
            group: GroupId(table.group()),
            key: table.key().into(),
            version: table.version().into(),
            cells,
        })
    }

    fn size_hint(&self) -> usize {
        128 + self.cells.len() * 4
    }
}

impl Record for ReportCorruptReply {
    type Table<'a> = wire::ReportCorruptReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ReportCorruptReply<'b>> {
        let args = wire::ReportCorruptReplyArgs { confirmed: self.confirmed };
        wire::ReportCorruptReply::create(out, &args)
    }

    fn unpack(table: wire::ReportCorruptReply<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(ReportCorruptReply { confirmed: table.confirmed() })
    }
}

impl Record for GroupOrders {
    type Table<'a> = wire::GroupOrders<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::GroupOrders<'b>> {
        let trim = |trim: &Trim| {
            wire::Trim::new(trim.fid.0, trim.len, trim.trunc_gen, trim.chunk_log2, 0, 0)
        };
        let measure = |measure: &Measure| wire::Measure::new(measure.fid.0, measure.first_chunk, 0);
        let trims = put_items(out, self.trims.iter().map(trim));
        let measures = put_items(out, self.measures.iter().map(measure));
        wire::GroupOrders::create(
            out,
            &wire::GroupOrdersArgs { group: self.group.0, trims, measures },
        )
    }

    fn unpack(table: wire::GroupOrders<'_>, check: Check) -> Result<Self, MessageError> {
        let trim = |trim: &wire::Trim| Trim {
            fid: Fid(trim.fid()),
            len: trim.len(),
            trunc_gen: trim.trunc_gen(),
            chunk_log2: trim.chunk_log2(),
        };
        let trims = check.items(table.trims(), FILE_ORDERS_MAX, "trims", trim)?;
        for trim in &trims {
            check.chunk_log2(trim.chunk_log2)?;
        }
        let measure = |measure: &wire::Measure| Measure {
            fid: Fid(measure.fid()),
            first_chunk: measure.first_chunk(),
        };
        let measures = check.items(table.measures(), FILE_ORDERS_MAX, "measures", measure)?;
        Ok(GroupOrders { group: GroupId(table.group()), trims, measures })
    }
}

impl Record for FileOrdersNotice {
    type Table<'a> = wire::FileOrdersNotice<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::FileOrdersNotice<'b>> {
        let groups = put_records(out, &self.groups);
        wire::FileOrdersNotice::create(out, &wire::FileOrdersNoticeArgs { groups })
    }

    fn unpack(table: wire::FileOrdersNotice<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(FileOrdersNotice { groups: check.records(table.groups(), MAP_RECORDS_MAX, "groups")? })
    }
}

impl Record for Measured {
    type Table<'a> = wire::Measured<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Measured<'b>> {
        let chunk = |chunk: &ChunkLen| wire::ChunkLen::new(chunk.index, chunk.len);
        let chunks = put_items(out, self.chunks.iter().map(chunk));
        wire::Measured::create(out, &wire::MeasuredArgs { fid: self.fid.0, chunks })
    }

    fn unpack(table: wire::Measured<'_>, check: Check) -> Result<Self, MessageError> {
        let chunk = |chunk: &wire::ChunkLen| ChunkLen { index: chunk.index(), len: chunk.len() };
        let chunks = check.items(table.chunks(), MEASURED_CHUNKS_MAX, "chunks", chunk)?;
        let ascend = chunks.windows(2).all(|pair| pair[0].index < pair[1].index);
        let fit = chunks.iter().all(|chunk| chunk.len <= 1 << CHUNK_LOG2_MAX);
        check.that(ascend && fit, "chunks")?;
        Ok(Measured { fid: Fid(table.fid()), chunks })
    }
}

impl Record for GroupReports {
    type Table<'a> = wire::GroupReports<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::GroupReports<'b>> {
        let trimmed = self.trimmed.iter();
        let trimmed = trimmed.map(|(fid, trunc_gen)| wire::Trimmed::new(fid.0, *trunc_gen, 0));
        let trimmed = put_items(out, trimmed);
        let measured = put_records(out, &self.measured);
        wire::GroupReports::create(
            out,
            &wire::GroupReportsArgs { group: self.group.0, trimmed, measured },
        )
    }

    fn unpack(table: wire::GroupReports<'_>, check: Check) -> Result<Self, MessageError> {
        let trimmed = |cut: &wire::Trimmed| (Fid(cut.fid()), cut.trunc_gen());
        Ok(GroupReports {
            group: GroupId(table.group()),
            trimmed: check.items(table.trimmed(), FILE_ORDERS_MAX, "trimmed", trimmed)?,
            measured: check.records(table.measured(), FILE_ORDERS_MAX, "measured")?,
        })
    }
}

impl Record for FileReportsRequest {
    type Table<'a> = wire::FileReportsRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::FileReportsRequest<'b>> {
        let groups = put_records(out, &self.groups);
        wire::FileReportsRequest::create(out, &wire::FileReportsRequestArgs { groups })
    }

    fn unpack(table: wire::FileReportsRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let groups = check.records(table.groups(), MAP_RECORDS_MAX, "groups")?;
        Ok(FileReportsRequest { groups })
    }
}

impl Record for CensusRequest {
    type Table<'a> = wire::CensusRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::CensusRequest<'b>> {
        let groups = put_records(out, &self.groups);
        wire::CensusRequest::create(out, &wire::CensusRequestArgs { groups })
    }

    fn unpack(table: wire::CensusRequest<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(CensusRequest { groups: check.records(table.groups(), MAP_RECORDS_MAX, "groups")? })
    }
}

impl Record for CensusReply {
    type Table<'a> = wire::CensusReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::CensusReply<'b>> {
        let dead = put_records(out, &self.dead);
        wire::CensusReply::create(out, &wire::CensusReplyArgs { dead })
    }

    fn unpack(table: wire::CensusReply<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(CensusReply { dead: check.records(table.dead(), MAP_RECORDS_MAX, "dead")? })
    }
}
