//! What healing costs those who read and write meanwhile.
//!
//! Operations come at fixed times, whatever the cluster does, at 30 % of what it can take; a
//! latency counts from the time an operation was due. Windows alternate: all replicas there; then a
//! node comes back with an empty device, so that two of three are left in each of its groups and
//! everything is copied to it.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Client, FileReader};
use protocol::cluster_map::ClusterMap;
use protocol::ids::Ino;
use protocol::message::namespace::{NamespaceOp, SetAttributes};
use tokio::task::JoinSet;

use super::load::{self, NODE_BYTES, NODES};
use super::plan_of;
use super::stolen::Ticks;
use crate::cluster::{StepError, file_error, now};
use crate::dice::Dice;
use crate::faults::bar::{Bar, Limit};
use crate::faults::inject::seconds;
use crate::faults::lab::{Lab, Plan};
use crate::faults::menu::Fault;
use crate::faults::workload::Pace;
use crate::faults::{health, judge, stage};
use crate::fio;
use crate::stats::{quantile, sorted};

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(10);
/// Device writes take their usual time again this long after a container was written or removed.
const SETTLE: Duration = Duration::from_secs(5);
/// Containers put aside at once, for the sake of the disk.
const ASIDE_MAX: u32 = 5;
/// Time for the file system to discard what they held.
const DISCARDED: Duration = Duration::from_secs(60);
/// How long everything that an emptied node held takes to copy.
const COPY_TIME: Duration = Duration::from_secs(20);
/// Most bytes that a node holds.
const NODE_BYTES_MAX: u64 = 9 << 29;
/// Length of one step in which the knee is looked for.
const STEP: Duration = Duration::from_secs(2);
/// Operations at once in those steps.
const STEPS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Part of the knee that the windows ask for, in percent.
const LOAD_PERCENT: f64 = 30.0;
/// Part of fio's write rate that healing may use.
const BUDGET_OF_FIO: f64 = 0.1;
/// Pairs of windows for each hundred repetitions of a time.
const PAIRS_PERCENT: u32 = 25;
/// Most processor time, in percent, that the host may give to others in a window that counts: a
/// processor that is away for 20 ms every other second is one operation in a hundred already.
const STOLEN_PERCENT_MAX: f64 = 0.5;
/// Tries for each pair that counts.
const TRIES: u32 = 3;
/// Bytes that fio writes.
const FIO_BYTES: u64 = 1 << 30;
/// Files that are read.
const FILES: usize = 64;
/// Length of each of them, and of each new file.
const FILE_BYTES: usize = 256 << 10;
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;
/// Of a hundred operations, those that write a new file.
const WRITE_PERCENT: u64 = 20;
/// A copy that has not begun after this never will.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);

/// How long a start that will be taken takes at most.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    /// Parts of a new file, which count for nothing alone.
    Part(&'static str),
}

/// What making and removing a file consists of.
const PARTS: [&str; 4] = ["create", "write", "publish", "remove"];

/// How long operations took, in milliseconds.
#[derive(Debug, Default)]
struct Times(Vec<(Kind, f64)>);

/// What two windows showed.
#[derive(Debug)]
struct Pair {
    healthy_ms: f64,
    healing_ms: f64,
    stolen_percent: f64,
}

/// What operations need.
struct Stage {
    client: Client,
    readers: Vec<FileReader>,
}

pub(super) fn bars(parent: &Path, repetitions: u32) -> Result<Vec<Bar>, StepError> {
    let file = parent.join(format!("lanefs-fio-{}", std::process::id()));
    let measured = fio::write(&file, FIO_BYTES).and_then(|rate| beside(parent, rate, repetitions));
    // Not before the end, for the reason that containers are put aside.
    let removed = std::fs::remove_file(&file).map_err(file_error(&file));
    measured.and_then(|bars| removed.map(|()| bars))
}

