//! Tails in the open loop: 80 % of what the node can do, each read due at its own time, beside fio at
//! the same rate on the same container. How much longer the 99th percentile is than the median is
//! compared, so that the way over the network does not count against the node, and waiting does.

use super::Bench;
use super::rig::Rig;
use super::rounds::{Rounds, Seen, Side};
use super::table::Row;
use crate::cluster::StepError;
use crate::fio::{self, Job};
use crate::load::outcome::Outcome;
use crate::load::scenario::Scenario;
use crate::stats::median;

/// Part of the knee that is asked for.
const PART: f64 = 0.8;
/// Measurements of the knee.
const KNEES: u32 = 3;
/// The part of the container that is written for certain.
const RANGE: (u64, u64) = (256 << 20, 512 << 20);

/// One size of reads.
struct Size {
    name: &'static str,
    dir: &'static str,
    block: u64,
    /// Reads that are kept running to find the knee.
    at_once: u32,
}

const SIZES: [Size; 2] = [
    Size { name: "1 MiB", dir: "/large", block: 1 << 20, at_once: 4 },
    Size { name: "4 KiB", dir: "/small-cells", block: 4 << 10, at_once: 64 },
];

/// Measures every row about tails.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, StepError> {
    let options = ["--replicas", "1", "--target-size", "4GiB"];
    let rig = Rig::start(&bench.folder.join("tails"), 1, None, &options)?;
    rig.cluster.run(["mkdir", "/large"])?;
    rig.cluster.run(["mkdir", "--cell", "4KiB", "/small-cells"])?;
    let mut rows = Vec::new();
    for size in &SIZES {
        rows.extend(tails(bench, &rig, size)?);
    }
    Ok(rows)
}

fn tails(bench: &Bench<'_>, rig: &Rig, size: &Size) -> Result<Vec<Row>, StepError> {
    let closed = Scenario {
        block: size.block,
        file: 64 << 20,
        files: 16,
        at_once: size.at_once,
        warm_up: 0.3,
        seconds: 1,
        ..Scenario::default()
    };
    let mut knees = Vec::new();
    for seed in 0..KNEES {
        let scenario = Scenario { seed: seed.into(), ..closed.clone() };
        knees.push(rig.load(size.dir, &scenario)?.per_s);
    }
    let rate = median(&knees) * PART;
    let container = rig.container()?;
    let sides = vec![
        Side::new("ours", |round| {
            let (rate, at_once) = (Some(rate), size.at_once * 8);
            let scenario = Scenario { rate, at_once, seed: round + 100, ..closed.clone() };
            let outcome = rig.load(size.dir, &scenario)?;
            Ok(Seen { per_s: tail(&outcome), eff: outcome.ms(0.5) })
        }),
        Side::new("fio", |round| {
            let job = Job {
                block: size.block,
                depth: 256,
                range: RANGE,
                seconds: Some(1.0),
                rate: Some(rate),
                seed: round + 1,
                ..Job::of("randread")
            };
            let measured = fio::measure(&container, &job)?;
            Ok(Seen { per_s: measured.p99_us / measured.p50_us, eff: measured.p50_us / 1e3 })
        }),
    ];
    let rounds = Rounds::run(bench.rounds, sides)?;
    let name =
        format!("{}, open loop at {rate:.0}/s: p99/p50, against fio's at that rate", size.name);
    let medians = format!("{}, the same: medians", size.name);
    Ok(vec![
        Row::at_most(&name, rounds.per_s("ours", "fio"), 1.5),
        Row::shown(&medians, rounds.eff("ours", "fio", 1.0)).of("ms"),
    ])
}

fn tail(outcome: &Outcome) -> f64 {
    outcome.ms(0.99) / outcome.ms(0.5)
}
