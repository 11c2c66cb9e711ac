//! Codec of reads, writes, verification and capabilities.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_bytes, put_items, put_sums, put_text};
use super::{Out, Record, empty_record, wire};
use crate::checksum::CellSum;
use crate::ids::{Generation, GroupId, Handle, ShardId, TargetId};
use crate::layout::cells_touched;
use crate::limits::{
    CELLS_PER_MESSAGE_MAX, CHUNK_LOG2_MAX, READ_LEN_MAX, TOKEN_LEN_MAX, WRITE_LEN_MAX,
};
use crate::message::MessageError;
use crate::message::activity::ShardActivity;
use crate::message::chunk::{
    BindTokenReply, BindTokenRequest, ReadReply, ReadRequest, ShardStatsReply, ShardStatsRequest,
    VerifyReply, VerifyRequest, WriteClass, WriteReply, WriteRequest,
};

/// Longest chunk there is, in bytes.
const CHUNK_LEN_MAX: u32 = 1 << CHUNK_LOG2_MAX;

empty_record! {
    ShardStatsRequest, ShardStatsRequestArgs;
}

impl Record for ReadRequest {
    type Table<'a> = wire::ReadRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ReadRequest<'b>> {
        wire::ReadRequest::create(
            out,
            &wire::ReadRequestArgs {
                group: self.group.0,
                key: Some(&self.key.into()),
                offset: self.offset,
                len: self.len,
                expect_len: self.expect_len,
                trunc_gen: self.trunc_gen,
                handle: self.handle.0,
                growth_only: self.growth_only,
                verify: self.verify,
            },
        )
    }

    fn unpack(table: wire::ReadRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let (offset, len) = (table.offset(), table.len());
        check.that((1..=READ_LEN_MAX).contains(&len), "len")?;
        check.range(offset, len, CHUNK_LOG2_MAX, "offset")?;
        check.that(table.expect_len() <= CHUNK_LEN_MAX, "expect_len")?;
        Ok(ReadRequest {
            group: GroupId(table.group()),
            key: table.key().into(),
            offset,
            len,
            expect_len: table.expect_len(),
            trunc_gen: table.trunc_gen(),
            handle: Handle(table.handle()),
            growth_only: table.growth_only(),
            verify: table.verify(),
        })
    }
}

impl Record for ReadReply {
    type Table<'a> = wire::ReadReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ReadReply<'b>> {
        let sums = put_sums(out, &self.sums);
        let aux = put_bytes(out, &self.aux);
        wire::ReadReply::create(
            out,
            &wire::ReadReplyArgs {
                version: Some(&self.version.into()),
                chunk_len: self.chunk_len,
                cell_log2: self.cell_log2,
                first_cell: self.first_cell,
                sums,
                aux,
            },
        )
    }

    fn unpack(table: wire::ReadReply<'_>, check: Check) -> Result<Self, MessageError> {
        let sums = check.items(table.sums(), CELLS_PER_MESSAGE_MAX, "sums", CellSum)?;
        let reply = ReadReply {
            version: table.version().into(),
            chunk_len: table.chunk_len(),
            cell_log2: check.cell_log2(table.cell_log2())?,
            first_cell: table.first_cell(),
            aux: check.aux(table.aux(), sums.len())?,
            sums,
        };
        check.that(reply.chunk_len <= CHUNK_LEN_MAX, "chunk_len")?;
        check.cells(reply.cell_log2, reply.first_cell, reply.sums.len(), reply.chunk_len)?;
        Ok(reply)
    }

    fn payload_len(&self) -> u32 {
        u32::try_from(self.payload_range().len()).unwrap_or(u32::MAX)
    }

    fn size_hint(&self) -> usize {
        128 + self.sums.len() * 8 + self.aux.len()
    }
}

