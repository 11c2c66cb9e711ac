//! One of four nodes that hold 2 GiB each dies and stays away.
//!
//! The cluster must become healthy by itself, say when, use the budget it was given, and have every
//! replica right afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use client::Client;
use coordinator::limits::BAND_HEAL_PERCENT;

use super::load::{self, NODE_BYTES, NODES, TARGET_SIZE};
use super::plan_of;
use crate::cluster::{StepError, now};
use crate::faults::bar::{Bar, Limit};
use crate::faults::inject::seconds;
use crate::faults::lab::Lab;
use crate::faults::menu::Fault;
use crate::faults::workload::Workload;
use crate::faults::{health, judge, stage};

/// What one target may send for copies when nothing else matters, in MiB per second.
const RECOVERY_MIB: u64 = 100;
/// Time between two looks at the status; nodes report four times a second.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A cluster that has not healed after this never will.
const LIMIT: Duration = Duration::from_secs(180);
/// Part of the bytes after which some target may have nothing left to send, in percent.
const PENDING_PERCENT: u64 = 85;
/// Required use of the budget while work is pending, in percent.
const USE_PERCENT: f64 = 80.0;

/// What was copied at some time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    bytes: u64,
}

pub(super) fn bars(parent: &Path) -> Result<Vec<Bar>, StepError> {
    let plan = plan_of(NODES, TARGET_SIZE, format!("recovery = \"{RECOVERY_MIB}MiB\"\n"));
    stage::run(parent, "loss", plan, measure)
}

async fn measure(mut lab: Lab) -> Result<Vec<Bar>, StepError> {
    let (client, mut workload) = load::loaded(&mut lab, load::light(NODE_BYTES)).await?;
    let seen = lose_one(&mut lab, &client, &workload).await?;
    let verified = judge::verify(&lab, &workload, Fault::KillNode).await?;
    println!("verify -r /: {} replicas, 0 missing, 0 failed", verified.replicas);
    workload.stop().await;
    judge::surfaced(&workload, Fault::KillNode)?;
    lab.end()?;
    Ok(seen)
}

async fn lose_one(
    lab: &mut Lab,
    client: &Client,
    workload: &Workload,
) -> Result<Vec<Bar>, StepError> {
    let map = client.refresh_map().await.map_err(judge::failed)?;
    let missing = || StepError::Different("there is no node".to_owned());
    let node = load::fullest(&map).ok_or_else(missing)?;
    let status = client.status().await.map_err(judge::failed)?;
    let held = load::used(&map, &status, load::target_of(node));
    let before = load::copied(&status)
        - status
            .targets
            .iter()
            .find(|health| health.target == load::target_of(node))
            .map_or(0, |health| health.resync_bytes_done);
    lab.node(node)?.kill()?;
    let killed = now();
    let (mut degraded, mut eta, mut samples) = (None, None, Vec::new());
    loop {
        let status = client.status().await.map_err(judge::failed)?;
        let map = client.refresh_map().await.map_err(judge::failed)?;
        let at = now();
        let alive = status.targets.iter().filter(|it| it.target != load::target_of(node));
        let copied: u64 = alive.map(|health| health.resync_bytes_done).sum();
        samples.push(Sample { at, bytes: copied.saturating_sub(before) });
        let is_healthy = health::is_healthy(&map);
        if !is_healthy {
            degraded.get_or_insert(at.duration_since(killed));
        }
        if let Some(left) = status.recovery_eta_s.filter(|left| *left > 0) {
            eta.get_or_insert((at, left));
        }
        if is_healthy && degraded.is_some() {
            break;
        }
        if killed.elapsed() > LIMIT {
            let what = "the cluster to be healthy without a node".to_owned();
            return Err(StepError::Timeout { seconds: LIMIT.as_secs(), what });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    judge::surfaced(workload, Fault::KillNode)?;
    let healed = killed.elapsed();
    let told = eta.map_or("no ETA was shown".to_owned(), |(at, left)| {
        let (shown, end) = (seconds(at.duration_since(killed)), seconds(healed));
        format!("ETA {left} s first shown after {shown}, healthy after {end}")
    });
    println!("node {node} with {} MiB died: {told}", held >> 20);
    Ok(figures(&samples, killed, healed, degraded, eta.is_some()))
}

fn figures(
    samples: &[Sample],
    killed: Instant,
    healed: Duration,
    degraded: Option<Duration>,
    eta: bool,
) -> Vec<Bar> {
    let mut bars = vec![
        Bar::new("a node with 2 GiB dies: degraded after", None, Some(1_500)),
        Bar::new("a node with 2 GiB dies: healthy by itself after", None, Some(180_000)),
        Bar::of("a node with 2 GiB dies: an ETA was shown", "times").all(Limit::AtLeast(1.0)),
        Bar::of("use of the byte budget while copies are pending", "%")
            .all(Limit::AtLeast(USE_PERCENT)),
    ];
    degraded.iter().for_each(|time| bars[0].push(*time));
    bars[1].push(healed);
    bars[2].values.push(f64::from(u8::from(eta)));
    let budget = f64::from(NODES - 1) * mib(RECOVERY_MIB * BAND_HEAL_PERCENT / 100);
    if let Some((from, rate)) = rate(samples) {
        println!(
            "copies began {} after the kill; {:.0} MiB/s of a budget of {:.0} MiB/s",
            seconds(from.duration_since(killed)),
            rate / mib(1),
            budget / mib(1)
        );
        bars[3].values.push(rate / budget * 100.0);
    }
    bars
}

/// Bytes per second from the first copied byte until little is left, and when that began.
fn rate(samples: &[Sample]) -> Option<(Instant, f64)> {
    let all = samples.last()?.bytes;
    let first = samples.iter().find(|sample| sample.bytes > 0)?;
    let end = samples.iter().find(|sample| sample.bytes >= all * PENDING_PERCENT / 100)?;
    let time = end.at.duration_since(first.at).as_secs_f64();
    (time > 0.0).then(|| (first.at, to_f64(end.bytes - first.bytes) / time))
}

fn mib(count: u64) -> f64 {
    to_f64(count << 20)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_counts_from_the_first_byte_until_little_is_left() {
        let start = now();
        let sample = |ms, bytes| Sample { at: start + Duration::from_millis(ms), bytes };
        let samples = [
            sample(0, 0),
            sample(15_000, 0),
            sample(15_100, 100),
            sample(16_100, 1_100),
            sample(17_100, 2_100),
            sample(40_000, 2_200),
        ];
        let (from, bytes_per_s) = rate(&samples).unwrap();
        assert_eq!(from.duration_since(start), Duration::from_millis(15_100));
        assert!((bytes_per_s - 1_000.0).abs() < 1.0, "{bytes_per_s}");
        assert!(rate(&samples[..2]).is_none());
    }
}
