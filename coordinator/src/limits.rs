//! Every bound that only the coordinator holds. Each line says who can hold one.

use std::time::Duration;

use protocol::limits::{BODY_LEN_MAX_LIST, REQUESTS_IN_FLIGHT_MAX};

/// Unit of the log: batches start and end on it, so a torn write never touches an older batch.
pub const LOG_PAGE: usize = 4096;
/// A segment that has reached this length is closed and the next one begins, in bytes.
pub const LOG_SEGMENT_LEN_MAX: u64 = 16 << 20;
/// Longest batch in the log, in bytes: what one proposer round collects, and the record that
/// took it over [`PROPOSAL_BATCH_BYTES`].
pub const LOG_BATCH_LEN_MAX: usize = 8 << 20;
/// Most records of one batch.
pub const LOG_BATCH_RECORDS_MAX: usize = PROPOSAL_BATCH_MAX;

/// Proposals that wait for the proposer: one for each request in flight of 16 busy connections.
/// The next one is answered `Busy`.
pub const PROPOSAL_QUEUE_MAX: usize = 16 * REQUESTS_IN_FLIGHT_MAX;
/// Most proposals of one batch, that is of one flush.
pub const PROPOSAL_BATCH_MAX: usize = 1024;
/// A batch takes no further proposal once its commands have this many bytes.
pub const PROPOSAL_BATCH_BYTES: usize = 4 << 20;
/// Longest encoded command: a mutation of the longest body, and as much again for its encoding.
pub const COMMAND_LEN_MAX: usize = 2 * BODY_LEN_MAX_LIST;
/// Commands applied to the table between two durable commits of it; the log replays the rest.
pub const TABLE_COMMIT_COMMANDS: u64 = 20_000;
/// Time between two durable commits of the table while commands arrive, in milliseconds.
pub const TABLE_COMMIT_INTERVAL_MS: u64 = 1_000;

/// Threads that run connections and timers; the proposer has one of its own.
pub const WORKERS: usize = 2;
/// Connections open at once: held from accept to close.
pub const CONNECTIONS_MAX: usize = 4096;
/// Files the process wants to be able to open: a socket for each connection, the log, the table,
/// probes, and what the runtime uses.
pub const OPEN_FILES_WANTED: u64 = CONNECTIONS_MAX as u64 + 256;
/// Connections between accept and the end of their hello.
pub const HALF_OPEN_MAX: usize = 256;
/// Time from accept to the end of the hello, in milliseconds.
pub const HANDSHAKE_MS: u64 = 5_000;
/// Frames waiting to be written on one connection: a response for each request in flight, and
/// the notices of the map and of dead files, one each.
pub const WRITE_QUEUE_MAX: usize = REQUESTS_IN_FLIGHT_MAX + 2;
/// Waiting frames are written together up to this many bytes and the last one's length.
pub const WRITE_GATHER_MAX: usize = 128 << 10;
/// A connection whose peer takes no byte for this long is closed, in milliseconds.
pub const WRITE_STALL_MS: u64 = 30_000;
/// A frame that began must be complete after this and its length at [`FRAME_RATE_MIN`], in
/// milliseconds.
pub const FRAME_GRACE_MS: u64 = 5_000;
/// Slowest rate at which the rest of a frame may arrive, in bytes per second.
pub const FRAME_RATE_MIN: u64 = 64 << 10;

/// Long requests and long replies of one connection at once: each holds up to
/// [`BODY_LEN_MAX_LIST`] from its first byte to the last byte of its answer.
pub const LONG_PER_CONNECTION_MAX: usize = 8;
/// Threads that work on long lookups and listings at once; the workers stay free for heartbeats.
pub const READERS_MAX: usize = 4;
/// Queries that a worker answers itself; a longer batch goes to a reader thread.
pub const LOOKUP_INLINE_MAX: usize = 16;
/// A report older than this says nothing about resync any more, in milliseconds.
pub const HEALTH_FRESH_MS: u64 = 3_000;
/// Samples of resync progress, one a second; the rate is that over all of them.
pub const RATE_SAMPLES_MAX: usize = 5;

