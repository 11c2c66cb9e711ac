//! The main job on real files: store a tree, lose a node while reading it back, compare, heal.

#![expect(clippy::print_stdout, reason = "the demonstration tells what it does")]

pub mod tree;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::{DevCluster, StepError, file_error, finish, now, wait_for};
use tree::TreeSize;

/// Files the demonstration stores at least.
const FILES_MIN: u64 = 10_000;
/// Bytes it stores at least.
const BYTES_MIN: u64 = 1 << 30;
/// Longest wait for the cluster to be whole again.
const HEAL_LIMIT: Duration = Duration::from_secs(120);
/// Bytes that must have come back before the node is killed, so that it dies in the middle.
const KILL_AFTER_BYTES: u64 = 100 << 20;

/// Figures of one demonstration.
#[derive(Clone, Debug)]
pub struct DemoReport {
    /// What was stored.
    pub tree: TreeSize,
    /// Time to store it.
    pub put: Duration,
    /// Time to read it back while a node died.
    pub get: Duration,
    /// Time from the kill until every group had all replicas again.
    pub degraded: Duration,
    /// Replicas that `verify` read and found equal.
    pub replicas_verified: u64,
}

/// Runs the demonstration in a new folder below `parent` and prints its figures.
pub fn run(parent: &Path) -> Result<DemoReport, StepError> {
    let folder = parent.join(format!("lanefs-demo-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(file_error(&folder))?;
    let report = demonstrate(&folder);
    std::fs::remove_dir_all(&folder).map_err(file_error(&folder))?;
    report
}

fn demonstrate(folder: &Path) -> Result<DemoReport, StepError> {
    let (sources, size) = tree::choose(FILES_MIN, BYTES_MIN)?;
    say(&format!("{} files, {} MiB in {} entries", size.files, size.bytes >> 20, sources.len()));
    let cluster = DevCluster::up(&folder.join("cluster"), 3, &[])?;
    say("cluster is up: 1 coordinator, 3 nodes, TLS on every connection");

    cluster.run(["mkdir", "/tree"])?;
    let begun = now();
    let words = ["put".into(), "-r".into()].into_iter().chain(sources.iter().cloned());
    cluster.run(words.chain([PathBuf::from("/tree/")]))?;
    let put = begun.elapsed();
    say(&format!("stored in {:.1} s", put.as_secs_f64()));

    let back = folder.join("back");
    let begun = now();
    let reader =
        cluster.start(["get".as_ref(), "-r".as_ref(), "/tree".as_ref(), back.as_os_str()])?;
    wait_for("the first files to come back", HEAL_LIMIT, || {
        Ok(bytes_below(&back) >= KILL_AFTER_BYTES)
    })?;
    let killed = now();
    cluster.dev(&["dev", "kill-node", "2"])?;
    say("node 2 killed with SIGKILL while everything is read back");
    finish(reader, "get -r /tree")?;
    let get = begun.elapsed();
    say(&format!("read back in {:.1} s", get.as_secs_f64()));

    let compared = compare_all(&sources, &back)?;
    say(&format!("{} files compared, all equal", compared.files));

    cluster.dev(&["dev", "start-node", "2"])?;
    cluster.wait_healthy(HEAL_LIMIT)?;
    let degraded = killed.elapsed();
    let verified = cluster.json(&["verify", "-r", "--json", "/"])?;
    let replicas_verified = verified["replicas_verified"].as_u64().unwrap_or(0);
    if replicas_verified == 0 || verified["replicas_missing"].as_u64() != Some(0) {
        return Err(StepError::Output {
            command: "verify -r --json /".to_owned(),
            what: format!("not every replica was verified: {verified:.300}"),
        });
    }
    cluster.down()?;
    let report = DemoReport { tree: compared, put, get, degraded, replicas_verified };
    print!("{}", table(&report));
    Ok(report)
}

fn compare_all(sources: &[PathBuf], back: &Path) -> Result<TreeSize, StepError> {
    let mut total = TreeSize::default();
    for source in sources {
        let name = source.file_name().unwrap_or_default();
        let size = tree::compare(source, &back.join(name))?;
        total.files += size.files;
        total.bytes += size.bytes;
        total.others += size.others;
    }
    Ok(total)
}

fn table(report: &DemoReport) -> String {
    let (files, bytes) = (report.tree.files, report.tree.bytes);
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<22}{value:>14}");
    };
    row("files", files.to_string());
    row("bytes", bytes.to_string());
    row("in, MB/s", rate(bytes, report.put, 1e6));
    row("in, files/s", rate(files, report.put, 1.0));
    row("out, MB/s", rate(bytes, report.get, 1e6));
    row("out, files/s", rate(files, report.get, 1.0));
    row("replicas verified", report.replicas_verified.to_string());
    row("seconds degraded", format!("{:.1}", report.degraded.as_secs_f64()));
    text
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(amount: u64, time: Duration, unit: f64) -> String {
    format!("{:.0}", amount as f64 / unit / time.as_secs_f64().max(1e-9))
}

/// Bytes of regular files below a folder that may be growing right now.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(listing) = std::fs::read_dir(folder) else { return 0 };
    listing
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, meta)| if meta.is_dir() { bytes_below(&path) } else { meta.len() })
        .sum()
}

fn say(text: &str) {
    println!("demo: {text}");
}
