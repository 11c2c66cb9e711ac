//! How faults end.

use std::time::Duration;

use protocol::ids::NodeId;

use super::Chaos;
use crate::sim::cluster::process_of;
use crate::sim::coordinator::COORDINATOR;
use crate::sim::executor::ProcessId;
use node::io::Nanos;

/// The end of one fault.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mend {
    Start(NodeId),
    Thaw(NodeId),
    Join(ProcessId, ProcessId),
    Notice(ProcessId, ProcessId),
    Hasten(ProcessId, ProcessId),
    StartCoordinator,
    RestartCoordinator,
    ThawCoordinator,
    Undrain(NodeId),
    Disk(NodeId),
}

impl Chaos {
    /// Carries out what is due, in time, until `end`.
    pub(super) fn mend_until(&mut self, end: Nanos) {
        loop {
            let due = self.mends.first_key_value().map(|((at, _), _)| *at);
            let until = due.map_or(end, |at| at.min(end));
            let wait = until.since(self.cluster.executor().now());
            self.cluster.executor().run_until(wait, || false);
            match self.mends.first_entry() {
                Some(entry) if due.is_some_and(|at| at <= end) => {
                    let mend = entry.remove();
                    self.mend(mend);
                }
                _ => return,
            }
        }
    }

    pub(super) fn mend(&mut self, mend: Mend) {
        self.tell(format!("{mend:?}"));
        let fabric = self.cluster.fabric();
        match mend {
            Mend::Start(node) => {
                if self.dead.remove(&node) {
                    self.cluster.start_node(node);
                }
            }
            Mend::Thaw(node) => self.cluster.executor().thaw(process_of(node)),
            Mend::Join(from, to) => {
                let reset = self.rng.below(2) == 0;
                fabric.cuts().join(from, to);
                fabric.rewire(from, to, reset);
            }
            Mend::Notice(one, other) => fabric.notice(one, other),
            Mend::Hasten(from, to) => fabric.cuts().slow_down(from, to, Duration::ZERO),
            Mend::StartCoordinator => self.cluster.coordinator().start_again(),
            Mend::RestartCoordinator => {
                if self.cluster.coordinator().term().is_some() {
                    self.cluster.coordinator().stop();
                    self.cluster.coordinator().start_again();
                }
            }
            Mend::Undrain(node) => self.undrain(node),
            Mend::ThawCoordinator => {
                for node in &self.nodes {
                    fabric.cuts().join(process_of(*node), COORDINATOR);
                    fabric.cuts().join(COORDINATOR, process_of(*node));
                }
                self.cluster.executor().thaw(COORDINATOR);
            }
            Mend::Disk(node) => {
                self.cluster.disk(node).mend();
                self.restart_if_ill(node);
            }
        }
    }

    /// True for a node that only its operator can bring back.
    pub(super) fn needs_restart(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
            && !self.dead.contains(&node)
            && (self.cluster.is_fenced(node) || self.cluster.is_refused(node))
    }

    /// Restarts a node whose target has fenced itself, or that the coordinator does not take.
    pub(super) fn restart_if_ill(&mut self, node: NodeId) {
        if self.needs_restart(node) {
            self.tell(format!("restart {node}"));
            self.cluster.kill_node(node);
            self.cluster.start_node(node);
        }
    }
}
