//! The newest report of each target, and how fast resync goes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::cluster_map::ClusterMap;
use protocol::ids::{Generation, Lsn, NodeId, TargetId};
use protocol::message::cluster::TargetHealth;
use protocol::time::Nanos;

use crate::limits::{HEALTH_FRESH_MS, RATE_SAMPLES_MAX};
use crate::planner::Reports;

/// Reports of all targets, lost without harm when the coordinator restarts.
#[derive(Debug, Default)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    reports: Reports,
    /// Bytes copied by all targets together since this coordinator started.
    copied: u64,
    samples: VecDeque<(Nanos, u64)>,
}

/// Figures of resync over all targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes still to copy.
    pub bytes_left: u64,
    /// Rate over the last seconds, in bytes per second.
    pub bytes_per_s: u64,
}

impl Health {
    /// Takes note of a report.
    pub fn note(&self, report: TargetHealth, now: Nanos) {
        let mut inner = self.lock();
        let before = inner.reports.get(&report.target).map(|(_, old)| old.resync_bytes_done);
        // A counter that fell is one of a new process and starts at zero.
        let step = match before {
            Some(old) if old <= report.resync_bytes_done => report.resync_bytes_done - old,
            Some(_) => report.resync_bytes_done,
            None => 0,
        };
        inner.copied = inner.copied.saturating_add(step);
        inner.reports.insert(report.target, (now, report));
    }

    /// Remembers how much was copied by now; called once a second.
    pub fn sample(&self, now: Nanos) {
        let mut inner = self.lock();
        let copied = inner.copied;
        inner.samples.push_back((now, copied));
        if inner.samples.len() > RATE_SAMPLES_MAX {
            inner.samples.pop_front();
        }
    }

    /// The newest report of each target, ascending.
    pub fn reports(&self) -> Vec<TargetHealth> {
        self.lock().reports.values().map(|(_, report)| report.clone()).collect()
    }

    /// The newest report of each target and when it came.
    pub fn newest(&self) -> Reports {
        self.lock().reports.clone()
    }

    /// Newest durable positions that a node's targets reported.
    pub fn durable_of(&self, map: &ClusterMap, node: NodeId) -> Vec<(TargetId, Generation, Lsn)> {
        let inner = self.lock();
        let of_node = inner.reports.values().filter_map(|(_, report)| {
            let record = map.targets.get(&report.target).filter(|record| record.node == node)?;
            Some((record.id, record.generation, report.durable_lsn))
        });
        of_node.collect()
    }

    /// What resync has still to do, as live targets say, and its rate.
    pub fn recovery(&self, now: Nanos) -> Recovery {
        let inner = self.lock();
        let fresh = Duration::from_millis(HEALTH_FRESH_MS);
        let live = inner.reports.values().filter(|(at, _)| now.since(*at) <= fresh);
        let bytes_left = live.map(|(_, report)| report.resync_bytes_left).sum();
        // What begins now is not measured over the idle time before it.
        let first = inner.samples.front().map(|(_, copied)| *copied);
        let begin = inner.samples.iter().rev().find(|(_, copied)| Some(*copied) == first);
        let bytes_per_s = begin.map_or(0, |&(at, copied)| {
            let ms = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX).max(1);
            (inner.copied - copied).saturating_mul(1000) / ms
        });
        Recovery { bytes_left, bytes_per_s }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Nanos {
        Nanos(0).after(Duration::from_millis(ms))
    }

    fn report(target: u32, left: u64, done: u64) -> TargetHealth {
        TargetHealth {
            target: TargetId(target),
            durable_lsn: Lsn(1),
            free: 0,
            resync_bytes_left: left,
            resync_bytes_done: done,
            ..TargetHealth::default()
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_samples_and_survives_a_restarted_node() {
        let health = Health::default();
        health.note(report(1, 900, 5_000), at(0));
        health.note(report(2, 50, 100), at(0));
        health.sample(at(0));
        health.note(report(1, 400, 5_500), at(900));
        health.note(report(2, 20, 30), at(900));
        health.sample(at(1000));
        let recovery = health.recovery(at(1000));
        assert_eq!(recovery, Recovery { bytes_left: 420, bytes_per_s: 530 });
        for second in 2..=20 {
            health.sample(at(1000 * second));
        }
        assert_eq!(health.recovery(at(20_000)), Recovery::default());
        assert_eq!(health.reports().len(), 2);
    }

    #[test]
    fn the_rate_of_a_copy_that_just_began_leaves_out_the_idle_time_before_it() {
        let health = Health::default();
        health.note(report(1, 9_000, 0), at(0));
        (0..10).for_each(|second| health.sample(at(1000 * second)));
        health.note(report(1, 8_500, 500), at(9_400));
        assert_eq!(health.recovery(at(9_500)).bytes_per_s, 1_000);
        health.sample(at(10_000));
        health.note(report(1, 7_500, 1_500), at(10_900));
        assert_eq!(health.recovery(at(11_000)).bytes_per_s, 750);
    }
}
