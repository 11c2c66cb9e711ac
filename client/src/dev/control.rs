//! Ends and starts single processes, and ends the whole cluster.

use std::path::Path;
use std::time::Duration;

use protocol::ids::NodeId;
use rustix::process::Signal;

use super::ports::released;
use super::process::{Role, Running, Slot, State, find_binary};
use super::ready::{self, Watch};
use super::up::{slot_ports, slots, targets};
use super::{DevError, Folder, Settings};

/// How long a process may take to end after SIGTERM: it drains and writes its last checkpoint.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long a process may take to disappear after SIGKILL: the kernel cancels its I/O first.
const DEATH_WITHIN: Duration = Duration::from_secs(20);

pub(crate) async fn kill_node(dir: &Path, number: u32) -> Result<(), DevError> {
    kill(dir, Role::Node(NodeId(number))).await
}

pub(crate) async fn kill_coordinator(dir: &Path, number: u32) -> Result<(), DevError> {
    kill(dir, Role::Coordinator(number)).await
}

async fn kill(dir: &Path, role: Role) -> Result<(), DevError> {
    let folder = Folder::open(dir)?;
    let _lock = folder.lock()?;
    check_number(&folder.settings()?, role)?;
    let slot = Slot::new(&folder, role);
    let running = slot.running()?.ok_or_else(|| DevError::NotRunning(slot.name()))?;
    running.signal(Signal::KILL)?;
    await_death(&folder, &slot, &running).await
}

pub(crate) async fn stop_node(dir: &Path, number: u32) -> Result<(), DevError> {
    let folder = Folder::open(dir)?;
    let _lock = folder.lock()?;
    let role = Role::Node(NodeId(number));
    check_number(&folder.settings()?, role)?;
    let slot = Slot::new(&folder, role);
    let running = slot.running()?.ok_or_else(|| DevError::NotRunning(slot.name()))?;
    running.signal(Signal::TERM)?;
    if !running.ended(STOP_WITHIN).await? {
        return Err(timeout(&folder, format!("the end of {}", slot.name()), STOP_WITHIN));
    }
    slot.forget()
}

pub(crate) async fn start_node(dir: &Path, number: u32) -> Result<(), DevError> {
    let binary = find_binary("lanefs-node")?;
    let folder = Folder::open(dir)?;
    let _lock = folder.lock()?;
    let settings = folder.settings()?;
    let node = NodeId(number);
    check_number(&settings, Role::Node(node))?;
    let coordinator = Slot::new(&folder, Role::Coordinator(1));
    if !matches!(coordinator.state(), State::Running(_)) {
        return Err(DevError::NotRunning(coordinator.name()));
    }
    start_in(&folder, &settings, node, &binary).await
}

/// Starts a node of a cluster whose coordinator runs, and waits until it is registered.
pub(crate) async fn start_in(
    folder: &Folder,
    settings: &Settings,
    node: NodeId,
    binary: &Path,
) -> Result<(), DevError> {
    let slot = Slot::new(folder, Role::Node(node));
    if matches!(slot.state(), State::Running(_)) {
        return Ok(());
    }
    released(&slot_ports(settings, slot.role)).await?;
    let slots = [slot];
    let client = Watch::new(folder, &[]).connect().await?;
    let before = client.refresh_map().await.map_err(|error| DevError::Cluster {
        what: "cannot read the cluster map",
        text: error.to_string(),
    })?;
    let before = ready::generations(&before);
    slots[0].start(binary)?;
    let targets = targets(settings, node);
    Watch::new(folder, &slots)
        .map(&client, &format!("registration of node {node}"), |map| {
            ready::node_registered(map, node, &targets, &before)
        })
        .await?;
    // The session ends by its lease when this fails; the node is up either way.
    client.close().await.ok();
    Ok(())
}

pub(crate) async fn start_coordinator(dir: &Path, number: u32) -> Result<(), DevError> {
    let binary = find_binary("lanefs-coordinator")?;
    let folder = Folder::open(dir)?;
    let _lock = folder.lock()?;
    let settings = folder.settings()?;
    check_number(&settings, Role::Coordinator(number))?;
    let slot = Slot::new(&folder, Role::Coordinator(number));
    if matches!(slot.state(), State::Running(_)) {
        return Ok(());
    }
    released(&slot_ports(&settings, slot.role)).await?;
    slot.start(&binary)?;
    let client = Watch::new(&folder, std::slice::from_ref(&slot)).connect().await?;
    client.close().await.ok();
    Ok(())
}

/// Ends every process, the nodes first, and removes what `dev up` made when `purge`.
pub(crate) async fn down(dir: &Path, purge: bool) -> Result<(), DevError> {
    let folder = Folder::open(dir)?;
    let lock = folder.lock()?;
    let settings = folder.settings()?;
    let (coordinators, nodes): (Vec<Slot>, Vec<Slot>) = slots(&folder, &settings)
        .into_iter()
        .partition(|slot| matches!(slot.role, Role::Coordinator(_)));
    stop_all(&folder, &nodes).await?;
    stop_all(&folder, &coordinators).await?;
    if purge {
        folder.purge(&settings)?;
    }
    drop(lock);
    Ok(())
}

/// Stops processes together: all are asked before the first is waited for.
async fn stop_all(folder: &Folder, slots: &[Slot]) -> Result<(), DevError> {
    let mut waiting: Vec<(&Slot, Running)> = Vec::new();
    for slot in slots {
        match slot.running()? {
            Some(running) => {
                running.signal(Signal::TERM)?;
                waiting.push((slot, running));
            }
            None => slot.forget()?,
        }
    }
    for (slot, running) in waiting {
        if !running.ended(STOP_WITHIN).await? {
            eprintln!(
                "lanefs: dev down: {} did not stop within {} s and was killed",
                slot.name(),
                STOP_WITHIN.as_secs()
            );
            running.signal(Signal::KILL)?;
            await_death(folder, slot, &running).await?;
        }
        slot.forget()?;
    }
    Ok(())
}

async fn await_death(folder: &Folder, slot: &Slot, running: &Running) -> Result<(), DevError> {
    if running.ended(DEATH_WITHIN).await? {
        return Ok(());
    }
    Err(timeout(folder, format!("the death of {}", slot.name()), DEATH_WITHIN))
}

fn check_number(settings: &Settings, role: Role) -> Result<(), DevError> {
    let most = match role {
        Role::Coordinator(_) => settings.coordinators,
        Role::Node(_) => settings.nodes,
    };
    if (1..=most).contains(&role.number()) {
        return Ok(());
    }
    let word = role.word();
    Err(DevError::Usage(format!(
        "there is no {word} {}; this cluster has {word} 1 to {most}",
        role.number()
    )))
}

fn timeout(folder: &Folder, what: String, within: Duration) -> DevError {
    DevError::Timeout { what, seconds: within.as_secs(), logs: folder.logs() }
}
