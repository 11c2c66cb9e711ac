//! One shard: event, pure step, effects.

pub mod control;

pub use control::{Control, ControlEvent, ShardConfig, ShardReport, Timeouts};
