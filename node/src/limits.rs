//! Every bound that one data node holds by itself.
//!
//! Bounds that several processes must agree on live in [`protocol::limits`].

// Process.

/// Most shards of one node, hence most executors but one and most targets.
pub const SHARDS_MAX: usize = 64;
/// Smallest arena of registered buffers of a shard, in bytes.
pub const IO_MEMORY_MIN: u64 = 1 << 20;
/// Longest wait at start for the port and lock of a process that died a moment ago, in milliseconds.
pub const PREDECESSOR_TIME_MAX_MS: u64 = 1500;
/// Time between two looks at them, in milliseconds.
pub const PREDECESSOR_LOOK_MS: u64 = 20;
/// Largest arena of registered buffers of a shard, in bytes.
pub const IO_MEMORY_MAX: u64 = 1 << 30;
/// Arena of the control executor, which does no disk I/O, in bytes; glommio's own minimum.
pub const IO_MEMORY_CONTROL: u64 = 64 << 10;
/// Rings of one executor; each registers the whole arena and each counts against `memlock`.
pub const RINGS_PER_EXECUTOR: u64 = 3;
/// `memlock` that the runtime demands before it makes any ring, in bytes.
pub const MEMLOCK_MIN: u64 = 512 << 10;
/// Entries of each ring. A full ring makes the runtime wait, and a chain of links longer than the
/// ring makes it panic, so this is far above the transfers one shard has in flight.
pub const RING_DEPTH: u16 = 256;
/// Most entries of each ring that a configuration may ask for.
pub const RING_DEPTH_MAX: u16 = 4096;
/// Longest time that an executor looks for work before it sleeps, in microseconds.
pub const SPIN_US_MAX: u32 = 1000;
/// Smallest container, in bytes.
pub const CONTAINER_SIZE_MIN: u64 = 16 << 20;
/// Networks with unencrypted payload that a configuration may list.
pub const CLEAR_NETWORKS_MAX: usize = 64;
/// Coordinators a configuration may list.
pub const COORDINATORS_MAX: usize = 9;
/// Files one process wants to be able to open: sockets first, then what rings and containers use.
pub const OPEN_FILES_WANTED: u64 = 65_536;

// Executors.

/// Time between two kicks of every executor, in milliseconds.
pub const KICK_PERIOD_MS: u64 = 50;
/// Kicks an executor may leave unanswered before the process aborts: 10 s.
pub const KICKS_UNANSWERED_MAX: u32 = 200;
/// How much later than asked for a task of a shard may run before it counts as a stall of the
/// executor, in milliseconds: ten times what it sleeps between two looks at its timers.
pub const EXECUTOR_STALL_MS: u64 = 50;
/// Time between two reports of a shard's figures to the control executor, in milliseconds.
pub const FIGURES_PERIOD_MS: u64 = 1000;
/// Time slice after which the runtime asks a task to yield, in milliseconds. A short one can park
/// an executor for ever with work in its queue, so fairness comes from byte budgets instead.
pub const PREEMPT_TIMER_MS: u64 = 1000;
/// Time from the order to stop until the process ends in any case, in milliseconds.
pub const STOP_TIME_MAX_MS: u64 = 10_000;

// Mesh.

/// Messages in one queue from the control executor to one shard: one of each kind is the most that
/// is useful, because maps, leases and deletions are merged while they wait; the rest is slack.
pub const MESH_TO_SHARD_MAX: usize = 16;
/// Messages in one queue from one shard to the control executor: its health, figures and stop, and the
/// reports of every group it leads (64 groups a target, three kinds of report).
pub const MESH_TO_CONTROL_MAX: usize = 256;
/// Groups with dead files that wait for one shard, and as many with orders about single files and
/// with answers about chunks set aside; more are left to who asked, and who repeats.
pub const DROPS_WAITING_MAX: usize = 1024;

// Connections of one shard.

