//! Unlinked inodes taken in advance, so that a small file costs one commit: its publication.

use protocol::ids::{Ino, SessionId};
use protocol::limits::RESERVE_MAX;
use protocol::message::namespace::{Entry, NamespaceOp, OpOutcome};
use tokio::sync::Mutex;

use crate::error::Error;
use crate::limits::{RESERVE_FIRST, SMALL_FILE_LEN_MAX};
use crate::session::Mutations;

/// Small inodes at hand, and how many to take next.
///
/// Every directory lays small files out alike in this release, so one stock serves all parents.
#[derive(Default)]
pub(crate) struct Reservations {
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    /// Session the inodes belong to; they end with it.
    session: SessionId,
    small: Vec<Entry>,
    /// Taken last time; doubles, so that a client that makes one file reserves few.
    batch: u32,
}

impl Reservations {
    /// Takes an unlinked inode for a file of about `expect_len` bytes.
    ///
    /// # Cancel safety
    /// Inodes that were reserved and not taken are given back when the session ends.
    pub(crate) async fn take(
        &self,
        mutations: &Mutations,
        session: SessionId,
        parent: Ino,
        expect_len: u64,
    ) -> Result<Entry, Error> {
        if expect_len > SMALL_FILE_LEN_MAX {
            let entries = reserve(mutations, parent, 1, expect_len).await?;
            return entries.into_iter().next().ok_or_else(too_few);
        }
        // Held while the stock is filled: whoever comes meanwhile waits for the same batch.
        let mut stock = self.stock.lock().await;
        if stock.session != session {
            *stock = Stock { session, ..Stock::default() };
        }
        if let Some(entry) = stock.small.pop() {
            return Ok(entry);
        }
        let count = (stock.batch * 2).clamp(RESERVE_FIRST, RESERVE_MAX);
        stock.small = reserve(mutations, parent, count, SMALL_FILE_LEN_MAX).await?;
        stock.batch = count;
        stock.small.pop().ok_or_else(too_few)
    }

    /// Puts back an inode that nothing was written to.
    pub(crate) async fn put_back(&self, session: SessionId, entry: Entry) {
        let mut stock = self.stock.lock().await;
        if stock.session == session {
            stock.small.push(entry);
        }
    }
}

async fn reserve(
    mutations: &Mutations,
    parent: Ino,
    count: u32,
    expect_len: u64,
) -> Result<Vec<Entry>, Error> {
    let what = format!("create in directory {parent}");
    match mutations.run(&what, NamespaceOp::Reserve { parent, count, expect_len }).await? {
        OpOutcome::Reserved(entries) => Ok(entries),
        OpOutcome::Done(_) | OpOutcome::Refused(_) => {
            Err(Error::Protocol { what, detail: "the outcome is of another operation".into() })
        }
    }
}

fn too_few() -> Error {
    Error::Protocol { what: "create".into(), detail: "no inode was reserved".into() }
}
