//! Integration tests of the client: the library over a cluster that lives in memory, the program,
//! and real clusters on this machine.
//!
//! In memory, time is paused: deadlines and pauses pass as soon as everyone waits, so no test
//! sleeps.

mod bounds;
mod cli_place;
mod cli_usage;
mod cluster;
mod cluster_process;
mod dev_files;
mod editing;
mod files;
mod many;
mod namespace;
