//! Every bound that more than one process must agree on.
//!
//! A bound that only one process holds lives in that crate's own `limits.rs`.

/// Length of the fixed frame header, in bytes.
pub const HEADER_LEN: usize = 64;
/// Longest body of an ordinary frame, in bytes.
pub const BODY_LEN_MAX: usize = 64 << 10;
/// Longest body of a list reply, a batch of opens, a map delta or an inventory page, in bytes.
pub const BODY_LEN_MAX_LIST: usize = 1 << 20;
/// Largest chunk, as a power of two: 64 MiB.
pub const CHUNK_LOG2_MAX: u8 = 26;
/// Smallest chunk, as a power of two: 1 MiB.
pub const CHUNK_LOG2_MIN: u8 = 20;
/// Chunk size unless a directory says otherwise, as a power of two: 4 MiB.
pub const CHUNK_LOG2_DEFAULT: u8 = 22;
/// Cell size unless a directory says otherwise, as a power of two: 16 KiB.
pub const CELL_LOG2_DEFAULT: u8 = 14;
/// Cell sizes there are, as powers of two: 4, 16 and 64 KiB.
pub const CELL_LOG2_ALLOWED: [u8; 3] = [12, 14, 16];
/// Longest payload of a frame: one default chunk and one cell of the largest size.
pub const PAYLOAD_LEN_MAX: usize = (1 << CHUNK_LOG2_DEFAULT) + (1 << 16);
/// Longest single read a client asks for and a node answers, in bytes.
pub const READ_LEN_MAX: u32 = 1 << 20;
/// Cells one client may have a member check again with one request: the longest read in the
/// smallest cells.
pub const RECHECK_CELLS_MAX: usize = READ_LEN_MAX as usize >> CELL_LOG2_ALLOWED[0];
/// Contents that one notice or answer about words names.
pub const WORDS_MAX: usize = 1024;
/// Longest single write, in bytes: one default chunk.
pub const WRITE_LEN_MAX: u32 = 1 << CHUNK_LOG2_DEFAULT;
/// Most cells one message describes: a default chunk of the smallest cells.
pub const CELLS_PER_MESSAGE_MAX: usize = 1 << (CHUNK_LOG2_DEFAULT - 12);
/// Alignment of buffers, device offsets and device lengths, in bytes.
pub const IO_ALIGN: usize = 4096;

/// Most segments of one layout.
pub const SEGMENTS_MAX: usize = 8;
/// Most groups of one segment.
pub const SEGMENT_GROUPS_MAX: usize = 64;
/// Most members of one group: seven replicas and one that is being added.
pub const GROUP_MEMBERS_MAX: usize = 8;

/// Longest name of a directory entry, in bytes.
pub const NAME_LEN_MAX: usize = 255;
/// Longest path, in bytes.
pub const PATH_LEN_MAX: usize = 4096;
/// Longest target of a symbolic link, in bytes.
pub const LINK_LEN_MAX: usize = 4095;
/// Most operations in one mutation batch.
pub const MUTATE_OPS_MAX: usize = 256;
/// Most queries in one lookup batch.
pub const LOOKUP_BATCH_MAX: usize = 1000;
/// Most entries in one page of a directory listing.
pub const READ_DIR_PAGE_MAX: usize = 1000;
/// Most unlinked inodes one operation reserves.
pub const RESERVE_MAX: u32 = 256;
/// Outcomes the coordinator remembers for each session: four full batches, so that a retry of any
/// batch in flight finds its outcomes; kept in the state table, not in memory.
pub const SESSION_WINDOW: usize = 1024;
/// Most entries in one page of a group's inventory.
pub const INVENTORY_PAGE_MAX: usize = 8192;
/// Most pendings one group may hold on one member.
pub const PENDINGS_PER_GROUP_MAX: usize = 4096;
/// Sessions whose newest operation a chunk remembers.
pub const CHUNK_OP_SESSIONS_MAX: usize = 16;

/// Requests in flight on one connection.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;
/// Longest text of an error reply, in bytes.
pub const ERROR_TEXT_MAX: usize = 256;
/// Deadline of a client operation unless it says otherwise, in milliseconds.
pub const DEADLINE_DEFAULT_MS: u32 = 30_000;

/// Longest text for people in any other message (release, program name, address), in bytes.
pub const TEXT_LEN_MAX: usize = 256;
/// Longest encoded capability, in bytes: 96 of body, then 20 for each of at most 64 nodes.
pub const TOKEN_LEN_MAX: usize = 96 + 64 * 20;

