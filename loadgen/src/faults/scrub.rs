//! Orders a scrub and watches what comes of it.

use std::time::{Duration, Instant};

use client::Client;
use protocol::message::cluster::TargetHealth;
use protocol::message::operate::AdminOp;

use super::judge;
use crate::cluster::{StepError, now};

/// Time between two looks at what was found and repaired.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A scrub that has not ended, or a repair that has not been made, after this never will.
const LIMIT: Duration = Duration::from_secs(180);

/// What all targets together had found and repaired at some time, since each of them started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When.
    pub at: Instant,
    /// Cells found damaged.
    pub found: u64,
    /// Cells repaired.
    pub repaired: u64,
}

/// Orders a scrub and watches until it is done and nothing damaged is left, or `enough` cells were
/// repaired. At least one sample.
///
/// # Errors
/// [`StepError::Timeout`] says how far it came.
pub(super) async fn run(client: &Client, enough: u64) -> Result<Vec<Sample>, StepError> {
    client.admin(AdminOp::Scrub).await.map_err(judge::failed)?;
    let begun = now();
    let (mut samples, mut done_at) = (Vec::new(), None);
    loop {
        let status = client.status().await.map_err(judge::failed)?;
        let sum = |of: fn(&TargetHealth) -> u64| status.targets.iter().map(of).sum::<u64>();
        let (found, repaired) = (sum(|it| it.cells_damaged), sum(|it| it.cells_repaired));
        samples.push(Sample { at: now(), found, repaired });
        let is_done = status.targets.iter().all(|it| it.scrub_pass >= status.scrub_pass);
        if is_done && done_at.is_none() {
            done_at = Some(begun.elapsed());
        }
        // A report may be older than what it will say next.
        let settled = done_at.is_some_and(|at| begun.elapsed() > at + Duration::from_secs(1));
        if settled && (repaired >= enough || sum(|it| it.cells_bad) == 0) {
            return Ok(samples);
        }
        if begun.elapsed() > LIMIT {
            let what = format!("the scrub; {found} cells found, {repaired} repaired");
            return Err(StepError::Timeout { seconds: LIMIT.as_secs(), what });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Cells that all targets together have found damaged since each of them started.
///
/// # Errors
/// [`StepError`] when the coordinator does not answer.
pub(super) async fn found(client: &Client) -> Result<u64, StepError> {
    let status = client.status().await.map_err(judge::failed)?;
    Ok(status.targets.iter().map(|target| target.cells_damaged).sum())
}
