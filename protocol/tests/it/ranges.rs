//! Messages that are well formed but out of range: every one is refused, and the field is named.

use protocol::checksum::CellSum;
use protocol::cluster_map::{MapDelta, Role};
use protocol::ids::{ChunkKey, Fid, GroupId, Ino, NodeId, Seq, SessionId};
use protocol::layout::Segment;
use protocol::limits::*;
use protocol::message::chunk::*;
use protocol::message::cluster::*;
use protocol::message::command::{Caller, Command};
use protocol::message::heal::*;
use protocol::message::namespace::*;
use protocol::message::{
    Message, MessageError, decode_command, encode_command, open, reply_frame, request_frame,
};
use protocol::status::Status;

use crate::samples;

/// The field that decoding complains of.
fn field<M: Message>(message: &M) -> &'static str {
    match M::decode(&message.encode()) {
        Err(MessageError::Field { message, field }) => {
            assert_eq!(message, M::NAME);
            field
        }
        Err(error) => panic!("{}: {error}", M::NAME),
        Ok(_) => "",
    }
}

/// Edits a copy of a sample and says which field decoding complains of.
fn edited<M: Message>(mut message: M, edit: impl FnOnce(&mut M)) -> &'static str {
    edit(&mut message);
    field(&message)
}

#[test]
fn reads() {
    let read = |edit: fn(&mut ReadRequest)| edited(samples::read_request(), edit);
    assert_eq!(read(|_| ()), "");
    assert_eq!(read(|r| r.len = 0), "len");
    assert_eq!(read(|r| r.len = READ_LEN_MAX + 1), "len");
    assert_eq!(read(|r| r.offset = (64 << 20) - 65_535), "offset");
    assert_eq!(read(|r| r.offset = u32::MAX), "offset");
    assert_eq!(read(|r| r.expect_len = (64 << 20) + 1), "expect_len");

    let reply = |edit: fn(&mut ReadReply)| edited(samples::read_reply(), edit);
    assert_eq!(reply(|_| ()), "");
    assert_eq!(reply(|r| r.cell_log2 = 13), "cell_log2");
    assert_eq!(reply(|r| r.cell_log2 = 255), "cell_log2");
    assert_eq!(reply(|r| r.first_cell = 6), "first_cell");
    assert_eq!(reply(|r| r.first_cell = u32::MAX), "first_cell");
    assert_eq!(reply(|r| r.chunk_len = (64 << 20) + 1), "chunk_len");
    assert_eq!(reply(|r| r.aux.push(0)), "aux");
    assert_eq!(reply(|r| r.sums = vec![CellSum(1); CELLS_PER_MESSAGE_MAX + 1]), "sums");
    let over = |r: &mut ReadReply| {
        (r.first_cell, r.chunk_len) = (0, 64 << 20);
        (r.sums, r.aux) = (vec![CellSum(1); 261], vec![]);
    };
    assert_eq!(reply(over), "sums");
}

#[test]
fn the_payload_of_a_read_is_whole_cells_cut_at_the_end() {
    let reply = samples::read_reply();
    assert_eq!(reply.payload_range(), 81_920..100_000);
    assert_eq!(reply.payload_len(), 18_080);
    let whole = ReadReply { chunk_len: 1 << 20, ..reply };
    assert_eq!(whole.payload_range(), 81_920..114_688);
}

#[test]
fn writes() {
    let write = |edit: fn(&mut WriteRequest)| edited(samples::write_request(), edit);
    assert_eq!(write(|_| ()), "");
    assert_eq!(write(|w| w.len = 0), "len");
    assert_eq!(write(|w| w.len = WRITE_LEN_MAX + 1), "len");
    assert_eq!(write(|w| w.offset = (4 << 20) - 4097), "offset");
    assert_eq!(write(|w| w.offset = u32::MAX), "offset");
    assert_eq!(write(|w| w.expect_len = 8192), "expect_len");
    assert_eq!(write(|w| w.expect_len = (4 << 20) + 1), "expect_len");
    assert_eq!(write(|w| w.cell_log2 = 15), "cell_log2");
    assert_eq!(write(|w| w.chunk_log2 = 19), "chunk_log2");
    assert_eq!(write(|w| w.chunk_log2 = 27), "chunk_log2");
    assert_eq!(write(|w| w.sums.truncate(2)), "sums");
    assert_eq!(write(|w| w.sums.push(CellSum(0))), "sums");
    assert_eq!(write(|w| w.aux.truncate(83)), "aux");
    let reply = WriteReply { version: Default::default(), chunk_len: (64 << 20) + 1, free: 0 };
    assert_eq!(field(&reply), "chunk_len");
}