/// Bytes a peer may send before it is authenticated.
pub const HANDSHAKE_BYTES_MAX: usize = 16 << 10;
/// Time from accept to the end of TLS handshake and hello, in milliseconds.
pub const HANDSHAKE_TIME_MAX_MS: u64 = 5000;
/// Connections between accept and [`crate::io::Net::accept`]: in handshake, or waiting to be taken.
pub const HALF_OPEN_MAX: usize = 256;
/// Open connections of one shard.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Frames in the send queue of one connection: an answer for each request in flight, as many
/// requests of our own, and notices.
pub const SEND_QUEUE_MAX: usize = 2 * protocol::limits::REQUESTS_IN_FLIGHT_MAX + 64;
/// Payload bytes in the send queue of one connection: what 16 writes of a whole chunk hold.
pub const SEND_QUEUE_BYTES_MAX: usize = 16 * protocol::limits::PAYLOAD_LEN_MAX;
/// Bytes taken from a socket at a time; also the largest burst of frames decoded at once.
pub const RECEIVE_SLICE: usize = 64 << 10;
/// Plaintext sealed at a time: larger slices fall out of the second-level cache.
pub const SEAL_SLICE: usize = 64 << 10;
/// Bytes handed to the kernel at a time outside of TLS: what the send buffer of a socket takes.
pub const SEND_SLICE: usize = SOCKET_SEND_BUFFER;
/// Runs of memory in one system call; the kernel takes 1024.
pub const SEND_RUNS_MAX: usize = 512;
/// Outside of TLS, bytes taken from a socket at a time where frames begin: what of a payload comes
/// along is copied once, everything behind it is received where it belongs.
pub const RECEIVE_HEADS: usize = 16 << 10;
/// Bytes that one connection receives, or sends spread over time, before other tasks have a turn.
pub const BYTES_PER_TURN: usize = 256 << 10;
/// The same for what is sent at once: each turn costs four system calls, and a mebibyte takes a quarter of
/// a millisecond, half of one when it is sealed.
pub const SEND_BYTES_PER_TURN: usize = 1 << 20;
/// Send buffer of a socket, in bytes: as much as stays in the second-level cache.
pub const SOCKET_SEND_BUFFER: usize = 256 << 10;
/// Time a frame may take whatever its length, in milliseconds.
pub const FRAME_TIME_GRACE_MS: u64 = 5000;
/// Slowest rate at which a frame may arrive after [`FRAME_TIME_GRACE_MS`], in bytes per second.
pub const FRAME_RATE_MIN: u64 = 64 << 10;
/// Time a peer may take nothing of what is sent to it, in milliseconds.
pub const SEND_STALL_MAX_MS: u64 = 30_000;
/// Time a closed connection has to send what is queued, in milliseconds.
pub const CLOSE_LINGER_MS: u64 = 2000;
/// Time between two looks at the connections' deadlines, in milliseconds.
pub const SWEEP_PERIOD_MS: u64 = 250;
/// Time to connect to another node or a coordinator, in milliseconds.
pub const CONNECT_TIME_MAX_MS: u64 = 3000;

// Control.

/// First pause between two attempts to reach a coordinator, in milliseconds.
pub const RECONNECT_MIN_MS: u64 = 50;
/// Longest pause between two attempts to reach a coordinator, in milliseconds.
pub const RECONNECT_MAX_MS: u64 = 1000;
/// Time without an answer after which the connection to a coordinator is given up, in milliseconds.
pub const COORDINATOR_SILENCE_MAX_MS: u64 = 3000;
/// Requests of shards in flight to the coordinator; the rest stays in the mesh.
pub const COORDINATOR_REQUESTS_MAX: usize = 128;

const _: () = assert!(IO_MEMORY_MIN.is_power_of_two() && IO_MEMORY_MAX.is_power_of_two());
const _: () = assert!(RING_DEPTH >= 128 && RING_DEPTH.is_power_of_two());
const _: () = assert!(KICK_PERIOD_MS * KICKS_UNANSWERED_MAX as u64 == 10_000);
const _: () = assert!(SEND_QUEUE_BYTES_MAX >= protocol::limits::PAYLOAD_LEN_MAX);
const _: () = assert!(COORDINATOR_REQUESTS_MAX <= protocol::limits::REQUESTS_IN_FLIGHT_MAX);

// Work in flight of one shard.

