//! One of four nodes that hold 2 GiB each is emptied while others read and write.

use std::path::Path;
use std::time::Duration;

use client::Client;
use protocol::cluster_map::{ClusterMap, NodeState};
use protocol::ids::NodeId;
use protocol::message::operate::AdminOp;

use super::load::{self, NODE_BYTES, NODES, TARGET_SIZE};
use super::plan_of;
use crate::cluster::{StepError, now, run};
use crate::faults::bar::{Bar, Limit};
use crate::faults::inject::seconds;
use crate::faults::lab::Lab;
use crate::faults::menu::Fault;
use crate::faults::workload::Workload;
use crate::faults::{health, judge, stage};

/// What one target may send for copies when nothing else matters; a drain gets a quarter.
const SETTINGS: &str = "recovery = \"200MiB\"\n";
/// Time between two looks at all groups.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Looks at the map for each one through `lanefs admin group list`.
const LOOKS_PER_LIST: u64 = 100;
/// How soon a node that was stopped must be known to be down, and its lease over.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// A drain that has not ended after this never will.
const LIMIT: Duration = Duration::from_secs(240);

pub(super) fn bars(parent: &Path) -> Result<Vec<Bar>, StepError> {
    let plan = plan_of(NODES, TARGET_SIZE, SETTINGS.to_owned());
    stage::run(parent, "drain", plan, measure)
}

async fn measure(mut lab: Lab) -> Result<Vec<Bar>, StepError> {
    let (client, mut workload) = load::loaded(&mut lab, load::light(NODE_BYTES)).await?;
    let (node, bars) = drain(&lab, &client, &workload).await?;
    // An empty node is forgotten once it cannot join again.
    lab.node(node)?.kill()?;
    let gone = |map: &ClusterMap| !is_up(map, node) && map.groups.values().all(|it| it.mutations);
    health::wait(&mut lab, &client, "the empty node to be gone", GONE_WITHIN, gone).await?;
    client.admin(AdminOp::Remove(NodeId(node))).await.map_err(judge::failed)?;
    judge::verify(&lab, &workload, Fault::KillNode).await?;
    workload.stop().await;
    judge::surfaced(&workload, Fault::KillNode)?;
    lab.end()?;
    Ok(bars)
}

/// Empties the fullest node; which one, and what that showed.
async fn drain(
    lab: &Lab,
    client: &Client,
    workload: &Workload,
) -> Result<(u32, Vec<Bar>), StepError> {
    let map = client.refresh_map().await.map_err(judge::failed)?;
    let missing = || StepError::Different("there is no node".to_owned());
    let node = load::fullest(&map).ok_or_else(missing)?;
    let status = client.status().await.map_err(judge::failed)?;
    let held = load::used(&map, &status, load::target_of(node));
    let (reads, writes) = (workload.reads().count(), workload.writes().count());
    let number = node.to_string();
    run(&mut lab.lanefs(&["admin", "node", "drain", &number])?)?;
    let begun = now();
    let (mut fewest, mut looks, mut shown) = (u64::MAX, 0, false);
    loop {
        let map = client.refresh_map().await.map_err(judge::failed)?;
        fewest = fewest.min(least_serving(&map));
        if load::places(&map, NodeId(node)) == 0 {
            break;
        }
        if looks % LOOKS_PER_LIST == 0 {
            fewest = fewest.min(least_listed(lab)?);
            shown |= eta(client).await?;
        }
        looks += 1;
        if begun.elapsed() > LIMIT {
            let what = format!("node {node} to be empty");
            return Err(StepError::Timeout { seconds: LIMIT.as_secs(), what });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let took = begun.elapsed();
    let errors = workload.ledger().take_errors();
    println!(
        "node {node} with {} MiB was empty after {}, ETA shown {shown}; meanwhile {} reads, {} new files, {} looks",
        held >> 20,
        seconds(took),
        workload.reads().count() - reads,
        workload.writes().count() - writes,
        looks
    );
    errors.iter().take(3).for_each(|error| println!("error: {}", error.text));
    Ok((node, figures(took, fewest, errors.len())))
}

fn figures(took: Duration, fewest: u64, errors: usize) -> Vec<Bar> {
    let small = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let mut bars = vec![
        Bar::new("drain of a node with 2 GiB under load ends after", None, Some(240_000)),
        Bar::of("fewest serving replicas of any group during it", "replicas")
            .all(Limit::AtLeast(3.0)),
        Bar::of("errors during it", "errors").all(Limit::AtMost(0.0)),
    ];
    bars[0].push(took);
    bars[1].values.push(small(fewest));
    bars[2].values.push(small(errors as u64));
    bars
}

/// True while the map has the node up.
fn is_up(map: &ClusterMap, node: u32) -> bool {
    map.nodes.get(&NodeId(node)).is_some_and(|record| record.state == NodeState::Up)
}

fn least_serving(map: &ClusterMap) -> u64 {
    map.groups.values().map(|group| group.serving().count() as u64).min().unwrap_or(0)
}

/// The same, as an operator would see it.
fn least_listed(lab: &Lab) -> Result<u64, StepError> {
    let command = "admin group list --json";
    let text = run(&mut lab.lanefs(&["admin", "group", "list", "--json"])?)?;
    let unexpected = |what: String| StepError::Output { command: command.to_owned(), what };
    let document: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| unexpected(error.to_string()))?;
    let groups = document["groups"].as_array().ok_or_else(|| unexpected("no groups".to_owned()))?;
    let serving = |group: &serde_json::Value| {
        let members = group["members"].as_array()?;
        let serves = |member: &&serde_json::Value| member["role"] != "syncing";
        Some(members.iter().filter(serves).count() as u64)
    };
    Ok(groups.iter().map(|group| serving(group).unwrap_or(0)).min().unwrap_or(0))
}

async fn eta(client: &Client) -> Result<bool, StepError> {
    let status = client.status().await.map_err(judge::failed)?;
    Ok(status.drains.iter().any(|drain| drain.eta_s.is_some_and(|left| left > 0)))
}
