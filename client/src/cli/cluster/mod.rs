//! Commands that look at the cluster itself: where bytes are, and whether all is well.

mod df;
mod groups;
mod judge;
mod locate;
mod settle;
mod shards;
mod status;
mod top;
mod verify;

pub(crate) use df::df;
pub(crate) use groups::word as group_word;
pub(crate) use locate::locate;
pub(crate) use shards::{node_word, target_word};
pub(crate) use status::{status, watch};
pub(crate) use top::{parse_interval, top};
pub(crate) use verify::verify;