impl Record for WriteRequest {
    type Table<'a> = wire::WriteRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::WriteRequest<'b>> {
        let sums = put_sums(out, &self.sums);
        let aux = put_bytes(out, &self.aux);
        wire::WriteRequest::create(
            out,
            &wire::WriteRequestArgs {
                group: self.group.0,
                key: Some(&self.key.into()),
                op: Some(&self.op.into()),
                attempt: self.attempt,
                class: class_code(self.class),
                offset: self.offset,
                len: self.len,
                expect_len: self.expect_len,
                trunc_gen: self.trunc_gen,
                cell_log2: self.cell_log2,
                chunk_log2: self.chunk_log2,
                handle: self.handle.0,
                sums,
                aux,
            },
        )
    }

    fn unpack(table: wire::WriteRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let (offset, len, expect_len) = (table.offset(), table.len(), table.expect_len());
        let cell_log2 = check.cell_log2(table.cell_log2())?;
        let chunk_log2 = check.chunk_log2(table.chunk_log2())?;
        let class = check.some(class(table.class()), "class")?;
        let truncation = class == WriteClass::Truncate;
        check.that((1..=WRITE_LEN_MAX).contains(&len) != truncation, "len")?;
        check.that(!truncation || len == 0, "len")?;
        check.range(offset, len, chunk_log2, "offset")?;
        let expected = offset + len..=1 << chunk_log2;
        check.that(expected.contains(&expect_len), "expect_len")?;
        let sums = check.items(table.sums(), CELLS_PER_MESSAGE_MAX, "sums", CellSum)?;
        let (_, cells) = cells_touched(cell_log2, offset, len);
        check.that(sums.len() == cells as usize, "sums")?;
        Ok(WriteRequest {
            group: GroupId(table.group()),
            key: table.key().into(),
            op: table.op().into(),
            attempt: table.attempt(),
            class,
            offset,
            len,
            expect_len,
            trunc_gen: table.trunc_gen(),
            cell_log2,
            chunk_log2,
            handle: Handle(table.handle()),
            aux: check.aux(table.aux(), sums.len())?,
            sums,
        })
    }

    fn payload_len(&self) -> u32 {
        self.len
    }

    fn size_hint(&self) -> usize {
        256 + self.sums.len() * 8 + self.aux.len()
    }
}

impl Record for WriteReply {
    type Table<'a> = wire::WriteReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::WriteReply<'b>> {
        wire::WriteReply::create(
            out,
            &wire::WriteReplyArgs {
                version: Some(&self.version.into()),
                chunk_len: self.chunk_len,
                free: self.free,
            },
        )
    }

    fn unpack(table: wire::WriteReply<'_>, check: Check) -> Result<Self, MessageError> {
        check.that(table.chunk_len() <= CHUNK_LEN_MAX, "chunk_len")?;
        Ok(WriteReply {
            version: table.version().into(),
            chunk_len: table.chunk_len(),
            free: table.free(),
        })
    }
}

impl Record for VerifyRequest {
    type Table<'a> = wire::VerifyRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::VerifyRequest<'b>> {
        let args = wire::VerifyRequestArgs { group: self.group.0, key: Some(&self.key.into()) };
        wire::VerifyRequest::create(out, &args)
    }

    fn unpack(table: wire::VerifyRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(VerifyRequest { group: GroupId(table.group()), key: table.key().into() })
    }
}

impl Record for VerifyReply {
    type Table<'a> = wire::VerifyReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::VerifyReply<'b>> {
        let sums = put_sums(out, &self.sums);
        let bad_cells = put_items(out, self.bad_cells.iter().copied());
        wire::VerifyReply::create(
            out,
            &wire::VerifyReplyArgs {
                version: Some(&self.version.into()),
                chunk_len: self.chunk_len,
                cell_log2: self.cell_log2,
                sums,
                bad_cells,
            },
        )
    }

