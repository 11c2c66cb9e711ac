//! The newest figures of every shard.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::{MapVersion, NodeId, TargetId};
use protocol::message::chunk::ShardStatsReply;
use protocol::message::cluster::TargetHealth;
use protocol::metrics::{Sample, Value};

use crate::io::Nanos;

/// What the control executor keeps of each shard; as many as the node has shards.
#[derive(Debug, Default)]
pub struct Figures {
    newest: BTreeMap<TargetId, Newest>,
}

#[derive(Debug)]
struct Newest {
    at: Nanos,
    busy: f64,
    stats: ShardStatsReply,
}

/// Everything that the node's metrics are read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The node.
    pub node: NodeId,
    /// Version of its map.
    pub map_version: MapVersion,
    /// Whether a coordinator has it registered.
    pub registered: bool,
    /// Its shards that have said something, in the order of their targets.
    pub shards: Vec<ShardFigures>,
}

/// What is known of one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardFigures {
    /// How old `stats` is.
    pub age: Duration,
    /// Busy share of its executor between its last two reports, 0 to 1.
    pub busy: f64,
    /// What it counts.
    pub stats: ShardStatsReply,
    /// State of its target.
    pub health: TargetHealth,
}

impl Figures {
    /// Takes note of what a shard said.
    pub fn note(&mut self, now: Nanos, stats: ShardStatsReply) {
        let before = self.newest.get(&stats.target);
        let busy = before.map_or(0.0, |old| stats.activity.busy_since(&old.stats.activity));
        self.newest.insert(stats.target, Newest { at: now, busy, stats });
    }

    /// What is known of every shard, with the health of its target.
    pub fn shards(
        &self,
        now: Nanos,
        health: &BTreeMap<TargetId, TargetHealth>,
    ) -> Vec<ShardFigures> {
        let of_shard = |(target, newest): (&TargetId, &Newest)| ShardFigures {
            age: now.since(newest.at),
            busy: newest.busy,
            stats: newest.stats.clone(),
            health: health.get(target).cloned().unwrap_or_default(),
        };
        self.newest.iter().map(of_shard).collect()
    }
}

impl Source {
    /// One sample for each shard.
    pub fn each(&self, value: fn(&ShardFigures) -> Value) -> Vec<Sample> {
        let sample = |shard: &ShardFigures| Sample::labelled(self.labels(shard), value(shard));
        self.shards.iter().map(sample).collect()
    }

    /// The labels of one shard's samples.
    pub fn labels(&self, shard: &ShardFigures) -> [String; 3] {
        let stats = &shard.stats;
        [self.node.to_string(), stats.shard.to_string(), stats.target.to_string()]
    }
}

#[cfg(test)]
mod tests {
    use protocol::message::activity::ShardActivity;

    use super::*;

    #[test]
    fn the_busy_share_is_that_between_the_last_two_reports_and_reports_grow_old() {
        let stats = |ms: u64, cpu_ms: u64| ShardStatsReply {
            target: TargetId(101),
            activity: ShardActivity {
                clock: Nanos::from_ms(ms),
                cpu_ns: cpu_ms * 1_000_000,
                ..ShardActivity::default()
            },
            ..ShardStatsReply::default()
        };
        let mut figures = Figures::default();
        for (ms, cpu_ms) in [(1000, 900), (2000, 1000), (3000, 1500)] {
            figures.note(Nanos::from_ms(ms), stats(ms, cpu_ms));
        }
        let shards = figures.shards(Nanos::from_ms(3200), &BTreeMap::new());
        assert_eq!(shards.len(), 1, "only the newest is kept");
        assert_eq!((shards[0].busy, shards[0].age), (0.5, Duration::from_millis(200)));
    }
}
