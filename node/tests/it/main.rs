//! Tests of the data node over real sockets, files, executors and processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a test may fail where it stands, and its modules are one program"
)]

mod certificates;
mod clear;
mod fixture;
mod group;
mod handshake;
mod link;
mod membership;
mod mesh;
mod metrics;
mod process;
mod store_basic;
mod store_bounds;
mod store_crash;
mod store_damage;
mod store_files;
mod store_full;
mod store_golden;
mod store_journal;
mod store_keep;
mod store_keep_crash;
mod store_mutation;
mod store_refusals;
mod store_repair;
mod store_scale;
mod store_support;
mod store_workload;