/// Payload bytes of clients in flight: writes not yet on every member, and reads not yet sent.
pub const SHARD_CLIENT_BYTES_MAX: u64 = 64 << 20;
/// Requests of clients in flight: each holds its header and, for a write, its sums.
pub const SHARD_CLIENT_REQUESTS_MAX: usize = 4096;
/// Payload bytes of primaries in flight in the store: versions and whole chunks.
pub const SHARD_PEER_BYTES_MAX: u64 = 64 << 20;
/// Requests of primaries in flight in the store.
pub const SHARD_PEER_REQUESTS_MAX: usize = 4096;
/// Writes that wait for the version in flight of one chunk.
pub const CHUNK_QUEUE_MAX: usize = 64;
/// Repeats of a version that wait for its way to the device; its sender has one, more come only by
/// connections that it has given up since.
pub const VERSION_WAITERS_MAX: usize = 8;
/// Pendings that one activation sends at a time, each a whole chunk.
pub const ROLLS_IN_FLIGHT_MAX: usize = 4;
/// Whole chunks of resync in flight of one shard: 16 MiB of default chunks.
pub const COPIES_PER_SHARD_MAX: usize = 4;
/// Chunks that one resync has compared and not copied yet: its memory; the rest stays unlisted.
pub const RESYNC_QUEUE_MAX: usize = 4096;
/// Bytes per second that one shard copies to syncing members unless it was told otherwise.
pub const RESYNC_BYTES_PER_S_DEFAULT: u64 = 200 << 20;
/// Client bytes in flight of one shard from which background work holds back.
pub const FOREGROUND_BUSY_BYTES: u64 = SHARD_CLIENT_BYTES_MAX / 4;
/// First pause of a resync whose member has no room, in milliseconds; it doubles.
pub const RESYNC_REFUSED_PAUSE_MIN_MS: u64 = 1000;
/// Longest pause of a resync whose member has no room, in milliseconds.
pub const RESYNC_REFUSED_PAUSE_MAX_MS: u64 = 30_000;
/// Damaged versions of one group that are being repaired at a time; the next ones follow.
pub const REPAIRS_PER_GROUP_MAX: usize = 64;
/// Requests for cells of one shard that have no answer yet: each may bring a whole chunk.
pub const FETCHES_PER_SHARD_MAX: usize = 4;
/// First pause after a version that a primary wants was not given, in milliseconds; it doubles.
pub const TAKE_PAUSE_MS: u64 = 100;
/// Times that a version is asked for which a primary wants of a member; then it goes on without.
pub const TAKE_TRIES_MAX: u32 = 8;
/// Rechecks of one shard under way: those that clients caused and those of failed reads.
pub const RECHECKS_PER_SHARD_MAX: usize = 8;
/// Time between two looks for new damage, in milliseconds.
pub const REPAIR_LOOK_MS: u64 = 100;
/// First pause after nobody had good bytes, in milliseconds; it doubles.
pub const REPAIR_PAUSE_MIN_MS: u64 = 500;
/// Longest pause after nobody had good bytes, in milliseconds.
pub const REPAIR_PAUSE_MAX_MS: u64 = 30_000;
/// Time in which a full target is read once by the scrub that nobody ordered, in seconds: 14 days.
pub const SCRUB_PERIOD_S: u64 = 14 * 24 * 3600;
/// Bytes per second of an ordered scrub pass unless a rate was ordered with it.
pub const SCRUB_ORDERED_BYTES_PER_S: u64 = 100 << 20;
/// Bytes of one step of the scrub: what it holds in memory, and how long it keeps the device.
pub const SCRUB_STEP_BYTES: u64 = 1 << 20;
/// Entries of the index that the check of the space looks at between two turns of other tasks.
pub const SPACE_CHECK_ENTRIES: usize = 4096;
/// Time between two questions about the files of what is set aside, in milliseconds: an hour.
pub const CENSUS_PERIOD_MS: u64 = 3_600_000;
/// Chunks that are set aside, looked at between two turns of other tasks.
pub const CENSUS_PAGE: usize = 1024;
/// Time between two comparisons of a group's members unless a scrub is ordered, in seconds: a day.
pub const COMPARE_PERIOD_S: u64 = 24 * 3600;
/// Longest time between them that may be configured, in hours: a year.
pub const COMPARE_HOURS_MAX: u64 = 24 * 365;
/// Time before members that differed are compared again, in milliseconds.
pub const COMPARE_AGAIN_MS: u64 = 5000;
/// Time before a group is compared whose primary is new or in which somebody came back, in
/// milliseconds: then there is more urgent work.
pub const COMPARE_SETTLE_MS: u64 = 10_000;
/// Time before a difference is looked at again in a group that can spare nobody, in milliseconds.
pub const COMPARE_LATER_MS: u64 = 60_000;
/// How long an ordered scrub waits for a group that is never at rest, in milliseconds, before it ends
/// without that group's comparison.
pub const COMPARE_PATIENCE_MS: u64 = 60_000;
/// Time between two groups that one shard begins to compare, in milliseconds.
pub const COMPARE_EVERY_MS: u64 = 50;
/// Chunks of one group that are known to differ at a time; who lacks one is copied to anew anyway.
pub const COMPARE_CHUNKS_MAX: usize = 256;
/// Time that a target keeps a group's chunks after the group goes on without it, in milliseconds.
pub const FORGET_AFTER_MS: u64 = 5000;
/// Time between two batches of files that one shard frees in groups it left, in milliseconds.
pub const FORGET_EVERY_MS: u64 = 100;
/// Files of one such batch: as many records of the journal.
pub const FORGET_FILES_MAX: usize = 256;
/// Time whose unused budget background work may make up for at once, in milliseconds.
pub const PACE_BURST_MS: u64 = 250;
/// Chunks of an inventory page that one resync compares at a time.
pub const RESYNC_PAGE: usize = 1024;
/// Deletions of dead files that wait in one group.
pub const DEAD_FILES_WAITING_MAX: usize = 64;
/// Files whose orders one group works on at a time; more are left to the coordinator, who repeats.
pub const FILE_ORDERS_WAITING_MAX: usize = 1024;
/// Chunks of one file whose cut is on its way at a time.
pub const TRIMS_IN_FLIGHT_MAX: usize = 8;
/// Adopt requests that wait in one group: the primary's own and repeats after broken connections.
pub const ADOPTS_WAITING_MAX: usize = 8;
/// Events in the queue of one shard before its connections wait to add more; each may hold a
/// payload that is not counted against a budget yet: 64 MiB.
pub const EVENTS_WAITING_MAX: usize = 16;
/// Reports that wait in one shard until the control core takes them.
pub const REPORTS_WAITING_MAX: usize = 1024;

