//! Durable writes: a large file on three replicas, beside a third of what fio writes to the same disk
//! with the same pattern of flushes.

use std::path::Path;

use super::Bench;
use super::process::process_written;
use super::rounds::{Rounds, Seen, Side};
use super::table::Row;
use crate::cluster::{DevCluster, StepError, file_error, now};
use crate::fio;
use crate::machine::device::fill;

/// Bytes of the file.
const FILE_BYTES: u64 = 1 << 30;
/// Replicas, all on one disk.
const REPLICAS: f64 = 3.0;

/// Measures every row about writes.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, StepError> {
    let start = |name: &str, transport: &str| {
        let options = ["--target-size", "4GiB", "--data-transport", transport];
        DevCluster::up(&bench.folder.join(name), 3, &options)
    };
    let (clear, sealed) = (start("clear", "clear")?, start("sealed", "tls")?);
    let (source, beside) = (bench.memory.join("source"), bench.folder.join("fio.bin"));
    fill(&source, FILE_BYTES)?;
    fill(&beside, FILE_BYTES)?;
    for cluster in [&clear, &sealed] {
        // Space that was only reserved is converted by the first write to it.
        put(cluster, &source)?;
    }
    let before = device_bytes(&clear, "node 1")?;
    put(&clear, &source)?;
    let written = device_bytes(&clear, "node 1")? - before;
    let sides = vec![
        Side::new("clear", |_| put(&clear, &source)),
        Side::new("fio", |_| {
            let bytes_per_s = fio::write(&beside, FILE_BYTES)?;
            Ok(Seen { per_s: bytes_per_s / 1e9 / REPLICAS, eff: f64::NAN })
        }),
        Side::new("tls", |_| put(&sealed, &source)),
    ];
    let rounds = Rounds::run(bench.rounds, sides)?;
    std::fs::remove_file(&source).map_err(file_error(&source))?;
    let name = "put, 3 replicas on one disk, durable: throughput / (fio / 3)";
    let amplification = "4 MiB writes: device bytes / user bytes, one node";
    Ok(vec![
        Row::at_least(name, rounds.per_s("clear", "fio"), 0.85, 0.95).of("GB/s"),
        Row::shown("the same over TLS", rounds.per_s("tls", "fio")).of("GB/s"),
        Row::at_most(amplification, vec![(written / 1e9, gigabytes())], 1.02).of("GB"),
    ])
}

/// Stores the file in the place of the one before; gigabytes per second.
fn put(cluster: &DevCluster, source: &Path) -> Result<Seen, StepError> {
    let begun = now();
    cluster.run(["put".as_ref(), source.as_os_str(), "/file".as_ref()])?;
    Ok(Seen { per_s: gigabytes() / begun.elapsed().as_secs_f64(), eff: f64::NAN })
}

/// Bytes that a process of the cluster has had written to devices so far.
fn device_bytes(cluster: &DevCluster, name: &str) -> Result<f64, StepError> {
    let missing = || StepError::Different(format!("{name} does not run"));
    let pid = cluster.pids()?.into_iter().find(|(own, _)| own == name).ok_or_else(missing)?.1;
    process_written(pid)
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a file")]
fn gigabytes() -> f64 {
    FILE_BYTES as f64 / 1e9
}
