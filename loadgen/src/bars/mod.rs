//! The bars of the first release, measured beside their limits in one run.
//!
//! Ratios alternate the order of the two sides and take the median, because the machines this runs
//! on are noisy. The table ends with `N of M bars met`.

#![expect(clippy::print_stdout, reason = "the table is the result")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{
    DevCluster, StepError, cpu_seconds, file_error, finish, now, resident_bytes, wait_for,
};
use crate::demo::tree;
use crate::fio;
use crate::machine::device::fill;
use crate::stats::median;

/// Size of the large file, in bytes.
const BIG_BYTES: u64 = 4 << 30;
/// Alternating pairs of a ratio.
const PAIRS: usize = 5;
/// Bytes of a container that hold chunk data for certain once the large file is stored.
const CONTAINER_RANGE: (u64, u64) = (1 << 30, 5 << 29);
/// Files of the namespace whose memory is measured.
const MANY_FILES: u32 = 100_000;
/// One mebibyte.
const MIB: f64 = 1_048_576.0;

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What was measured.
    pub name: String,
    /// Measured value.
    pub value: f64,
    /// What is required of it.
    pub required: f64,
    /// True when smaller is better.
    pub at_most: bool,
    /// Where the value comes from.
    pub detail: String,
}

impl Bar {
    /// True when the requirement holds.
    pub fn met(&self) -> bool {
        if self.at_most { self.value <= self.required } else { self.value >= self.required }
    }
}

/// Measures every bar in a new folder below `parent`; large inputs are kept in `memory`.
///
/// # Errors
/// [`StepError`] when a measurement could not be made, and [`StepError::Different`] when a bar was
/// missed.
pub fn run(parent: &Path, memory: &Path, json: Option<&Path>) -> Result<(), StepError> {
    let folder = parent.join(format!("lanefs-bars-{}", std::process::id()));
    let input = memory.join(format!("lanefs-bars-{}", std::process::id()));
    for made in [&folder, &input] {
        std::fs::create_dir(made).map_err(file_error(made))?;
    }
    let bars = measure(&folder, &input);
    for made in [&folder, &input] {
        std::fs::remove_dir_all(made).map_err(file_error(made))?;
    }
    let bars = bars?;
    print_table(&bars);
    if let Some(path) = json {
        std::fs::write(path, document(&bars).to_string()).map_err(file_error(path))?;
    }
    let met = bars.iter().filter(|bar| bar.met()).count();
    println!("{met} of {} bars met", bars.len());
    if met == bars.len() {
        return Ok(());
    }
    Err(StepError::Different("not every bar was met".to_owned()))
}

fn measure(folder: &Path, input: &Path) -> Result<Vec<Bar>, StepError> {
    let mut bars = Vec::new();
    let (cluster, start) = start_up(&folder.join("cluster"))?;
    bars.extend(start);
    bars.extend(small_files(&cluster, folder)?);
    bars.extend(big_file(&cluster, folder, input)?);
    bars.extend(counters(&cluster)?);
    bars.push(many_files(&cluster, folder)?);
    cluster.down()?;
    Ok(bars)
}

fn start_up(dir: &Path) -> Result<(DevCluster, Vec<Bar>), StepError> {
    let begun = now();
    let options = ["--target-size", "12GiB"];
    let cluster = DevCluster::up(dir, 3, &options)?;
    cluster.run(["put", "/etc/os-release", "/first"])?;
    let first = cluster.run(["cat", "/first"])?;
    let seconds = begun.elapsed().as_secs_f64();
    if first.is_empty() {
        return Err(StepError::Different("the first file came back empty".to_owned()));
    }
    let idle: u64 = cluster.pids()?.iter().map(|(_, pid)| resident_bytes(*pid)).sum();
    let bars = vec![
        at_most("dev up on a new folder to first byte, s", seconds, 3.0, "up, put, cat"),
        at_most("idle cluster of 1 + 3, resident MiB", idle as f64 / MIB, 250.0, "VmRSS"),
    ];
    Ok((cluster, bars))
}