/// Map changes kept, so that a node or client that is a little behind gets only those.
pub const MAP_DELTAS_MAX: usize = 256;
/// Events that wait for the control loop: a heartbeat, a registration and a lost connection for
/// each of 300 nodes.
pub const CONTROL_QUEUE_MAX: usize = 1024;
/// Nodes whose shard port is being probed at once; the next one waits for a later tick.
pub const PROBES_MAX: usize = 16;
/// How long a probe of a shard port may take, in milliseconds.
pub const PROBE_MS: u64 = 500;
/// Time between two ticks of the control loop, in milliseconds.
pub const TICK_MS: u64 = 100;
/// Sessions that one second of the control loop ends; the next ones wait for the next second.
pub const SESSION_EXPIRIES_MAX: usize = 256;
/// Dead files that one notice names, over all groups.
pub const DROP_NOTICE_FILES_MAX: usize = 4096;
/// Dead files looked at for the notices of one round: those of groups that cannot drop them now
/// are passed over.
pub const DROP_SCAN_MAX: usize = 65_536;
/// Orders about single files looked at for the notices of one round.
pub const FILE_ORDERS_SCAN_MAX: usize = 4096;
/// Orders about single files that one notice names, over all groups.
pub const FILE_ORDERS_NOTICE_MAX: usize = protocol::limits::FILE_ORDERS_MAX;
/// How long a reader that was told that a file only ever grew may rely on it.
pub const GROWTH_WORD: Duration = Duration::from_secs(10);
/// Such words that are remembered, one for each file and connection; about 100 bytes each, 25 MiB in
/// all. With more, everything counts as told to everybody.
pub const GROWTH_WORDS_MAX: usize = 262_144;
/// How long it is remembered that a file grows only no more: longer than a read takes that began
/// before.
pub const CLEARED_FOR: Duration = Duration::from_secs(60);
/// Files of which that is remembered; with more, no file is told to have only grown for as long.
pub const CLEARED_MAX: usize = 65_536;
/// Time before dead files that no node has confirmed are sent again, in milliseconds.
pub const DROP_REPEAT_MS: u64 = 2_000;

/// Lease that each heartbeat gives a node unless configured, in milliseconds, and the longest that
/// may be configured: longer than a coordinator's restart,
/// because there is only one.
pub const NODE_LEASE_MS: u32 = 10_000;
/// Shortest lease that may be configured, in milliseconds: eight heartbeats.
pub const NODE_LEASE_MIN_MS: u32 = 8 * NODE_HEARTBEAT_MS;
/// Time between heartbeats that nodes are told, in milliseconds.
pub const NODE_HEARTBEAT_MS: u32 = 250;
/// Lease that clients are told for their sessions, in milliseconds.
pub const SESSION_LEASE_MS: u32 = 30_000;
/// A session that was not renewed for this long ends, in milliseconds.
pub const SESSION_EXPIRY_MS: u64 = 60_000;
/// Users a configuration may list.
pub const USERS_MAX: usize = 65_536;

/// Sessions open at once: one for each client process; a row and about 100 bytes of memory each.
pub const SESSIONS_MAX: usize = 4096;
/// Longest name of a client program that a session keeps, in bytes; the rest is cut.
pub const CLIENT_NAME_MAX: usize = 64;
/// Unlinked files of one session: every file a client has in flight between reserve and publish.
/// A reply that lists all of them stays below the longest list body.
pub const RESERVED_PER_SESSION_MAX: usize = 2048;
/// Files one session may have open for writing in place: a mount of many users.
pub const OPENED_PER_SESSION_MAX: usize = 4096;
/// Symbolic links followed by one lookup, as in Linux.
pub const LINKS_FOLLOWED_MAX: u32 = 40;
/// Bytes of entries in one page of a listing: half of the longest list body, so that the codec's
/// own tables always fit in the other half.
pub const READ_DIR_PAGE_BYTES_MAX: usize = protocol::limits::BODY_LEN_MAX_LIST / 2;
/// Bytes of results in one reply to a lookup, for the same reason: a thousand files as the
/// coordinator lays them out fit, and a batch that does not is answered in parts.
pub const LOOKUP_REPLY_BYTES_MAX: usize = protocol::limits::BODY_LEN_MAX_LIST / 2;
/// Map changes remembered for deltas; a receiver further behind is sent the whole map.
/// One entry holds the ids a single command touched.
pub const MAP_HISTORY_MAX: usize = 1024;
/// Ids in the remembered map changes, over all entries: 4 bytes and a tag each, 512 KiB in total.
pub const MAP_HISTORY_IDS_MAX: usize = 65_536;

/// Data nodes in the map.
pub const NODES_MAX: usize = 4096;
/// Targets of one node: one for each shard.
pub const TARGETS_PER_NODE_MAX: usize = 256;
/// Placement groups in the map: 1000 nodes x 16 targets x 64 groups / 3 replicas, rounded up.
pub const GROUPS_MAX: usize = 393_216;
/// Evicted targets one group remembers: everyone who left since it was last healthy. The oldest
/// is forgotten first; it then has to be added by an operator.
pub const GROUP_EVICTED_MAX: usize = 16;

