//! One sample or more of every message, with every field away from its default.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use protocol::checksum::CellSum;
use protocol::cluster_map::{
    GroupRecord, MapDelta, Member, NodeRecord, NodeState, Plan, PlanReason, Role, TargetRecord,
    TargetState,
};
use protocol::frame::Header;
use protocol::ids::{
    ChunkKey, ClusterId, Epoch, Fid, Generation, GroupId, Handle, Ino, Lsn, MapVersion, NodeId,
    OpId, RequestId, Seq, SessionId, ShardId, TargetId, Version,
};
use protocol::layout::{Layout, Segment};
use protocol::message::activity::ShardActivity;
use protocol::message::chunk::*;
use protocol::message::cluster::*;
use protocol::message::command::{Caller, Command, Stamp};
use protocol::message::heal::*;
use protocol::message::namespace::*;
use protocol::message::operate::*;
use protocol::message::{Context, Kind, Message, reply_frame, request_frame};
use protocol::metrics::Durations;
use protocol::status::Status;
use protocol::time::Nanos;

pub(crate) const KEY: ChunkKey = ChunkKey { fid: Fid(0x1122_3344_5566), index: 7 };
const GROUP: GroupId = GroupId(41);
const VERSION: Version = Version { epoch: Epoch(5), counter: 77 };
const BASE: Version = Version { epoch: Epoch(4), counter: 76 };
const OP: OpId = OpId { session: SessionId(900), seq: Seq(12) };
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 17));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x17));
const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

fn sums(count: u64) -> Vec<CellSum> {
    (0..count).map(|cell| CellSum(0x0101_0101_0101_0101 * (cell + 1))).collect()
}

pub(crate) fn read_request() -> ReadRequest {
    ReadRequest {
        group: GROUP,
        key: KEY,
        offset: 8192,
        len: 65_536,
        expect_len: 4 << 20,
        trunc_gen: 3,
        handle: Handle(6),
        growth_only: true,
        verify: true,
    }
}

pub(crate) fn read_reply() -> ReadReply {
    ReadReply {
        version: VERSION,
        chunk_len: 100_000,
        cell_log2: 14,
        first_cell: 5,
        sums: sums(2),
        aux: vec![9; 56],
    }
}

pub(crate) fn write_request() -> WriteRequest {
    WriteRequest {
        group: GROUP,
        key: KEY,
        op: OP,
        attempt: 2,
        class: WriteClass::Mutation,
        offset: 4095,
        len: 4098,
        expect_len: 9000,
        trunc_gen: 1,
        cell_log2: 12,
        chunk_log2: 22,
        handle: Handle(8),
        sums: sums(3),
        aux: vec![4; 84],
    }
}

pub(crate) fn replicate_request() -> ReplicateRequest {
    ReplicateRequest {
        group: GROUP,
        primary: TargetId(301),
        key: KEY,
        mode: ReplicateMode::Whole,
        version: VERSION,
        base: BASE,
        op: OP,
        class: WriteClass::Growth,
        offset: 0,
        len: 40_000,
        chunk_len: 40_000,
        expect_len: 4 << 20,
        trunc_gen: 2,
        cell_log2: 14,
        chunk_log2: 22,
        sums: sums(3),
        aux: vec![5; 84],
        ops: vec![OP, OpId { session: SessionId(901), seq: Seq(1) }],
        mutated: true,
        committed_through: BASE,
    }
}

pub(crate) fn adopt_reply() -> AdoptReply {
    let pending = |key, version| Pending {
        key,
        version,
        chunk_len: 512,
        op: OP,
        hash: 0xdead_beef_0000_1111,
    };
    AdoptReply {
        pendings: vec![pending(KEY, BASE), pending(KEY, VERSION)],
        committed_through: BASE,
    }
}

