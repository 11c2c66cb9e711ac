//! Everything the leading coordinator decides about the cluster, as one function of events and time.
//!
//! [`Control::step`] takes what a node or client said, or a tick, and returns the commands that it
//! asks for; the caller proposes them and calls again with a tick when the map changed. Pure: no
//! clock, no network, no randomness; the simulator drives the same code. Invariant: what is
//! remembered here may be lost at any time, because safety rests on the replicated state and on
//! leases that are waited for anew.
//!
//! Drive it like this: every event through `step` in the order of arrival, then `step` with
//! [`Event::Tick`] whenever the map changed and at least ten times a second. All heartbeats that were
//! answered before a tick must have been handed in before it.

mod departures;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, NodeState};
use protocol::ids::{Generation, Lsn, NodeId, TargetId};
use protocol::message::cluster::{EvictRequest, TargetHealth};
use protocol::message::command::Command;
use protocol::time::Nanos;

use crate::detector::{Detector, Finding};
use crate::limits::{DURABLE_NOTE_EVERY, DURABLE_NOTES_MAX, NODE_LEASE};
use crate::membership::{self, Membership};
use crate::state::{Ledger, Settings};
use departures::Departures;

/// What a coordinator process was configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Lease that each heartbeat grants a node.
    pub lease: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { lease: NODE_LEASE }
    }
}

impl Tuning {
    /// The lease as it is told to nodes, in milliseconds.
    pub fn lease_ms(&self) -> u32 {
        u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX)
    }
}

/// The replicated state that decisions are made on.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The newest map.
    pub map: &'a ClusterMap,
    /// What the cluster was made with.
    pub settings: &'a Settings,
    /// What is kept of the cluster beyond the map.
    pub ledger: &'a Ledger,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node registered; its targets are in the map.
    Registered {
        /// The node.
        node: NodeId,
    },
    /// A node gave a sign of life and was granted a lease.
    Heartbeat {
        /// The node.
        node: NodeId,
        /// When it arrived.
        at: Nanos,
        /// What it says about its targets.
        targets: Vec<TargetHealth>,
    },
    /// The connection over which a node registered ended.
    ConnectionLost {
        /// The node.
        node: NodeId,
    },
    /// The host of a node refused a connection to a shard's port.
    Refused {
        /// The node.
        node: NodeId,
    },
    /// A primary asks to remove a member.
    Evict(EvictRequest),
    /// Time passed or the map changed.
    Tick,
}

/// Newest report of each target and when it came.
type Reports = BTreeMap<TargetId, (Nanos, TargetHealth)>;

/// The decisions and what they remember.
#[derive(Clone, Debug)]
pub struct Control {
    detector: Detector,
    membership: Membership,
    departures: Departures,
    reports: Reports,
    /// When durable positions were noted, and what was noted.
    noted: (Nanos, BTreeMap<TargetId, (Generation, Lsn)>),
}

impl Control {
    /// Starts with the map that a coordinator process starts with.
    pub fn new(map: &ClusterMap, tuning: Tuning, now: Nanos) -> Control {
        let known = map.nodes.values().map(|node| (node.id, node.state != NodeState::Down));
        Control {
            detector: Detector::new(known, tuning.lease, now),
            membership: Membership::default(),
            departures: Departures::default(),
            reports: Reports::new(),
            noted: (now, BTreeMap::new()),
        }
    }

    /// Takes note of an event and returns the commands it asks for.
    pub fn step(&mut self, seen: Seen<'_>, now: Nanos, event: &Event) -> Vec<Command> {
        match event {
            Event::Registered { node } => {
                self.detector.registered(*node, now);
                let of_node = |target: TargetId| seen.map.targets.get(&target).map(|it| it.node);
                self.reports.retain(|target, _| of_node(*target) != Some(*node));
                self.tick(seen, now)
            }
            Event::Heartbeat { node, at, targets } => {
                for health in targets {
                    let record = seen.map.targets.get(&health.target);
                    if record.is_some_and(|record| record.node == *node) {
                        self.reports.insert(health.target, (*at, health.clone()));
                    }
                }
                let finding = self.detector.heartbeat(*node, *at);
                self.on_findings(seen, now, finding)
            }
            Event::ConnectionLost { node } => {
                let finding = self.detector.connection_lost(*node, now);
                self.on_findings(seen, now, finding)
            }
            Event::Refused { node } => {
                let finding = self.detector.connect_refused(*node, now);
                self.on_findings(seen, now, finding)
            }
            Event::Evict(request) => {
                self.decide(seen, now, &membership::Event::Evict(request.clone()))
            }
            Event::Tick => self.tick(seen, now),
        }
    }

    /// True while the node is suspected.
    pub fn suspects(&self, node: NodeId) -> bool {
        self.detector.suspects(node)
    }

    fn tick(&mut self, seen: Seen<'_>, now: Nanos) -> Vec<Command> {
        let findings = self.detector.tick(now);
        if !findings.is_empty() {
            return self.on_findings(seen, now, findings);
        }
        let live = self.detector.live();
        let view = view(seen, &live);
        let mut commands = self.membership.plan(view, now);
        commands.extend(self.departures.settled(seen.map, &self.detector, &self.reports, now));
        commands.extend(self.note_durable(seen.map, now));
        commands
    }

    /// A suspicion comes with the new epochs of all groups it touches.
    fn on_findings(
        &mut self,
        seen: Seen<'_>,
        now: Nanos,
        findings: impl IntoIterator<Item = Finding>,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        for finding in findings {
            let event = match finding {
                Finding::Suspected(node) => membership::Event::NodeSuspected(node),
                Finding::Returned(node) => membership::Event::NodeReturned(node),
            };
            commands.extend(self.decide(seen, now, &event));
        }
        commands
    }

    fn decide(&mut self, seen: Seen<'_>, now: Nanos, event: &membership::Event) -> Vec<Command> {
        let live = self.detector.live();
        self.membership.handle(view(seen, &live), now, event)
    }

    /// Keeps what targets reported as durable, when it is time and something changed.
    fn note_durable(&mut self, map: &ClusterMap, now: Nanos) -> Option<Command> {
        let (at, noted) = &mut self.noted;
        if now.since(*at) < DURABLE_NOTE_EVERY {
            return None;
        }
        *at = now;
        let mut targets = Vec::new();
        for (target, (_, health)) in &self.reports {
            let Some(record) = map.targets.get(target) else { continue };
            let durable = (record.generation, health.durable_lsn);
            if targets.len() < DURABLE_NOTES_MAX && noted.get(target) != Some(&durable) {
                noted.insert(*target, durable);
                targets.push((*target, durable.0, durable.1));
            }
        }
        (!targets.is_empty()).then_some(Command::NoteDurable { targets })
    }
}

fn view<'a>(seen: Seen<'a>, live: &'a BTreeSet<NodeId>) -> membership::View<'a> {
    membership::View { map: seen.map, settings: seen.settings, ledger: seen.ledger, live }
}
