//! `dev up`: makes the cluster when there is none, starts what does not run, waits until ready.

use std::num::NonZeroUsize;
use std::path::Path;
use std::thread::available_parallelism;

use protocol::ids::{ClusterId, NodeId, ShardId, TargetId};
use rustix::process::Signal;

use super::folder::make_folder;
use super::ports::{PortRange, choose_base_port, first_listening, released};
use super::process::{Role, Slot, State, find_binary};
use super::ready::{self, Watch};
use super::{Asked, DevError, Folder, Settings, write_configuration};
use crate::cli::args::UpArgs;
use crate::cli::clock;

/// Processes that this command started; ends them when dropped before they were ready.
struct Started {
    slots: Vec<Slot>,
    ready: bool,
}

/// Carries out `lanefs dev up`.
pub(crate) async fn up(args: UpArgs) -> Result<(), DevError> {
    check_supported(&args)?;
    let (node, coordinator) = (find_binary("lanefs-node")?, find_binary("lanefs-coordinator")?);
    let made_folder = !args.dir.exists();
    make_folder(&args.dir)?;
    let folder = Folder::at(&args.dir)?;
    let _lock = folder.lock()?;
    let (settings, range) = settings(&folder, &asked(&args), made_folder)?;
    if settings.replicas < settings.replicas_asked {
        eprintln!(
            "lanefs: dev up: {} nodes: replicas lowered from {} to {}",
            settings.nodes, settings.replicas_asked, settings.replicas
        );
    }
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    write_configuration(&folder, &settings, clock::today(), cores)?;
    released(&ports_to_use(&folder, &settings)).await?;

    let mut started = Started { slots: Vec::new(), ready: false };
    for number in 1..=settings.coordinators {
        started.start(&folder, Role::Coordinator(number), &coordinator)?;
    }
    let client = Watch::new(&folder, &started.slots).connect().await?;
    let before = client.refresh_map().await.map_err(|error| DevError::Cluster {
        what: "cannot read the cluster map",
        text: error.to_string(),
    })?;
    let before = ready::generations(&before);
    let mut waited_for = Vec::new();
    for number in (1..=settings.nodes).map(NodeId) {
        if started.start(&folder, Role::Node(number), &node)? {
            waited_for.push((number, targets(&settings, number)));
        }
    }
    // The processes listen soon; another `dev up` may look for ports as soon as they do.
    let watch = Watch::new(&folder, &started.slots);
    watch
        .map(&client, "every group writable", |map| {
            waited_for
                .iter()
                .all(|(node, targets)| ready::node_registered(map, *node, targets, &before))
                && ready::all_writable(map)
        })
        .await?;
    drop(range);
    started.ready = true;
    // The session ends by its lease when this fails; the cluster is up either way.
    client.close().await.ok();
    Ok(())
}

fn check_supported(args: &UpArgs) -> Result<(), DevError> {
    match args.coordinators {
        None | Some(1) => Ok(()),
        Some(_) => {
            Err(DevError::Usage("--coordinators other than 1 is not supported yet".to_owned()))
        }
    }
}

fn asked(args: &UpArgs) -> Asked {
    Asked {
        nodes: args.nodes,
        shards: args.shards,
        coordinators: args.coordinators,
        replicas: args.replicas,
        target_size: args.target_size,
        base_port: args.base_port,
        data_transport: args.data_transport,
    }
}

/// The folder's settings, or new ones; with the ports reserved until the processes listen.
fn settings(
    folder: &Folder,
    asked: &Asked,
    made_folder: bool,
) -> Result<(Settings, Option<PortRange>), DevError> {
    if folder.settings_file().exists() {
        let settings = folder.settings()?;
        settings.accepts(asked)?;
        let range = PortRange::reserve(settings.base_port);
        return Ok((settings, range));
    }
    check_no_stranger(folder)?;
    let free = free_space(folder.root())?;
    let cluster = draw_cluster_id()?;
    // Settings of any base port tell the range checks and which ports would be needed.
    let draft = Settings::new(cluster, asked, free, 7400)?;
    let range = match asked.base_port {
        Some(base) => {
            if let Some(port) = first_listening(&draft.ports()) {
                return Err(DevError::PortInUse(port));
            }
            PortRange::reserve(base).ok_or(DevError::PortInUse(base))?
        }
        None => choose_base_port(|base_port| Settings { base_port, ..draft.clone() }.ports())?,
    };
    let settings = Settings { base_port: range.base(), made_folder, ..draft };
    folder.store_settings(&settings)?;
    Ok((settings, Some(range)))
}

