//! One shard: the single owner of a target, a port and the groups that meet there.
//!
//! An event goes in, [`step::step`] decides without I/O, and its orders ([`effect`]) are carried
//! out at the edge. Owns the connections of its port and those to other members. Knows nothing of
//! other shards of the node: a request for one of them is answered with its port, so no request
//! ever crosses cores.
//!
//! Start reading at [`event`], [`effect`] and [`step`]; the asynchronous edge is `driver` (the
//! loop), `inbound`, `peers` and `carry`.

pub mod budget;
pub mod control;
pub mod effect;
pub mod event;
pub mod heal;
pub mod route;
pub mod state;
pub mod step;
pub mod upkeep;

mod alert;
mod carry;
mod driver;
mod inbound;
mod local_queue;
mod mend;
mod peers;
mod stats;
mod unsent;

use std::rc::Rc;

use crate::io::Env;
use crate::store::Store;

pub use control::{Control, ControlEvent, ShardConfig, ShardReport, Timeouts};
use driver::Driver;
pub use driver::Received;

/// Runs one shard until [`ControlEvent::Shutdown`] is carried out and the store is closed.
///
/// # Durability
/// On return everything that was acknowledged is on media; the container is marked as cleanly
/// closed unless its device failed.
///
/// # Cancel safety
/// Dropping the future is as a crash of the shard: its tasks stop to be driven with the executor.
pub async fn run<E: Env, C: Control>(
    env: E,
    config: ShardConfig,
    store: Rc<Store<E::Disk>>,
    control: Rc<C>,
) {
    let driver = Rc::new(Driver::new(env, config, store, control));
    driver.env.spawn(Rc::clone(&driver.store).run());
    driver.env.spawn(Rc::clone(&driver).accept());
    driver.env.spawn(Rc::clone(&driver).listen());
    driver.env.spawn(Rc::clone(&driver).tick());
    driver.turn().await;
    driver.stop();
    if let Err(error) = driver.store.close().await {
        tracing::error!(target_id = config.target.0, %error, "container was not closed cleanly");
    }
    driver.report_end().await;
}
