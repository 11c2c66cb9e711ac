//! The control core of a simulated node: queues between its shard and the coordinator.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use node::io::{Clock, Nanos};
use node::shard::{Control, ControlEvent, ShardReport};
use protocol::ids::NodeId;
use protocol::message::cluster::TargetReport;

use super::coordinator::{COORDINATOR, SimCoordinator};
use super::cut::Cuts;
use super::env::SimClock;
use super::executor::{Executor, ProcessId};
use super::rng::SimRng;

/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Time between two looks at a coordinator that cannot be reached.
const RECONNECT: Duration = Duration::from_millis(50);
/// Pause after a refused registration.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Longest time a message between node and coordinator takes, in microseconds.
const LATENCY_US_MAX: u64 = 800;

/// A shard's end of the conversation with the control core.
pub struct SimControl {
    executor: Executor,
    node: NodeId,
    process: ProcessId,
    clock: SimClock,
    rng: SimRng,
    cuts: Rc<Cuts>,
    coordinator: SimCoordinator,
    /// True once the coordinator refused this start of the node.
    refused: Cell<bool>,
    /// When the newest report arrives.
    last_arrival: Cell<Nanos>,
    events: RefCell<VecDeque<ControlEvent>>,
    waker: RefCell<Option<Waker>>,
}

impl SimControl {
    /// Makes the control core of a node's process.
    pub fn new(
        executor: &Executor,
        (node, process): (NodeId, ProcessId),
        clock: SimClock,
        rng: SimRng,
        cuts: &Rc<Cuts>,
        coordinator: &SimCoordinator,
    ) -> Rc<SimControl> {
        Rc::new(SimControl {
            executor: executor.clone(),
            node,
            process,
            clock,
            rng,
            cuts: Rc::clone(cuts),
            coordinator: coordinator.clone(),
            refused: Cell::new(false),
            last_arrival: Cell::new(Nanos(0)),
            events: RefCell::new(VecDeque::new()),
            waker: RefCell::new(None),
        })
    }

    /// True once the coordinator refused this start of the node: an older copy of its target, say.
    pub fn refused(&self) -> bool {
        self.refused.get()
    }

    /// Hands an event to the shard.
    pub fn deliver(&self, event: ControlEvent) {
        self.events.borrow_mut().push_back(event);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Registers and sends heartbeats for ever, with each coordinator that starts.
    pub async fn converse(self: Rc<Self>, incarnation: u64, targets: Vec<TargetReport>) {
        loop {
            self.until_reachable(|| {
                self.cuts.parts(self.process, COORDINATOR) || self.coordinator.term().is_none()
            })
            .await;
            let term = self.coordinator.term();
            self.executor.sleep(self.latency()).await;
            if term.is_some() && self.coordinator.term() == term {
                let control = Rc::clone(&self);
                if self.coordinator.register(self.node, incarnation, targets.clone(), &control) {
                    self.beat(term).await;
                } else {
                    self.refused.set(true);
                    self.executor.sleep(REFUSED_PAUSE).await;
                }
            }
        }
    }

    /// Sends heartbeats while the connection lasts.
    async fn beat(&self, term: Option<u64>) {
        loop {
            let sent = self.clock.now();
            let cut = self.silenced();
            self.until_reachable(|| self.silenced()).await;
            self.executor.sleep(self.latency()).await;
            // A connection may or may not outlive a cut.
            if self.coordinator.term() != term || (cut && self.rng.below(2) == 0) {
                return;
            }
            self.coordinator.heartbeat(self.node, sent);
            self.executor.sleep(HEARTBEAT).await;
        }
    }

    async fn until_reachable(&self, unreachable: impl Fn() -> bool) {
        while unreachable() {
            self.executor.sleep(RECONNECT).await;
        }
    }

    /// True while the coordinator hears nothing from here.
    fn silenced(&self) -> bool {
        self.cuts.severs(self.process, COORDINATOR)
    }

    fn latency(&self) -> Duration {
        Duration::from_micros(self.rng.below(LATENCY_US_MAX))
    }

    /// When something that is sent now arrives at the coordinator: never before what was sent
    /// earlier.
    fn arrival(&self) -> Nanos {
        let slow = self.cuts.slowness(self.process, COORDINATOR).as_micros();
        let slow = self.rng.below(u64::try_from(slow).unwrap_or(u64::MAX));
        let own = self.latency() + Duration::from_micros(slow);
        let at = self.executor.now().after(own).max(self.last_arrival.get());
        self.last_arrival.set(at);
        at
    }
}

impl Control for SimControl {
    async fn next(&self) -> ControlEvent {
        loop {
            self.until_reachable(|| self.cuts.severs(COORDINATOR, self.process)).await;
            let event = self.events.borrow_mut().pop_front();
            if let Some(event) = event {
                return event;
            }
            std::future::poll_fn(|context| {
                if !self.events.borrow().is_empty() {
                    return Poll::Ready(());
                }
                *self.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
    }

    fn report(&self, report: ShardReport) -> bool {
        if self.silenced() {
            return false;
        }
        let (executor, coordinator) = (self.executor.clone(), self.coordinator.clone());
        let (arrival, node) = (self.arrival(), self.node);
        let term = coordinator.term();
        self.executor.spawn(self.process, async move {
            executor.until(arrival).await;
            if coordinator.term() == term {
                coordinator.report(node, report);
            } else {
                coordinator.on_late_report();
            }
        });
        true
    }
}
