//! What one program gets: a single stream beside eight, and many small files beside one large one.

use std::path::Path;
use std::process::Stdio;

use super::Bench;
use super::rig::Rig;
use super::rounds::{Rounds, Seen, Side};
use super::table::Row;
use crate::cluster::{DevCluster, StepError, file_error, finish, now};
use crate::machine::device::fill;

/// Bytes of the file of one stream.
const FILE_BYTES: u64 = 1 << 30;
/// Programs that read at once.
const STREAMS: u32 = 8;
/// Small files, and the size of each.
const SMALL_FILES: u32 = 10_000;
const SMALL_BYTES: u64 = 100 << 10;
/// Small files of one folder.
const IN_FOLDER: u32 = 1000;

/// Measures both rows.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, StepError> {
    let program = crate::cluster::sibling("lanefs-node-ram-disk")?;
    let options = ["--replicas", "1", "--target-size", "6GiB"];
    let rig = Rig::start(&bench.folder.join("streams"), 1, Some(&program), &options)?;
    let local = bench.memory.join("stream");
    fill(&local, FILE_BYTES)?;
    rig.store(&local, "/one")?;
    std::fs::remove_file(&local).map_err(file_error(&local))?;
    let sides = vec![
        Side::new("one", |_| cat(&rig.cluster, 1)),
        Side::new("eight", |_| cat(&rig.cluster, STREAMS)),
    ];
    let rounds = Rounds::run(bench.rounds, sides)?;
    let streams = Row::at_least(
        "one stream / eight, mem, throughput",
        rounds.per_s("one", "eight"),
        0.7,
        0.9,
    );
    let mut rows = vec![streams.of("GB/s")];
    rows.extend(small_files(bench, &rig)?);
    Ok(rows)
}

/// So many programs read the file at once; gigabytes per second of all of them.
fn cat(cluster: &DevCluster, streams: u32) -> Result<Seen, StepError> {
    let begun = now();
    let mut started = Vec::new();
    for _ in 0..streams {
        let mut command = cluster.command(["cat", "/one"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let spawned = command.spawn();
        started.push(
            spawned
                .map_err(|source| StepError::Start { program: "lanefs cat".to_owned(), source })?,
        );
    }
    started.into_iter().try_for_each(|child| finish(child, "lanefs cat"))?;
    Ok(rate(f64::from(streams) * gigabytes(FILE_BYTES), begun.elapsed().as_secs_f64()))
}

fn small_files(bench: &Bench<'_>, rig: &Rig) -> Result<Vec<Row>, StepError> {
    let (tree, whole) = (bench.memory.join("many"), bench.memory.join("whole"));
    for number in 0..SMALL_FILES {
        let folder = tree.join(format!("{:02}", number / IN_FOLDER));
        if number % IN_FOLDER == 0 {
            std::fs::create_dir_all(&folder).map_err(file_error(&folder))?;
        }
        fill(&folder.join(format!("file-{number}")), SMALL_BYTES)?;
    }
    let bytes = u64::from(SMALL_FILES) * SMALL_BYTES;
    fill(&whole, bytes)?;
    rig.cluster.run(["put".as_ref(), "-r".as_ref(), tree.as_os_str(), "/many".as_ref()])?;
    rig.store(&whole, "/whole")?;
    std::fs::remove_dir_all(&tree).map_err(file_error(&tree))?;
    std::fs::remove_file(&whole).map_err(file_error(&whole))?;
    let path = |number| format!("/many/{:02}/file-{number}", number / IN_FOLDER).into_bytes();
    let many: Vec<Vec<u8>> = (0..SMALL_FILES).map(path).collect();
    let target = bench.memory.join("got");
    let sides = vec![
        Side::new("many", |_| read(rig, many.clone(), bytes)),
        Side::new("whole", |_| read(rig, vec![b"/whole".to_vec()], bytes)),
        Side::new("get many", |_| get(&rig.cluster, &["get", "-r", "/many"], &target, bytes)),
        Side::new("get whole", |_| get(&rig.cluster, &["get", "/whole"], &target, bytes)),
    ];
    let rounds = Rounds::run(bench.rounds, sides)?;
    let name = "read_many of 10,000 files of 100 KiB / one file of the same bytes, mem";
    let row = Row::at_least(name, rounds.per_s("many", "whole"), 0.5, 0.8);
    let shown = Row::shown("the same by get, to memory", rounds.per_s("get many", "get whole"));
    Ok(vec![row.of("GB/s"), shown.of("GB/s")])
}

/// Reads files through the library, on one thread; gigabytes per second.
fn read(rig: &Rig, paths: Vec<Vec<u8>>, bytes: u64) -> Result<Seen, StepError> {
    let begun = now();
    let came = rig.read(paths)?;
    if came != bytes {
        return Err(StepError::Different(format!("{came} bytes came instead of {bytes}")));
    }
    Ok(rate(gigabytes(bytes), begun.elapsed().as_secs_f64()))
}

/// Fetches something to a place in memory and removes it again; gigabytes per second.
fn get(cluster: &DevCluster, words: &[&str], target: &Path, bytes: u64) -> Result<Seen, StepError> {
    let begun = now();
    let words = words.iter().map(AsRef::as_ref).chain([target.as_os_str()]);
    cluster.run(words)?;
    let seconds = begun.elapsed().as_secs_f64();
    let removed = if target.is_dir() {
        std::fs::remove_dir_all(target)
    } else {
        std::fs::remove_file(target)
    };
    removed.map_err(file_error(target))?;
    Ok(rate(gigabytes(bytes), seconds))
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a file")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn rate(amount: f64, seconds: f64) -> Seen {
    Seen { per_s: amount / seconds, eff: f64::NAN }
}
