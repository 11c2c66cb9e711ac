//! A cluster of real processes, each in a network namespace of its own where that is possible.
//!
//! Owns the folder, the processes, the namespaces and the small disk, and ends all of them. Writes
//! its configuration with `lanefs dev`'s own functions and then sets the addresses, as a person
//! would. Start at [`Lab::start`].

pub mod network;
pub mod process;
pub mod small_disk;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use client::Config;
use client::cli::calendar::Date;
use client::dev::{Asked, Folder, Settings, choose_base_port, write_configuration};
use protocol::ids::{ClusterId, NodeId};

use self::network::{Network, Place};
use self::process::Process;
use self::small_disk::SmallDisk;
use crate::cluster::{StepError, file_error, sibling};
use crate::dice::mix;

/// Environment variable of the test build that names its orders.
const ORDERS_VARIABLE: &str = "LANEFS_FAULT_DISK";
/// Where the table of a shard begins, and how it begins when its container is written beforehand.
const SHARD_TABLE: &str = "[[shard]]\n";
const PREZEROED_TABLE: &str = "[[shard]]\nprezero = true\n";
/// Room of a small disk beside the container: what ext4 keeps for itself, and some.
const SMALL_DISK_SPARE: u64 = 64 << 20;
/// Address that `lanefs dev` writes.
const LOOPBACK: &str = "127.0.0.1";

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Data nodes.
    pub nodes: u32,
    /// Size of each target, in bytes.
    pub target_size: u64,
    /// Whether containers are written with zeros when they are created.
    pub prezero: bool,
    /// Whether every process gets a network namespace.
    pub namespaces: bool,
    /// First node that runs the build whose container fails on order.
    pub faulty_from: Option<u32>,
    /// Node whose container lies on a small file system of its own.
    pub small_disk: Option<u32>,
    /// Decides the cluster's identity.
    pub seed: u64,
    /// Lines of the coordinator's configuration beside those that `lanefs dev` writes.
    pub settings: String,
}

/// A running cluster; ended when dropped.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    root: PathBuf,
    folder: Folder,
    /// In reverse order of dependence: fields are dropped in this order.
    nodes: Vec<Process>,
    coordinator: Process,
    small_disk: Option<SmallDisk>,
    network: Option<Network>,
    started: BTreeSet<u32>,
}

impl Lab {
    /// Makes the network, so that the caller's thread is where the clients will be.
    ///
    /// Must come before any other thread is started.
    ///
    /// # Errors
    /// [`StepError`] when this user may not, or a tool is missing.
    pub fn network(plan: &Plan) -> Result<Option<Network>, StepError> {
        if plan.small_disk.is_some() {
            SmallDisk::hide_mounts()?;
        }
        plan.namespaces.then(|| Network::make(plan.nodes)).transpose()
    }

    /// Writes all files below `root`, which exists, and starts every process.
    ///
    /// # Errors
    /// [`StepError`] names the file or process.
    pub fn start(root: &Path, plan: Plan, network: Option<Network>) -> Result<Lab, StepError> {
        let folder = Folder::at(root).map_err(other)?;
        let asked = Asked {
            nodes: Some(plan.nodes),
            target_size: Some(plan.target_size),
            ..Asked::default()
        };
        let cluster = ClusterId(u128::from(mix(plan.seed)) << 64 | u128::from(mix(!plan.seed)));
        let draft = Settings::new(cluster, &asked, u64::MAX, 7400).map_err(other)?;
        let range = choose_base_port(|base_port| Settings { base_port, ..draft.clone() }.ports());
        let range = range.map_err(other)?;
        let settings = Settings { base_port: range.base(), ..draft };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        write_configuration(&folder, &settings, today(), cores).map_err(other)?;
        let small_disk = plan.small_disk.map(|node| small_disk(&folder, &plan, node));
        let small_disk = small_disk.transpose()?;
        if network.is_some() {
            set_addresses(&folder, plan.nodes)?;
        }
        if plan.prezero {
            let written = |text: String| text.replace(SHARD_TABLE, PREZEROED_TABLE);
            (1..=plan.nodes).try_for_each(|node| edit(&node_file(&folder, node), written))?;
        }
        // Before the rest of the file: what follows a table would belong to it.
        let coordinator_file = folder.coordinator(1).join("coordinator.toml");
        edit(&coordinator_file, |text| format!("{}{text}", plan.settings))?;
        let coordinator = coordinator(&folder, network.as_ref())?;
        let nodes = (1..=plan.nodes).map(|number| node(&folder, &plan, network.as_ref(), number));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let root = root.to_owned();
        let started = BTreeSet::new();
        let mut lab = Lab { plan, root, folder, nodes, coordinator, small_disk, network, started };
        lab.coordinator.start()?;
        lab.nodes.iter_mut().try_for_each(Process::start)?;
        Ok(lab)
    }