pub(crate) fn inventory_reply() -> InventoryReply {
    let entry = |index, suspect| InventoryEntry {
        key: ChunkKey { index, ..KEY },
        version: VERSION,
        chunk_len: 4 << 20,
        hash: 0xabcd,
        suspect,
    };
    InventoryReply { entries: vec![entry(1, false), entry(2, true)], more: true }
}

pub(crate) fn verify_reply() -> VerifyReply {
    VerifyReply {
        version: VERSION,
        chunk_len: 70_000,
        cell_log2: 16,
        sums: sums(2),
        bad_cells: vec![0, 1],
    }
}

fn shard_stats_reply() -> ShardStatsReply {
    ShardStatsReply {
        shard: ShardId(1),
        core: 3,
        target: TargetId(102),
        generation: Generation(9),
        port: 7412,
        capacity: 8 << 30,
        used: 1 << 30,
        chunks: 400,
        requests: 5000,
        bytes_in: 600,
        bytes_out: 700,
        hops: 1,
        misroutes: 2,
        flushes: 30,
        bytes_copied: 4,
        connections: 12,
        clear_connections: 5,
        checksum_path: "xxh3/avx2".into(),
        activity: ShardActivity {
            allocations: 77,
            clock: Nanos(7_000_000_000),
            cpu_ns: 3_500_000_000,
            reads: 3000,
            writes: 1500,
            replications: 400,
            others: 100,
            peer_bytes_out: 800,
            events_waiting: 5,
            requests_in_flight: 6,
            transfers_in_flight: 7,
            stalls: 8,
            stalled_ns: 900_000_000,
            read_times: Durations::from_parts([0, 5, 0, 7], 50),
            write_times: Durations::default(),
        },
    }
}

fn plan() -> Plan {
    let (add, leave) = (TargetId(301), TargetId(101));
    Plan { reason: PlanReason::Drain, add, leave, since_ms: 1_700_000_000_123 }
}

pub(crate) fn group_record() -> GroupRecord {
    let member = |target, role| Member {
        target: TargetId(target),
        generation: Generation(target + 1),
        role,
    };
    GroupRecord {
        id: GROUP,
        kind: 1,
        epoch: Epoch(5),
        last_writable_epoch: Epoch(4),
        active: true,
        down: true,
        replicas: 3,
        min_write: 2,
        members: vec![
            member(101, Role::Primary),
            member(201, Role::Backup),
            member(301, Role::Syncing),
        ],
        evicted: vec![TargetId(401)],
        mutations: true,
        departed: vec![TargetId(501), TargetId(601)],
        plan: Some(plan()),
    }
}

pub(crate) fn map_delta() -> MapDelta {
    let node = |id, state, address| NodeRecord { id: NodeId(id), state, address, draining: false };
    let target = |id, state| TargetRecord {
        id: TargetId(id),
        node: NodeId(id / 100),
        shard: ShardId(1),
        device: 2,
        port: 7411,
        generation: Generation(6),
        capacity: 8 << 30,
        state,
    };
    MapDelta {
        cluster: CLUSTER,
        from: MapVersion(10),
        to: MapVersion(12),
        full: true,
        nodes: vec![
            node(1, NodeState::Up, V4),
            node(2, NodeState::Down, V6),
            NodeRecord { draining: true, ..node(3, NodeState::Up, V4) },
        ],
        targets: vec![
            target(101, TargetState::Up),
            target(201, TargetState::Down),
            target(301, TargetState::Fenced),
        ],
        groups: vec![group_record()],
        removed_nodes: vec![NodeId(4)],
        removed_targets: vec![TargetId(402)],
        revocations: vec![vec![1, 2, 3], vec![4]],
        signature: vec![7; 64],
    }
}

pub(crate) fn target_report() -> TargetReport {
    TargetReport {
        target: TargetId(101),
        shard: ShardId(1),
        device: 2,
        port: 7411,
        generation: Generation(6),
        recovered_lsn: Lsn(1234),
        intact: true,
        capacity: 8 << 30,
        free: 7 << 30,
        groups: vec![GroupReport { group: GROUP, epoch: Epoch(5), committed_through: VERSION }],
    }
}