/// Largest file that is laid out on one group: the four chunks of the first segment.
pub const NARROW_FILE_LEN_MAX: u64 = 16 << 20;
/// Chunks of the first segment of a wide file.
pub const FIRST_SEGMENT_CHUNKS: u32 = 4;
/// Groups of the second segment of a wide file.
pub const WIDE_GROUPS: usize = 16;

/// Rows one scan returns while a whole table is walked.
pub const SCAN_PAGE_ROWS: usize = 512;

/// Shortest silence that makes a node suspect.
pub const SUSPICION_MIN: Duration = Duration::from_millis(750);
/// Longest silence before a node is suspect, however irregular its heartbeats were.
pub const SUSPICION_MAX: Duration = Duration::from_secs(3);
/// Silence that makes a node suspect, as a multiple of its largest gap of the last minute.
pub const SUSPICION_GAPS: u32 = 4;
/// How far back the largest heartbeat gap is looked for.
pub const GAP_WINDOW: Duration = Duration::from_secs(60);
/// Heartbeat gaps remembered for one node: the largest of each of these equal parts of the window.
pub const GAP_BUCKETS: usize = 6;
/// [`NODE_LEASE_MS`] as a duration.
pub const NODE_LEASE: Duration = Duration::from_millis(NODE_LEASE_MS as u64);
/// The clocks of a node and of the coordinator may run apart by one part in this.
pub const LEASE_DRIFT: u32 = 1000;
/// Time between two notes of what targets reported as durable: a disk that goes back by less, while
/// the coordinator restarts, may not be noticed. A thousand busy targets add 16 KB to the log each
/// time.
pub const DURABLE_NOTE_EVERY: Duration = Duration::from_secs(1);
/// Targets in one note of durable positions; the rest follows with the next look.
pub const DURABLE_NOTES_MAX: usize = 4096;
/// Time between two looks of the planner at a map that did not change.
pub const PLAN_EVERY: Duration = Duration::from_millis(500);
/// Time a node has after a coordinator start, on top of a lease, to connect again.
pub const RETURN_TIME: Duration = Duration::from_secs(5);

/// A detector that was not asked for this long may have been stopped itself: the nodes get as long
/// again, up to [`RETURN_TIME`], before their silence counts. Shorter than [`SUSPICION_MIN`].
pub const OWN_PAUSE_MIN: Duration = Duration::from_millis(500);

/// Grace in which the members of a group whose serving set is gone may all return (restart of all).
pub const RESTART_GRACE: Duration = Duration::from_secs(5);
/// Evictions one primary may ask for in one [`EVICT_WINDOW`]: every other member of 64 groups.
pub const EVICTS_PER_PRIMARY_MAX: u32 = 256;
/// Window of [`EVICTS_PER_PRIMARY_MAX`].
pub const EVICT_WINDOW: Duration = Duration::from_secs(10);
/// Time before a target that was evicted on a report, and did not restart, is re-admitted; doubled
/// each time it is evicted again before it was back for as long as it was out, and at least
/// [`READMIT_CALM`].
pub const READMIT_MIN: Duration = Duration::from_secs(2);
/// The longest such time.
pub const READMIT_MAX: Duration = Duration::from_secs(30);
/// Shortest time after its return before an eviction counts as the first one again.
pub const READMIT_CALM: Duration = Duration::from_secs(10);

/// Time between two looks at the speed of targets.
pub const JUDGE_EVERY: Duration = Duration::from_secs(1);
/// Clients that must say that a primary does not answer before another member leads.
pub const WITNESS_CLIENTS: usize = 3;
/// How long an accusation counts.
pub const WITNESS_WINDOW: Duration = Duration::from_secs(5);
/// Witnesses remembered against one target: every other node of a rack, and a few clients.
pub const WITNESSES_PER_TARGET_MAX: usize = 64;
/// Time before a primary that was moved on accusations is moved again.
pub const MOVE_PRIMARY_EVERY: Duration = Duration::from_secs(30);
/// Restarts of a node within [`STORM_WINDOW`] after which it is kept out of its groups for a while,
/// unless configured.
pub const STORM_RESTARTS: u32 = 3;
/// Window in which restarts are counted.
pub const STORM_WINDOW: Duration = Duration::from_secs(600);
/// Time that a node is kept out of its groups after too many restarts.
pub const STORM_PAUSE: Duration = Duration::from_secs(300);