/// The bars, where fio writes so many bytes per second.
fn beside(parent: &Path, rate: f64, repetitions: u32) -> Result<Vec<Bar>, StepError> {
    let share = f64::from(u32::try_from(coordinator::limits::BAND_HEAL_PERCENT).unwrap_or(100));
    // The budget is that of all who send: every node but the one that is copied to.
    let each = rate * BUDGET_OF_FIO / f64::from(NODES - 1) * 100.0 / share;
    let mib = (each / 1_048_576.0).max(1.0);
    println!("fio writes {:.0} MiB/s; recovery = {mib:.0} MiB/s", rate / 1_048_576.0);
    let pairs = (repetitions * PAIRS_PERCENT / 100).max(1);
    // Copying must outlast its window.
    let copied = rate * BUDGET_OF_FIO * COPY_TIME.as_secs_f64();
    let node_bytes = whole(copied).clamp(NODE_BYTES, NODE_BYTES_MAX);
    let target_size = (node_bytes / 2 * 3).next_multiple_of(1 << 28);
    // As fio's file: every byte was written before.
    let settings = format!("recovery = \"{mib:.0}MiB\"\n");
    let plan = Plan { prezero: true, ..plan_of(NODES, target_size, settings) };
    stage::run(parent, "foreground", plan, async |lab| measure(lab, node_bytes, pairs).await)
}

async fn measure(mut lab: Lab, node_bytes: u64, pairs: u32) -> Result<Vec<Bar>, StepError> {
    // The load that filled the cluster ends: only what is measured goes on.
    let fill = Pace { readers: 0, ..load::light(node_bytes) };
    let (client, mut workload) = load::loaded(&mut lab, fill).await?;
    workload.stop().await;
    judge::surfaced(&workload, Fault::KillNode)?;
    let stage = Arc::new(Stage::make(&lab).await?);
    let rate = knee(&stage).await? * LOAD_PERCENT / 100.0;
    println!("windows of {rate:.0} operations per second");
    let mut healthy = Bar::of("  p99 of a healthy window", "ms");
    let mut healing = Bar::of("  p99 of a healing window", "ms");
    let mut ratio =
        Bar::of("foreground p99 while healing / healthy", "times").median(Limit::AtMost(1.5));
    for number in 0..pairs * TRIES {
        let pair = pair(&mut lab, &client, &stage, (number, rate)).await?;
        if pair.stolen_percent > STOLEN_PERCENT_MAX {
            println!("pair {number} does not count: {:.1} % stolen", pair.stolen_percent);
            continue;
        }
        healthy.values.push(pair.healthy_ms);
        healing.values.push(pair.healing_ms);
        ratio.values.push(pair.healing_ms / pair.healthy_ms);
        if healthy.values.len() as u64 == u64::from(pairs) {
            break;
        }
    }
    if healthy.values.len() as u64 != u64::from(pairs) {
        let count = healthy.values.len();
        let what = format!(
            "{count} pairs of {pairs} count: the host gave more than {STOLEN_PERCENT_MAX} % of the \
             processors to others in the rest; measure again when it does not"
        );
        return Err(StepError::Different(what));
    }
    lab.end()?;
    Ok(vec![ratio, healthy, healing])
}

/// One window with all replicas there, and one in which a node is copied to.
async fn pair(
    lab: &mut Lab,
    client: &Client,
    stage: &Arc<Stage>,
    (number, rate): (u32, f64),
) -> Result<Pair, StepError> {
    let (healthy, stolen) = window(stage, rate).await?;
    empty(lab, client, number).await?;
    let copied = load::copied(&client.status().await.map_err(judge::failed)?);
    let begun = now();
    let (healing, stolen_healing) = window(stage, rate).await?;
    let copied = load::copied(&client.status().await.map_err(judge::failed)?) - copied;
    let map = client.refresh_map().await.map_err(judge::failed)?;
    if health::is_healthy(&map) {
        let what = "healing ended before its window: it has to be longer".to_owned();
        return Err(StepError::Different(what));
    }
    println!(
        "pair {number}: healthy {}, healing {}; {} MiB copied in {}; stolen {stolen:.1} % and \
         {stolen_healing:.1} %",
        healthy.shown(),
        healing.shown(),
        copied >> 20,
        seconds(begun.elapsed())
    );
    health::healthy(lab, client).await?;
    if number % ASIDE_MAX == ASIDE_MAX - 1 {
        remove(lab, number + 1 - ASIDE_MAX..=number).await?;
    }
    Ok(Pair {
        healthy_ms: p99(&healthy.all()),
        healing_ms: p99(&healing.all()),
        stolen_percent: stolen.max(stolen_healing),
    })
}

/// A window, once the device has settled, and the percentage of time that was stolen in it.
async fn window(stage: &Arc<Stage>, rate: f64) -> Result<(Times, f64), StepError> {
    tokio::time::sleep(SETTLE).await;
    let before = Ticks::now()?;
    let times = open_loop(stage, rate, WINDOW).await?;
    Ok((times, Ticks::now()?.stolen_since(before)))
}

