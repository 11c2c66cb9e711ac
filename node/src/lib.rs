//! The data node: one shared-nothing shard per core, each with its own target, port and buffers.
//!
//! Decisions are pure ([`group`], [`shard`]); bytes on the device are [`store`]; everything that
//! touches the outside goes through the four seams of [`io`].

pub mod boot;
pub mod cli;
pub mod config;
pub mod container;
pub mod group;
pub mod io;
pub mod limits;
pub mod membership;
pub mod memory;
pub mod metrics;
pub mod probe;
pub mod rpc;
pub mod shard;
pub mod store;
pub mod watchdog;
