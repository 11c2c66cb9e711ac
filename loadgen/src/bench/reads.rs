//! Random reads of one shard, in the three sizes that matter, clear and over TLS, from the device and
//! from memory; beside them what the device, a bare sender and nginx do.

use super::Bench;
use super::nginx::Nginx;
use super::pull::{Line, pull};
use super::rig::{Rig, Stored, Way};
use super::rounds::{Rounds, Seen, Side};
use super::table::Row;
use crate::cluster::{StepError, sibling};
use crate::fio::{self, Job};
use crate::machine::device::fill;
use crate::machine::send::{self, GATHER_MAX, Shape};

/// Size of the file on the device, in bytes, and of the part of the container that holds it for certain.
const FILE_BYTES: u64 = 3 << 30;
const RANGE: (u64, u64) = (1 << 30, 2 << 30);
/// Size of what is served from memory, in bytes: as much as the sender sends from, and as the arena of
/// a shard, so that nobody's bytes are further away than another's.
pub(super) const MEMORY_BYTES: u64 = 16 << 20;

/// One size of reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) name: &'static str,
    pub(super) block: u32,
    pub(super) connections: u64,
    pub(super) depth: usize,
    /// Requests that fio has outstanding.
    device_depth: u32,
    /// Files with cells of 4 KiB.
    pub(super) small_cells: bool,
}

pub(super) const SIZES: [Size; 3] = [
    Size {
        name: "1 MiB",
        block: 1 << 20,
        connections: 1,
        depth: 4,
        device_depth: 4,
        small_cells: false,
    },
    Size {
        name: "128 KiB",
        block: 128 << 10,
        connections: 2,
        depth: 8,
        device_depth: 16,
        small_cells: false,
    },
    Size {
        name: "4 KiB",
        block: 4 << 10,
        connections: 4,
        depth: 32,
        device_depth: 128,
        small_cells: true,
    },
];

/// Both clusters with what is stored in them.
struct Field<'a> {
    bench: &'a Bench<'a>,
    disk: Rig,
    /// Default cells, cells of 4 KiB.
    on_disk: [Stored; 2],
    ram: Rig,
    in_ram: [Stored; 2],
    nginx: Nginx,
}

/// Measures every row about reads.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, StepError> {
    let field = Field::lay_out(bench)?;
    let mut rows = Vec::new();
    for size in SIZES {
        if bench.size.is_none_or(|wanted| wanted == size.name) {
            rows.extend(field.rows(size)?);
        }
    }
    if bench.size.is_none() && bench.side.is_none() {
        rows.push(field.small_reads_of_large_cells()?);
    }
    Ok(rows)
}