fn small_files(cluster: &DevCluster, folder: &Path) -> Result<Vec<Bar>, StepError> {
    let (sources, _) = tree::choose(10_000, 0)?;
    cluster.run(["mkdir", "/small"])?;
    let begun = now();
    let words = ["put".into(), "-r".into()].into_iter().chain(sources.iter().cloned());
    cluster.run(words.chain([PathBuf::from("/small/")]))?;
    let put = begun.elapsed();
    let back = folder.join("small");
    let begun = now();
    cluster.run(["get".as_ref(), "-r".as_ref(), "/small".as_ref(), back.as_os_str()])?;
    let get = begun.elapsed();
    let mut files = 0;
    let mut bytes = 0;
    for source in &sources {
        let size = tree::compare(source, &back.join(source.file_name().unwrap_or_default()))?;
        files += size.files;
        bytes += size.bytes;
    }
    std::fs::remove_dir_all(&back).map_err(file_error(&back))?;
    let detail = format!("{files} files, {} MiB", bytes >> 20);
    Ok(vec![
        at_least("put -r, files/s", files as f64 / put.as_secs_f64(), 500.0, &detail),
        at_least("get -r, files/s", files as f64 / get.as_secs_f64(), 2000.0, &detail),
    ])
}

fn big_file(cluster: &DevCluster, folder: &Path, input: &Path) -> Result<Vec<Bar>, StepError> {
    let source = input.join("big");
    fill(&source, BIG_BYTES)?;
    let peer = folder.join("fio.bin");
    fill(&peer, 1 << 30)?;
    let mut bars = Vec::new();
    let mut writes = Vec::new();
    let mut node_peak = 0;
    for turn in 0..PAIRS {
        let mut put = 0.0;
        let mut limit = 0.0;
        for side in [turn % 2, (turn + 1) % 2] {
            if side == 0 {
                put = timed_put(cluster, &source, &mut node_peak)?;
            } else {
                limit = fio::write(&peer, 1 << 30)? / 3.0;
            }
        }
        writes.push((put, limit));
    }
    bars.push(ratio_bar("put of 4 GiB, 3 replicas / (fio write / 3)", &writes, 0.5));
    let container = container_file(cluster.dir())?;
    let mut reads = Vec::new();
    let mut cpu_per_gb = Vec::new();
    for turn in 0..PAIRS {
        let mut cat = 0.0;
        let mut limit = 0.0;
        for side in [turn % 2, (turn + 1) % 2] {
            if side == 0 {
                let before = node_cpu(cluster)?;
                cat = timed_cat(cluster, &mut node_peak)?;
                cpu_per_gb.push((node_cpu(cluster)? - before) / (BIG_BYTES as f64 / 1e9));
            } else {
                limit = fio::read(&container, CONTAINER_RANGE.0, CONTAINER_RANGE.1)?;
            }
        }
        reads.push((cat, limit));
    }
    bars.push(ratio_bar("cat of 4 GiB / fio read, O_DIRECT 1 MiB x 8", &reads, 0.6));
    println!("nodes' CPU for that cat: {:.2} s per GB (median)", median(&cpu_per_gb));
    bars.push(at_most(
        "a node while serving, resident MiB per shard",
        node_peak as f64 / MIB,
        256.0,
        "largest VmRSS seen during put and cat",
    ));
    cluster.run(["rm", "/big"])?;
    Ok(bars)
}

fn timed_put(cluster: &DevCluster, source: &Path, peak: &mut u64) -> Result<f64, StepError> {
    let begun = now();
    let words = ["put".as_ref(), source.as_os_str(), "/big".as_ref()];
    watch(cluster, cluster.start(words)?, "put /big", peak)?;
    Ok(BIG_BYTES as f64 / begun.elapsed().as_secs_f64())
}