#[test]
fn replication() {
    let replicate = |edit: fn(&mut ReplicateRequest)| edited(samples::replicate_request(), edit);
    assert_eq!(replicate(|_| ()), "");
    assert_eq!(replicate(|r| r.offset = 1), "offset");
    assert_eq!(replicate(|r| r.len = 39_999), "len");
    assert_eq!(replicate(|r| r.len = u32::MAX), "len");
    assert_eq!(replicate(|r| r.chunk_len = 39_999), "offset");
    assert_eq!(replicate(|r| r.chunk_len = (4 << 20) + 1), "chunk_len");
    assert_eq!(replicate(|r| r.expect_len = (4 << 20) + 1), "expect_len");
    assert_eq!(replicate(|r| r.sums.truncate(2)), "aux");
    assert_eq!(replicate(|r| (r.sums.truncate(2), r.aux.clear()).1), "sums");
    assert_eq!(replicate(|r| r.ops = vec![r.op; CHUNK_OP_SESSIONS_MAX + 1]), "ops");
    let empty = |r: &mut ReplicateRequest| {
        (r.len, r.chunk_len) = (0, 0);
        r.sums.clear();
        r.aux.clear();
    };
    assert_eq!(edited(samples::replicate_request(), empty), "", "a whole chunk may be empty");
    let nothing = |r: &mut ReplicateRequest| {
        empty(r);
        r.mode = ReplicateMode::Write;
    };
    assert_eq!(edited(samples::replicate_request(), nothing), "len");
}

#[test]
fn lists_of_chunks() {
    let adopt = |edit: fn(&mut AdoptReply)| edited(samples::adopt_reply(), edit);
    assert_eq!(adopt(|r| r.pendings[0].key.index += 1), "pendings");
    assert_eq!(adopt(|r| r.pendings[1].chunk_len = u32::MAX), "chunk_len");
    assert_eq!(
        adopt(|r| r.pendings = vec![r.pendings[0].clone(); PENDINGS_PER_GROUP_MAX + 1]),
        "pendings"
    );
    let list = |edit: fn(&mut InventoryReply)| edited(samples::inventory_reply(), edit);
    assert_eq!(list(|r| r.entries[1].key = r.entries[0].key), "entries");
    assert_eq!(list(|r| r.entries[1].chunk_len = u32::MAX), "chunk_len");
    assert_eq!(list(|r| r.entries.clear()), "more");
    let page = |limit| InventoryRequest { group: GroupId(1), after: None, limit };
    assert_eq!((field(&page(0)), field(&page(8193)), field(&page(8192))), ("limit", "limit", ""));

    let verify = |edit: fn(&mut VerifyReply)| edited(samples::verify_reply(), edit);
    assert_eq!(verify(|r| r.sums.truncate(1)), "sums");
    assert_eq!(verify(|r| r.sums.push(CellSum(0))), "sums");
    assert_eq!(verify(|r| r.bad_cells = vec![2]), "bad_cells");
    assert_eq!(verify(|r| r.bad_cells = vec![1, 0]), "bad_cells");

    let items = vec![(samples::KEY, Default::default()); PENDINGS_PER_GROUP_MAX + 1];
    assert_eq!(field(&DiscardRequest { group: GroupId(1), items }), "items");
    let keys = vec![ChunkKey::default(); INVENTORY_PAGE_MAX + 1];
    assert_eq!(field(&QuarantineRequest { group: GroupId(1), keys }), "keys");
    let fids = vec![Fid(1); DROP_FIDS_MAX + 1];
    assert_eq!(field(&DropRequest { group: GroupId(1), fids: fids.clone() }), "fids");
    assert_eq!(field(&DropFilesNotice { groups: vec![(GroupId(1), fids)] }), "fids");
    assert_eq!(field(&BindTokenRequest { token: vec![0; TOKEN_LEN_MAX + 1] }), "token");
}

