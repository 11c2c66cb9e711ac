//! Two shards in one process: what they share, and what that costs.

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::Bench;
use super::pull::{Pulled, pull};
use super::rig::{Rig, Way};
use super::rounds::{Rounds, Seen, Side};
use super::table::Row;
use crate::cluster::{StepError, sibling};
use crate::machine::device::fill;

/// Bytes of the file that is read.
const FILE_BYTES: u64 = 512 << 20;
/// Requests outstanding on each shard's connection.
const DEPTH: usize = 4;
/// Reads of 1 MiB, clear.
const WAY: Way = Way { block: 1 << 20, clear: true, verify: false, check: true };

/// Measures every row about shards of one process.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, StepError> {
    let program = sibling("lanefs-node-ram-disk")?;
    let local = bench.memory.join("cores");
    fill(&local, FILE_BYTES)?;
    let start = |name: &str, shards: &str| {
        let options = ["--replicas", "1", "--target-size", "1GiB", "--shards", shards];
        let rig = Rig::start(&bench.folder.join(name), 1, Some(&program), &options)?;
        let stored = rig.store(&local, "/file")?;
        Ok::<_, StepError>((rig, stored))
    };
    let (one, in_one) = start("one-shard", "1")?;
    let (two, in_two) = start("two-shards", "2")?;
    std::fs::remove_file(&local).map_err(crate::cluster::file_error(&local))?;
    let mut sides = Vec::new();
    for (name, rig, stored) in [("one", &one, &in_one), ("two", &two, &in_two)] {
        let mut lines = Vec::new();
        for target in rig.targets() {
            lines.extend(rig.lines(stored, target, WAY, 1)?);
        }
        let time = bench.time;
        sides.push(Side::new(name, move |_| {
            let before = rig.cpu();
            let pulled = pull(&mut lines, DEPTH, time)?;
            let used = rig.cpu() - before;
            Ok(Seen { per_s: pulled.answers / pulled.seconds, eff: pulled.answers / used })
        }));
    }
    let rounds = Rounds::run(bench.rounds, sides)?;
    let gigabytes = f64::from(WAY.block) / 1e9;
    let eff = Row::at_least(
        "two shards, 1 MiB, mem: EFF / one shard's",
        rounds.eff("two", "one", gigabytes),
        0.90,
        0.97,
    );
    let mut lines = Vec::new();
    for target in two.targets() {
        lines.extend(two.lines(&in_two, target, WAY, 1)?);
    }
    let mut load = || pull(&mut lines, DEPTH, bench.time);
    let hops = two.counter("hops")?;
    let (futexes, allocations) = (futexes(&two, &mut load)?, allocations(&two, &mut load)?);
    Ok(vec![
        eff.of("GB/CPU-s"),
        Row::at_most("two shards: data requests that crossed cores", vec![(hops, 1.0)], 0.0),
        Row::at_most("two shards: waits for a lock (futex), a request", vec![futexes], 0.0)
            .of("calls / requests"),
        Row::shown("two shards: allocations, a request", vec![allocations]).of("/ requests"),
    ])
}

/// What every shard took from the allocator for each request of a while.
fn allocations(
    rig: &Rig,
    load: impl FnOnce() -> Result<Pulled, StepError>,
) -> Result<(f64, f64), StepError> {
    let before = rig.counter("allocations")?;
    let answers = load()?.answers;
    // The question for the counters is a request of its own, and lost in thousands.
    Ok((rig.counter("allocations")? - before, answers))
}

/// Calls of the shards' threads that wait for a lock or wake who waits, while they are read from; and
/// the reads.
fn futexes(
    rig: &Rig,
    load: impl FnOnce() -> Result<Pulled, StepError>,
) -> Result<(f64, f64), StepError> {
    let mut command = Command::new("strace");
    command.args(["-q", "-e", "trace=futex"]);
    for thread in rig.shard_threads()? {
        command.args(["-p", &thread.to_string()]);
    }
    let failed = |source| StepError::Start { program: "strace".to_owned(), source };
    let tracer = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let pulled = load();
    let pid = i32::try_from(tracer.id()).ok().and_then(Pid::from_raw);
    let told = pid.map(|pid| kill_process(pid, Signal::INT));
    let output = tracer.wait_with_output().map_err(failed)?;
    if !matches!(told, Some(Ok(()))) {
        return Err(StepError::Different("strace ended by itself".to_owned()));
    }
    // A call that was under way all the time is a thread of the runtime's pool that waits for work.
    let text = String::from_utf8_lossy(&output.stderr);
    let returned = |line: &&str| line.contains("futex") && line.contains(") = ");
    let calls = text.lines().filter(returned).count();
    let calls = u32::try_from(calls).unwrap_or(u32::MAX);
    Ok((f64::from(calls), pulled?.answers))
}
