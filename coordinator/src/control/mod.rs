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
mod storm;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, NodeState};
use protocol::ids::{Generation, GroupId, Lsn, MapVersion, NodeId, TargetId};
use protocol::message::cluster::{EvictRequest, TargetHealth, TargetOrders};
use protocol::message::command::Command;
use protocol::time::Nanos;

use crate::detector::{Detector, Finding};
use crate::limits::{
    DURABLE_NOTE_EVERY, DURABLE_NOTES_MAX, JUDGE_EVERY, NODE_LEASE, PLAN_EVERY,
    RECOVERY_BYTES_PER_S, STORM_RESTARTS,
};
use crate::membership::{self, Membership, Witness};
use crate::planner::{self, Observations, Outlook, Reports, Watch};
use crate::slow;
use crate::state::{Ledger, Settings};
use departures::Departures;
use storm::Storms;

/// What a coordinator process was configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Lease that each heartbeat grants a node.
    pub lease: Duration,
    /// What one target may send for copies when nothing else matters, in bytes per second.
    pub recovery_bytes_per_s: u64,
    /// Restarts of a node in ten minutes after which it is kept out for five; 0 for never.
    pub storm_restarts: u32,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            lease: NODE_LEASE,
            recovery_bytes_per_s: RECOVERY_BYTES_PER_S,
            storm_restarts: STORM_RESTARTS,
        }
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
    /// Somebody cannot reach the primary of a group.
    Unreachable {
        /// The group.
        group: GroupId,
        /// The target that does not answer.
        target: TargetId,
        /// Who says so.
        witness: Witness,
    },
    /// Time passed or the map changed.
    Tick,
}

/// The decisions and what they remember.
#[derive(Clone, Debug)]
pub struct Control {
    tuning: Tuning,
    detector: Detector,
    membership: Membership,
    departures: Departures,
    storms: Storms,
    slow: slow::Judge,
    watch: Watch,
    reports: Reports,
    /// Map version and time of the planner's last look, and of the last look at speed.
    planned: (MapVersion, Nanos),
    judged: Nanos,
    /// When durable positions were noted, and what was noted.
    noted: (Nanos, BTreeMap<TargetId, (Generation, Lsn)>),
}

impl Control {
    /// Starts with the map that a coordinator process starts with.
    pub fn new(map: &ClusterMap, tuning: Tuning, now: Nanos) -> Control {
        let known = map.nodes.values().map(|node| (node.id, node.state != NodeState::Down));
        Control {
            tuning,
            storms: Storms::default(),
            slow: slow::Judge::default(),
            watch: Watch::default(),
            planned: (MapVersion(0), now),
            judged: now,
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
            Event::Unreachable { group, target, witness } => {
                let (group, target, witness) = (*group, *target, *witness);
                let event = membership::Event::Unreachable { group, target, witness };
                self.decide(seen, now, &event)
            }
            Event::Tick => self.tick(seen, now),
        }
    }

    /// True while the node is suspected.
    pub fn suspects(&self, node: NodeId) -> bool {
        self.detector.suspects(node)
    }

    /// What a person should know.
    pub fn outlook(&self, seen: Seen<'_>) -> Outlook {
        let live = self.detector.live();
        planner::outlook(seen.map, &self.observations(seen.ledger, &live))
    }

    /// What is wanted of every target.
    pub fn orders(&self, seen: Seen<'_>) -> BTreeMap<TargetId, TargetOrders> {
        planner::orders(seen.map, seen.ledger, self.tuning.recovery_bytes_per_s)
    }

    fn tick(&mut self, seen: Seen<'_>, now: Nanos) -> Vec<Command> {
        let findings = self.detector.tick(now);
        if !findings.is_empty() {
            return self.on_findings(seen, now, findings);
        }
        self.storms.look(seen.map, self.tuning.storm_restarts, now);
        let (live, held) = (self.detector.live(), self.storms.held());
        // First what belongs to the epochs there are.
        let mut commands = self.departures.settled(seen.map, &self.detector, &self.reports, now);
        commands.extend(self.note_durable(seen.map, now));
        let changes = self.membership.plan(view(seen, &live, &held), now);
        if changes.is_empty() {
            // The planner looks at memberships that nothing is wrong with.
            commands.extend(self.plan(seen, now, &live));
        }
        commands.extend(changes);
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
        let (live, held) = (self.detector.live(), self.storms.held());
        self.membership.handle(view(seen, &live, &held), now, event)
    }

    /// What the planner and the judge of speed ask for, when the map changed or it is time.
    fn plan(&mut self, seen: Seen<'_>, now: Nanos, live: &BTreeSet<NodeId>) -> Vec<Command> {
        let (version, at) = self.planned;
        if version == seen.map.version && now.since(at) < PLAN_EVERY {
            return Vec::new();
        }
        self.planned = (seen.map.version, now);
        self.watch.update(seen.map, now);
        let mut commands = Vec::new();
        if now.since(self.judged) >= JUDGE_EVERY {
            self.judged = now;
            commands = self.slow.look(seen.map, &self.reports, now);
        }
        let actions = planner::plan(seen.map, &self.observations(seen.ledger, live), now);
        commands.extend(actions.iter().filter_map(|action| action.command(seen.map)));
        commands
    }

    fn observations<'a>(
        &'a self,
        ledger: &'a Ledger,
        live: &'a BTreeSet<NodeId>,
    ) -> Observations<'a> {
        let (reports, watch, sick) = (&self.reports, &self.watch, self.slow.sick());
        Observations { reports, live, ledger, watch, sick }
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

fn view<'a>(
    seen: Seen<'a>,
    live: &'a BTreeSet<NodeId>,
    held: &'a BTreeSet<NodeId>,
) -> membership::View<'a> {
    membership::View { map: seen.map, settings: seen.settings, ledger: seen.ledger, live, held }
}