#[test]
fn hello_map_and_reports() {
    let hello = |version_min, version_max| {
        let (cluster, target) = (Default::default(), Default::default());
        field(&HelloRequest { version_min, version_max, features: 0, cluster, target })
    };
    assert_eq!((hello(1, 1), hello(2, 1)), ("", "version_max"));
    let reply =
        |requests_in_flight| field(&HelloReply { version: 1, features: 0, requests_in_flight });
    assert_eq!((reply(0), reply(257)), ("requests_in_flight", "requests_in_flight"));

    let map = |edit: fn(&mut MapDelta)| {
        let mut delta = samples::map_delta();
        edit(&mut delta);
        field(&MapPushNotice { delta })
    };
    assert_eq!(map(|m| m.groups[0].members[1].role = Role::Primary), "members");
    assert_eq!(map(|m| m.groups[0].members[1].target.0 = 101), "members");
    assert_eq!(map(|m| m.groups[0].members = vec![m.groups[0].members[0]; 9]), "members");
    assert_eq!(
        map(|m| m.groups[0].evicted = vec![Default::default(); GROUP_EVICTED_MAX + 1]),
        "evicted"
    );
    assert_eq!(map(|m| m.signature.push(0)), "signature");
    assert_eq!(map(|m| m.revocations[0] = vec![0; REVOCATION_LEN_MAX + 1]), "revocations");

    let register = |targets: usize, release: &str| {
        field(&RegisterRequest {
            node: NodeId(1),
            incarnation: 1,
            address: [127, 0, 0, 1].into(),
            release: release.into(),
            targets: vec![samples::target_report(); targets],
        })
    };
    assert_eq!(register(TARGETS_PER_NODE_MAX, ""), "");
    assert_eq!(register(TARGETS_PER_NODE_MAX + 1, ""), "targets");
    assert_eq!(register(1, &"x".repeat(TEXT_LEN_MAX + 1)), "release");
}

#[test]
fn names_and_paths() {
    let unlink = |name: &[u8]| {
        let op = NamespaceOp::Unlink { parent: Ino::ROOT, name: name.to_vec() };
        field(&MutateRequest { session: SessionId(1), ops: vec![(Seq(1), op)] })
    };
    for bad in [b"".as_slice(), b".", b"..", b"a/b", b"/", b"a\0b", &[b'x'; 256]] {
        assert_eq!(unlink(bad), "name", "{bad:?}");
    }
    for good in [b"...".as_slice(), b"a", b"\xff\xfe", b" ", &[b'x'; 255]] {
        assert_eq!(unlink(good), "", "{good:?}");
    }
    let look = |path: &[u8], count: usize| {
        let path = path.to_vec();
        let query = PathQuery { base: Ino::ROOT, path, follow: false, with_content: false };
        field(&LookupRequest { session: SessionId(0), queries: vec![query; count] })
    };
    assert_eq!((look(b"", 1), look(b"a/../b", LOOKUP_BATCH_MAX)), ("", ""));
    assert_eq!(look(b"a\0", 1), "path");
    assert_eq!(look(&[b'a'; PATH_LEN_MAX + 1], 1), "path");
    assert_eq!(look(b"a", LOOKUP_BATCH_MAX + 1), "queries");
}

#[test]
fn changes_of_the_namespace() {
    let batch = |ops| field(&MutateRequest { session: SessionId(1), ops });
    let one = |op| batch(vec![(Seq(1), op)]);
    assert_eq!(batch(samples::operations()), "");
    let sized = NamespaceOp::SetSize { ino: Ino(1), end: 0, trunc_gen: 0 };
    assert_eq!(batch(vec![(Seq(1), sized); MUTATE_OPS_MAX + 1]), "ops");
    let reserve = |count| one(NamespaceOp::Reserve { parent: Ino(1), count, expect_len: 0 });
    assert_eq!((reserve(0), reserve(RESERVE_MAX + 1), reserve(1)), ("count", "count", ""));
    assert_eq!(one(NamespaceOp::Abandon { inos: vec![Ino(1); ABANDON_MAX + 1] }), "inos");
    let symlink = |target: Vec<u8>| {
        let (parent, name, attributes) = (Ino(1), b"n".to_vec(), samples::set_attributes());
        one(NamespaceOp::Symlink { parent, name, target, attributes, replace: false })
    };
    assert_eq!((symlink(vec![]), symlink(vec![0])), ("target", "target"));
    assert_eq!((symlink(vec![1; 4096]), symlink(vec![1; 4095])), ("target", ""));
    let set = |edit: fn(&mut SetAttributes)| {
        let mut attributes = samples::set_attributes();
        edit(&mut attributes);
        one(NamespaceOp::SetAttr { ino: Ino(1), attributes })
    };
    assert_eq!(set(|a| a.mode = Some(0o10000)), "mode");
    assert_eq!(set(|a| a.mtime = Some(Time { secs: 0, nanos: 1_000_000_000 })), "mtime");
}

