//! Lookups and listings on a snapshot, on any thread.

use protocol::message::command::Caller;
use protocol::message::namespace::{Entry, PathQuery, ReadDirReply, ReadDirRequest};
use protocol::status::Status;

use crate::kv::{KvError, KvRead};

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It does not exist, or the caller may not reach it.
    #[error("{0}")]
    Refused(Status),
    /// The rows cannot be read: log it, answer [`ReadError::status`].
    #[error(transparent)]
    Table(#[from] KvError),
}

impl ReadError {
    /// What the asker is told.
    pub fn status(&self) -> Status {
        match self {
            ReadError::Refused(status) => *status,
            ReadError::Table(_) => Status::Internal,
        }
    }
}

/// Resolves one path.
pub fn lookup<R: KvRead>(
    _view: &R,
    _caller: &Caller,
    _query: &PathQuery,
) -> Result<Entry, ReadError> {
    Err(ReadError::Refused(Status::NotReady))
}

/// Reads one page of a directory.
pub fn read_dir<R: KvRead>(
    _view: &R,
    _caller: &Caller,
    _request: &ReadDirRequest,
) -> Result<ReadDirReply, ReadError> {
    Err(ReadError::Refused(Status::NotReady))
}
