//! The seams on glommio: the only folder that names the runtime.
//!
//! Rules that hold here, each for a defect of the runtime: the preempt timer is long and no task
//! queue is latency-bound, because a short timer can park an executor for ever; a task that moved
//! many bytes takes its next turn through the reactor, because a task that merely yields keeps the
//! rings from being looked at; nothing is sent or written beyond what was filled, because arena
//! memory is never zeroed.
//!
//! - [`disk`]: the container; `fault_disk`: the same, failing on order, in test builds; `ram_disk`: one
//!   in memory, in builds for measurements.
//! - [`net`], [`link`], [`tls`], `clear`: connections.
//! - [`clock`], [`rng`]: time and randomness.
//! - [`mesh`]: bounded queues between executors.
//! - [`executor`]: one executor on its own thread.
//! - [`admin`]: the port that tells figures.

pub mod admin;
mod clear;
pub mod clock;
pub mod disk;
pub mod executor;
#[cfg(any(test, feature = "fault-disk"))]
pub mod fault_disk;
pub mod link;
pub mod mesh;
pub mod net;
#[cfg(any(test, feature = "ram-disk"))]
pub mod ram_disk;
pub mod rng;
pub mod tls;

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::Timer;

use self::clock::BootClock;
use self::net::GlommioNet;
use self::rng::ShardRng;
use super::{Disk, Env};

/// Everything a shard needs from outside, on glommio.
pub struct GlommioEnv<D: Disk> {
    disk: Rc<D>,
    net: Rc<GlommioNet<D>>,
    clock: BootClock,
    rng: Rc<ShardRng>,
}

impl<D: Disk> GlommioEnv<D> {
    /// Bundles a shard's container and network with a clock and randomness of its own.
    pub fn new(disk: Rc<D>, net: Rc<GlommioNet<D>>, rng: ShardRng) -> GlommioEnv<D> {
        GlommioEnv { disk, net, clock: BootClock, rng: Rc::new(rng) }
    }
}

impl<D: Disk> Clone for GlommioEnv<D> {
    fn clone(&self) -> Self {
        GlommioEnv {
            disk: Rc::clone(&self.disk),
            net: Rc::clone(&self.net),
            clock: self.clock,
            rng: Rc::clone(&self.rng),
        }
    }
}

impl<D: Disk> Env for GlommioEnv<D> {
    type Disk = D;
    type Net = GlommioNet<D>;
    type Clock = BootClock;
    type Rng = ShardRng;

    fn disk(&self) -> &Rc<D> {
        &self.disk
    }

    fn net(&self) -> &Rc<GlommioNet<D>> {
        &self.net
    }

    fn clock(&self) -> &BootClock {
        &self.clock
    }

    fn rng(&self) -> &ShardRng {
        &self.rng
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(task).detach();
    }
}

/// Long enough that a timer made with it is not due when it is first looked at.
const TURN: Duration = Duration::from_micros(2);

/// Gives every other task and the rings a turn.
///
/// The runtime looks at its rings only when no task is runnable, so a task that merely yields and
/// is runnable again at once delays every disk completion of the shard up to the preempt timer.
///
/// # Cancel safety
/// Nothing is lost.
///
/// # Cost
/// One pass of the scheduler loop.
pub async fn take_turn() {
    Timer::new(TURN).await;
}
