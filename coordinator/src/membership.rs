//! Turns observations of nodes into membership commands. Pure: map, events and time in, commands
//! out; nothing here waits or sends.
//!
//! The commands are proposals made on one version of the map: each names the epoch it was made for,
//! so one that is late is refused and simply made again from the newer map.

use std::collections::BTreeSet;

use protocol::cluster_map::ClusterMap;
use protocol::ids::{NodeId, TargetId};
use protocol::message::cluster::EvictRequest;
use protocol::message::command::Command;

use crate::detector::Nanos;
use crate::state::Settings;

/// Something that bears on who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node gives no sign of life.
    NodeSuspected(NodeId),
    /// A suspected node gave a sign of life in its registered incarnation.
    NodeReturned(NodeId),
    /// A primary asks to remove a member.
    Evict(EvictRequest),
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The newest map.
    pub map: &'a ClusterMap,
    /// What the cluster was made with.
    pub settings: &'a Settings,
    /// Targets whose recovery found less than they had acknowledged: never believed, only synced.
    pub distrusted: &'a BTreeSet<TargetId>,
}

/// What is remembered between plans; lost without harm when the coordinator restarts.
#[derive(Clone, Debug, Default)]
pub struct Membership {}

impl Membership {
    /// Takes note of an event and returns the commands it asks for.
    pub fn handle(&mut self, _view: View<'_>, _now: Nanos, _event: &Event) -> Vec<Command> {
        Vec::new()
    }

    /// Returns the commands that the map asks for; called after each change of the map and at least
    /// twice a second.
    pub fn plan(&mut self, _view: View<'_>, _now: Nanos) -> Vec<Command> {
        Vec::new()
    }
}
