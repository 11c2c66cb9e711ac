//! The cluster itself, its nodes and its targets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use protocol::cluster_map::{GroupRecord, NodeRecord, NodeState, TargetRecord, TargetState};
use protocol::guard::{self, Guard};
use protocol::ids::{Ino, NodeId, TargetId};
use protocol::limits::GROUP_MEMBERS_MAX;
use protocol::message::cluster::TargetReport;
use protocol::message::command::{Command, Stamp};
use protocol::status::Status;

use super::history::Changed;
use super::inode::{self, Body, Inode};
use super::map_rows::NodeInfo;
use super::namespace::time_of;
use super::{Outcome, Settings, State, Step, tally};
use crate::kv::Kv;
use crate::limits::{NODES_MAX, TARGETS_PER_NODE_MAX};

impl<K: Kv> State<K> {
    /// Makes the cluster and its root directory; repeating it with the same settings is no error.
    pub(super) fn initialize(&mut self, stamp: Stamp, command: &Command) -> Step<Outcome> {
        let Command::Initialize {
            cluster,
            replicas,
            min_write,
            groups_per_target,
            targets_expected,
            owner,
        } = *command
        else {
            return Err(Status::Internal.into());
        };
        let settings =
            Settings { cluster, replicas, min_write, groups_per_target, targets_expected };
        match self.settings {
            Some(present) if present == settings => return Ok(Outcome::Done),
            Some(_) => return Err(Status::Conflict.into()),
            None => {}
        }
        // One place is kept for a member that is being added.
        let replicas_fit = (1..GROUP_MEMBERS_MAX).contains(&usize::from(replicas));
        if !replicas_fit || !(1..=replicas).contains(&min_write) || groups_per_target == 0 {
            return Err(Status::Invalid.into());
        }
        let now = time_of(stamp);
        let root = Inode {
            mode: 0o755,
            uid: owner.uid,
            gid: owner.gid,
            nlink: 2,
            size: 0,
            mtime: now,
            ctime: now,
            body: Body::Directory { parent: Ino::ROOT, cell_log2: 0 },
        };
        inode::store(&mut self.kv, Ino::ROOT, &root);
        tally::store_settings(&mut self.kv, &settings);
        self.settings = Some(settings);
        self.map.cluster = cluster;
        self.tally.next_ino = Ino::ROOT.0 + 1;
        self.tally.inodes = 1;
        Ok(Outcome::Done)
    }

    /// Takes a node's registration: new targets join, known ones start a new generation.
    pub(super) fn register_node(
        &mut self,
        node: NodeId,
        incarnation: u64,
        address: IpAddr,
        reports: &[TargetReport],
    ) -> Step<Outcome> {
        self.check_registration(node, incarnation, reports)?;
        let draining = self.map.nodes.get(&node).is_some_and(|record| record.draining);
        let record = NodeRecord { id: node, state: NodeState::Up, address, draining };
        let targets: BTreeSet<_> = reports.iter().map(|report| report.target).collect();
        let info = NodeInfo { incarnation, targets: targets.clone() };
        for report in reports {
            self.register_target(node, report);
        }
        if !draining && self.unused(&targets) {
            self.spread();
        }
        let absent = self.map.targets.values_mut().filter(|record| {
            record.node == node
                && matches!(record.state, TargetState::Up | TargetState::Slow)
                && !info.targets.contains(&record.id)
        });
        for record in absent {
            record.state = TargetState::Down;
            self.changed.insert(Changed::Target(record.id));
        }
        let before = self.map.nodes.insert(node, record.clone());
        let known = self.nodes.insert(node, info.clone());
        if before != Some(record) || known != Some(info) {
            self.changed.insert(Changed::Node(node));
        }
        Ok(Outcome::Done)
    }

    /// Marks a node down or up again; its fenced targets stay fenced.
    pub(super) fn set_node_state(&mut self, node: NodeId, up: bool) -> Step<Outcome> {
        let record = self.map.nodes.get_mut(&node).ok_or(Status::NotFound)?;
        let state = match (up, record.state) {
            (true, _) => NodeState::Up,
            (false, _) => NodeState::Down,
        };
        if record.state != state {
            record.state = state;
            self.changed.insert(Changed::Node(node));
        }
        let registered = self.nodes.get(&node).map(|info| info.targets.clone()).unwrap_or_default();
        for target in registered {
            let Some(record) = self.map.targets.get_mut(&target) else { continue };
            let state = match record.state {
                TargetState::Fenced => TargetState::Fenced,
                TargetState::Slow if up => TargetState::Slow,
                _ if up => TargetState::Up,
                _ => TargetState::Down,
            };
            if record.state != state {
                record.state = state;
                self.changed.insert(Changed::Target(target));
            }
        }
        Ok(Outcome::Done)
    }

