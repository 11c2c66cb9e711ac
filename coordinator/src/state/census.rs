//! Which contents are dead: handed out once, and no inode has them any more.

use std::collections::BTreeSet;

use protocol::ids::Fid;

use super::codec::key;
use super::inode::{self, Body};
use super::map_rows::for_each;
use super::tally::Tally;
use crate::kv::{KvError, KvRead};

/// The dead ones among these contents.
///
/// A content that was never handed out is not dead but unknown: it may belong to a file that is
/// younger than a backup this table was restored from.
///
/// # Errors
/// [`KvError`] when the table cannot be read.
///
/// # Cost
/// Reads every inode.
pub fn dead_among<R: KvRead>(view: &R, asked: BTreeSet<Fid>) -> Result<BTreeSet<Fid>, KvError> {
    let next = Tally::load(view)?.next_fid;
    let mut dead: BTreeSet<_> = asked.into_iter().filter(|fid| fid.0 < next).collect();
    for_each(view, key::inodes(), |(key, value)| {
        if let Body::File(file) = inode::from_row(key, value)?.body {
            dead.remove(&file.fid);
        }
        Ok(())
    })?;
    Ok(dead)
}