// A chunk of the default size fits each pool many times, so no single request can be too large.
const _: () = assert!(SHARD_CLIENT_BYTES_MAX >= 4 * protocol::limits::PAYLOAD_LEN_MAX as u64);
const _: () = assert!(SHARD_PEER_BYTES_MAX >= 4 * protocol::limits::PAYLOAD_LEN_MAX as u64);
const _: () = assert!(SHARD_CLIENT_REQUESTS_MAX <= protocol::limits::PENDINGS_PER_GROUP_MAX);
const _: () = assert!(RESYNC_PAGE <= protocol::limits::INVENTORY_PAGE_MAX);
const _: () = assert!(RESYNC_PAGE < RESYNC_QUEUE_MAX);

// Store of one shard.

/// Versions of one chunk that may be pending at a time: the primary's pipeline of growth.
pub const PENDING_CHAIN_MAX: usize = 8;
/// Writes of one store that may be under way: those of clients and those of primaries.
pub const STORE_WRITES_MAX: usize = SHARD_CLIENT_REQUESTS_MAX + SHARD_PEER_REQUESTS_MAX;
/// Journal that a restart may have to replay however small the index is, in bytes; a third of a
/// smaller journal.
pub const REPLAY_LEN_MIN: u64 = 4 << 20;
/// Bytes behind the journal's end that a restart looks through at least for a later batch: eight times the
/// longest batch.
pub const TAIL_SCAN_LEN: u64 = 8 << 20;
/// Longest single device transfer of the store's own making, in bytes.
pub const DEVICE_TRANSFER_MAX: u32 = 1 << 20;
/// The same where the bytes are checked before they are sent: short enough to stay in the second-level
/// cache between the two.
pub const CHECKED_TRANSFER_MAX: u32 = 256 << 10;
/// Longest device transfer of a copy for another member, in bytes; one at a time, so that a client's
/// transfer waits behind one of them and not behind a whole chunk.
pub const COPY_TRANSFER_MAX: u32 = 256 << 10;
/// Longest pause of a connection for copies after each [`BYTES_PER_TURN`], in milliseconds.
pub const COPY_PAUSE_MAX_MS: u64 = 4;
/// How many times its budget a connection for copies may send at, so that pauses cost none of it.
pub const COPY_RATE_TIMES: u64 = 2;
/// Device reads that one request has in flight.
pub const DEVICE_READS_MAX: usize = 8;
/// Runs of units one chunk may lie in before a write puts it together again.
pub const CHUNK_RUNS_MAX: usize = 512;
/// Descriptor pages in the cache of one store: 64 MiB of pages.
pub const PAGE_CACHE_MAX: usize = (64 << 20) / 4096;
/// Index entries a checkpoint copies between two device writes.
pub const CHECKPOINT_SLICE_ENTRIES: usize = 256;

