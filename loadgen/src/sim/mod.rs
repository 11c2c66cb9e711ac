//! The simulator: a whole cluster in one thread, from one seed.
//!
//! Runs the shard, the store, the coordinator's state and the client's plan as they ship; only the
//! seams are replaced. Start reading at [`executor`], then [`cluster`].

pub mod check;
pub mod client;
pub mod cluster;
pub mod control;
pub mod coordinator;
pub mod cut;
pub mod disk;
pub mod env;
pub mod errands;
pub mod executor;
pub mod fault;
pub mod files;
pub mod net;
pub mod overwrite;
pub mod profile;
pub mod rng;
pub mod workload;

pub mod campaign;
pub mod command;
pub mod mark;
pub mod register;
pub mod run;
pub mod tree;
pub mod watch;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Result of whichever future ends first; the other one is dropped.
async fn first<T>(left: impl Future<Output = T>, right: impl Future<Output = T>) -> T {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|context| match left.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(value),
        Poll::Pending => right.as_mut().poll(context),
    })
    .await
}