/// Most targets of one node.
pub const TARGETS_PER_NODE_MAX: usize = 256;
/// Most groups that one target reports when it registers.
pub const GROUPS_PER_TARGET_MAX: usize = 4096;
/// Most nodes, targets or groups, of each, in one map delta.
pub const MAP_RECORDS_MAX: usize = 16_384;
/// Most targets that a group remembers for re-admission.
pub const GROUP_EVICTED_MAX: usize = 256;
/// Most revocations in one map delta.
pub const REVOCATIONS_MAX: usize = 4096;
/// Longest revocation record, in bytes.
pub const REVOCATION_LEN_MAX: usize = 64;
/// Longest signature of a map delta, in bytes: one of Ed25519.
pub const SIGNATURE_LEN_MAX: usize = 64;
/// Most dead files of one group in one message.
pub const DROP_FIDS_MAX: usize = 4096;
/// Most unlinked files that one operation gives back.
pub const ABANDON_MAX: usize = 4096;
/// Most files of one group in one message of orders or reports about single files.
pub const FILE_ORDERS_MAX: usize = 1024;
/// Most chunks of one file that one group measures in one message.
pub const MEASURED_CHUNKS_MAX: usize = 4096;
/// Most copies under way that one target reports.
pub const RESYNCS_PER_TARGET_MAX: usize = 256;
/// Most plans in one page.
pub const PLANS_PAGE_MAX: usize = 1024;
/// Most alarms in one status.
pub const ALARMS_MAX: usize = 256;
/// Most coordinators of one cluster.
pub const COORDINATORS_MAX: usize = 16;

/// Lines that one process logs about refused connections in one [`REFUSAL_WINDOW_MS`]; anybody who
/// reaches its ports can cause them, so the rest is only counted.
pub const REFUSAL_LINES_MAX: u64 = 20;
/// Window of [`REFUSAL_LINES_MAX`], in milliseconds.
pub const REFUSAL_WINDOW_MS: u64 = 60_000;

/// Longest certificate or key file, in bytes.
pub const TLS_FILE_LEN_MAX: usize = 256 << 10;
/// Longest name of a user in a certificate, in bytes.
pub const PRINCIPAL_LEN_MAX: usize = 64;

/// Verifier: how deep tables may nest in a body.
pub const VERIFIER_DEPTH_MAX: usize = 16;
/// Verifier: how many tables an ordinary body may hold.
pub const VERIFIER_TABLES_MAX: usize = 4096;
/// Verifier: how many tables a body of [`BODY_LEN_MAX_LIST`] may hold.
pub const VERIFIER_TABLES_MAX_LIST: usize = 65_536;
/// Verifier: apparent size of an ordinary body, in bytes; shared parts count each time they are
/// reached, and so does the description of a table.
pub const VERIFIER_APPARENT_MAX: usize = 1 << 20;
/// Verifier: apparent size of a body of [`BODY_LEN_MAX_LIST`], in bytes.
pub const VERIFIER_APPARENT_MAX_LIST: usize = 4 << 20;
/// Longest head of a request to an admin port, in bytes: what ends it, included.
pub const METRICS_HEAD_LEN_MAX: usize = 8 << 10;
/// Connections to one admin port, from accept to the last byte of the answer: each holds one head
/// and one answer; one more is closed at once.
pub const METRICS_CONNECTIONS_MAX: usize = 16;
/// Time from accept to the end of a request's head at an admin port, in milliseconds; as long again
/// for its answer to be taken.
pub const METRICS_TIME_MAX_MS: u64 = 5000;
/// Length of one configuration file, in bytes: ten times what the largest node needs.
pub const CONFIG_LEN_MAX: u64 = 1 << 20;

const _: () = assert!(BODY_LEN_MAX <= BODY_LEN_MAX_LIST);
// A write of one default chunk in the smallest cells: 8 bytes of sum and 28 of aux for each.
const _: () = assert!(CELLS_PER_MESSAGE_MAX * (8 + 28) + 4096 <= BODY_LEN_MAX);
const _: () = assert!(WRITE_LEN_MAX as usize <= PAYLOAD_LEN_MAX);
const _: () = assert!(READ_LEN_MAX as usize + 2 * (1 << 16) <= PAYLOAD_LEN_MAX);
const _: () = assert!(IO_ALIGN.is_power_of_two() && (1 << 12) >= IO_ALIGN);
// Every list whose only field is a number fits its frame: fids of one group, pendings, inventory.
const _: () = assert!(DROP_FIDS_MAX * 8 + 256 <= BODY_LEN_MAX);
const _: () = assert!(PENDINGS_PER_GROUP_MAX * 56 + 256 <= BODY_LEN_MAX_LIST);
const _: () = assert!(INVENTORY_PAGE_MAX * 40 + 256 <= BODY_LEN_MAX_LIST);

/// Bodies up to this length are written in memory that each thread keeps, in bytes.
pub const SHORT_BODY: usize = 4096;
