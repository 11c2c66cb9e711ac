//! Domain messages to and from their flatbuffers form.
//!
//! Owns the table of all messages and the checks of every field. Each file here mirrors one file of
//! domain types beside it: `pack` writes, `unpack` reads and checks. Start at the table below.

mod activity;
mod chunk;
mod cluster;
mod command;
mod entry;
mod fields;
mod heal;
mod map;
mod namespace;
mod operate;
mod operation;
mod replicate;
mod status;

pub use command::{decode_command, encode_command};

use std::cell::RefCell;

use flatbuffers::{FlatBufferBuilder, Follow, Verifiable, VerifierOptions, WIPOffset};

use self::fields::Check;
use super::chunk::{
    AdoptReply, AdoptRequest, BindTokenReply, BindTokenRequest, CommittedNotice, DiscardReply,
    DiscardRequest, DropReply, DropRequest, InventoryReply, InventoryRequest, QuarantineReply,
    QuarantineRequest, ReadReply, ReadRequest, ReplicateReply, ReplicateRequest, ShardStatsReply,
    ShardStatsRequest, VerifyReply, VerifyRequest, WorkingNotice, WriteReply, WriteRequest,
};
use super::cluster::{
    ActivatedReply, ActivatedRequest, DropDoneReply, DropDoneRequest, DropFilesNotice, ErrorReply,
    EvictReply, EvictRequest, HeartbeatReply, HeartbeatRequest, HelloReply, HelloRequest,
    MapFetchReply, MapFetchRequest, MapPushNotice, RegisterReply, RegisterRequest,
    SessionCloseReply, SessionCloseRequest, SessionOpenReply, SessionOpenRequest,
    SessionRenewReply, SessionRenewRequest, StatusReply, StatusRequest, SyncDoneReply,
    SyncDoneRequest,
};
use super::generated as wire;
use super::heal::{
    CensusReply, CensusRequest, DigestReply, DigestRequest, FetchReply, FetchRequest,
    FileOrdersNotice, FileReportsReply, FileReportsRequest, ReportCorruptReply,
    ReportCorruptRequest,
};
use super::namespace::{
    GrowthClearedNotice, LookupReply, LookupRequest, MutateReply, MutateRequest, ReadDirReply,
    ReadDirRequest, WordsReturnedReply, WordsReturnedRequest,
};
use super::operate::{
    AdminReply, AdminRequest, PlansReply, PlansRequest, UnreachableReply, UnreachableRequest,
};
use super::{Kind, Message, MessageError};
use crate::limits::{
    SHORT_BODY, VERIFIER_APPARENT_MAX, VERIFIER_APPARENT_MAX_LIST, VERIFIER_DEPTH_MAX,
    VERIFIER_TABLES_MAX, VERIFIER_TABLES_MAX_LIST,
};
use crate::session::TAG_LEN;

macro_rules! bodies {
    ($($kind:ident: $request:ident $(, $reply:ident)?;)*) => {
        $(
            message!($request, $kind, false);
            $(message!($reply, $kind, true);)?
        )*

        impl Body {
            /// Every body there is: which message a frame of which kind and direction carries.
            pub const ALL: &'static [Body] = &[
                $(
                    Body::of::<$request>(),
                    $(Body::of::<$reply>(),)?
                )*
            ];
        }
    };
}

macro_rules! message {
    ($name:ident, $kind:ident, $response:literal) => {
        impl Message for $name {
            const KIND: Kind = Kind::$kind;
            const RESPONSE: bool = $response;
            const NAME: &'static str = stringify!($name);

            fn encode(&self) -> Vec<u8> {
                write(self, &identifier(Kind::$kind, $response))
            }

            fn decode(body: &[u8]) -> Result<$name, MessageError> {
                let long = Kind::$kind.has_long_body();
                let name = <$name as Message>::NAME;
                read(body, &identifier(Kind::$kind, $response), long, name)
            }

            fn payload_len(&self) -> u32 {
                Record::payload_len(self)
            }
        }
    };
}

