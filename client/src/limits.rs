//! Every bound of one client process.
//!
//! A bound that servers must agree on lives in [`protocol::limits`].

use protocol::limits::{
    GROUP_MEMBERS_MAX, MUTATE_OPS_MAX, READ_LEN_MAX, RECHECK_CELLS_MAX, SESSION_WINDOW,
    WRITE_LEN_MAX,
};

/// Payload bytes one client has in flight, in bytes.
///
/// Held from before a read is sent until its bytes are verified, and from before a chunk write is
/// sent until it is acknowledged. Sum: 16 streams of [`STREAM_WINDOW_BYTES`].
pub const IN_FLIGHT_BYTES_MAX: usize = 16 * STREAM_WINDOW_BYTES;
/// Bytes that one read stream asks for ahead of its consumer, in bytes.
///
/// Sum: pieces in flight and pieces that arrived and were not taken yet. Eight longest reads, so
/// that several shards are busy and the bytes stay in the cache until they are verified and taken:
/// over loopback 8 MiB read a large file 10 % faster than 32 MiB, and 4 MiB was slower again.
pub const STREAM_WINDOW_BYTES: usize = 8 << 20;
/// Bytes of one read stream while its next piece is late, in bytes: pieces in flight, which keep to
/// [`STREAM_WINDOW_BYTES`], and those that arrived behind it.
pub const STREAM_HELD_BYTES_MAX: usize = 2 * STREAM_WINDOW_BYTES;
/// Freed memory that a process keeps for the next buffers: two streams' worth of windows and the
/// chunks of a writer, rounded up.
pub const FREED_BYTES_KEPT_MAX: i32 = 64 << 20;
/// Chunks that one file writer has in flight; beside them it holds the chunk that is being filled.
pub const WRITER_CHUNKS_IN_FLIGHT: usize = 6;
/// Chunks that one file writer holds from the first that is not durable on, those that are durable
/// behind it included: when that one has to go elsewhere, so have the others.
pub const WRITER_WINDOW_CHUNKS: usize = WRITER_CHUNKS_IN_FLIGHT + 2;
/// Times in a row that a new file is laid out anew without a chunk becoming durable in between; then
/// it waits for its groups.
pub const WRITER_MOVES_MAX: u32 = 4;
/// How long a new file waits for a group whose primary does not answer or takes no writes, in
/// milliseconds, before it goes on elsewhere: longer than fail-over takes.
pub const LEAVE_AFTER_MS: u64 = 1_000;
/// Namespace operations that wait for their batch; a caller waits for its turn beyond that.
pub const MUTATE_QUEUE_MAX: usize = 1024;
/// Operations in one batch.
///
/// A batch whose answer was lost is sent again as a whole, so the coordinator must remember the
/// outcomes of at least one (see [`SESSION_WINDOW`]); this client has one in flight at a time.
pub const MUTATE_BATCH_MAX: usize = MUTATE_OPS_MAX;
/// Path bytes in one lookup batch; the rest of the body are a few fields a query.
pub const LOOKUP_BATCH_BYTES_MAX: usize = 512 << 10;
/// Queries in one lookup batch; the coordinator leaves out results that do not fit its reply.
pub const LOOKUP_BATCH_MAX: usize = protocol::limits::LOOKUP_BATCH_MAX;
/// Bytes of whole files that one [`ReadMany`](crate::ReadMany) has in memory, in bytes.
///
/// Sum: files that are being read, and files that were read and not taken yet.
pub const READ_MANY_BYTES_MAX: usize = 2 * STREAM_WINDOW_BYTES;
/// Files among them: small ones are bounded by their number, a few hundred to keep every shard busy.
pub const READ_MANY_FILES_MAX: usize = 256;
/// Longest file that is read as a whole, in bytes; the caller reads a longer one as a stream.
pub const READ_MANY_FILE_BYTES_MAX: u64 = 4 << 20;
/// Files that were looked up and wait for their turn when the next batch is looked up: one batch
/// waits while another is under way.
pub const READ_MANY_AHEAD: usize = LOOKUP_BATCH_MAX;
/// Entries of one page of a listing: each may come with a layout, a link and attributes.
pub const READ_DIR_PAGE_MAX: u32 = 500;
/// Inodes the first reservation of a client takes; each following one takes twice as many, up to
/// [`protocol::limits::RESERVE_MAX`].
pub const RESERVE_FIRST: u32 = 16;
/// Files up to this length are laid out as small ones, in bytes: one segment of four chunks.
pub const SMALL_FILE_LEN_MAX: u64 = 16 << 20;
/// Notices of coordinators that wait to be taken in; more are dropped, and whoever sent one goes on
/// without an answer after ten seconds.
pub const NOTICES_MAX: usize = 64;
/// Requests that wait for the writer of one connection; a caller waits beyond that.
pub const SEND_QUEUE_MAX: usize = 64;
/// Receive buffer of the kernel for one connection, in bytes.
pub const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Bytes taken from the kernel at once, per connection: TLS itself asks for 4 KiB at a time.
pub const SOCKET_READ_BYTES: usize = 256 << 10;
/// The same for a connection that left TLS, whose payload is received where it belongs.
pub const SOCKET_HEAD_BYTES: usize = 16 << 10;
/// Longest time to open a connection, TLS and hello included, in milliseconds.
pub const CONNECT_TIMEOUT_MS: u64 = 3_000;