    /// What it was made of.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Configuration of an administrator in the client's namespace.
    ///
    /// # Errors
    /// [`StepError`] when the file was damaged.
    pub fn client_config(&self) -> Result<Config, StepError> {
        Config::load(&self.folder.client_file()).map_err(other)
    }

    /// A `lanefs` command for this cluster.
    ///
    /// # Errors
    /// [`StepError`] when the program is not beside this one.
    pub fn lanefs(&self, words: &[&str]) -> Result<Command, StepError> {
        let mut command = Command::new(sibling("lanefs")?);
        command.args(words).env("LANEFS_CONFIG", self.folder.client_file());
        Ok(command)
    }

    /// The coordinator.
    pub fn coordinator(&mut self) -> &mut Process {
        &mut self.coordinator
    }

    /// Starts a node that does not run.
    ///
    /// # Errors
    /// [`StepError`] when there is no such node, or it cannot be started.
    pub fn start_node(&mut self, number: u32) -> Result<(), StepError> {
        self.started.insert(number);
        self.node(number)?.start()
    }

    /// Nodes that were started since this was last asked.
    pub fn take_started(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.started)
    }

    /// A node, numbered from 1.
    ///
    /// # Errors
    /// [`StepError`] when there is no such node.
    pub fn node(&mut self, number: u32) -> Result<&mut Process, StepError> {
        let missing = || StepError::Different(format!("there is no node {number}"));
        let position = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        position.and_then(|position| self.nodes.get_mut(position)).ok_or_else(missing)
    }

    /// The network; `None` when everything shares the machine's.
    pub fn cuts(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// The small file system, when a node lives on one.
    pub fn small_disk(&self) -> Option<&SmallDisk> {
        self.small_disk.as_ref()
    }

    /// The container of a node.
    pub fn container(&self, number: u32) -> PathBuf {
        let name = format!("t{number}01.lane");
        let below = if self.plan.small_disk == Some(number) { "disk" } else { "" };
        self.folder.node(NodeId(number)).join(below).join(name)
    }

    /// Gives orders to the container of a node that runs the test build.
    ///
    /// # Errors
    /// [`StepError`] when the file cannot be replaced.
    pub fn order(&self, number: u32, orders: &str) -> Result<(), StepError> {
        let path = orders_file(&self.folder, number);
        let new = path.with_extension("new");
        fs::write(&new, orders).map_err(file_error(&new))?;
        fs::rename(&new, &path).map_err(file_error(&path))
    }

    /// Processes that ended without being asked to, with how.
    pub fn deaths(&mut self) -> Vec<String> {
        let all = self.nodes.iter_mut().chain([&mut self.coordinator]);
        all.filter_map(|process| {
            let status = process.ended()?;
            Some(format!("{} ended with {status}; see {}", process.name(), process.log().display()))
        })
        .collect()
    }

    /// Resident memory and open descriptors of every process, for people.
    pub fn footprint(&self) -> String {
        let all = self.nodes.iter().chain([&self.coordinator]);
        let texts = all.filter_map(|process| {
            let pid = process.pid()?;
            let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
            let mib = crate::cluster::resident_bytes(pid) >> 20;
            Some(format!("{} {mib} MiB {files} files", process.name()))
        });
        texts.collect::<Vec<_>>().join(", ")
    }

    /// Ends everything; the folder stays.
    ///
    /// # Errors
    /// [`StepError`] when a process or the mount cannot be ended.
    pub fn end(mut self) -> Result<(), StepError> {
        self.nodes.iter_mut().try_for_each(Process::kill)?;
        self.coordinator.kill()?;
        self.small_disk.take().map_or(Ok(()), SmallDisk::unmount)
    }
}

