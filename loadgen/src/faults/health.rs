//! Waits for the cluster, within bounds, and notices processes that died by themselves.

use std::time::Duration;

use client::Client;
use protocol::cluster_map::ClusterMap;
use protocol::ids::TargetId;

use super::lab::Lab;
use crate::cluster::{StepError, now};

/// Pause between two looks at the map.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait for one answer of the coordinator.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Longest wait for a cluster to be healthy again.
const HEAL_LIMIT: Duration = Duration::from_secs(120);

/// Waits until every group has all its replicas, with the incarnations that run now.
///
/// A node that was started since the last such wait must have registered anew: until then the map
/// may show what was before it died.
///
/// # Errors
/// [`StepError`] when that takes too long, or a process ended by itself.
pub async fn healthy(lab: &mut Lab, client: &Client) -> Result<Duration, StepError> {
    let restarted = lab.take_started();
    let before = client.map().await.map_err(super::judge::failed)?;
    let holds = |map: &ClusterMap| {
        let is_new = |node: &u32| {
            let target = TargetId(node * 100 + 1);
            let generation = |map: &ClusterMap| map.targets.get(&target).map(|one| one.generation);
            generation(map) > generation(&before)
        };
        is_healthy(map) && restarted.iter().all(is_new)
    };
    wait(lab, client, "every group to be healthy", HEAL_LIMIT, holds).await
}

/// Waits until a condition on the map holds; how long that took.
///
/// # Errors
/// As [`healthy`].
pub async fn wait(
    lab: &mut Lab,
    client: &Client,
    what: &str,
    limit: Duration,
    holds: impl Fn(&ClusterMap) -> bool,
) -> Result<Duration, StepError> {
    let begun = now();
    loop {
        let answer = tokio::time::timeout(ANSWER_WITHIN, client.refresh_map()).await;
        if let Ok(Ok(map)) = &answer
            && holds(map)
        {
            return Ok(begun.elapsed());
        }
        if let Some(death) = lab.deaths().into_iter().next() {
            return Err(StepError::Different(death));
        }
        if begun.elapsed() > limit {
            let state = match answer {
                Ok(Ok(map)) => describe(&map),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the coordinator does not answer".to_owned(),
            };
            let what = format!("{what} ({state})");
            return Err(StepError::Timeout { seconds: limit.as_secs(), what });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// True when every group has all its replicas.
pub fn is_healthy(map: &ClusterMap) -> bool {
    let current = |target: TargetId, generation| {
        map.targets.get(&target).is_some_and(|target| target.generation == generation)
    };
    !map.groups.is_empty()
        && map.groups.values().all(|group| {
            group.healthy()
                && group.serving().all(|member| current(member.target, member.generation))
        })
}

/// True when no group has the target among those that serve.
pub fn is_evicted(map: &ClusterMap, target: TargetId) -> bool {
    let serves = |target| move |member: &protocol::cluster_map::Member| member.target == target;
    !map.groups.values().any(|group| group.serving().any(serves(target)))
}

fn describe(map: &ClusterMap) -> String {
    let groups = || map.groups.values();
    let unwell: Vec<String> = groups()
        .filter(|group| !group.healthy())
        .take(3)
        .map(|group| {
            let members: Vec<String> = group
                .members
                .iter()
                .map(|member| format!("{} {:?}", member.target, member.role))
                .collect();
            let (id, epoch, active) = (group.id, group.epoch, group.active);
            format!("group {id} epoch {epoch} active {active}: {}", members.join(", "))
        })
        .collect();
    let count = groups().filter(|group| group.healthy()).count();
    format!("{count} of {} groups healthy; {}", map.groups.len(), unwell.join("; "))
}
