//! The control core of a simulated node: queues between its shard and the coordinator.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use node::shard::{Control, ControlEvent, ShardReport};

use super::coordinator::SimCoordinator;
use super::executor::{Executor, ProcessId};
use super::rng::SimRng;

/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Longest time a message between node and coordinator takes, in microseconds.
const LATENCY_US_MAX: u64 = 800;

/// A shard's end of the conversation with the control core.
pub struct SimControl {
    executor: Executor,
    process: ProcessId,
    rng: SimRng,
    coordinator: SimCoordinator,
    events: RefCell<VecDeque<ControlEvent>>,
    waker: RefCell<Option<Waker>>,
}

impl SimControl {
    /// Connects the control core of a process to the coordinator.
    pub fn new(
        executor: &Executor,
        process: ProcessId,
        rng: SimRng,
        coordinator: &SimCoordinator,
    ) -> Rc<SimControl> {
        Rc::new(SimControl {
            executor: executor.clone(),
            process,
            rng,
            coordinator: coordinator.clone(),
            events: RefCell::new(VecDeque::new()),
            waker: RefCell::new(None),
        })
    }

    /// Hands an event to the shard.
    pub fn deliver(&self, event: ControlEvent) {
        self.events.borrow_mut().push_back(event);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Sends heartbeats for ever.
    pub async fn heartbeats(self: Rc<Self>, node: protocol::ids::NodeId) {
        loop {
            let sent = self.executor.now();
            self.executor.sleep(self.latency()).await;
            self.coordinator.heartbeat(node, sent);
            self.executor.sleep(HEARTBEAT).await;
        }
    }

    fn latency(&self) -> Duration {
        Duration::from_micros(self.rng.below(LATENCY_US_MAX))
    }
}

impl Control for SimControl {
    async fn next(&self) -> ControlEvent {
        std::future::poll_fn(|context| match self.events.borrow_mut().pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                *self.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn report(&self, report: ShardReport) -> bool {
        let (executor, coordinator) = (self.executor.clone(), self.coordinator.clone());
        let latency = self.latency();
        self.executor.spawn(self.process, async move {
            executor.sleep(latency).await;
            coordinator.report(report);
        });
        true
    }
}