// Which message each kind of frame carries: request or notice, then response.
bodies! {
    Hello: HelloRequest, HelloReply;
    BindToken: BindTokenRequest, BindTokenReply;

    Read: ReadRequest, ReadReply;
    Write: WriteRequest, WriteReply;
    Replicate: ReplicateRequest, ReplicateReply;
    Committed: CommittedNotice;
    Working: WorkingNotice;
    Adopt: AdoptRequest, AdoptReply;
    Discard: DiscardRequest, DiscardReply;
    Inventory: InventoryRequest, InventoryReply;
    Quarantine: QuarantineRequest, QuarantineReply;
    Drop: DropRequest, DropReply;
    Verify: VerifyRequest, VerifyReply;
    ShardStats: ShardStatsRequest, ShardStatsReply;
    Fetch: FetchRequest, FetchReply;
    Digest: DigestRequest, DigestReply;
    ReportCorrupt: ReportCorruptRequest, ReportCorruptReply;

    Register: RegisterRequest, RegisterReply;
    Heartbeat: HeartbeatRequest, HeartbeatReply;
    MapPush: MapPushNotice;
    MapFetch: MapFetchRequest, MapFetchReply;
    Evict: EvictRequest, EvictReply;
    Activated: ActivatedRequest, ActivatedReply;
    SyncDone: SyncDoneRequest, SyncDoneReply;
    DropFiles: DropFilesNotice;
    DropDone: DropDoneRequest, DropDoneReply;
    Status: StatusRequest, StatusReply;
    Admin: AdminRequest, AdminReply;
    Plans: PlansRequest, PlansReply;
    Census: CensusRequest, CensusReply;
    FileOrders: FileOrdersNotice;
    FileReports: FileReportsRequest, FileReportsReply;

    SessionOpen: SessionOpenRequest, SessionOpenReply;
    SessionRenew: SessionRenewRequest, SessionRenewReply;
    SessionClose: SessionCloseRequest, SessionCloseReply;
    Lookup: LookupRequest, LookupReply;
    ReadDir: ReadDirRequest, ReadDirReply;
    Mutate: MutateRequest, MutateReply;
    Unreachable: UnreachableRequest, UnreachableReply;
    GrowthCleared: GrowthClearedNotice;
    WordsReturned: WordsReturnedRequest, WordsReturnedReply;
}

/// One row of the table of messages.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// Kind of the frame.
    pub kind: Kind,
    /// True for a response.
    pub response: bool,
    /// Name of the message.
    pub name: &'static str,
    check: fn(&[u8]) -> Result<(), MessageError>,
}

impl Body {
    const fn of<M: Message>() -> Body {
        Body {
            kind: M::KIND,
            response: M::RESPONSE,
            name: M::NAME,
            check: |body| M::decode(body).map(drop),
        }
    }

    /// The row of a kind and direction; `None` for the response to a notice.
    pub fn find(kind: Kind, response: bool) -> Option<&'static Body> {
        Body::ALL.iter().find(|body| body.kind == kind && body.response == response)
    }
}

/// Decodes a body of any kind and drops the result: for fuzzing and for tests.
///
/// # Errors
/// As [`Message::decode`] of the message that such a frame carries; also when there is none.
pub fn check_body(kind: Kind, response: bool, body: &[u8]) -> Result<(), MessageError> {
    let row = Body::find(kind, response).ok_or(MessageError::Unexpected {
        message: "a notice",
        kind,
        response,
    })?;
    (row.check)(body)
}

impl ErrorReply {
    /// Writes the body of a response whose status is not `Ok`, whatever its kind.
    pub fn encode(&self) -> Vec<u8> {
        write(self, ERROR_IDENTIFIER)
    }

    /// Reads and checks what [`ErrorReply::encode`] wrote.
    ///
    /// # Errors
    /// [`MessageError`]; never panics, whatever the bytes are.
    pub fn decode(body: &[u8]) -> Result<ErrorReply, MessageError> {
        read(body, ERROR_IDENTIFIER, false, "ErrorReply")
    }
}

type Out<'b> = FlatBufferBuilder<'b>;

/// A domain type with a table of its own in the schema.
trait Record: Sized {
    type Table<'a>: Follow<'a, Inner = Self::Table<'a>> + Verifiable + 'a;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<Self::Table<'b>>;

    fn unpack(table: Self::Table<'_>, check: Check) -> Result<Self, MessageError>;

    fn payload_len(&self) -> u32 {
        0
    }

    /// About how many bytes the body takes, so that a large one is written without growing.
    fn size_hint(&self) -> usize {
        256
    }
}

/// Declares messages without fields.
macro_rules! empty_record {
    ($($name:ident, $args:ident;)*) => {
        $(
            impl Record for $name {
                type Table<'a> = wire::$name<'a>;

                fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::$name<'b>> {
                    wire::$name::create(out, &wire::$args {})
                }

                fn unpack(_: wire::$name<'_>, _: Check) -> Result<Self, MessageError> {
                    Ok($name)
                }
            }
        )*
    };
}
use empty_record;

thread_local! {
    /// Short bodies are written one after the other in the same memory: each node's core makes one for
    /// every request.
    static SHORT: RefCell<FlatBufferBuilder<'static>> =
        RefCell::new(FlatBufferBuilder::with_capacity(SHORT_BODY));
}

fn write<R: Record>(record: &R, identifier: &[u8; 4]) -> Vec<u8> {
    if record.size_hint() > SHORT_BODY {
        let mut out = FlatBufferBuilder::with_capacity(record.size_hint());
        return pack(record, &mut out, identifier);
    }
    SHORT.with_borrow_mut(|out| {
        let body = pack(record, out, identifier);
        if body.len() > SHORT_BODY {
            *out = FlatBufferBuilder::with_capacity(SHORT_BODY);
        } else {
            out.reset();
        }
        body
    })
}