/// First attempt of a read at one replica, in milliseconds; doubles with each that ran out.
pub const READ_ATTEMPT_MS: u64 = 2_000;
/// One attempt of a write, in milliseconds: the primary may wait 5 s for a slow member.
pub const WRITE_ATTEMPT_MS: u64 = 8_000;
/// One attempt of a coordinator request, in milliseconds.
pub const COORDINATOR_ATTEMPT_MS: u64 = 5_000;
/// A question whether a target is there at all, in milliseconds; no caller waits for it.
pub const PROBE_ATTEMPT_MS: u64 = 500;
/// Time between two looks at whether an attempt under way is worth waiting for, in milliseconds.
pub const ATTEMPT_LOOK_MS: u64 = 20;
/// A write that waits this long asks whether its group has another primary by now, and again after
/// as long, in milliseconds.
pub const WRITE_MAP_LOOK_MS: u64 = 200;
/// One check of a replica, or one question to a shard, in milliseconds: a chunk is read from a
/// device that may be busy.
pub const VERIFY_TIMEOUT_MS: u64 = 10_000;
/// Pause between two probes of an avoided target, in milliseconds.
pub const PROBE_INTERVAL_MS: u64 = 250;
/// Requests left unanswered at once that make a target avoided.
pub const SILENT_REQUESTS: u32 = 3;
/// How long each of them waited, in milliseconds.
pub const SILENT_AFTER_MS: u64 = 100;
/// How long nothing at all must have come from a target when as many reads of it were answered by
/// another one meanwhile, in milliseconds: soon enough that the hedges of a client with many reads
/// in flight last until then.
pub const MISSED_SILENT_MS: u64 = 25;
/// A read that waited at least this long and was then answered by another target counts as one
/// that was left unanswered, in milliseconds.
pub const MISSED_AFTER_MS: u64 = HEDGE_AFTER_MIN_MS;

/// Time before the same damage is reported again, in milliseconds.
pub const REPORT_AGAIN_MS: u64 = 10_000;
/// Damaged replicas of chunks reported within [`REPORT_AGAIN_MS`]; what is beyond is found by the
/// next reader, or by scrub.
pub const REPORTS_MAX: usize = 32;
/// How long a primary must be silent before it is doubted, in milliseconds: longer than a node's
/// failure takes to be noticed by the coordinator itself.
pub const DOUBT_AFTER_MS: u64 = 1_000;
/// Time before the primary of the same group is doubted again, in milliseconds; shorter than the
/// time for which the coordinator counts what a client says.
pub const DOUBT_AGAIN_MS: u64 = 2_000;
/// Groups whose primaries are doubted within [`DOUBT_AGAIN_MS`].
pub const DOUBTS_MAX: usize = 64;

