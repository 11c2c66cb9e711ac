//! The limits of the load generator.

/// Operations of one load that may be outstanding.
pub const LOAD_AT_ONCE_MAX: u32 = 65_536;
/// Files of a working set.
pub const LOAD_FILES_MAX: u32 = 10_000_000;
/// Bytes of one of them.
pub const LOAD_FILE_BYTES_MAX: u64 = 1 << 40;
/// Operations per second of a load with a rate.
pub const LOAD_RATE_MAX: f64 = 1e7;
/// Seconds of a load: a day.
pub const LOAD_SECONDS_MAX: u32 = 86_400;
/// Longest time an operation's duration is told apart from longer ones, in microseconds: 100 s.
pub const LOAD_TIME_MAX_US: u64 = 100_000_000;
/// Part of the operations that may have been begun late by the generator itself, in per cent, before
/// a run is void.
pub const LOAD_LATE_PERCENT_MAX: f64 = 1.0;
/// An operation begun later than this counts as late, in microseconds.
pub const LOAD_LATE_US: u64 = 1_000;
/// Part of its threads' time that the generator may use, in per cent, before a run is void.
pub const LOAD_BUSY_PERCENT_MAX: f64 = 90.0;
/// Errors whose text is kept.
pub const LOAD_ERRORS_KEPT: usize = 8;
/// Processes that one load may be divided among.
pub const LOAD_PARTS_MAX: u32 = 1_024;
