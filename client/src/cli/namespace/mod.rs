//! Commands that work on names and attributes only.

mod change;
mod list;
mod remove;
mod show;

pub(crate) use change::{ln, mkdir, mv, touch, truncate};
pub(crate) use list::ls;
pub(crate) use remove::rm;
pub(crate) use show::stat;
