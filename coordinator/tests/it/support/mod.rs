//! A cluster's certificates, a coordinator process, and peers that talk to it.

mod certificates;
mod cluster;
mod node;
mod peer;

pub(crate) use certificates::{Authority, CLUSTER};
pub(crate) use cluster::{Cluster, Running};
pub(crate) use node::FakeNode;
pub(crate) use peer::{CallError, Peer, Raw, hello_request, request};

use std::time::Duration;

/// Longest any test waits for one thing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a future, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long: {what}"),
    }
}
