//! Ordered rows of bytes: the one kind of table that the coordinator's state is kept in.
//!
//! Knows nothing of what the rows mean. The state is the only writer; snapshots are read on any
//! thread. Invariant: a snapshot shows exactly the rows of some commit, never part of a batch.
//! Start at [`Kv`].

mod engine;
mod memory;
mod noted;
mod overlay;

pub use engine::{Redb, RedbSnapshot};
pub use memory::{Memory, MemorySnapshot};
pub use noted::{Noted, Touched};
pub use overlay::Overlay;

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Reads rows.
pub trait KvRead {
    /// Reads one row.
    ///
    /// # Errors
    /// [`KvError::Engine`] when the table cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Reads rows in ascending order of their keys.
    ///
    /// # Shape
    /// Keys lie in `from..to`; at most `limit` rows.
    ///
    /// # Errors
    /// [`KvError::Engine`] when the table cannot be read.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, KvError>;
}

/// A table that one owner changes, batch by batch.
///
/// Its own reads see the changes of the open batch; snapshots do not.
pub trait Kv: KvRead {
    /// A view of one commit.
    type Snapshot: KvRead + Send + Sync + 'static;

    /// Sets a row in the open batch.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>);

    /// Removes a row in the open batch; no error when it does not exist.
    fn delete(&mut self, key: Vec<u8>);

    /// Makes the open batch visible to snapshots, all of it or nothing.
    ///
    /// # Errors
    /// [`KvError::Engine`]: nothing of the batch is visible; the caller must stop, because what it
    /// has in memory is ahead of the table.
    ///
    /// # Durability
    /// With `durable`, this batch and all before it are on stable media on return. Without, a crash
    /// returns the table to an earlier commit, never to a part of one.
    fn commit(&mut self, durable: bool) -> Result<(), KvError>;

    /// Takes a view of the last commit.
    ///
    /// # Errors
    /// [`KvError::Engine`] when the table cannot be read.
    fn snapshot(&self) -> Result<Self::Snapshot, KvError>;
}

/// Why rows cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The storage engine failed.
    #[error("state table: cannot {operation}: {reason}")]
    Engine {
        /// What was tried.
        operation: &'static str,
        /// What the engine says.
        reason: String,
    },
    /// A row is not what was written.
    #[error("state table: damaged row {key}: {reason}; restore the table or replay the log")]
    Damaged {
        /// The row's key, in hexadecimal.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}
