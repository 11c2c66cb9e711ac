//! The coordinator as a process, over TLS, with clients and nodes that are only connections.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test stops at the first surprise, prints figures, and reads the clock"
)]

mod support;

mod bounds;
mod commands;
mod model;
mod state;

mod access;
mod lookups;
mod metrics;
mod namespace;
mod nodes;
mod operate;
mod process;
mod restart;
mod throughput;
mod words;
mod writing;