// Keeping a target's bytes.

/// Share of the arena in use from which no new group is placed on the target, in percent.
pub const NEAR_FULL_PERCENT: u64 = 85;
/// Share from which no resync into the target starts, in percent.
pub const RESYNC_STOP_PERCENT: u64 = 92;
/// Share from which primaries refuse growth and mutation, in percent.
pub const FULL_PERCENT: u64 = 95;
/// Share beyond which the target itself takes nothing new, only copies and what frees space, in percent.
pub const FREES_ONLY_PERCENT: u64 = 97;
/// Share from which it takes no copy of what its groups hold either, in percent: what is left is for
/// cuts and repairs.
pub const COPIES_STOP_PERCENT: u64 = 99;
/// Chunks whose room for growth is given back by one batch.
pub const RESERVES_GIVEN_UP_AT_ONCE: usize = 256;
/// Time a chunk of a file that is not known to be dead is kept aside, in seconds: 72 hours.
pub const QUARANTINE_TIME_S: u64 = 72 * 3600;
/// Seconds of device times that are kept: five rows of half a kibibyte for each kind.
pub const METER_SECONDS: usize = 5;
/// Longest time between two signs of life of the process that counts as time of the device, in
/// milliseconds.
pub const METER_STALL_MS: u64 = 250;

const _: () =
    assert!(NEAR_FULL_PERCENT < RESYNC_STOP_PERCENT && RESYNC_STOP_PERCENT < FULL_PERCENT);
const _: () = assert!(FULL_PERCENT < FREES_ONLY_PERCENT);
const _: () = assert!(FREES_ONLY_PERCENT < COPIES_STOP_PERCENT && COPIES_STOP_PERCENT < 100);
/// Versions whose damage one store remembers; scrub finds the rest again.
pub const DAMAGED_VERSIONS_MAX: usize = 4096;
/// Damaged cells that it remembers, of all versions together: 4 bytes each.
pub const DAMAGED_CELLS_MAX: usize = 65_536;
/// Chunks that one pass of scrub knows ahead: 32 bytes each.
pub const SCRUB_BATCH_CHUNKS: usize = 4096;
/// Index entries that scrub looks at before other tasks have a turn.
pub const SCRUB_SLICE_ENTRIES: usize = 4096;
/// Payload bytes that scrub reads before it looks at its budget again.
pub const SCRUB_RUN_BYTES: u32 = DEVICE_TRANSFER_MAX;
/// Failed device writes in one hour that a store survives.
pub const WRITE_ERRORS_PER_HOUR_MAX: usize = 3;
/// Failed device writes in one generation that a store survives.
pub const WRITE_ERRORS_MAX: u32 = 16;
/// Runs of the arena that are avoided because they went bad: 16 bytes each. A device with more is
/// not one to write to.
pub const BAD_RUNS_MAX: usize = 65_536;
/// Units of the arena that one window of the check of space covers: two bitmaps of 64 KiB.
pub const AUDIT_WINDOW_UNITS: u64 = 1 << 19;
