//! Targets that answer, but much slower than their peers. Pure: reports and time in.
//!
//! A slow target makes every write of its groups slow, because all members must have it. It is
//! compared with others that do about as much, so that a busy one is not taken for a sick one. The
//! steps: it is marked, readers avoid it and it loses its primaries; if that lasts, its groups are
//! moved away. Both are limited in number and time, so that a load that slows everything marks few.
//! It is unmarked after it was as fast as the others for a while.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::{ClusterMap, TargetState};
use protocol::guard::{self, Guard};
use protocol::ids::{NodeId, TargetId};
use protocol::message::cluster::TargetHealth;
use protocol::message::command::Command;
use protocol::time::Nanos;

use crate::limits::{
    SICK_AFTER, SICK_PER_NODE_EVERY, SICK_PERCENT_MAX, SLOW_AFTER, SLOW_FLOOR_US, SLOW_FLUSH_TIMES,
    SLOW_IO_MS, SLOW_OVER_AFTER, SLOW_PEERS_MIN, SLOW_PERCENT_MAX, SLOW_REPORT_FRESH, SLOW_TIMES,
};
use crate::planner::Reports;

/// What is remembered of slow targets; lost without harm.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    /// Since when a target has looked slow without a break.
    slow_since: BTreeMap<TargetId, Nanos>,
    /// Since when a marked target has looked well without a break.
    well_since: BTreeMap<TargetId, Nanos>,
    /// Marked targets, and since when.
    marked: BTreeMap<TargetId, Nanos>,
    /// Marked targets whose groups are moved away.
    sick: BTreeSet<TargetId>,
    /// When a target of the node became sick last.
    sickened: BTreeMap<NodeId, Nanos>,
}

impl Judge {
    /// Looks at the newest reports and returns the marks to set and to take away.
    pub fn look(&mut self, map: &ClusterMap, reports: &Reports, now: Nanos) -> Vec<Command> {
        let fresh = fresh(map, reports, now);
        let known = |target: &TargetId| map.targets.contains_key(target);
        self.slow_since.retain(|target, _| known(target));
        self.well_since.retain(|target, _| known(target));
        let mut commands = Vec::new();
        for record in map.targets.values() {
            let (id, slow) = (record.id, looks_slow(&fresh, record.id));
            match record.state {
                TargetState::Up => {
                    self.marked.remove(&id);
                    self.sick.remove(&id);
                    if self.lasts(id, slow, now) && self.may_mark(map) {
                        self.marked.insert(id, now);
                        commands.push(Command::SetTargetSlow { target: id, slow: true });
                    }
                }
                TargetState::Slow => {
                    self.marked.entry(id).or_insert(now);
                    if self.is_over(id, slow.is_some(), fresh.contains_key(&id), now) {
                        commands.push(Command::SetTargetSlow { target: id, slow: false });
                    } else {
                        self.sicken(map, id, record.node, now);
                    }
                }
                TargetState::Down | TargetState::Fenced => {
                    self.slow_since.remove(&id);
                }
            }
        }
        commands
    }

    /// Targets whose groups are moved away.
    pub fn sick(&self) -> &BTreeSet<TargetId> {
        &self.sick
    }

    /// True when a target has looked slow for long enough, or hangs.
    fn lasts(&mut self, target: TargetId, slow: Option<Slowness>, now: Nanos) -> bool {
        let Some(slow) = slow else {
            self.slow_since.remove(&target);
            return false;
        };
        let since = *self.slow_since.entry(target).or_insert(now);
        slow == Slowness::Hangs || now.since(since) >= SLOW_AFTER
    }

    fn is_over(&mut self, target: TargetId, slow: bool, reports: bool, now: Nanos) -> bool {
        if slow || !reports {
            self.well_since.remove(&target);
            return false;
        }
        let since = *self.well_since.entry(target).or_insert(now);
        let over = now.since(since) >= SLOW_OVER_AFTER;
        if over {
            self.well_since.remove(&target);
            self.slow_since.remove(&target);
        }
        over
    }