#[test]
fn entries() {
    let entry = |edit: fn(&mut Entry)| {
        let mut entry = samples::file_entry();
        edit(&mut entry);
        field(&LookupReply { results: vec![LookupResult::Found(entry)] })
    };
    assert_eq!(entry(|_| ()), "");
    assert_eq!(entry(|e| e.attributes.mode = 0o10000), "mode");
    assert_eq!(entry(|e| e.attributes.ctime.nanos = u32::MAX), "ctime");
    assert_eq!(entry(|e| e.attributes.file_type = FileType::Directory), "content");
    assert_eq!(entry(|e| e.link = b"x".to_vec()), "link");
    assert_eq!(entry(|e| e.content.as_mut().unwrap().layout.cell_log2 = 13), "layout");
    assert_eq!(entry(|e| e.content.as_mut().unwrap().layout.segments.clear()), "layout");
    let refused = LookupReply { results: vec![LookupResult::Refused(Status::Ok)] };
    assert_eq!(field(&refused), "status");
    assert_eq!(field(&MutateReply { outcomes: vec![OpOutcome::Refused(Status::Ok)] }), "status");

    let named = |name: &[u8]| DirEntry { name: name.to_vec(), entry: samples::file_entry() };
    let list = |names: &[&[u8]], more| {
        field(&ReadDirReply { entries: names.iter().map(|name| named(name)).collect(), more })
    };
    assert_eq!((list(&[b"a", b"b"], true), list(&[], false)), ("", ""));
    assert_eq!((list(&[b"b", b"a"], false), list(&[b"a", b"a"], false)), ("entries", "entries"));
    assert_eq!((list(&[b".."], false), list(&[], true)), ("name", "more"));
    let page = |limit| {
        let (session, dir, after) = (SessionId(0), Ino(1), vec![]);
        field(&ReadDirRequest { session, dir, after, limit, with_content: false })
    };
    assert_eq!((page(0), page(1001), page(1000)), ("limit", "limit", ""));
}

#[test]
fn commands() {
    let initialize = |replicas, min_write| {
        let command = Command::Initialize {
            cluster: Default::default(),
            replicas,
            min_write,
            groups_per_target: 1,
            targets_expected: 1,
            owner: Caller::default(),
        };
        decode_command(&encode_command(&samples::STAMP, &command)).is_ok()
    };
    assert!(initialize(3, 2) && initialize(1, 1) && initialize(8, 8));
    assert!(!initialize(0, 0) && !initialize(9, 1) && !initialize(3, 0) && !initialize(3, 4));
    let frame = StatusRequest.encode();
    let error = MessageError::Malformed { message: "Command" };
    assert_eq!(decode_command(&frame), Err(error));
}

#[test]
fn a_frame_whose_payload_length_disagrees_is_refused() {
    let context = Default::default();
    let write = samples::write_request();
    let (header, body) = request_frame(Default::default(), &write, context, 0).unwrap();
    assert_eq!(header.payload_len, write.len);
    assert_eq!(open(&header, &body), Ok(write));
    let other = protocol::frame::Header { payload_len: 1, ..header };
    let error = MessageError::Field { message: "WriteRequest", field: "payload_len" };
    assert_eq!(open::<WriteRequest>(&other, &body), Err(error));
}