impl<'a> Field<'a> {
    fn lay_out(bench: &'a Bench<'a>) -> Result<Field<'a>, StepError> {
        let options = ["--replicas", "1", "--target-size", "8GiB"];
        let disk = Rig::start(&bench.folder.join("disk"), 1, None, &options)?;
        let program = sibling("lanefs-node-ram-disk")?;
        let options = ["--replicas", "1", "--target-size", "2GiB"];
        let ram = Rig::start(&bench.folder.join("ram"), 1, Some(&program), &options)?;
        let (large, small) = (bench.memory.join("large"), bench.memory.join("bytes"));
        fill(&large, FILE_BYTES)?;
        fill(&small, MEMORY_BYTES)?;
        for rig in [&disk, &ram] {
            rig.cluster.run(["mkdir", "--cell", "4KiB", "/small-cells"])?;
        }
        let on_disk = [disk.store(&large, "/large")?, disk.store(&large, "/small-cells/large")?];
        std::fs::remove_file(&large).map_err(crate::cluster::file_error(&large))?;
        let in_ram = [ram.store(&small, "/small")?, ram.store(&small, "/small-cells/small")?];
        let nginx = Nginx::start(bench.memory, &disk)?;
        Ok(Field { bench, disk, on_disk, ram, in_ram, nginx })
    }

    fn rows(&self, size: Size) -> Result<Vec<Row>, StepError> {
        let way = |clear, verify| Way { block: size.block, clear, verify, check: !verify };
        let cells = usize::from(size.small_cells);
        let node = |name, rig, stored: &Stored, way| self.node(name, size, (rig, stored), way);
        let (disk, ram) = (&self.disk, &self.ram);
        let mut sides = vec![
            node("disk", disk, &self.on_disk[cells], way(true, false))?,
            self.device(size.block.into(), size.device_depth)?,
            node("disk tls", disk, &self.on_disk[cells], way(false, false))?,
            node("ram", ram, &self.in_ram[cells], way(true, false))?,
            self.sender("sender", size, 1),
            node("ram tls", ram, &self.in_ram[cells], way(false, false))?,
            self.web("nginx", size, false)?,
            self.web("nginx tls", size, true)?,
        ];
        if size.block == 4 << 10 {
            sides.push(self.sender("gathering sender", size, GATHER_MAX));
        }
        if size.block == 1 << 20 {
            // A client that verifies too is as slow as the node, and asleep only when that verifies:
            // waking it would be counted as the price of verification.
            let unchecked = Way { check: false, ..way(true, false) };
            sides.push(node("ram verify", ram, &self.in_ram[cells], way(true, true))?);
            sides.push(node("ram unchecked", ram, &self.in_ram[cells], unchecked)?);
        }
        if let Some(wanted) = self.bench.side {
            sides.retain(|side| side.name == wanted);
            let rounds = Rounds::run(self.bench.rounds, sides)?;
            let each = f64::from(size.block) / 1e9;
            let name = format!("{}: {wanted}, GB/CPU-s against itself", size.name);
            return Ok(vec![Row::shown(&name, rounds.eff(wanted, wanted, each))]);
        }
        let rounds = Rounds::run(self.bench.rounds, sides)?;
        Ok(rows(size, &rounds))
    }

    /// One shard of a node.
    fn node<'b>(
        &'b self,
        name: &'static str,
        size: Size,
        (rig, stored): (&'b Rig, &Stored),
        way: Way,
    ) -> Result<Side<'b>, StepError> {
        let target = rig.targets()[0];
        let mut lines = rig.lines(stored, target, way, size.connections)?;
        let time = self.bench.time;
        Ok(Side::new(name, move |_| served(&mut lines, size.depth, time, || rig.cpu())))
    }

    /// A web server with the same bytes in memory.
    fn web<'b>(
        &'b self,
        name: &'static str,
        size: Size,
        sealed: bool,
    ) -> Result<Side<'b>, StepError> {
        let mut lines = self.nginx.lines(&self.disk, size.block, sealed, size.connections)?;
        let time = self.bench.time;
        Ok(Side::new(name, move |_| served(&mut lines, size.depth, time, || self.nginx.cpu())))
    }

    /// The device itself: the same container.
    fn device(&self, block: u64, depth: u32) -> Result<Side<'static>, StepError> {
        let container = self.disk.container()?;
        let seconds = Some(self.bench.time.as_secs_f64());
        Ok(Side::new("fio", move |round| {
            let job = Job { block, depth, range: RANGE, seconds, ..Job::of("randread") };
            fio::measure(&container, &Job { seed: round + 1, ..job }).map(Seen::of_fio)
        }))
    }

    /// A sender without anything around it: so many answers in one call at most.
    fn sender(&self, name: &'static str, size: Size, gather: usize) -> Side<'static> {
        let shape = Shape {
            answer: size.block as usize,
            connections: usize::try_from(size.connections).unwrap_or(1),
            depth: size.depth,
            gather,
        };
        let time = self.bench.time;
        Side::new(name, move |_| {
            let sent = send::measure(shape, time)?;
            Ok(Seen { per_s: sent.answers / sent.seconds, eff: sent.answers / sent.cpu_seconds })
        })
    }

    /// Reads of 4 KiB where cells have 16 KiB: each moves four times as much.
    fn small_reads_of_large_cells(&self) -> Result<Row, StepError> {
        let way = Way { block: 4 << 10, clear: true, verify: false, check: true };
        let size = SIZES[2];
        let sides = vec![
            self.node("disk", size, (&self.disk, &self.on_disk[0]), way)?,
            self.device(16 << 10, 128)?,
        ];
        let rounds = Rounds::run(self.bench.rounds, sides)?;
        let pairs = thousands(rounds.per_s("disk", "fio"));
        let name = "4 KiB of 16 KiB cells: requests / fio 16 KiB";
        Ok(Row::at_least(name, pairs, 0.85, 0.95).of("thousand/s"))
    }
}