/// Time before a lost replica is copied anew: its target may return, and then lacks little.
pub const HEAL_AFTER: Duration = Duration::from_secs(15);
/// Planned copies that one target sends at once.
pub const COPIES_PER_SOURCE_MAX: usize = 2;
/// Planned copies that one target receives at once.
pub const COPIES_PER_DESTINATION_MAX: usize = 2;
/// Planned copies that the targets of one node send and receive at once.
pub const COPIES_PER_NODE_MAX: usize = 8;
/// A target this full gets no copy, in percent.
pub const FILL_HEAL_MAX_PERCENT: u64 = 92;
/// A target this full gets no group that is moved for balance or a drain, in percent.
pub const FILL_MOVE_MAX_PERCENT: u64 = 85;
/// Targets are even when none has more than this above the mean, in percent.
pub const BALANCED_PERCENT: u64 = 5;
/// Time for which all must be healthy before leads are evened.
pub const CALM_BEFORE_LEADS: Duration = Duration::from_secs(5);
/// Groups that get another primary at once because theirs is slow.
pub const LEADS_AWAY_MAX: usize = 8;
/// Groups that get another primary at once because leads are uneven.
pub const LEADS_EVENED_MAX: usize = 2;
/// When more than this part of all targets, and more than one node, is lost within
/// [`MASS_FAILURE_WINDOW`], nothing is copied, in percent.
pub const MASS_FAILURE_PERCENT: usize = 25;
/// Window of [`MASS_FAILURE_PERCENT`].
pub const MASS_FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// What one target may send for copies when nothing else matters, unless configured, in bytes per
/// second.
pub const RECOVERY_BYTES_PER_S: u64 = 400 << 20;
/// Part of it while a group has one serving member, in percent.
pub const BAND_LAST_PERCENT: u64 = 80;
/// Part of it while a group lacks a replica, in percent.
pub const BAND_HEAL_PERCENT: u64 = 40;
/// Part of it for a drain, in percent.
pub const BAND_DRAIN_PERCENT: u64 = 25;
/// Part of it for balance, in percent.
pub const BAND_REBALANCE_PERCENT: u64 = 10;
/// Part of it for anything else, so that it ends, in percent.
pub const BAND_FLOOR_PERCENT: u64 = 5;

/// A target is slow when its 99th percentile is more than this many times that of its peers.
pub const SLOW_TIMES: u64 = 5;
/// The same for its flushes.
pub const SLOW_FLUSH_TIMES: u64 = 20;
/// Times up to this are never slow, in microseconds.
pub const SLOW_FLOOR_US: u32 = 5_000;
/// A transfer that takes longer makes a target slow at once, in milliseconds.
pub const SLOW_IO_MS: u32 = 2_000;
/// How long a target must look slow before it is marked: within half a minute of its first slow
/// transfer it is avoided and leads nothing.
pub const SLOW_AFTER: Duration = Duration::from_secs(20);
/// How long a marked target must look well before it is unmarked.
pub const SLOW_OVER_AFTER: Duration = Duration::from_secs(60);
/// How long a target must be marked before its groups are moved away.
pub const SICK_AFTER: Duration = Duration::from_secs(60);
/// Time between two targets of one node whose groups are moved away because they are slow.
pub const SICK_PER_NODE_EVERY: Duration = Duration::from_secs(60);
/// Part of all targets that may be marked at once, and always one, in percent.
pub const SLOW_PERCENT_MAX: usize = 25;
/// Part of all targets whose groups may be moved away because they are slow, and always one, in
/// percent.
pub const SICK_PERCENT_MAX: usize = 5;
/// Targets with about as much to do that one is compared with, at least.
pub const SLOW_PEERS_MIN: usize = 2;
/// A report older than this says nothing about speed.
pub const SLOW_REPORT_FRESH: Duration = Duration::from_secs(3);

const _: () =
    assert!(PROPOSAL_BATCH_BYTES + COMMAND_LEN_MAX + PROPOSAL_BATCH_MAX * 64 <= LOG_BATCH_LEN_MAX);
const _: () = assert!(LOG_SEGMENT_LEN_MAX.is_multiple_of(LOG_PAGE as u64));
const _: () = assert!(LOG_BATCH_LEN_MAX.is_multiple_of(LOG_PAGE));
const _: () = assert!(SESSION_EXPIRY_MS > SESSION_LEASE_MS as u64);
const _: () = assert!(NODE_LEASE_MS > 4 * NODE_HEARTBEAT_MS);
const _: () = assert!(protocol::limits::MUTATE_OPS_MAX * 4 <= protocol::limits::SESSION_WINDOW);
