//! Commands that look at the cluster itself: where bytes are, and whether all is well.

mod df;
mod judge;
mod locate;
mod settle;
mod shards;
mod status;
mod verify;

pub(crate) use df::df;
pub(crate) use locate::locate;
pub(crate) use status::status;
pub(crate) use verify::verify;
