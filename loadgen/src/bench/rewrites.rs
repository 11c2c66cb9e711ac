//! Small durable writes: 64 programs' worth of changes of 16 KiB in place, beside fio with the same
//! pattern on the same disk.

use std::path::Path;

use super::Bench;
use super::process::process_written;
use super::rig::Rig;
use super::rounds::{Rounds, Seen, Side};
use super::table::Row;
use crate::cluster::{StepError, file_error};
use crate::fio::{self, Job};
use crate::load::scenario::{Scenario, Work};
use crate::machine::device::fill;

/// Bytes of one write: a cell.
const BLOCK: u64 = 16 << 10;
/// Writes under way.
const IN_FLIGHT: u32 = 64;
/// Bytes of each of the files that are changed, one for each write under way.
const FILE_BYTES: u64 = 1 << 20;
/// Bytes of fio's file.
const BESIDE_BYTES: u64 = 1 << 30;
/// Each write is a cell and its descriptor; the journal is one more write for a whole batch.
const TRANSFERS: u32 = 2;

/// Measures every row about small writes.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, StepError> {
    let options = ["--replicas", "1", "--target-size", "4GiB"];
    let rig = Rig::start(&bench.folder.join("rewrites"), 1, None, &options)?;
    rig.cluster.run(["mkdir", "/changed"])?;
    let beside = bench.folder.join("beside.bin");
    fill(&beside, BESIDE_BYTES)?;
    let (batch, amplification) = pattern(&rig)?;
    let sides = vec![
        Side::new("ours", |round| {
            let scenario = Scenario { seed: round + 1, ..scenario() };
            let per_s = rig.load("/changed", &scenario)?.per_s;
            Ok(Seen { per_s, eff: f64::NAN })
        }),
        Side::new("fio", |round| fio_writes(&beside, batch, round + 1)),
    ];
    let rounds = Rounds::run(bench.rounds, sides)?;
    std::fs::remove_file(&beside).map_err(file_error(&beside))?;
    let name = format!(
        "16 KiB durable writes, 64 in flight / fio, {batch} writes a flush as they were here"
    );
    Ok(vec![
        Row::at_least(&name, rounds.per_s("ours", "fio"), 0.7, 0.9).of("writes/s"),
        Row::at_most("16 KiB writes: device bytes / user bytes", vec![amplification], 1.5).of("GB"),
    ])
}

fn scenario() -> Scenario {
    Scenario {
        work: Work::Rewrite,
        block: BLOCK,
        file: FILE_BYTES,
        files: IN_FLIGHT,
        at_once: IN_FLIGHT,
        warm_up: 0.2,
        seconds: 1,
        ..Scenario::default()
    }
}

/// Writes that share a flush, and what reaches the device for what was written.
#[expect(clippy::cast_precision_loss, reason = "bytes of seconds")]
fn pattern(rig: &Rig) -> Result<(u32, (f64, f64)), StepError> {
    let (bytes, flushes) = (process_written(rig.pid())?, rig.counter("flushes")?);
    let seen = rig.load("/changed", &Scenario { warm_up: 0.0, seconds: 3, ..scenario() })?;
    let bytes = process_written(rig.pid())? - bytes;
    let flushes = rig.counter("flushes")? - flushes;
    // The files were written first, each byte once and flushed once.
    let files = u64::from(IN_FLIGHT) * FILE_BYTES;
    let flushes = flushes - f64::from(IN_FLIGHT);
    let batch = (seen.succeeded as f64 / flushes.max(1.0)).round().clamp(1.0, 64.0);
    let user = (seen.succeeded * BLOCK) as f64 / 1e9;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 64")]
    let batch = batch as u32;
    Ok((batch, (bytes / 1e9 - files as f64 / 1e9, user)))
}

fn fio_writes(file: &Path, batch: u32, seed: u64) -> Result<Seen, StepError> {
    let job = Job {
        split: Some("16k/50:4k/50"),
        depth: IN_FLIGHT * TRANSFERS,
        range: (0, BESIDE_BYTES),
        seconds: Some(1.0),
        flush_every: Some(batch * TRANSFERS),
        seed,
        ..Job::of("randwrite")
    };
    let measured = fio::measure(file, &job)?;
    Ok(Seen { per_s: measured.per_s / f64::from(TRANSFERS), eff: f64::NAN })
}
