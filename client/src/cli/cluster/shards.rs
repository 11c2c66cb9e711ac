//! Asks the shards that own targets about themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, NodeRecord, NodeState, TargetState};
use protocol::ids::TargetId;
use protocol::message::chunk::ShardStatsReply;
use tokio::task::JoinSet;

use crate::Client;
use crate::cli::limits::STATS_IN_FLIGHT;

/// How long one shard may take to answer; one that is slower is shown without its counters.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What each shard says that the map calls alive; one that does not answer is left out.
pub(super) async fn ask(
    client: &Client,
    map: &ClusterMap,
    targets: impl IntoIterator<Item = TargetId>,
) -> BTreeMap<TargetId, ShardStatsReply> {
    let mut waiting: Vec<TargetId> =
        targets.into_iter().filter(|&target| is_alive(map, target)).collect();
    let mut asking = JoinSet::new();
    let mut answers = BTreeMap::new();
    loop {
        while asking.len() < STATS_IN_FLIGHT
            && let Some(target) = waiting.pop()
        {
            let client = client.clone();
            asking.spawn(async move {
                let asked = tokio::time::timeout(ANSWER_WITHIN, client.shard_stats(target)).await;
                asked.ok().and_then(Result::ok).map(|stats| (target, stats))
            });
        }
        match asking.join_next().await {
            Some(answer) => answers.extend(answer.ok().flatten()),
            None => return answers,
        }
    }
}

/// The state of a node in one word.
pub(crate) fn node_word(node: &NodeRecord) -> &'static str {
    match node.state {
        NodeState::Down => "down",
        NodeState::Up if node.draining => "draining",
        NodeState::Up => "up",
    }
}

/// The state of a target in one word.
pub(crate) fn target_word(state: TargetState) -> &'static str {
    match state {
        TargetState::Up => "up",
        TargetState::Down => "down",
        TargetState::Fenced => "fenced",
        TargetState::Slow => "slow",
    }
}

fn is_alive(map: &ClusterMap, target: TargetId) -> bool {
    map.targets.get(&target).is_some_and(|target| {
        matches!(target.state, TargetState::Up | TargetState::Slow)
            && map.nodes.get(&target.node).is_some_and(|node| node.state != NodeState::Down)
    })
}