    fn may_mark(&self, map: &ClusterMap) -> bool {
        self.marked.len() < (map.targets.len() * SLOW_PERCENT_MAX / 100).max(1)
    }

    fn sicken(&mut self, map: &ClusterMap, target: TargetId, node: NodeId, now: Nanos) {
        let marked = self.marked.get(&target).copied().unwrap_or(now);
        let most = (map.targets.len() * SICK_PERCENT_MAX / 100).max(1);
        let lately =
            self.sickened.get(&node).is_some_and(|at| now.since(*at) < SICK_PER_NODE_EVERY);
        let limited = guard::holds(Guard::EvictionRate) && (self.sick.len() >= most || lately);
        if now.since(marked) >= SICK_AFTER && !self.sick.contains(&target) && !limited {
            self.sick.insert(target);
            self.sickened.insert(node, now);
        }
    }
}

/// How a target is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slowness {
    /// A transfer does not end.
    Hangs,
    /// Its transfers or flushes take long.
    Lags,
}

fn looks_slow(fresh: &BTreeMap<TargetId, &TargetHealth>, target: TargetId) -> Option<Slowness> {
    let own = fresh.get(&target)?;
    if own.oldest_io_ms > SLOW_IO_MS {
        return Some(Slowness::Hangs);
    }
    let similar = |other: &u32| *other / 4 <= own.device_ops && own.device_ops / 4 <= *other;
    let peers = fresh.iter().filter(|(id, peer)| **id != target && similar(&peer.device_ops));
    let peers: Vec<_> = peers.map(|(_, peer)| *peer).collect();
    if peers.len() < SLOW_PEERS_MIN {
        return None;
    }
    let device = median(peers.iter().map(|peer| peer.device_p99_us));
    let flush = median(peers.iter().map(|peer| peer.flush_p99_us));
    let lags = exceeds(own.device_p99_us, device, SLOW_TIMES)
        || exceeds(own.flush_p99_us, flush, SLOW_FLUSH_TIMES);
    lags.then_some(Slowness::Lags)
}

fn exceeds(own_us: u32, others_us: u32, times: u64) -> bool {
    own_us > SLOW_FLOOR_US && u64::from(own_us) > u64::from(others_us) * times
}