fn target_orders() -> TargetOrders {
    TargetOrders {
        target: TargetId(101),
        resync_bytes_per_s: 1 << 27,
        scrub_bytes_per_s: 1 << 23,
        scrub_pass: 4,
    }
}

fn target_health() -> TargetHealth {
    TargetHealth {
        target: TargetId(101),
        durable_lsn: Lsn(2345),
        free: 7 << 30,
        fenced: true,
        resync_bytes_left: 11,
        resync_bytes_done: 22,
        map_version: MapVersion(13),
        resyncs: vec![GroupResync {
            group: GROUP,
            target: TargetId(301),
            bytes_left: 14,
            bytes_done: 15,
        }],
        scrub_pass: 16,
        scrub_bytes_done: 17,
        scrub_bytes_total: 18,
        cells_damaged: 19,
        cells_repaired: 20,
        cells_bad: 21,
        quarantined_chunks: 22,
        quarantined_bytes: 23,
        device_p99_us: 24,
        device_ops: 25,
        flush_p99_us: 26,
        oldest_io_ms: 27,
    }
}

pub(crate) fn group_files() -> Vec<(GroupId, Vec<Fid>)> {
    vec![(GROUP, vec![Fid(1), Fid(2)]), (GroupId(42), vec![Fid(3)])]
}

pub(crate) fn status_reply() -> StatusReply {
    StatusReply {
        map_version: MapVersion(12),
        coordinators: vec![CoordinatorStatus {
            id: 1,
            address: "127.0.0.1:7400".into(),
            leader: true,
            up: true,
        }],
        targets: vec![target_health()],
        recovery_bytes_left: 33,
        recovery_bytes_per_s: 44,
        inodes: 55,
        file_bytes: 66,
        sessions: 7,
        dead_files: 8,
        release: "0.1.0".into(),
        recovery_eta_s: Some(9),
        endangered: 10,
        guarded: true,
        scrub_pass: 11,
        drains: vec![DrainStatus {
            node: NodeId(3),
            groups_left: 12,
            bytes_left: 13,
            eta_s: Some(14),
        }],
        alarms: vec![Alarm {
            target: TargetId(101),
            name: "disk_rolled_back".into(),
            text: "target 101 lost data".into(),
        }],
    }
}

fn time(secs: i64) -> Time {
    Time { secs, nanos: 999_999_999 }
}

fn attributes(file_type: FileType) -> Attributes {
    Attributes {
        ino: Ino(77),
        file_type,
        mode: 0o4755,
        uid: 1000,
        gid: 1001,
        nlink: 2,
        size: 123_456_789_012,
        mtime: time(-5),
        ctime: time(1_700_000_000),
    }
}

pub(crate) fn file_entry() -> Entry {
    let segment = |first_chunk, groups: &[u32]| Segment {
        first_chunk,
        chunk_log2: 22,
        groups: groups.iter().map(|&id| GroupId(id)).collect(),
    };
    let layout = Layout { segments: vec![segment(0, &[9]), segment(4, &[1, 2, 3])], cell_log2: 14 };
    let content = FileContent {
        fid: Fid(3),
        layout,
        trunc_gen: 1,
        growth_only: true,
        stamp: MapVersion(12),
        token: vec![1; 96],
        truncating: true,
        writing: true,
        recovered: true,
    };
    Entry { attributes: attributes(FileType::File), content: Some(content), link: vec![] }
}

fn link_entry() -> Entry {
    let attributes = attributes(FileType::Symlink);
    Entry { attributes, content: None, link: b"../not text \xff".to_vec() }
}

fn directory_entry() -> Entry {
    Entry { attributes: attributes(FileType::Directory), content: None, link: vec![] }
}