    fn unpack(table: wire::VerifyReply<'_>, check: Check) -> Result<Self, MessageError> {
        let cell_log2 = check.cell_log2(table.cell_log2())?;
        let chunk_len = table.chunk_len();
        check.that(chunk_len <= CHUNK_LEN_MAX, "chunk_len")?;
        let cells = cells_touched(cell_log2, 0, chunk_len).1 as usize;
        let sums = check.items(table.sums(), cells, "sums", CellSum)?;
        check.that(sums.len() == cells, "sums")?;
        let bad_cells = check.items(table.bad_cells(), cells, "bad_cells", |cell| cell)?;
        let ascend = bad_cells.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = bad_cells.last().is_none_or(|&cell| (cell as usize) < cells);
        check.that(ascend && inside, "bad_cells")?;
        let version = table.version().into();
        Ok(VerifyReply { version, chunk_len, cell_log2, sums, bad_cells })
    }

    fn size_hint(&self) -> usize {
        128 + self.sums.len() * 8
    }
}

impl Record for ShardStatsReply {
    type Table<'a> = wire::ShardStatsReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ShardStatsReply<'b>> {
        let checksum_path = put_text(out, &self.checksum_path);
        let activity = Some(self.activity.pack(out));
        wire::ShardStatsReply::create(
            out,
            &wire::ShardStatsReplyArgs {
                shard: self.shard.0,
                core: self.core,
                target: self.target.0,
                generation: self.generation.0,
                port: self.port,
                capacity: self.capacity,
                used: self.used,
                chunks: self.chunks,
                requests: self.requests,
                bytes_in: self.bytes_in,
                bytes_out: self.bytes_out,
                hops: self.hops,
                misroutes: self.misroutes,
                flushes: self.flushes,
                bytes_copied: self.bytes_copied,
                connections: self.connections,
                clear_connections: self.clear_connections,
                checksum_path,
                activity,
            },
        )
    }

    fn unpack(table: wire::ShardStatsReply<'_>, check: Check) -> Result<Self, MessageError> {
        let activity = table.activity().map(|activity| ShardActivity::unpack(activity, check));
        Ok(ShardStatsReply {
            shard: ShardId(table.shard()),
            core: table.core(),
            target: TargetId(table.target()),
            generation: Generation(table.generation()),
            port: table.port(),
            capacity: table.capacity(),
            used: table.used(),
            chunks: table.chunks(),
            requests: table.requests(),
            bytes_in: table.bytes_in(),
            bytes_out: table.bytes_out(),
            hops: table.hops(),
            misroutes: table.misroutes(),
            flushes: table.flushes(),
            bytes_copied: table.bytes_copied(),
            connections: table.connections(),
            clear_connections: table.clear_connections(),
            checksum_path: check.text(table.checksum_path(), "checksum_path")?,
            activity: activity.transpose()?.unwrap_or_default(),
        })
    }
}

impl Record for BindTokenRequest {
    type Table<'a> = wire::BindTokenRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::BindTokenRequest<'b>> {
        let token = put_bytes(out, &self.token);
        wire::BindTokenRequest::create(out, &wire::BindTokenRequestArgs { token })
    }

    fn unpack(table: wire::BindTokenRequest<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(BindTokenRequest { token: check.bytes(table.token(), TOKEN_LEN_MAX, "token")? })
    }
}

impl Record for BindTokenReply {
    type Table<'a> = wire::BindTokenReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::BindTokenReply<'b>> {
        wire::BindTokenReply::create(out, &wire::BindTokenReplyArgs { handle: self.handle.0 })
    }

    fn unpack(table: wire::BindTokenReply<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(BindTokenReply { handle: Handle(table.handle()) })
    }
}

pub(super) fn class_code(class: WriteClass) -> wire::WriteClass {
    match class {
        WriteClass::Growth => wire::WriteClass::Growth,
        WriteClass::Mutation => wire::WriteClass::Mutation,
        WriteClass::Truncate => wire::WriteClass::Truncate,
    }
}

pub(super) fn class(code: wire::WriteClass) -> Option<WriteClass> {
    match code {
        wire::WriteClass::Growth => Some(WriteClass::Growth),
        wire::WriteClass::Mutation => Some(WriteClass::Mutation),
        wire::WriteClass::Truncate => Some(WriteClass::Truncate),
        _ => None,
    }
}
