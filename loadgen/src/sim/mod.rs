//! The simulator: a whole cluster in one thread, from one seed.
//!
//! Runs the shard, the store, the coordinator's state and the client's plan as they ship; only the
//! seams are replaced. Start reading at [`executor`], then [`net`].

pub mod env;
pub mod executor;
pub mod net;
pub mod rng;
