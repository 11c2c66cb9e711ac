//! Adds a node to a running cluster.

use std::num::NonZeroUsize;
use std::path::Path;
use std::thread::available_parallelism;

use protocol::ids::NodeId;

use super::control::start_in;
use super::ports::first_listening;
use super::process::{Role, Slot, State, find_binary};
use super::{DevError, Folder, write_configuration};
use crate::cli::{clock, output};

/// Adds a node, starts it, and says its number; returns when it is registered.
pub(crate) async fn add_node(dir: &Path) -> Result<(), DevError> {
    let binary = find_binary("lanefs-node")?;
    let folder = Folder::open(dir)?;
    let _lock = folder.lock()?;
    let coordinator = Slot::new(&folder, Role::Coordinator(1));
    if !matches!(coordinator.state(), State::Running(_)) {
        return Err(DevError::NotRunning(coordinator.name()));
    }
    let settings = folder.settings()?.grown()?;
    let node = NodeId(settings.nodes);
    let mut ports = settings.node_ports(node);
    ports.push(settings.node_metrics_port(node));
    if let Some(port) = first_listening(&ports) {
        return Err(DevError::PortInUse(port));
    }
    // The settings come first: what is interrupted after them is completed by `dev up`.
    folder.store_settings(&settings)?;
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    write_configuration(&folder, &settings, clock::today(), cores)?;
    start_in(&folder, &settings, node, &binary).await?;
    output::print(&format!("node {node}\n")).map_err(DevError::file("write", "standard output"))
}