/// Where the container is put that a node had before a pair.
fn aside(lab: &Lab, pair: u32) -> PathBuf {
    lab.container(pair % NODES + 1).with_extension(format!("aside-{pair}"))
}

/// Removes what some pairs put aside, and waits until the device has settled.
async fn remove(lab: &Lab, pairs: RangeInclusive<u32>) -> Result<(), StepError> {
    for old in pairs.map(|pair| aside(lab, pair)) {
        std::fs::remove_file(&old).map_err(file_error(&old))?;
    }
    tokio::time::sleep(DISCARDED).await;
    Ok(())
}

/// Restarts a node with an empty device and waits until it is being copied to.
async fn empty(lab: &mut Lab, client: &Client, pair: u32) -> Result<(), StepError> {
    let node = pair % NODES + 1;
    lab.node(node)?.kill()?;
    // Put aside, not removed: a file system that discards what is removed keeps the device busy.
    let container = lab.container(node);
    std::fs::rename(&container, aside(lab, pair)).map_err(file_error(&container))?;
    let begun = now();
    join(lab, client, node).await?;
    // What the process of before had copied is not counted any more.
    let before = load::copied(&client.status().await.map_err(judge::failed)?);
    while load::copied(&client.status().await.map_err(judge::failed)?) <= before {
        if begun.elapsed() > BEGINS_WITHIN {
            let what = format!("copies to the emptied node {node}");
            return Err(StepError::Timeout { seconds: BEGINS_WITHIN.as_secs(), what });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("node {node} came back empty; copies began after {}", seconds(begun.elapsed()));
    Ok(())
}

/// Starts a node with an empty device, and waits until it is taken.
async fn join(lab: &mut Lab, client: &Client, node: u32) -> Result<(), StepError> {
    let target = load::target_of(node);
    let map = client.refresh_map().await.map_err(judge::failed)?;
    let generation = |map: &ClusterMap| map.targets.get(&target).map(|it| it.generation);
    let known = generation(&map);
    lab.start_node(node)?;
    lab.take_started();
    let taken = |map: &ClusterMap| generation(map) > known;
    health::wait(lab, client, "a node to be taken", TAKEN_WITHIN, taken).await.map(drop)
}

impl Stage {
    async fn make(lab: &Lab) -> Result<Stage, StepError> {
        let client = Client::connect(&lab.client_config()?).await.map_err(judge::failed)?;
        let mut dice = Dice::new(lab.plan().seed);
        let mut readers = Vec::new();
        for number in 0..FILES {
            let mut writer =
                client.create(Ino::ROOT, FILE_BYTES as u64).await.map_err(judge::failed)?;
            let mut bytes = vec![0; FILE_BYTES];
            bytes.chunks_mut(8).for_each(|word| word.copy_from_slice(&dice.draw().to_le_bytes()));
            writer.write(bytes).await.map_err(judge::failed)?;
            let name = format!("read-{number}");
            let attributes = SetAttributes::default();
            let entry = writer.publish(Ino::ROOT, name.as_bytes(), attributes, false).await;
            readers.push(client.reader(&entry.map_err(judge::failed)?).map_err(judge::failed)?);
        }
        Ok(Stage { client, readers })
    }

    /// One operation: a read of a piece of a file, or a new file that is removed at once.
    async fn operate(&self, draw: u64) -> Result<(Kind, Vec<(Kind, Duration)>), StepError> {
        let mut dice = Dice::new(draw);
        if dice.below(100) >= WRITE_PERCENT {
            let Some(reader) = dice.one_of(&self.readers) else {
                return Ok((Kind::Read, Vec::new()));
            };
            let mut within = Dice::new(!draw);
            let at = within.below((FILE_BYTES - READ_BYTES) as u64);
            reader.read_at(at, READ_BYTES).await.map_err(judge::failed)?;
            return Ok((Kind::Read, Vec::new()));
        }
        let mut parts = Vec::new();
        let mut begun = now();
        let mut part = |name| {
            parts.push((Kind::Part(name), begun.elapsed()));
            begun = now();
        };
        let mut writer =
            self.client.create(Ino::ROOT, READ_BYTES as u64).await.map_err(judge::failed)?;
        part("create");
        writer.write(vec![7; READ_BYTES]).await.map_err(judge::failed)?;
        part("write");
        let name = format!("new-{draw:x}").into_bytes();
        let attributes = SetAttributes::default();
        writer.publish(Ino::ROOT, &name, attributes, false).await.map_err(judge::failed)?;
        part("publish");
        let op = NamespaceOp::Unlink { parent: Ino::ROOT, name };
        self.client.mutate(op).await.map_err(judge::failed)?;
        part("remove");
        Ok((Kind::Write, parts))
    }
}

impl Times {
    fn extend(&mut self, times: Vec<(Kind, Duration)>) {
        self.0.extend(times.into_iter().map(|(kind, took)| (kind, took.as_secs_f64() * 1e3)));
    }

    fn of(&self, kind: Kind) -> Vec<f64> {
        self.0.iter().filter(|(it, _)| *it == kind).map(|(_, ms)| *ms).collect()
    }

    fn all(&self) -> Vec<f64> {
        let whole = |kind: &Kind| !matches!(kind, Kind::Part(_));
        self.0.iter().filter(|(kind, _)| whole(kind)).map(|(_, ms)| *ms).collect()
    }

    /// The 99th percentiles of all, of reads and of new files, and of what those consist of.
    fn shown(&self) -> String {
        let [reads, writes] = [Kind::Read, Kind::Write].map(|kind| p99(&self.of(kind)));
        let part = |name: &&'static str| format!("{name} {:.2}", p99(&self.of(Kind::Part(name))));
        let parts: Vec<String> = PARTS.iter().map(part).collect();
        let all = p99(&self.all());
        format!("{all:.2} ms (reads {reads:.2}, new files {writes:.2}: {})", parts.join(", "))
    }
}

/// Operations per second at the best ratio of throughput to latency.
async fn knee(stage: &Arc<Stage>) -> Result<f64, StepError> {
    let mut best = (0.0, 0.0);
    for at_once in STEPS {
        let times = closed_loop(stage, at_once).await?;
        let count = f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX));
        let (rate, mean) = (count / STEP.as_secs_f64(), times.iter().sum::<f64>() / count);
        println!(
            "{at_once} at once: {rate:.0} operations/s, mean {mean:.2} ms, p99 {:.2} ms",
            p99(&times)
        );
        let power = rate / mean;
        if power > best.0 {
            best = (power, rate);
        }
    }
    Ok(best.1)
}

