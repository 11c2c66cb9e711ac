//! The node's part in the cluster: registration, heartbeats, lease, map.
//!
//! Runs on the control executor, which owns no storage. It is the only part of a node that speaks
//! to the coordinator; shards hear from it over the mesh and never wait for it.
//!
//! - [`state`]: what the node knows, pure.
//! - [`outbox`]: what waits for one shard, merged so that it stays bounded, pure.
//! - [`session`]: the conversation with one coordinator.
//! - [`control`]: the executor's main task.

pub mod control;
pub mod outbox;
pub mod session;
pub mod state;