fn median(values: impl Iterator<Item = u32>) -> u32 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn fresh<'a>(
    map: &ClusterMap,
    reports: &'a Reports,
    now: Nanos,
) -> BTreeMap<TargetId, &'a TargetHealth> {
    let serves = |target| crate::placement::up(map, target);
    let fresh = reports
        .iter()
        .filter(|(target, (at, _))| serves(**target) && now.since(*at) <= SLOW_REPORT_FRESH);
    fresh.map(|(target, (_, report))| (*target, report)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::cluster_map::{NodeRecord, NodeState};

    use super::*;
    use crate::placement::fixture;

    const SECOND: Duration = Duration::from_secs(1);

    struct Cluster {
        map: ClusterMap,
        reports: Reports,
        judge: Judge,
        now: Nanos,
    }

    impl Cluster {
        fn new(nodes: u32) -> Cluster {
            let mut map = ClusterMap::default();
            for id in 1..=nodes {
                let node = NodeRecord { state: NodeState::Up, ..fixture::node(id) };
                map.nodes.insert(node.id, node);
                map.targets.insert(TargetId(id), fixture::target(id, id));
            }
            Cluster { map, reports: Reports::new(), judge: Judge::default(), now: Nanos(0) }
        }

        /// One second in which the targets report what `health` says.
        fn second(&mut self, health: impl Fn(u32) -> TargetHealth) {
            self.now = self.now.after(SECOND);
            for id in self.map.targets.keys() {
                self.reports.insert(*id, (self.now, health(id.0)));
            }
            for command in self.judge.look(&self.map, &self.reports, self.now) {
                let Command::SetTargetSlow { target, slow } = command else {
                    panic!("{command:?}")
                };
                let state = if slow { TargetState::Slow } else { TargetState::Up };
                self.map.targets.get_mut(&target).unwrap().state = state;
            }
        }

        fn seconds(&mut self, count: u64, health: impl Fn(u32) -> TargetHealth + Copy) {
            (0..count).for_each(|_| self.second(health));
        }

        fn slow(&self) -> Vec<u32> {
            let slow = self.map.targets.values().filter(|it| it.state == TargetState::Slow);
            slow.map(|target| target.id.0).collect()
        }
    }

    /// Everyone takes 10 ms for 100 transfers; those below `slow` take `us`.
    fn health(id: u32, slow: u32, us: u32) -> TargetHealth {
        let device_p99_us = if id < slow { us } else { 10_000 };
        TargetHealth { device_p99_us, device_ops: 100, ..TargetHealth::default() }
    }

    #[test]
    fn a_target_much_slower_than_its_peers_is_marked_and_later_unmarked() {
        let mut cluster = Cluster::new(5);
        cluster.seconds(SLOW_AFTER.as_secs(), |id| health(id, 2, 60_000));
        assert_eq!(cluster.slow(), []);
        cluster.second(|id| health(id, 2, 60_000));
        assert_eq!(cluster.slow(), [1]);
        cluster.seconds(SLOW_OVER_AFTER.as_secs(), |id| health(id, 0, 0));
        assert_eq!(cluster.slow(), [1], "it was well for a short time only");
        cluster.second(|id| health(id, 0, 0));
        assert_eq!(cluster.slow(), []);
    }

    #[test]
    fn a_busy_target_is_not_compared_with_idle_ones_and_a_fast_one_never_marked() {
        let mut cluster = Cluster::new(5);
        let busy = |id| TargetHealth {
            device_ops: if id == 1 { 5000 } else { 100 },
            ..health(id, 2, 60_000)
        };
        cluster.seconds(SLOW_AFTER.as_secs() * 2, busy);
        assert_eq!(cluster.slow(), []);
        let fast = |id| TargetHealth {
            device_p99_us: if id == 1 { SLOW_FLOOR_US } else { 1 },
            ..health(id, 0, 0)
        };
        cluster.seconds(SLOW_AFTER.as_secs() * 2, fast);
        assert_eq!(cluster.slow(), []);
    }

    #[test]
    fn a_transfer_that_does_not_end_marks_at_once() {
        let mut cluster = Cluster::new(5);
        cluster.second(|id| TargetHealth {
            oldest_io_ms: if id == 3 { SLOW_IO_MS + 1 } else { 0 },
            ..TargetHealth::default()
        });
        assert_eq!(cluster.slow(), [3]);
    }

    #[test]
    fn a_load_that_slows_everything_marks_few_and_empties_fewer() {
        let mut cluster = Cluster::new(40);
        let hang = |_| TargetHealth { oldest_io_ms: SLOW_IO_MS + 1, ..TargetHealth::default() };
        cluster.seconds(SICK_AFTER.as_secs() + 2, hang);
        assert_eq!(cluster.slow().len(), 40 * SLOW_PERCENT_MAX / 100);
        assert_eq!(cluster.judge.sick().len(), 40 * SICK_PERCENT_MAX / 100);
    }

    #[test]
    fn one_target_of_a_node_is_emptied_at_a_time() {
        let mut cluster = Cluster::new(40);
        for target in cluster.map.targets.values_mut() {
            target.node = NodeId(1);
        }
        let hang = |_| TargetHealth { oldest_io_ms: SLOW_IO_MS + 1, ..TargetHealth::default() };
        cluster.seconds(SICK_AFTER.as_secs() + 2, hang);
        assert_eq!(cluster.judge.sick().len(), 1);
        cluster.seconds(SICK_PER_NODE_EVERY.as_secs(), hang);
        assert_eq!(cluster.judge.sick().len(), 2);
    }
}