/// Shortest ceiling of a retry's pause, in milliseconds.
pub const BACKOFF_MIN_MS: u64 = 20;
/// Longest ceiling of a retry's pause, in milliseconds.
pub const BACKOFF_MAX_MS: u64 = 2_000;
/// Longest pause while a group or coordinator fails over, in milliseconds.
pub const FAILOVER_PAUSE_MAX_MS: u64 = 200;
/// Longest delay before a shared map refresh, in milliseconds.
pub const REFRESH_JITTER_MS: u64 = 5;
/// Longest wait of a plan for a map refresh before it goes on with the map it has, in milliseconds.
pub const REFRESH_WAIT_MS: u64 = 1_000;
/// Window over which retries are compared with requests, in milliseconds.
pub const BUDGET_WINDOW_MS: u64 = 10_000;
/// Retries allowed for each hundred requests in the window.
pub const BUDGET_PERCENT: u64 = 10;
/// Retries allowed in the window however few requests there were.
pub const BUDGET_FLOOR: u64 = 10;

/// Time between two renewals of the session, in milliseconds: a third of its lease.
pub const SESSION_RENEW_MS: u64 = 10_000;

const _: () = assert!(STREAM_WINDOW_BYTES <= IN_FLIGHT_BYTES_MAX);
const _: () = assert!(STREAM_WINDOW_BYTES >= 2 * READ_LEN_MAX as usize);
const _: () = assert!(WRITER_CHUNKS_IN_FLIGHT * WRITE_LEN_MAX as usize <= IN_FLIGHT_BYTES_MAX);
const _: () = assert!(MUTATE_BATCH_MAX <= SESSION_WINDOW);
const _: () = assert!(LOOKUP_BATCH_MAX <= protocol::limits::LOOKUP_BATCH_MAX);
const _: () = assert!(READ_MANY_FILE_BYTES_MAX <= READ_MANY_BYTES_MAX as u64);
const _: () = assert!(READ_DIR_PAGE_MAX as usize <= protocol::limits::READ_DIR_PAGE_MAX);
const _: () = assert!(RESERVE_FIRST <= protocol::limits::RESERVE_MAX);

/// How long the coordinator's word that a file only ever grew is relied on, in milliseconds; with
/// [`WORD_ASK_MS`] it ends before the coordinator lets anybody change bytes.
pub const WORD_FRESH_MS: u64 = 8_000;
/// How long an answer to the question for a newer word is waited for, in milliseconds.
pub const WORD_ASK_MS: u64 = 1_000;
/// Time before the coordinator is asked again for such a word when it did not answer.
pub const WORD_ASK_AGAIN_MS: u64 = 1_000;
/// How long a word holds after nobody answered the question for a newer one, in milliseconds: until
/// the next question has run out. A coordinator that starts lets nobody change bytes for longer.
pub const WORD_HOLDS_MS: u64 = WORD_ASK_AGAIN_MS + WORD_ASK_MS + 1_000;
/// Files whose changes by this client are remembered; with more, no file is taken for one that
/// only ever grew.
pub const CHANGED_FILES_MAX: usize = 65_536;
/// How long a file is waited for that groups cut or measure, in milliseconds.
pub const SETTLE_WAIT_MS: u64 = 60_000;
/// Time between two looks at it, in milliseconds.
pub const SETTLE_LOOK_MS: u64 = 50;

/// Shortest time before a read is asked of a second replica too, in milliseconds.
pub const HEDGE_AFTER_MIN_MS: u64 = 5;
/// Longest time before a read is asked of a second replica too, in milliseconds.
pub const HEDGE_AFTER_MAX_MS: u64 = 50;
/// Such hedges, in per cent of all reads.
pub const HEDGE_PERCENT: u64 = 2;
/// Hedges that may be sent at once after a time without any: the reads a stream has in flight,
/// several times over.
pub const HEDGE_BURST: u64 = 32;
/// Reads of one target from which its usual duration is told.
pub const HEDGE_SAMPLES: usize = 200;

/// How often every replica is asked again before bytes that none of them has are called lost.
pub const UNREADABLE_ROUNDS: u32 = 3;
/// Requests for halves of what a member refused because some cell of it is damaged, in one read.
///
/// Sum: the longest read in the smallest cells, halved down to every cell, on every member of the
/// largest group. Beyond it a range is asked for as it is.
pub const NARROWING_ASKS_MAX: u32 = 4_080;

const _: () =
    assert!(NARROWING_ASKS_MAX as usize == GROUP_MEMBERS_MAX * 2 * (RECHECK_CELLS_MAX - 1));
