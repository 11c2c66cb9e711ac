//! Other servers beside us on the same bytes: nginx with and without TLS, and whatever else serves
//! ranges of files over HTTP and is named on the command line.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::Bench;
use super::http::Ranges;
use super::nginx::{Nginx, free_port};
use super::process::tree_cpu;
use super::pull::Line;
use super::reads::{MEMORY_BYTES, SIZES, Size, served};
use super::rig::{Rig, Stored, Way};
use super::rounds::{Rounds, Side};
use super::table::Row;
use crate::cluster::{StepError, sibling, wait_for};
use crate::machine::device::fill;

/// Longest wait until a server listens.
const START: Duration = Duration::from_secs(10);

/// A server somebody named: `NAME=COMMAND`, in which `{root}` is the folder that it is to serve and
/// `{port}` the port it is to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    name: String,
    command: String,
}

impl std::str::FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        match text.split_once('=') {
            Some((name, command)) if !name.is_empty() && command.contains("{port}") => {
                Ok(Named { name: name.to_owned(), command: command.to_owned() })
            }
            _ => Err("expected NAME=COMMAND with {root} and {port} in it".to_owned()),
        }
    }
}

/// A named server that runs on core 0; ended when dropped.
struct Peer {
    name: &'static str,
    child: Child,
    address: SocketAddr,
}

/// Measures every server in every size. Nothing is required: the table is for people who choose.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, StepError> {
    let program = sibling("lanefs-node-ram-disk")?;
    let options = ["--replicas", "1", "--target-size", "1GiB"];
    let ram = Rig::start(&bench.folder.join("beside-peers"), 1, Some(&program), &options)?;
    let bytes = bench.memory.join("bytes");
    fill(&bytes, MEMORY_BYTES)?;
    ram.cluster.run(["mkdir", "--cell", "4KiB", "/small-cells"])?;
    let stored = [ram.store(&bytes, "/bytes")?, ram.store(&bytes, "/small-cells/bytes")?];
    let nginx = Nginx::start(bench.memory, &ram)?;
    let mut peers = Vec::new();
    for named in bench.peers {
        peers.push(Peer::start(named, bench.memory)?);
    }
    let mut rows = Vec::new();
    for size in SIZES {
        rows.extend(compare(bench, size, (&ram, &stored), &nginx, &peers)?);
    }
    Ok(rows)
}

fn compare(
    bench: &Bench<'_>,
    size: Size,
    (ram, stored): (&Rig, &[Stored; 2]),
    nginx: &Nginx,
    peers: &[Peer],
) -> Result<Vec<Row>, StepError> {
    let time = bench.time;
    let stored = &stored[usize::from(size.small_cells)];
    let mut sides = Vec::new();
    for (name, clear) in [("lanefs", true), ("lanefs tls", false)] {
        let way = Way { block: size.block, clear, verify: false, check: true };
        let mut lines = ram.lines(stored, ram.targets()[0], way, size.connections)?;
        sides.push(Side::new(name, move |_| served(&mut lines, size.depth, time, || ram.cpu())));
    }
    for (name, sealed) in [("nginx", false), ("nginx tls", true)] {
        let mut lines = nginx.lines(ram, size.block, sealed, size.connections)?;
        sides.push(Side::new(name, move |_| served(&mut lines, size.depth, time, || nginx.cpu())));
    }
    for peer in peers {
        let mut lines = peer.lines(size.block, size.connections)?;
        sides.push(Side::new(peer.name, move |_| {
            served(&mut lines, size.depth, time, || tree_cpu(peer.child.id()))
        }));
    }
    let rounds = Rounds::run(bench.rounds, sides)?;
    let pairs = [("lanefs", "nginx"), ("lanefs tls", "nginx tls")];
    let others = peers.iter().map(|peer| ("lanefs", peer.name));
    Ok(pairs.into_iter().chain(others).flat_map(|pair| rows(size, &rounds, pair)).collect())
}

fn rows(size: Size, rounds: &Rounds, (ours, other): (&str, &str)) -> [Row; 2] {
    let each = f64::from(size.block) / 1e9;
    let per_s = rounds.per_s(ours, other).into_iter().map(|(a, b)| (a * each, b * each)).collect();
    let name = |what| format!("{}: {ours} / {other}: {what}", size.name);
    [
        Row::shown(&name("throughput"), per_s).of("GB/s"),
        Row::shown(&name("EFF"), rounds.eff(ours, other, each)).of("GB/CPU-s"),
    ]
}

impl Peer {
    /// Starts it, with `root` as its folder.
    ///
    /// # Errors
    /// [`StepError`] when it does not start or does not listen.
    fn start(named: &Named, root: &Path) -> Result<Peer, StepError> {
        let address = free_port()?;
        let command = named
            .command
            .replace("{root}", &root.display().to_string())
            .replace("{port}", &address.port().to_string());
        let failed = |source| StepError::Start { program: named.name.clone(), source };
        let child = Command::new("taskset")
            .args(["-c", "0", "sh", "-c", &format!("exec {command}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        // Sides are named for as long as the program runs.
        let peer = Peer { name: named.name.clone().leak(), child, address };
        let what = format!("{} to listen on port {}", peer.name, address.port());
        wait_for(&what, START, || Ok(TcpStream::connect(peer.address).is_ok()))?;
        Ok(peer)
    }

    fn lines(&self, block: u32, count: u64) -> Result<Vec<Line>, StepError> {
        let failed =
            |error: std::io::Error| StepError::Different(format!("{}: {error}", self.name));
        let line = |number| {
            let speech = Box::new(Ranges::new("/bytes", MEMORY_BYTES, block.into(), number));
            Line::new(TcpStream::connect(self.address).map_err(failed)?, None, speech)
        };
        (0..count).map(line).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It is gone already, or goes now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_with_its_command() {
        let named: Named =
            "caddy=caddy file-server --root {root} --listen :{port}".parse().unwrap();
        assert_eq!(named.name, "caddy");
        for wrong in ["caddy", "=x {port}", "caddy=caddy file-server"] {
            assert!(wrong.parse::<Named>().is_err(), "{wrong}");
        }
    }
}
