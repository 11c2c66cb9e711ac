//! The four seams of one simulated process, bundled for the shard.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use node::io::{Clock, Disk, Env, Nanos};

use super::executor::{Executor, ProcessId};
use super::net::SimNet;
use super::rng::SimRng;

/// Parts of a clock rate.
const MILLION: i128 = 1_000_000;

/// Virtual time as the clock of one machine shows it: it may run a little fast or slow.
#[derive(Clone)]
pub struct SimClock {
    executor: Executor,
    /// How much faster than virtual time it runs, in parts per million.
    ppm: i32,
}

impl SimClock {
    /// A clock that runs this many parts per million faster than virtual time.
    pub fn new(executor: &Executor, ppm: i32) -> SimClock {
        SimClock { executor: executor.clone(), ppm }
    }

    /// The time that the clock shows at a virtual time.
    fn shown(&self, at: Nanos) -> Nanos {
        let shown = i128::from(at.0) * (MILLION + i128::from(self.ppm)) / MILLION;
        Nanos(u64::try_from(shown).unwrap_or(u64::MAX))
    }
}

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
        self.shown(self.executor.now())
    }

    fn unix_seconds(&self) -> u64 {
        self.now().as_ms() / 1000
    }

    async fn sleep(&self, duration: Duration) {
        let own = i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX / MILLION);
        let real = own * MILLION / (MILLION + i128::from(self.ppm));
        let real = u64::try_from(real).unwrap_or(u64::MAX);
        // Never early by its own count.
        self.executor.sleep(Duration::from_nanos(real.saturating_add(2))).await;
    }
}

impl<D: Disk> SimEnv<D> {
    /// Bundles the seams of a process.
    pub fn new(
        executor: &Executor,
        (process, clock): (ProcessId, SimClock),
        disk: Rc<D>,
        net: Rc<SimNet<D>>,
        rng: SimRng,
    ) -> SimEnv<D> {
        SimEnv { executor: executor.clone(), process, disk, net, clock, rng }
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