fn timed_cat(cluster: &DevCluster, peak: &mut u64) -> Result<f64, StepError> {
    let begun = now();
    let mut command = cluster.command(["cat", "/big"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command
        .spawn()
        .map_err(|source| StepError::Start { program: "lanefs cat".to_owned(), source })?;
    watch(cluster, child, "cat /big", peak)?;
    Ok(BIG_BYTES as f64 / begun.elapsed().as_secs_f64())
}

/// Waits for a command while it notes the largest resident memory of any node.
fn watch(
    cluster: &DevCluster,
    mut child: std::process::Child,
    what: &str,
    peak: &mut u64,
) -> Result<(), StepError> {
    let nodes = node_pids(cluster)?;
    wait_for(what, Duration::from_secs(600), || {
        for &pid in &nodes {
            *peak = (*peak).max(resident_bytes(pid));
        }
        let ended = child
            .try_wait()
            .map_err(|source| StepError::Start { program: what.to_owned(), source })?;
        Ok(ended.is_some())
    })?;
    finish(child, what)
}

fn counters(cluster: &DevCluster) -> Result<Vec<Bar>, StepError> {
    let status = cluster.json(&["status", "--json"])?;
    let total = |field: &str| -> f64 {
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let shards = nodes.flat_map(|node| node["shards"].as_array().into_iter().flatten());
        shards.map(|shard| shard[field].as_f64().unwrap_or(f64::NAN)).sum()
    };
    let requests = total("requests");
    let copied = total("bytes_copied") / total("bytes_in").max(1.0);
    let detail = format!("{requests} data requests");
    Ok(vec![
        at_most("cross-core hops of all data requests", total("hops"), 0.0, &detail),
        at_most(
            "payload copied in user space outside TLS, share of bytes in",
            copied,
            0.01,
            "shard counters",
        ),
    ])
}

fn many_files(cluster: &DevCluster, folder: &Path) -> Result<Bar, StepError> {
    let tree = folder.join("many");
    for index in 0..MANY_FILES {
        let parent = tree.join(format!("{:03}", index / 1000));
        if index % 1000 == 0 {
            std::fs::create_dir_all(&parent).map_err(file_error(&parent))?;
        }
        let path = parent.join(format!("file-{index}"));
        File::create(&path).map_err(file_error(&path))?;
    }
    let begun = now();
    cluster.run(["put".as_ref(), "-r".as_ref(), tree.as_os_str(), "/".as_ref()])?;
    let rate = f64::from(MANY_FILES) / begun.elapsed().as_secs_f64();
    let resident = named_pid(cluster, "coordinator 1")?.map_or(0, resident_bytes);
    std::fs::remove_dir_all(&tree).map_err(file_error(&tree))?;
    Ok(at_most(
        "coordinator with 100,000 files, resident MiB",
        resident as f64 / MIB,
        100.0,
        &format!("VmRSS; {rate:.0} empty files/s in"),
    ))
}

fn node_pids(cluster: &DevCluster) -> Result<Vec<u32>, StepError> {
    let pids = cluster.pids()?.into_iter();
    Ok(pids.filter(|(name, _)| name.starts_with("node")).map(|(_, pid)| pid).collect())
}

fn named_pid(cluster: &DevCluster, wanted: &str) -> Result<Option<u32>, StepError> {
    Ok(cluster.pids()?.into_iter().find(|(name, _)| name == wanted).map(|(_, pid)| pid))
}

fn node_cpu(cluster: &DevCluster) -> Result<f64, StepError> {
    Ok(node_pids(cluster)?.into_iter().map(cpu_seconds).sum())
}

/// The first container file of a cluster's folder.
fn container_file(dir: &Path) -> Result<PathBuf, StepError> {
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(file_error(&folder))?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "lane") {
                return Ok(path);
            }
        }
    }
    Err(StepError::Different(format!("no container file below {}", dir.display())))
}

fn ratio_bar(name: &str, pairs: &[(f64, f64)], required: f64) -> Bar {
    let ratios: Vec<f64> = pairs.iter().map(|(ours, limit)| ours / limit).collect();
    let shown: Vec<String> =
        pairs.iter().map(|(ours, limit)| format!("{:.0}/{:.0}", ours / 1e6, limit / 1e6)).collect();
    at_least(name, median(&ratios), required, &format!("MB/s: {}", shown.join(" ")))
}

fn at_least(name: &str, value: f64, required: f64, detail: &str) -> Bar {
    Bar { name: name.to_owned(), value, required, at_most: false, detail: detail.to_owned() }
}

fn at_most(name: &str, value: f64, required: f64, detail: &str) -> Bar {
    Bar { at_most: true, ..at_least(name, value, required, detail) }
}

fn print_table(bars: &[Bar]) {
    for bar in bars {
        let sign = if bar.at_most { "<=" } else { ">=" };
        let verdict = if bar.met() { "met" } else { "MISSED" };
        println!(
            "{verdict:<7}{:<62}{:>10.2} {sign} {:<8}{}",
            bar.name, bar.value, bar.required, bar.detail
        );
    }
}

fn document(bars: &[Bar]) -> Value {
    let rows = bars.iter().map(|bar| {
        serde_json::json!({
            "name": bar.name, "value": bar.value, "required": bar.required,
            "at_most": bar.at_most, "met": bar.met(), "detail": bar.detail,
        })
    });
    Value::Array(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_on_its_own_side_only() {
        assert!(at_least("x", 0.6, 0.6, "").met());
        assert!(!at_least("x", 0.59, 0.6, "").met());
        assert!(at_most("x", 0.0, 0.0, "").met());
        assert!(!at_most("x", 1.0, 0.0, "").met());
        assert!(!at_least("x", f64::NAN, 0.0, "").met());
    }
}
