//! Bits are flipped in cells that are in use; all are found by one ordered scrub and repaired.
//!
//! Three nodes hold every chunk. Each flip hits another cell, and each chunk is hit in one container
//! only, so two good copies of it are left. What is counted is what the nodes report, and at the end
//! what `lanefs verify` finds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::load;
use super::plan_of;
use crate::cluster::StepError;
use crate::dice::Dice;
use crate::faults::bar::{Bar, Limit};
use crate::faults::corrupt::{self, Flip};
use crate::faults::lab::Lab;
use crate::faults::menu::Fault;
use crate::faults::scrub::{self, Sample};
use crate::faults::workload::{Pace, Workload};
use crate::faults::{judge, stage};

/// Nodes: as many as replicas.
const NODES: u32 = 3;
/// Size of each target.
const TARGET_SIZE: u64 = 2 << 30;
/// Bytes of files: several times the cells that are hit.
const FILL: u64 = 768 << 20;
/// Cells of one chunk.
const CELLS_PER_CHUNK: u32 = 256;
/// Cells that lose a bit.
const FLIPS: usize = 10_000;

pub(super) fn bars(parent: &Path) -> Result<Vec<Bar>, StepError> {
    let plan = plan_of(NODES, TARGET_SIZE, String::new());
    stage::run(parent, "flips", plan, measure)
}

async fn measure(mut lab: Lab) -> Result<Vec<Bar>, StepError> {
    let (client, mut workload) = load::loaded(&mut lab, pace()).await?;
    let flips = flip(&lab, &workload).await?;
    let samples = scrub::run(&client, flips.len() as u64).await?;
    if let Some(Sample { found, repaired, .. }) = samples.last() {
        println!("one scrub: {found} cells found damaged, {repaired} repaired");
    }
    let bars = figures(&flips, &samples);
    let verified = judge::verify(&lab, &workload, Fault::BitFlips).await?;
    println!("{} replicas verified, 0 missing, 0 failed", verified.replicas);
    workload.stop().await;
    judge::surfaced(&workload, Fault::BitFlips)?;
    lab.end()?;
    Ok(bars)
}

/// Flips a bit in each of many cells, each chunk in one container only, while nothing is written.
async fn flip(lab: &Lab, workload: &Workload) -> Result<Vec<Flip>, StepError> {
    let _rest = workload.rest().await?;
    let mut dice = Dice::new(lab.plan().seed);
    let mut flips = Vec::new();
    for node in 1..=NODES {
        let left = FLIPS - flips.len();
        let share = left / usize::try_from(NODES - node + 1).unwrap_or(1);
        let (ledger, run) = (workload.ledger(), workload.run());
        let wanted = |file, cell| node_of(file, cell) == node;
        let made =
            corrupt::flip_owned(&lab.container(node), ledger, run, share, &mut dice, wanted)?;
        flips.extend(made);
    }
    println!("{} bits flipped in as many cells", flips.len());
    if flips.len() == FLIPS {
        return Ok(flips);
    }
    Err(StepError::Different(format!("only {} cells to flip bits in", flips.len())))
}

/// The node whose copy of a cell's chunk may be hit.
fn node_of(file: u64, cell: u32) -> u32 {
    let chunk = file + u64::from(cell / CELLS_PER_CHUNK);
    1 + u32::try_from(chunk % u64::from(NODES)).unwrap_or(0)
}

fn figures(flips: &[Flip], samples: &[Sample]) -> Vec<Bar> {
    let percent = |count: u64| {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let all = u32::try_from(flips.len()).unwrap_or(u32::MAX);
        f64::from(count) / f64::from(all) * 100.0
    };
    let last = samples.last().copied();
    let mut bars = vec![
        Bar::of("flipped cells found on read or by one ordered scrub", "%")
            .all(Limit::AtLeast(100.0)),
        Bar::of("flipped cells repaired", "%").all(Limit::AtLeast(100.0)),
        Bar::new("longest time from detection to repair", None, Some(60_000)),
    ];
    if let Some(last) = last {
        bars[0].values.push(percent(last.found));
        bars[1].values.push(percent(last.repaired));
    }
    bars[2].values.extend(lag(samples).map(|time| time.as_secs_f64() * 1e3));
    bars
}

/// The longest time until as many cells were repaired as had been found.
fn lag(samples: &[Sample]) -> Option<Duration> {
    let mut found: BTreeMap<u64, Instant> = BTreeMap::new();
    for sample in samples {
        found.entry(sample.found).or_insert(sample.at);
    }
    let repaired = |count: u64| samples.iter().find(|it| it.repaired >= count);
    let lags = found
        .iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, at)| repaired(*count).map(|it| it.at.saturating_duration_since(*at)));
    lags.collect::<Option<Vec<_>>>()?.into_iter().max()
}

fn pace() -> Pace {
    Pace {
        writers: 4,
        readers: 4,
        // Nothing is removed, so what is hit stays in use.
        live_bytes_max: u64::MAX,
        write_rest: Duration::from_millis(500),
        read_rest: Duration::from_millis(5),
        file_bytes_max: 12 << 20,
        fill_bytes: FILL,
        changers: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::now;

    #[test]
    fn the_lag_is_that_of_the_slowest_repair_and_none_when_one_is_missing() {
        let start = now();
        let sample =
            |ms, found, repaired| Sample { at: start + Duration::from_millis(ms), found, repaired };
        let mut samples =
            vec![sample(0, 0, 0), sample(100, 5, 0), sample(200, 9, 5), sample(900, 9, 9)];
        assert_eq!(lag(&samples), Some(Duration::from_millis(700)));
        samples.push(sample(1_000, 10, 9));
        assert_eq!(lag(&samples), None);
    }
}