fn pack<R: Record>(record: &R, out: &mut Out<'_>, identifier: &[u8; 4]) -> Vec<u8> {
    let root = record.pack(out);
    finish(out, root, identifier)
}

/// The body, with room for the tag that it carries outside of TLS.
fn finish<T>(out: &mut Out<'_>, root: WIPOffset<T>, identifier: &[u8; 4]) -> Vec<u8> {
    // The identifier is ASCII by construction; an empty one would be refused by every receiver.
    out.finish(root, std::str::from_utf8(identifier).ok());
    let data = out.finished_data();
    let mut body = Vec::with_capacity(data.len() + TAG_LEN);
    body.extend_from_slice(data);
    body
}

fn read<R: Record>(
    body: &[u8],
    identifier: &[u8; 4],
    long: bool,
    message: &'static str,
) -> Result<R, MessageError> {
    // The verifier does not look at the identifier, and a wrong one would be read as this message.
    if body.len() < 8 || &body[4..8] != identifier {
        return Err(MessageError::Malformed { message });
    }
    let table = flatbuffers::root_with_opts::<R::Table<'_>>(verifier(long), body)
        .map_err(|_| MessageError::Malformed { message })?;
    R::unpack(table, Check::new(message))
}

/// The identifier inside a body: `q` or `r` and the kind in three hexadecimal digits.
fn identifier(kind: Kind, response: bool) -> [u8; 4] {
    let digit = |shift: u16| HEX[usize::from((kind.code() >> shift) & 15)];
    [if response { b'r' } else { b'q' }, digit(8), digit(4), digit(0)]
}

fn verifier(long: bool) -> &'static VerifierOptions {
    if long { &VERIFIER_LIST } else { &VERIFIER }
}

const HEX: [u8; 16] = *b"0123456789abcdef";
const ERROR_IDENTIFIER: &[u8; 4] = b"rerr";

static VERIFIER: VerifierOptions = VerifierOptions {
    max_depth: VERIFIER_DEPTH_MAX,
    max_tables: VERIFIER_TABLES_MAX,
    max_apparent_size: VERIFIER_APPARENT_MAX,
    ignore_missing_null_terminator: false,
};

static VERIFIER_LIST: VerifierOptions = VerifierOptions {
    max_depth: VERIFIER_DEPTH_MAX,
    max_tables: VERIFIER_TABLES_MAX_LIST,
    max_apparent_size: VERIFIER_APPARENT_MAX_LIST,
    ignore_missing_null_terminator: false,
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::frame::Header;
    use crate::ids::{ChunkKey, Fid, GroupId, RequestId, Version};
    use crate::message::cluster::ErrorReply;
    use crate::message::{error_frame, open, reply_frame};
    use crate::status::Status;

    #[test]
    fn every_kind_has_a_request_and_all_but_notices_a_reply() {
        for &kind in Kind::ALL {
            assert!(Body::find(kind, false).is_some(), "{kind:?}");
            assert_eq!(Body::find(kind, true).is_none(), kind.is_notice(), "{kind:?}");
        }
        assert_eq!(Body::ALL.len(), 2 * Kind::ALL.len() - 6);
    }

    #[test]
    fn memory_that_is_used_again_changes_no_body() {
        let body = |items: usize| {
            let item = (ChunkKey { fid: Fid(7), index: 1 }, Version::default());
            DiscardRequest { group: GroupId(9), items: vec![item; items] }.encode()
        };
        let (first, long) = (body(3), body(SHORT_BODY / 16));
        assert!(long.len() > SHORT_BODY, "longer than what is kept");
        assert_eq!((body(3), body(SHORT_BODY / 16), body(3)), (first.clone(), long, first));
        assert!(body(3).capacity() >= body(3).len() + TAG_LEN, "room for the tag");
    }

    #[test]
    fn identifiers_differ() {
        let all: BTreeSet<_> =
            Body::ALL.iter().map(|body| identifier(body.kind, body.response)).collect();
        assert_eq!(all.len(), Body::ALL.len());
        assert!(!all.contains(ERROR_IDENTIFIER));
        assert_eq!(identifier(Kind::Verify, true), *b"r10b");
    }

    #[test]
    fn a_reply_is_not_read_as_another_message() {
        let body = DropReply.encode();
        assert_eq!(DropReply::decode(&body), Ok(DropReply));
        let wrong = MessageError::Malformed { message: "QuarantineReply" };
        assert_eq!(QuarantineReply::decode(&body), Err(wrong));
    }

    #[test]
    fn a_refusal_is_read_with_its_text() {
        let request = Header::new(Kind::Drop, RequestId(7));
        let (header, body) = reply_frame(&request, &DropReply);
        assert_eq!(open::<DropReply>(&header, &body), Ok(DropReply));
        let (header, body) = error_frame(&request, Status::Fenced, "target 3");
        let reply = ErrorReply::new(Status::Fenced, "target 3");
        let refused = MessageError::Refused { status: Status::Fenced, reply };
        assert_eq!(open::<DropReply>(&header, &body), Err(refused));
    }
}