pub(crate) fn set_attributes() -> SetAttributes {
    SetAttributes {
        mode: Some(0o640),
        uid: Some(0),
        gid: Some(5),
        mtime: Some(time(1)),
        cell_log2: Some(12),
    }
}

/// Every operation there is.
pub(crate) fn operations() -> Vec<(Seq, NamespaceOp)> {
    let name = || b"name \xfe".to_vec();
    let (parent, ino) = (Ino::ROOT, Ino(77));
    let attributes = set_attributes();
    let replace = true;
    let ops = vec![
        NamespaceOp::Mkdir { parent, name: name(), attributes },
        NamespaceOp::Reserve { parent, count: 256, expect_len: 1 << 40 },
        NamespaceOp::Publish {
            ino,
            parent,
            name: name(),
            size: 1 << 41,
            attributes,
            replace,
            growth_only: true,
        },
        NamespaceOp::Abandon { inos: vec![ino, Ino(78)] },
        NamespaceOp::Symlink { parent, name: name(), target: b"/x".to_vec(), attributes, replace },
        NamespaceOp::Link { ino, parent, name: name() },
        NamespaceOp::Rename {
            from_parent: parent,
            from_name: name(),
            to_parent: Ino(5),
            to_name: b"other".to_vec(),
            replace,
        },
        NamespaceOp::Unlink { parent, name: name() },
        NamespaceOp::Rmdir { parent, name: name() },
        NamespaceOp::SetAttr { ino, attributes: SetAttributes::default() },
        NamespaceOp::SetSize { ino, end: 1 << 42, trunc_gen: 9 },
        NamespaceOp::OpenWrite { ino, mutate: true, shared: true },
        NamespaceOp::CloseWrite { ino, size: 1 << 43, trunc_gen: 9, clean: true },
        NamespaceOp::Truncate { ino, len: 1 << 44 },
        NamespaceOp::ExtendLayout { ino, first_chunk: 12, avoid: GROUP },
        NamespaceOp::ReserveAppend { ino, len: 4096 },
    ];
    (1..).map(Seq).zip(ops).collect()
}

/// One sample of a message, with its type left behind.
pub(crate) struct Case {
    /// Name of the vector file.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) response: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) header: Header,
    /// Decodes the body and compares the result with the sample.
    pub(crate) same: Box<Same>,
}

type Same = dyn Fn(&[u8]) -> bool;

fn case<M: Message + PartialEq + 'static>(suffix: &str, message: M) -> Case {
    let context = Context { epoch: Epoch(5), map_version: MapVersion(12), cluster_tag: 99 };
    let (header, body) = if M::RESPONSE {
        reply_frame(&Header::new(M::KIND, RequestId(1)), &message)
    } else {
        request_frame(RequestId(1), &message, context, 30_000).unwrap()
    };
    Case {
        name: format!("{}{suffix}", M::NAME),
        kind: M::KIND,
        response: M::RESPONSE,
        same: Box::new(move |body| M::decode(body).as_ref() == Ok(&message)),
        body,
        header,
    }
}

/// Samples of every message.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = data_messages();
    cases.extend(replication_messages());
    cases.extend(cluster_messages());
    cases.extend(namespace_messages());
    cases.extend(heal_messages());
    cases.extend(operate_messages());
    cases
}

fn data_messages() -> Vec<Case> {
    let growth = WriteRequest {
        class: WriteClass::Growth,
        offset: 0,
        len: 1,
        sums: sums(1),
        aux: vec![],
        ..write_request()
    };
    let truncate = WriteRequest {
        class: WriteClass::Truncate,
        len: 0,
        sums: vec![],
        aux: vec![],
        ..write_request()
    };
    let empty =
        ReadReply { chunk_len: 0, first_cell: 0, sums: vec![], aux: vec![], ..read_reply() };
    vec![
        case("", BindTokenRequest { token: vec![3; 96] }),
        case("", BindTokenReply { handle: Handle(4) }),
        case("", read_request()),
        case("", read_reply()),
        case("-empty", empty),
        case("", write_request()),
        case("-growth", growth),
        case("-truncate", truncate),
        case("", WriteReply { version: VERSION, chunk_len: 9000, free: 1 << 33 }),
        case("", VerifyRequest { group: GROUP, key: KEY }),
        case("", verify_reply()),
        case("", ShardStatsRequest),
        case("", shard_stats_reply()),
    ]
}

