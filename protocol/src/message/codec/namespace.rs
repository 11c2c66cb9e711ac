//! Codec of lookups, listings and batches of changes.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_bytes, put_fids, put_records};
use super::{Out, Record, empty_record, wire};
use crate::ids::{Fid, Ino, SessionId};
use crate::limits::{
    LOOKUP_BATCH_MAX, MUTATE_OPS_MAX, NAME_LEN_MAX, PATH_LEN_MAX, READ_DIR_PAGE_MAX, RESERVE_MAX,
    WORDS_MAX,
};
use crate::message::MessageError;
use crate::message::namespace::{
    Entry, GrowthClearedNotice, LookupReply, LookupRequest, LookupResult, MutateReply,
    MutateRequest, OpOutcome, PathQuery, ReadDirReply, ReadDirRequest, WordsReturnedReply,
    WordsReturnedRequest,
};
use crate::status::Status;

empty_record! {
    WordsReturnedReply, WordsReturnedReplyArgs;
}

impl Record for PathQuery {
    type Table<'a> = wire::PathQuery<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::PathQuery<'b>> {
        let path = put_bytes(out, &self.path);
        wire::PathQuery::create(
            out,
            &wire::PathQueryArgs {
                base: self.base.0,
                path,
                follow_link: self.follow,
                with_content: self.with_content,
            },
        )
    }

    fn unpack(table: wire::PathQuery<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(PathQuery {
            base: Ino(table.base()),
            path: check.path(table.path(), PATH_LEN_MAX, "path")?,
            follow: table.follow_link(),
            with_content: table.with_content(),
        })
    }
}

impl Record for LookupRequest {
    type Table<'a> = wire::LookupRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::LookupRequest<'b>> {
        let queries = put_records(out, &self.queries);
        let args = wire::LookupRequestArgs { session: self.session.0, queries };
        wire::LookupRequest::create(out, &args)
    }

    fn unpack(table: wire::LookupRequest<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(LookupRequest {
            session: SessionId(table.session()),
            queries: check.records(table.queries(), LOOKUP_BATCH_MAX, "queries")?,
        })
    }
}

/// The status of something refused.
impl Record for Status {
    type Table<'a> = wire::Refusal<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Refusal<'b>> {
        wire::Refusal::create(out, &wire::RefusalArgs { status: self.code() })
    }

    fn unpack(table: wire::Refusal<'_>, check: Check) -> Result<Self, MessageError> {
        check.refusal(table.status())
    }
}

impl Record for LookupResult {
    type Table<'a> = wire::LookupResult<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::LookupResult<'b>> {
        let (outcome_type, outcome) = match self {
            LookupResult::Found(entry) => {
                (wire::LookupOutcome::Found, entry.pack(out).as_union_value())
            }
            LookupResult::Refused(status) => {
                (wire::LookupOutcome::Refused, status.pack(out).as_union_value())
            }
        };
        let args = wire::LookupResultArgs { outcome_type, outcome: Some(outcome) };
        wire::LookupResult::create(out, &args)
    }

    fn unpack(table: wire::LookupResult<'_>, check: Check) -> Result<Self, MessageError> {
        if let Some(entry) = table.outcome_as_found() {
            return Ok(LookupResult::Found(Entry::unpack(entry, check)?));
        }
        let refusal = check.some(table.outcome_as_refused(), "outcome")?;
        Ok(LookupResult::Refused(Status::unpack(refusal, check)?))
    }
}

impl Record for LookupReply {
    type Table<'a> = wire::LookupReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::LookupReply<'b>> {
        let results = put_records(out, &self.results);
        wire::LookupReply::create(out, &wire::LookupReplyArgs { results })
    }

    fn unpack(table: wire::LookupReply<'_>, check: Check) -> Result<Self, MessageError> {
        let results = check.records(table.results(), LOOKUP_BATCH_MAX, "results")?;
        Ok(LookupReply { results })
    }

    fn size_hint(&self) -> usize {
        128 + self.results.len() * 256
    }
}

impl Record for ReadDirRequest {
    type Table<'a> = wire::ReadDirRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ReadDirRequest<'b>> {
        let after = put_bytes(out, &self.after);
        wire::ReadDirRequest::create(
            out,
            &wire::ReadDirRequestArgs {
                session: self.session.0,
                dir: self.dir.0,
                after,
                limit: self.limit,
                with_content: self.with_content,
            },
        )
    }

    fn unpack(table: wire::ReadDirRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let limit = table.limit();
        check.that((1..=READ_DIR_PAGE_MAX).contains(&(limit as usize)), "limit")?;
        Ok(ReadDirRequest {
            session: SessionId(table.session()),
            dir: Ino(table.dir()),
            after: check.path(table.after(), NAME_LEN_MAX, "after")?,
            limit,
            with_content: table.with_content(),
        })
    }
}