#[test]
fn messages_that_fit_no_frame_are_not_sent() {
    let op = NamespaceOp::Symlink {
        parent: Ino(1),
        name: vec![b'n'; NAME_LEN_MAX],
        target: vec![b't'; LINK_LEN_MAX],
        attributes: SetAttributes::default(),
        replace: false,
    };
    let batch =
        |count| MutateRequest { session: SessionId(1), ops: vec![(Seq(1), op.clone()); count] };
    let context = Default::default();
    assert!(request_frame(Default::default(), &batch(200), context, 0).is_ok());
    let error = request_frame(Default::default(), &batch(MUTATE_OPS_MAX), context, 0).unwrap_err();
    assert!(matches!(error, MessageError::TooLong { max: BODY_LEN_MAX_LIST, .. }), "{error}");
    assert_eq!(error.status(), Status::LimitReached);

    // An answer that does not fit becomes a refusal, so the asker always gets one.
    let groups = vec![samples::group_record(); MAP_RECORDS_MAX];
    let reply = MapFetchReply { delta: MapDelta { groups, ..samples::map_delta() } };
    let (header, body) = request_frame(Default::default(), &StatusRequest, context, 0).unwrap();
    assert_eq!(header.body_len as usize, body.len());
    let asked = protocol::frame::Header::new(protocol::message::Kind::MapFetch, Default::default());
    let (header, body) = reply_frame(&asked, &reply);
    assert_eq!(header.status, Status::LimitReached);
    let refused = open::<MapFetchReply>(&header, &body).unwrap_err();
    assert_eq!(refused.status(), Status::LimitReached);
}

#[test]
fn lists_of_the_map_and_of_layouts_are_bounded() {
    let layout = |segments: usize, groups: usize| {
        let mut entry = samples::file_entry();
        let layout = &mut entry.content.as_mut().unwrap().layout;
        let mut segment = layout.segments[0].clone();
        segment.groups = vec![GroupId(1); groups];
        layout.segments = (0..segments)
            .map(|n| Segment { first_chunk: u32::try_from(n).unwrap(), ..segment.clone() })
            .collect();
        field(&LookupReply { results: vec![LookupResult::Found(entry)] })
    };
    assert_eq!(layout(SEGMENTS_MAX, SEGMENT_GROUPS_MAX), "");
    assert_eq!(layout(SEGMENTS_MAX + 1, 1), "segments");
    assert_eq!(layout(1, SEGMENT_GROUPS_MAX + 1), "groups");

    let register = |groups: usize| {
        let mut target = samples::target_report();
        target.groups = vec![target.groups[0].clone(); groups];
        field(&RegisterRequest {
            node: NodeId(1),
            incarnation: 1,
            address: [127, 0, 0, 1].into(),
            release: String::new(),
            targets: vec![target],
        })
    };
    assert_eq!(register(GROUPS_PER_TARGET_MAX), "");
    assert_eq!(register(GROUPS_PER_TARGET_MAX + 1), "groups");

    let revocations = |count: usize| {
        let delta = MapDelta { revocations: vec![vec![1]; count], ..samples::map_delta() };
        field(&MapPushNotice { delta })
    };
    assert_eq!(revocations(REVOCATIONS_MAX), "");
    assert_eq!(revocations(REVOCATIONS_MAX + 1), "revocations");

    let status = |count: usize| {
        let mut status = samples::status_reply();
        status.coordinators = vec![status.coordinators[0].clone(); count];
        field(&status)
    };
    assert_eq!((status(COORDINATORS_MAX), status(COORDINATORS_MAX + 1)), ("", "coordinators"));
}

#[test]
fn truncations() {
    let truncate = |edit: fn(&mut WriteRequest)| {
        let message = WriteRequest {
            class: WriteClass::Truncate,
            len: 0,
            sums: vec![],
            aux: vec![],
            ..samples::write_request()
        };
        edited(message, edit)
    };
    assert_eq!(truncate(|_| ()), "");
    assert_eq!(truncate(|w| w.len = 1), "len");
    assert_eq!(truncate(|w| w.offset = (4 << 20) + 1), "offset");
    let replicate = |edit: fn(&mut ReplicateRequest)| {
        let message = ReplicateRequest {
            mode: ReplicateMode::Write,
            class: WriteClass::Truncate,
            offset: 40_000,
            len: 0,
            sums: vec![],
            aux: vec![],
            ops: vec![],
            ..samples::replicate_request()
        };
        edited(message, edit)
    };
    assert_eq!(replicate(|_| ()), "");
    assert_eq!(replicate(|r| r.offset = 39_999), "len");
}