fn replication_messages() -> Vec<Case> {
    let write = ReplicateRequest {
        mode: ReplicateMode::Write,
        class: WriteClass::Mutation,
        offset: 16_384,
        len: 23_616,
        sums: sums(2),
        aux: vec![],
        ops: vec![],
        mutated: false,
        ..replicate_request()
    };
    let (after, limit) = (Some(KEY), 8192);
    vec![
        case("", replicate_request()),
        case("-write", write),
        case("", ReplicateReply { lsn: Lsn(31), free: 1 << 34 }),
        case("", CommittedNotice { group: GROUP, through: VERSION }),
        case("", WorkingNotice { group: GROUP, outstanding: 2 }),
        case("", AdoptRequest { group: GROUP, primary: TargetId(101), generation: Generation(3) }),
        case("", adopt_reply()),
        case("", DiscardRequest { group: GROUP, items: vec![(KEY, VERSION), (KEY, BASE)] }),
        case("", DiscardReply),
        case("", InventoryRequest { group: GROUP, after, limit }),
        case("-first", InventoryRequest { group: GROUP, after: None, limit }),
        case("", inventory_reply()),
        case("", QuarantineRequest { group: GROUP, keys: vec![KEY] }),
        case("", QuarantineReply),
        case("", DropRequest { group: GROUP, fids: vec![Fid(5), Fid(6)] }),
        case("", DropReply),
    ]
}

fn cluster_messages() -> Vec<Case> {
    let hello = HelloRequest {
        version_min: 1,
        version_max: 3,
        features: 5,
        cluster: CLUSTER,
        target: TargetId(101),
    };
    let register = RegisterRequest {
        node: NodeId(1),
        incarnation: 0x55aa,
        address: V6,
        release: "0.1.0".into(),
        targets: vec![target_report()],
    };
    let heartbeat = HeartbeatRequest {
        node: NodeId(1),
        incarnation: 0x55aa,
        seq: 8,
        map_version: MapVersion(11),
        targets: vec![target_health()],
    };
    let beat = |delta| HeartbeatReply {
        seq: 8,
        lease_ms: 10_000,
        map_version: MapVersion(12),
        delta,
        orders: vec![target_orders()],
    };
    let (group, epoch, target) = (GROUP, Epoch(5), TargetId(201));
    let session = SessionId(900);
    let opened = SessionOpenReply { session, lease_ms: 30_000, uid: 1000, gid: 1001, admin: true };
    vec![
        case("", hello),
        case("", HelloReply { version: 1, features: 5, requests_in_flight: 256 }),
        case("", register),
        case("", RegisterReply { lease_ms: 10_000, heartbeat_ms: 250, map: map_delta() }),
        case("", heartbeat),
        case("", beat(Some(map_delta()))),
        case("-quiet", beat(None)),
        case("", MapPushNotice { delta: map_delta() }),
        case("", MapFetchRequest { have: MapVersion(10) }),
        case("", MapFetchReply { delta: map_delta() }),
        case("", EvictRequest { group, epoch, target, reporter: TargetId(101) }),
        case("", EvictReply),
        case("", ActivatedRequest { group, epoch, target }),
        case("", ActivatedReply),
        case("", SyncDoneRequest { group, epoch, target }),
        case("", SyncDoneReply),
        case("", DropFilesNotice { groups: group_files() }),
        case("", DropDoneRequest { groups: group_files() }),
        case("", DropDoneReply),
        case("", StatusRequest),
        case("", status_reply()),
        case("", SessionOpenRequest { client: "lanefs put".into() }),
        case("", opened),
        case("", SessionRenewRequest { session }),
        case("", SessionRenewReply),
        case("", SessionCloseRequest { session }),
        case("", SessionCloseReply),
    ]
}