/// Asks a server for a while, and counts what that cost it.
pub(super) fn served(
    lines: &mut [Line],
    depth: usize,
    time: std::time::Duration,
    cpu: impl Fn() -> f64,
) -> Result<Seen, StepError> {
    let before = cpu();
    let pulled = pull(lines, depth, time)?;
    let used = cpu() - before;
    Ok(Seen { per_s: pulled.answers / pulled.seconds, eff: pulled.answers / used })
}

/// The rows of one size.
fn rows(size: Size, rounds: &Rounds) -> Vec<Row> {
    let Size { name, block, .. } = size;
    let small = block == 4 << 10;
    let required = match block {
        0x10_0000 => Bars { device: (0.90, 0.97), tls: (0.55, 0.65), web_tls: 2.0, web_disk: 1.3 },
        0x2_0000 => Bars { device: (0.90, 0.97), tls: (0.60, 0.65), web_tls: 2.0, web_disk: 1.3 },
        _ => Bars { device: (0.85, 0.95), tls: (0.68, 0.65), web_tls: 1.8, web_disk: 0.95 },
    };
    let each = if small { 1e-3 } else { f64::from(block) / 1e9 };
    let unit = if small { "thousand/CPU-s" } else { "GB/CPU-s" };
    let at_least = |what: &str, pairs, (bar, goal)| {
        Row::at_least(&format!("{name}: {what}"), pairs, bar, goal)
    };
    let per_s = |ours, other| {
        let pairs = rounds.per_s(ours, other).into_iter();
        let scale = if small { 1e-3 } else { f64::from(block) / 1e9 };
        pairs.map(|(ours, other)| (ours * scale, other * scale)).collect::<Vec<_>>()
    };
    let device_unit = if small { "thousand/s" } else { "GB/s" };
    let eff = |ours, other| rounds.eff(ours, other, each);
    let mut rows = vec![
        at_least("throughput / fio, same container", per_s("disk", "fio"), required.device)
            .of(device_unit),
    ];
    if block == 1 << 20 {
        rows.push(at_least("EFF / sender", eff("disk", "sender"), (0.55, 0.65)).of(unit));
        rows.push(at_least("mem EFF / sender", eff("ram", "sender"), (0.85, 0.95)).of(unit));
        let verify = eff("ram verify", "ram unchecked");
        rows.push(at_least("mem, node verifies / does not", verify, (0.93, 0.97)).of(unit));
    } else {
        let bar = if small { (1.1, 1.5) } else { (1.0, 1.3) };
        rows.push(at_least("EFF / nginx sendfile", eff("disk", "nginx"), bar).of(unit));
    }
    if small {
        rows.push(at_least("mem EFF / sender", eff("ram", "sender"), (0.70, 0.90)).of(unit));
        let gathering = eff("ram", "gathering sender");
        rows.push(
            Row::shown("4 KiB: the same / a sender of 16 answers a call", gathering).of(unit),
        );
    }
    rows.push(at_least("mem, TLS EFF / clear", eff("ram tls", "ram"), required.tls).of(unit));
    let against = eff("ram tls", "nginx tls");
    rows.push(at_least("mem, TLS EFF / nginx TLS", against, (required.web_tls, 2.5)).of(unit));
    let against = eff("disk tls", "nginx tls");
    rows.push(at_least("TLS EFF / nginx TLS", against, (required.web_disk, 1.6)).of(unit));
    rows
}

/// What is required of one size, with the goal where it differs.
struct Bars {
    device: (f64, f64),
    tls: (f64, f64),
    web_tls: f64,
    web_disk: f64,
}

fn thousands(pairs: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    pairs.into_iter().map(|(ours, other)| (ours / 1e3, other / 1e3)).collect()
}
