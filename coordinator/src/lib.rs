//! The coordinator: a replicated state machine and its edges.
//!
//! The namespace, the sessions and the map are exactly the result of applying the log's commands
//! in order. Everything that decides is pure and synchronous; sockets, files, clocks and random
//! bits are in [`log`], [`propose`], [`serve`] and [`timers`]. Nothing is answered before the
//! command behind it is durable in the log.
//!
//! Start reading at [`propose`]: it is where requests become commands.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod limits;

pub mod kv;
pub mod state;

pub mod control;
pub mod detector;
pub mod file_orders;
pub mod membership;
pub mod placement;
pub mod planner;
pub mod slow;

pub mod log;
pub mod metrics;
pub mod propose;
pub mod serve;
pub mod timers;

pub mod clock;
pub mod open_files;
