//! The four seams of one simulated process, bundled for the shard.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use node::io::{Clock, Disk, Env, Nanos};

use super::executor::{Executor, ProcessId};
use super::net::SimNet;
use super::rng::SimRng;

/// Virtual time as a shard sees it.
#[derive(Clone)]
pub struct SimClock(pub Executor);

/// Everything a simulated shard needs from outside.
pub struct SimEnv<D: Disk> {
    executor: Executor,
    process: ProcessId,
    disk: Rc<D>,
    net: Rc<SimNet<D>>,
    clock: SimClock,
    rng: SimRng,
}

impl Clock for SimClock {
    fn now(&self) -> Nanos {
        self.0.now()
    }

    fn unix_seconds(&self) -> u64 {
        self.now().as_ms() / 1000
    }

    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }
}

impl<D: Disk> SimEnv<D> {
    /// Bundles the seams of a process.
    pub fn new(
        executor: &Executor,
        process: ProcessId,
        disk: Rc<D>,
        net: Rc<SimNet<D>>,
        rng: SimRng,
    ) -> SimEnv<D> {
        SimEnv {
            executor: executor.clone(),
            process,
            disk,
            net,
            clock: SimClock(executor.clone()),
            rng,
        }
    }
}

impl<D: Disk> Clone for SimEnv<D> {
    fn clone(&self) -> Self {
        SimEnv {
            executor: self.executor.clone(),
            process: self.process,
            disk: Rc::clone(&self.disk),
            net: Rc::clone(&self.net),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
        }
    }
}

impl<D: Disk> Env for SimEnv<D> {
    type Disk = D;
    type Net = SimNet<D>;
    type Clock = SimClock;
    type Rng = SimRng;

    fn disk(&self) -> &Rc<D> {
        &self.disk
    }

    fn net(&self) -> &Rc<SimNet<D>> {
        &self.net
    }

    fn clock(&self) -> &SimClock {
        &self.clock
    }

    fn rng(&self) -> &SimRng {
        &self.rng
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(self.process, task);
    }
}
