//! The `lanefs` command.
//!
//! Owns parsing, what people and programs see, and the transfer of trees between a local file
//! system and lanefs. Knows the cluster only through [`crate::Client`]. Invariant: exit code 0
//! means done, 1 failed with a line for each failure, 2 a wrong command line or configuration;
//! with `--json`, standard output holds one document and nothing else. Start at [`run`].

pub mod admin;
pub mod args;
pub mod calendar;
pub(crate) mod clock;
mod cluster;
mod command;
mod failure;
mod limits;
mod namespace;
pub mod output;
pub mod path;
pub mod place;
mod progress;
mod report;
mod transfer;
mod tree;
pub mod units;

pub use command::run;
pub use failure::Failure;