fn other(error: impl std::fmt::Display) -> StepError {
    StepError::Different(error.to_string())
}

fn orders_file(folder: &Folder, number: u32) -> PathBuf {
    folder.node(NodeId(number)).join("orders")
}

fn coordinator(folder: &Folder, network: Option<&Network>) -> Result<Process, StepError> {
    let config = folder.coordinator(1).join("coordinator.toml");
    let log = folder.logs().join("coordinator-1.log");
    let process = Process::new("coordinator", &sibling("lanefs-coordinator")?, &config, &log);
    Ok(process.inside(network.and_then(|network| network.space(Place::Coordinator))))
}

fn node(
    folder: &Folder,
    plan: &Plan,
    network: Option<&Network>,
    number: u32,
) -> Result<Process, StepError> {
    let is_faulty = plan.faulty_from.is_some_and(|first| number >= first);
    let program = if is_faulty { "lanefs-node-fault-disk" } else { "lanefs-node" };
    let config = folder.node(NodeId(number)).join("node.toml");
    let log = folder.logs().join(format!("node-{number}.log"));
    let process = Process::new(&format!("node {number}"), &sibling(program)?, &config, &log);
    let process = process.with(ORDERS_VARIABLE, orders_file(folder, number));
    Ok(process.inside(network.and_then(|network| network.space(Place::Node(number)))))
}

/// Puts the container of a node on a file system that is hardly larger.
fn small_disk(folder: &Folder, plan: &Plan, number: u32) -> Result<SmallDisk, StepError> {
    let home = folder.node(NodeId(number));
    let bytes = plan.target_size + plan.target_size / 32 + SMALL_DISK_SPARE;
    let disk = SmallDisk::make(&home.join("disk.img"), &home.join("disk"), bytes)?;
    edit(&home.join("node.toml"), |text| text.replace("path = \"t", "path = \"disk/t"))?;
    Ok(disk)
}

/// Puts the places' addresses where `lanefs dev` wrote the loopback's.
fn set_addresses(folder: &Folder, nodes: u32) -> Result<(), StepError> {
    let coordinator = Place::Coordinator.address().to_string();
    for file in [folder.client_file(), folder.coordinator(1).join("coordinator.toml")] {
        edit(&file, |text| placed(&text, &coordinator, &coordinator))?;
    }
    for number in 1..=nodes {
        let own = Place::Node(number).address().to_string();
        edit(&node_file(folder, number), |text| placed(&text, &coordinator, &own))?;
    }
    Ok(())
}

/// A configuration with the coordinator's address wherever a port follows, except for metrics, and
/// the process's own anywhere else.
fn placed(text: &str, coordinator: &str, own: &str) -> String {
    let metrics = |address: &str| format!("metrics = \"{address}:");
    text.replace(&metrics(LOOPBACK), &metrics(own))
        .replace(&format!("{LOOPBACK}:"), &format!("{coordinator}:"))
        .replace(LOOPBACK, own)
}

fn node_file(folder: &Folder, number: u32) -> PathBuf {
    folder.node(NodeId(number)).join("node.toml")
}

fn edit(path: &Path, change: impl Fn(String) -> String) -> Result<(), StepError> {
    let text = fs::read_to_string(path).map_err(file_error(path))?;
    fs::write(path, change(text)).map_err(file_error(path))
}

#[expect(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
fn today() -> Date {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Date::from_days(i64::try_from(since.as_secs() / 86_400).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_own_address_for_data_and_metrics() {
        let text = "address = \"127.0.0.1\"\nmetrics = \"127.0.0.1:7498\"\n\
                    [[coordinators]]\naddress = \"127.0.0.1:7400\"\n";
        let expected = "address = \"10.0.0.2\"\nmetrics = \"10.0.0.2:7498\"\n\
                        [[coordinators]]\naddress = \"10.0.0.1:7400\"\n";
        assert_eq!(placed(text, "10.0.0.1", "10.0.0.2"), expected);
    }
}