#[test]
fn repairs() {
    let fetch = |edit: fn(&mut FetchRequest)| edited(samples::fetch_request(), edit);
    assert_eq!(fetch(|_| ()), "");
    assert_eq!(fetch(|f| f.cells = (1 << 14) - 2), "cells");
    assert_eq!(fetch(|f| f.first_cell = u32::MAX), "cells");

    let reply = |edit: fn(&mut FetchReply)| edited(samples::fetch_reply(), edit);
    assert_eq!(reply(|_| ()), "");
    assert_eq!(reply(|r| r.cell_log2 = 13), "cell_log2");
    assert_eq!(reply(|r| r.chunk_log2 = 27), "chunk_log2");
    assert_eq!(reply(|r| r.first_cell = 6), "first_cell");
    assert_eq!(reply(|r| r.chunk_len = (4 << 20) + 1), "chunk_len");
    assert_eq!(reply(|r| r.ops = vec![r.ops[0]; CHUNK_OP_SESSIONS_MAX + 1]), "ops");

    let corrupt = |cells: &[u32]| {
        let cells = cells.to_vec();
        let version = samples::fetch_request().version;
        field(&ReportCorruptRequest { group: GroupId(1), key: samples::KEY, version, cells })
    };
    assert_eq!(corrupt(&[0, 5]), "");
    assert_eq!(corrupt(&[]), "cells");
    assert_eq!(corrupt(&[5, 5]), "cells");
}

#[test]
fn file_orders() {
    let orders = |edit: fn(&mut GroupOrders)| {
        let mut orders = samples::group_orders();
        edit(&mut orders);
        field(&FileOrdersNotice { groups: vec![orders] })
    };
    assert_eq!(orders(|_| ()), "");
    assert_eq!(orders(|o| o.trims[0].chunk_log2 = 19), "chunk_log2");
    assert_eq!(orders(|o| o.trims = vec![o.trims[0]; FILE_ORDERS_MAX + 1]), "trims");
    assert_eq!(orders(|o| o.measures = vec![o.measures[0]; FILE_ORDERS_MAX + 1]), "measures");

    let reports = |edit: fn(&mut GroupReports)| {
        let mut groups = samples::group_reports();
        edit(&mut groups[0]);
        field(&FileReportsRequest { groups })
    };
    assert_eq!(reports(|_| ()), "");
    assert_eq!(reports(|r| r.measured[0].chunks[1].index = 9), "chunks");
    assert_eq!(reports(|r| r.measured[0].chunks[1].len = u32::MAX), "chunks");
    assert_eq!(reports(|r| r.trimmed = vec![(Fid(1), 1); FILE_ORDERS_MAX + 1]), "trimmed");
    let many = |r: &mut GroupReports| {
        let chunk = |index| ChunkLen { index, len: 1 };
        let count = u32::try_from(MEASURED_CHUNKS_MAX).unwrap();
        r.measured[0].chunks = (0..=count).map(chunk).collect();
    };
    assert_eq!(reports(many), "chunks");
}

#[test]
fn plans_alarms_and_copies_are_bounded() {
    let status = samples::status_reply();
    let alarms = vec![status.alarms[0].clone(); ALARMS_MAX + 1];
    assert_eq!(field(&StatusReply { alarms, ..status.clone() }), "alarms");
    let mut targets = status.targets.clone();
    targets[0].resyncs = vec![targets[0].resyncs[0]; RESYNCS_PER_TARGET_MAX + 1];
    assert_eq!(field(&StatusReply { targets, ..status }), "resyncs");
    let plan = protocol::message::operate::PlanStatus {
        group: GroupId(1),
        plan: None,
        syncing: protocol::ids::TargetId(1),
        bytes_left: 0,
        bytes_done: 0,
    };
    let plans = vec![plan; PLANS_PAGE_MAX + 1];
    assert_eq!(field(&protocol::message::operate::PlansReply { plans, more: false }), "plans");
}

#[test]
fn words() {
    let fids = |count: usize| vec![Fid(7); count];
    assert_eq!(field(&GrowthClearedNotice { fids: fids(WORDS_MAX) }), "");
    assert_eq!(field(&GrowthClearedNotice { fids: fids(WORDS_MAX + 1) }), "fids");
    assert_eq!(field(&WordsReturnedRequest { fids: fids(WORDS_MAX) }), "");
    assert_eq!(field(&WordsReturnedRequest { fids: fids(WORDS_MAX + 1) }), "fids");
}