/// So many operations at once, each followed by the next; their times in milliseconds.
async fn closed_loop(stage: &Arc<Stage>, at_once: usize) -> Result<Vec<f64>, StepError> {
    let mut tasks = JoinSet::new();
    let end = now() + STEP;
    for task in 0..at_once as u64 {
        let stage = Arc::clone(stage);
        tasks.spawn(async move {
            let mut dice = Dice::new(task ^ 0x9e37_79b9);
            let mut times = Vec::new();
            while now() < end {
                let begun = now();
                stage.operate(dice.draw()).await?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let times: Result<Vec<f64>, StepError> = ended.map_err(judge::failed)?;
        all.extend(times?);
    }
    Ok(all)
}

/// Operations at fixed times; how long after it was due each ended, in milliseconds.
async fn open_loop(stage: &Arc<Stage>, rate: f64, window: Duration) -> Result<Times, StepError> {
    let begun = now();
    let mut tasks: JoinSet<Result<Vec<(Kind, Duration)>, StepError>> = JoinSet::new();
    let mut dice = Dice::new(u64::from(begun.elapsed().subsec_nanos()) ^ rate.to_bits());
    let mut number = 0_u32;
    let mut all = Times::default();
    loop {
        let after = Duration::from_secs_f64(f64::from(number) / rate.max(1.0));
        if after >= window {
            break;
        }
        let due: Instant = begun + after;
        tokio::time::sleep_until(due.into()).await;
        let (stage, draw) = (Arc::clone(stage), dice.draw());
        tasks.spawn(async move {
            let (kind, mut times) = stage.operate(draw).await?;
            times.push((kind, due.elapsed()));
            Ok(times)
        });
        number += 1;
        while let Some(ended) = tasks.try_join_next() {
            all.extend(ended.map_err(judge::failed)??);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        all.extend(ended.map_err(judge::failed)??);
    }
    Ok(all)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes that a device writes in some seconds"
)]
fn whole(bytes: f64) -> u64 {
    bytes.max(0.0) as u64
}

fn p99(times: &[f64]) -> f64 {
    quantile(&sorted(times), 99)
}