    /// Notes that a target stopped itself; only a new generation brings it back.
    pub(super) fn fence_target(&mut self, target: TargetId) -> Step<Outcome> {
        let record = self.map.targets.get_mut(&target).ok_or(Status::NotFound)?;
        if record.state != TargetState::Fenced {
            record.state = TargetState::Fenced;
            self.changed.insert(Changed::Target(target));
        }
        Ok(Outcome::Done)
    }

    fn check_registration(
        &self,
        node: NodeId,
        incarnation: u64,
        reports: &[TargetReport],
    ) -> Step<()> {
        let targets: BTreeSet<_> = reports.iter().map(|report| report.target).collect();
        let named = node != NodeId(0) && !targets.contains(&TargetId(0));
        if !named || targets.len() != reports.len() {
            return Err(Status::Invalid.into());
        }
        let full = self.map.nodes.len() >= NODES_MAX && !self.map.nodes.contains_key(&node);
        if full || reports.len() > TARGETS_PER_NODE_MAX {
            return Err(Status::LimitReached.into());
        }
        let reconnects = self.incarnation(node) == Some(incarnation);
        for report in reports {
            let Some(known) = self.map.targets.get(&report.target) else { continue };
            // An older generation is a copy of a target that has moved on; the same generation from
            // another process means that one of the two did not make its start durable.
            let too_old = report.generation < known.generation
                || (report.generation == known.generation && !reconnects);
            if known.node != node || too_old {
                return Err(Status::Conflict.into());
            }
        }
        Ok(())
    }

    fn register_target(&mut self, node: NodeId, report: &TargetReport) {
        let known = self.map.targets.get(&report.target);
        let same = known.is_some_and(|known| known.generation == report.generation);
        let fenced = same && known.is_some_and(|known| known.state == TargetState::Fenced);
        let record = TargetRecord {
            id: report.target,
            node,
            shard: report.shard,
            device: report.device,
            port: report.port,
            generation: report.generation,
            capacity: report.capacity,
            state: match known.map(|known| known.state) {
                _ if fenced => TargetState::Fenced,
                Some(TargetState::Slow) => TargetState::Slow,
                _ => TargetState::Up,
            },
        };
        let changed = known != Some(&record);
        self.map.targets.insert(report.target, record);
        // A process that connects again says again what its recovery found.
        let judged = !same && self.judge(report);
        if judged || changed {
            self.changed.insert(Changed::Target(report.target));
        }
    }

    /// Decides whether a target that registers is believed; true when that changed.
    fn judge(&mut self, report: &TargetReport) -> bool {
        let target = report.target;
        let back = self.went_back(report) || self.forgot_an_epoch(report);
        let alarm = if back {
            self.ledger.rolled_back.insert(target)
        } else {
            report.intact && !self.lacks(target) && self.ledger.rolled_back.remove(&target)
        };
        let lost = guard::holds(Guard::RolledBackDisk) && (back || !report.intact);
        if lost {
            for group in self.ledger.note_loss(target) {
                self.changed.insert(Changed::Group(group));
            }
            return self.ledger.distrusted.insert(target) || alarm;
        }
        self.ledger.distrusted.remove(&target) || alarm
    }

    /// True when the target is to hold a group and does not hold all of it yet.
    pub(super) fn lacks(&self, target: TargetId) -> bool {
        let mut groups = self.map.groups.values();
        groups.any(|group| {
            let place = group.member(target).is_some() || group.evicted.contains(&target);
            place && !self.ledger.holds_everything(group.id, target)
        })
    }

    /// True when none of the targets has or had a place in a group.
    fn unused(&self, targets: &BTreeSet<TargetId>) -> bool {
        let used = |group: &GroupRecord| {
            targets
                .iter()
                .any(|target| group.member(*target).is_some() || group.evicted.contains(target))
        };
        !targets.is_empty() && !self.map.groups.values().any(used)
    }
}