pub(crate) fn fetch_request() -> FetchRequest {
    FetchRequest {
        group: GROUP,
        member: TargetId(201),
        key: KEY,
        version: VERSION,
        first_cell: 3,
        cells: 2,
    }
}

pub(crate) fn fetch_reply() -> FetchReply {
    FetchReply {
        version: VERSION,
        committed: true,
        chunk_len: 100_000,
        trunc_gen: 2,
        cell_log2: 14,
        chunk_log2: 22,
        mutated: true,
        first_cell: 5,
        sums: sums(2),
        aux: vec![9; 56],
        ops: vec![OP],
    }
}

pub(crate) fn group_orders() -> GroupOrders {
    let trim = Trim { fid: Fid(7), len: 1 << 33, trunc_gen: 2, chunk_log2: 22 };
    GroupOrders {
        group: GROUP,
        trims: vec![trim],
        measures: vec![Measure { fid: Fid(8), first_chunk: 9 }],
    }
}

pub(crate) fn group_reports() -> Vec<GroupReports> {
    let chunk = |index| ChunkLen { index, len: 4096 };
    vec![GroupReports {
        group: GROUP,
        trimmed: vec![(Fid(7), 2)],
        measured: vec![Measured { fid: Fid(8), chunks: vec![chunk(9), chunk(12)] }],
    }]
}

fn heal_messages() -> Vec<Case> {
    let digest = DigestReply {
        chunks: 5,
        bytes: 6,
        hash: u128::MAX - 7,
        committed_through: VERSION,
        pendings: 8,
    };
    let corrupt =
        ReportCorruptRequest { group: GROUP, key: KEY, version: VERSION, cells: vec![1, 4] };
    vec![
        case("", fetch_request()),
        case("", fetch_reply()),
        case("", DigestRequest { group: GROUP }),
        case("", digest),
        case("", corrupt),
        case("", ReportCorruptReply { confirmed: true }),
        case("", FileOrdersNotice { groups: vec![group_orders()] }),
        case("", FileReportsRequest { groups: group_reports() }),
        case("", FileReportsReply),
        case("", CensusRequest { groups: group_files() }),
        case("", CensusReply { dead: group_files() }),
    ]
}

fn operate_messages() -> Vec<Case> {
    let admin = |op| AdminRequest { op };
    let status = |plan| PlanStatus {
        group: GROUP,
        plan,
        syncing: TargetId(301),
        bytes_left: 5,
        bytes_done: 6,
    };
    let plans = vec![status(Some(plan())), status(None)];
    let text = "node 3 is being emptied".to_owned();
    vec![
        case("", admin(AdminOp::Drain(NodeId(3)))),
        case("-undrain", admin(AdminOp::Undrain(NodeId(3)))),
        case("-remove", admin(AdminOp::Remove(NodeId(3)))),
        case("-rebalance", admin(AdminOp::Rebalance(true))),
        case("-stop-rebalance", admin(AdminOp::Rebalance(false))),
        case("-scrub", admin(AdminOp::Scrub)),
        case("", AdminReply { text, bytes_left: 5, eta_s: Some(6) }),
        case("", PlansRequest { after: GROUP }),
        case("", PlansReply { plans, more: true }),
        case("", UnreachableRequest { group: GROUP, target: TargetId(101) }),
        case("", UnreachableReply),
    ]
}