/// Refuses to take over files that another program put where the cluster's would be.
fn check_no_stranger(folder: &Folder) -> Result<(), DevError> {
    let first = NodeId(1);
    let ours = [
        folder.tls(),
        folder.logs(),
        folder.client_file(),
        folder.node(first),
        folder.coordinator(1),
    ];
    match ours.iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(DevError::Usage(format!(
            "{} exists and is not of a dev cluster; choose another --dir",
            path.display()
        ))),
    }
}

/// The ports of the processes that are going to be started.
fn ports_to_use(folder: &Folder, settings: &Settings) -> Vec<u16> {
    slots(folder, settings)
        .iter()
        .filter(|slot| !matches!(slot.state(), State::Running(_)))
        .flat_map(|slot| {
            let ports = slot_ports(settings, slot.role);
            ports.into_iter().chain([metrics_port(settings, slot.role)])
        })
        .collect()
}

/// Every process of the cluster, the coordinators first.
pub(crate) fn slots(folder: &Folder, settings: &Settings) -> Vec<Slot> {
    let coordinators = (1..=settings.coordinators).map(Role::Coordinator);
    let nodes = (1..=settings.nodes).map(|number| Role::Node(NodeId(number)));
    coordinators.chain(nodes).map(|role| Slot::new(folder, role)).collect()
}

/// The ports on which a process serves.
pub(crate) fn slot_ports(settings: &Settings, role: Role) -> Vec<u16> {
    match role {
        Role::Coordinator(number) => vec![settings.coordinator_port(number)],
        Role::Node(node) => settings.node_ports(node),
    }
}

/// The port on which a process tells its metrics.
pub(crate) fn metrics_port(settings: &Settings, role: Role) -> u16 {
    match role {
        Role::Coordinator(number) => settings.coordinator_metrics_port(number),
        Role::Node(node) => settings.node_metrics_port(node),
    }
}

/// The targets of one node.
pub(crate) fn targets(settings: &Settings, node: NodeId) -> Vec<TargetId> {
    (0..settings.shards).map(|shard| settings.target(node, ShardId(shard))).collect()
}

fn free_space(path: &Path) -> Result<u64, DevError> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|error| DevError::file("measure the free space of", path)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn draw_cluster_id() -> Result<ClusterId, DevError> {
    let mut bytes = [0; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| DevError::Certificate(rcgen::Error::RingUnspecified))?;
    Ok(ClusterId(u128::from_le_bytes(bytes)))
}

impl Started {
    /// Starts a process unless it runs; true when it was started.
    fn start(&mut self, folder: &Folder, role: Role, binary: &Path) -> Result<bool, DevError> {
        let slot = Slot::new(folder, role);
        if matches!(slot.state(), State::Running(_)) {
            return Ok(false);
        }
        slot.start(binary)?;
        self.slots.push(slot);
        Ok(true)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.ready {
            return;
        }
        for slot in &self.slots {
            if let Ok(Some(running)) = slot.running()
                && let Err(error) = running.signal(Signal::KILL)
            {
                eprintln!("lanefs: dev up: {error}");
            }
            if let Err(error) = slot.forget() {
                eprintln!("lanefs: dev up: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_of_another_program_are_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path()).unwrap();
        fs::write(dir.path().join("notes.txt"), "x").unwrap();
        check_no_stranger(&folder).unwrap();
        fs::create_dir(dir.path().join("tls")).unwrap();
        assert!(check_no_stranger(&folder).unwrap_err().is_usage());
    }

    #[test]
    fn settings_are_kept_and_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path()).unwrap();
        let asked = Asked { target_size: Some(64 << 20), ..Asked::default() };
        let (first, range) = settings(&folder, &asked, true).unwrap();
        drop(range);
        let (second, _range) = settings(&folder, &Asked::default(), false).unwrap();
        assert_eq!(first, second);
        let other = Asked { nodes: Some(2), ..Asked::default() };
        assert!(settings(&folder, &other, false).unwrap_err().is_usage());
    }
}
