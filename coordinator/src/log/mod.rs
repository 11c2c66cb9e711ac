//! The coordinator's durable log: what was decided, in order.
//!
//! Owns the segment files under `data_dir/log`. Knows nothing of commands: an entry is a term, an
//! index, a kind and bytes. Votes travel in the same stream, so their order against entries is
//! physical. Invariant: when [`Log::append`] or [`Log::save_vote`] has returned, what it was given
//! survives a crash; after an error nothing more is written.
//!
//! Start reading at [`Log`]; `format` is the byte layout, `file` the segments, [`recovery`]
//! what is believed at start.

use std::path::PathBuf;

use protocol::ids::{ClusterId, CoordinatorId};

pub mod file;
pub mod format;
pub mod memory;
mod metered;
pub mod recovery;
#[cfg(test)]
mod tests;

pub use file::FileLog;
pub use memory::MemoryLog;
pub use metered::MeteredLog;

/// Place of an entry: the term in which it was proposed and its position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Position in the log, from 1.
    pub index: u64,
}

/// Whom this coordinator voted for, and in which term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The coordinator that got the vote; 0 for none.
    pub voted_for: CoordinatorId,
    /// True when a quorum has granted it.
    pub committed: bool,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub id: LogId,
    /// What it says.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing; marks the start of a term.
    Noop,
    /// A stamped command in its encoded form.
    Command(Vec<u8>),
    /// The coordinators of the cluster, in their encoded form.
    Membership(Vec<u8>),
}

/// Why the log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The device or file system refused an operation.
    #[error("log {}: {action} failed: {source}; check the device, then start again", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log belongs to another cluster.
    #[error(
        "log segment {} belongs to cluster {found}, this coordinator to {expected}; correct `cluster` or `data_dir`",
        path.display()
    )]
    WrongCluster {
        /// The segment.
        path: PathBuf,
        /// Cluster in the segment.
        found: ClusterId,
        /// Cluster in the configuration.
        expected: ClusterId,
    },
    /// Bytes in the middle of the log are damaged; acknowledged entries would be lost.
    #[error(
        "log segment {} is damaged at byte {offset} ({what}); refusing to start because acknowledged changes would be lost: restore data_dir from a backup",
        path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// First byte that is not believed.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Entries that are needed are not in the log.
    #[error(
        "log {} begins at entry {first} but entry {wanted} is needed; refusing to start: restore data_dir from a backup",
        path.display()
    )]
    Gap {
        /// The folder.
        path: PathBuf,
        /// First entry there is.
        first: u64,
        /// First entry that was asked for.
        wanted: u64,
    },
    /// A batch is longer than the format allows, or its entries are not the next ones.
    #[error("log batch refused: {0}")]
    Batch(&'static str),
    /// An earlier write failed; what the device holds is not known.
    #[error("log is fenced after a failed write; restart the coordinator")]
    Fenced,
}

/// Receives entries in order; an error ends the reading.
pub type Visit<'a, E> = &'a mut dyn FnMut(Entry) -> Result<(), E>;

/// A durable, append-only sequence of entries and votes.
///
/// The shape is what a Raft log store needs: entries carry their term and index, votes are ordered
/// with them, and a caller that has its answer may rely on the bytes.
pub trait Log: Send {
    /// Appends entries as one batch.
    ///
    /// # Shape
    /// The first entry's index is `last().index + 1`, the others follow without a gap; terms never
    /// fall.
    ///
    /// # Errors
    /// [`LogError::Batch`] when the shape does not hold, and then nothing was written. After any
    /// other error the log is fenced: the caller must end the process, because it cannot know what
    /// the device kept.
    ///
    /// # Durability
    /// On return every entry survives a crash.
    fn append(&mut self, entries: &[Entry]) -> Result<(), LogError>;

    /// Records a vote.
    ///
    /// # Errors
    /// As [`Log::append`].
    ///
    /// # Durability
    /// On return the vote survives a crash.
    fn save_vote(&mut self, vote: Vote) -> Result<(), LogError>;

    /// The newest vote.
    fn vote(&self) -> Vote;

    /// Place of the newest entry; index 0 when there never was one.
    fn last(&self) -> LogId;

    /// Passes the entries from `index` on to `visit`, in order.
    ///
    /// # Errors
    /// [`LogError::Gap`] when `index` was purged; an error of `visit`; [`LogError::Io`] and
    /// [`LogError::Corrupt`] when the files changed since they were opened.
    ///
    /// # Cost
    /// One segment is in memory at a time.
    fn read_from<E: From<LogError>>(&self, index: u64, visit: Visit<'_, E>) -> Result<(), E>
    where
        Self: Sized;

    /// Removes entries below `below`, as far as whole segments hold nothing else.
    ///
    /// # Errors
    /// [`LogError::Io`]; the log stays usable, the segment is tried again next time.
    fn purge(&mut self, below: u64) -> Result<(), LogError>;
}