impl Record for ReadDirReply {
    type Table<'a> = wire::ReadDirReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ReadDirReply<'b>> {
        let entries = put_records(out, &self.entries);
        wire::ReadDirReply::create(out, &wire::ReadDirReplyArgs { entries, more: self.more })
    }

    fn unpack(table: wire::ReadDirReply<'_>, check: Check) -> Result<Self, MessageError> {
        let reply = ReadDirReply {
            entries: check.records(table.entries(), READ_DIR_PAGE_MAX, "entries")?,
            more: table.more(),
        };
        check.that(reply.entries.windows(2).all(|pair| pair[0].name < pair[1].name), "entries")?;
        // A page without entries that promises another would be asked for for ever.
        check.that(!(reply.more && reply.entries.is_empty()), "more")?;
        Ok(reply)
    }

    fn size_hint(&self) -> usize {
        128 + self.entries.len() * 256
    }
}

impl Record for MutateRequest {
    type Table<'a> = wire::MutateRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::MutateRequest<'b>> {
        let ops = put_records(out, &self.ops);
        wire::MutateRequest::create(out, &wire::MutateRequestArgs { session: self.session.0, ops })
    }

    fn unpack(table: wire::MutateRequest<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(MutateRequest {
            session: SessionId(table.session()),
            ops: check.records(table.ops(), MUTATE_OPS_MAX, "ops")?,
        })
    }

    fn size_hint(&self) -> usize {
        128 + self.ops.len() * 128
    }
}

impl Record for OpOutcome {
    type Table<'a> = wire::OpOutcome<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::OpOutcome<'b>> {
        let (outcome_type, outcome) = match self {
            OpOutcome::Done(entry) => {
                let entry = entry.as_ref().map(|entry| entry.pack(out));
                let done = wire::Done::create(out, &wire::DoneArgs { entry });
                (wire::Outcome::Done, done.as_union_value())
            }
            OpOutcome::Reserved(entries) => {
                let entries = put_records(out, entries);
                let reserved = wire::Reserved::create(out, &wire::ReservedArgs { entries });
                (wire::Outcome::Reserved, reserved.as_union_value())
            }
            OpOutcome::Refused(status) => {
                (wire::Outcome::Refused, status.pack(out).as_union_value())
            }
        };
        let args = wire::OpOutcomeArgs { outcome_type, outcome: Some(outcome) };
        wire::OpOutcome::create(out, &args)
    }

    fn unpack(table: wire::OpOutcome<'_>, check: Check) -> Result<Self, MessageError> {
        if let Some(done) = table.outcome_as_done() {
            let entry = done.entry().map(|entry| Entry::unpack(entry, check)).transpose()?;
            return Ok(OpOutcome::Done(entry));
        }
        if let Some(reserved) = table.outcome_as_reserved() {
            let max = RESERVE_MAX as usize;
            return Ok(OpOutcome::Reserved(check.records(reserved.entries(), max, "entries")?));
        }
        let refusal = check.some(table.outcome_as_refused(), "outcome")?;
        Ok(OpOutcome::Refused(Status::unpack(refusal, check)?))
    }
}

impl Record for MutateReply {
    type Table<'a> = wire::MutateReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::MutateReply<'b>> {
        let outcomes = put_records(out, &self.outcomes);
        wire::MutateReply::create(out, &wire::MutateReplyArgs { outcomes })
    }

    fn unpack(table: wire::MutateReply<'_>, check: Check) -> Result<Self, MessageError> {
        let outcomes = check.records(table.outcomes(), MUTATE_OPS_MAX, "outcomes")?;
        Ok(MutateReply { outcomes })
    }

    fn size_hint(&self) -> usize {
        128 + self.outcomes.len() * 256
    }
}

impl Record for GrowthClearedNotice {
    type Table<'a> = wire::GrowthClearedNotice<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::GrowthClearedNotice<'b>> {
        let fids = put_fids(out, &self.fids);
        wire::GrowthClearedNotice::create(out, &wire::GrowthClearedNoticeArgs { fids })
    }

    fn unpack(table: wire::GrowthClearedNotice<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(GrowthClearedNotice { fids: check.items(table.fids(), WORDS_MAX, "fids", Fid)? })
    }
}

impl Record for WordsReturnedRequest {
    type Table<'a> = wire::WordsReturnedRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::WordsReturnedRequest<'b>> {
        let fids = put_fids(out, &self.fids);
        wire::WordsReturnedRequest::create(out, &wire::WordsReturnedRequestArgs { fids })
    }

    fn unpack(table: wire::WordsReturnedRequest<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(WordsReturnedRequest { fids: check.items(table.fids(), WORDS_MAX, "fids", Fid)? })
    }
}