fn namespace_messages() -> Vec<Case> {
    let session = SessionId(900);
    let query =
        PathQuery { base: Ino::ROOT, path: b"a/b \xff".to_vec(), follow: true, with_content: true };
    let found = LookupReply {
        results: vec![
            LookupResult::Found(file_entry()),
            LookupResult::Found(link_entry()),
            LookupResult::Refused(Status::NotFound),
        ],
    };
    let listing = ReadDirRequest {
        session,
        dir: Ino(5),
        after: b"m".to_vec(),
        limit: 1000,
        with_content: true,
    };
    let entries = vec![
        DirEntry { name: b"a".to_vec(), entry: directory_entry() },
        DirEntry { name: b"b\xff".to_vec(), entry: file_entry() },
    ];
    let outcomes = vec![
        OpOutcome::Done(None),
        OpOutcome::Done(Some(file_entry())),
        OpOutcome::Reserved(vec![file_entry(), file_entry()]),
        OpOutcome::Refused(Status::Exists),
    ];
    vec![
        case("", LookupRequest { session, queries: vec![query] }),
        case("", found),
        case("", listing),
        case("", ReadDirReply { entries, more: true }),
        case("", MutateRequest { session, ops: operations() }),
        case("", MutateReply { outcomes }),
        case("", GrowthClearedNotice { fids: vec![Fid(7), Fid(u64::MAX)] }),
        case("", WordsReturnedRequest { fids: vec![Fid(7)] }),
        case("-all", WordsReturnedRequest { fids: Vec::new() }),
        case("", WordsReturnedReply),
    ]
}

/// Every command there is.
pub(crate) fn commands() -> Vec<(&'static str, Command)> {
    let caller = Caller { uid: 1, gid: 2, admin: true };
    let (group, epoch, target, node) = (GROUP, Epoch(5), TargetId(201), NodeId(2));
    let session = SessionId(900);
    let record = group_record();
    let initialize = Command::Initialize {
        cluster: CLUSTER,
        replicas: 3,
        min_write: 2,
        groups_per_target: 64,
        targets_expected: 3,
        owner: caller,
    };
    let targets = vec![target_report()];
    let register = Command::RegisterNode { node, incarnation: 3, address: V4, targets };
    let change = Command::ChangeGroup {
        group,
        expected_epoch: epoch,
        members: record.members,
        evicted: record.evicted,
        down: true,
        plan: record.plan,
    };
    let reports = group_reports();
    vec![
        ("Initialize", initialize),
        ("RegisterNode", register),
        ("SetNodeState", Command::SetNodeState { node, up: true }),
        ("FenceTarget", Command::FenceTarget { target }),
        ("CreateGroups", Command::CreateGroups { count: 64 }),
        ("ChangeGroup", change),
        ("Activated", Command::Activated { group, epoch }),
        ("SyncDone", Command::SyncDone { group, epoch, target }),
        ("OpenSession", Command::OpenSession { caller, client: "lanefs".into() }),
        ("EndSession", Command::EndSession { session }),
        ("Mutate", Command::Mutate { session, caller, ops: operations() }),
        ("DropDone", Command::DropDone { groups: group_files() }),
        ("Digest", Command::Digest { applied: 99, digest: u128::MAX - 5 }),
        ("AllowMutations", Command::AllowMutations { group, epoch }),
        ("SetNodeDraining", Command::SetNodeDraining { node, draining: true }),
        ("RemoveNode", Command::RemoveNode { node }),
        ("SetTargetSlow", Command::SetTargetSlow { target, slow: true }),
        ("StartScrub", Command::StartScrub),
        ("SetRebalance", Command::SetRebalance { on: true }),
        ("NoteDurable", Command::NoteDurable { targets: vec![(target, Generation(6), Lsn(7))] }),
        ("FileReports", Command::FileReports { groups: reports }),
    ]
}

/// Stamp of every command sample.
pub(crate) const STAMP: Stamp = Stamp { time_ms: 1_700_000_000_123, nonce: 0x1234_5678_9abc_def0 };
