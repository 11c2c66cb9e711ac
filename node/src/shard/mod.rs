//! One shard: event, pure step, effects.

pub mod budget;
pub mod control;
pub mod effect;
pub mod event;
pub mod route;
pub mod state;
pub mod step;

use std::rc::Rc;

use crate::io::Env;
use crate::store::Store;

pub use control::{Control, ControlEvent, ShardConfig, ShardReport, Timeouts};

/// Runs one shard until [`ControlEvent::Shutdown`] is carried out and the store is closed.
pub async fn run<E: Env, C: Control>(
    env: E,
    config: ShardConfig,
    store: Rc<Store<E::Disk>>,
    control: Rc<C>,
) {
    let _ = (env, config, store);
    control.report(ShardReport::Stopped);
}
