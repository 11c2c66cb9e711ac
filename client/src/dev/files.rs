//! The files of a cluster: certificates and configuration, written where they are missing.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::ids::{ClusterId, CoordinatorId, NodeId, ShardId};
use protocol::tls::Identity;
use serde::Serialize;

use super::certificates::{Authority, write_private, write_public};
use super::folder::{make_folder, write_file};
use super::{DevError, Folder, Settings};
use crate::cli::calendar::Date;
use crate::config::DataTransport;

/// Name of the administrator in `client.toml`.
const ADMIN: &str = "root";
/// I/O memory of a shard, in bytes. Small: a developer's cluster is mostly idle.
const IO_MEMORY: &str = "16MiB";
/// Page cache of the coordinator's table.
const COORDINATOR_CACHE: &str = "16MiB";

#[derive(Serialize)]
struct CoordinatorEntry {
    id: u32,
    address: String,
}

/// The `[tls]` table of every configuration file.
#[derive(Serialize)]
pub(crate) struct TlsTable {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Serialize)]
struct ClientDocument<'a> {
    cluster: &'a str,
    data_transport: DataTransport,
    coordinators: Vec<CoordinatorEntry>,
    tls: TlsTable,
}

#[derive(Serialize)]
struct CoordinatorDocument<'a> {
    coordinator: u32,
    cluster: &'a str,
    listen: String,
    metrics: String,
    data_dir: &'a str,
    replicas: u8,
    targets_expected: u32,
    storm_restarts: u32,
    cache: &'a str,
    tls: TlsTable,
}

#[derive(Serialize)]
struct NodeDocument<'a> {
    node: u32,
    cluster: &'a str,
    address: &'a str,
    registered_buffers: &'a str,
    data_transport: DataTransport,
    clear_networks: &'a [&'a str],
    metrics: String,
    coordinators: Vec<CoordinatorEntry>,
    tls: TlsTable,
    shard: Vec<ShardTable>,
}

#[derive(Serialize)]
struct ShardTable {
    target: u32,
    port: u16,
    core: usize,
    device: u16,
    path: String,
    size: String,
    io_memory: &'static str,
}

/// Writes every file of the cluster that does not exist yet.
///
/// Files that exist stay as they are, so a person may edit them. `cores` is the number of CPUs of
/// this machine.
///
/// # Errors
/// [`DevError`] names the file.
pub fn write_configuration(
    folder: &Folder,
    settings: &Settings,
    today: Date,
    cores: usize,
) -> Result<(), DevError> {
    let cluster = settings.cluster_id().ok_or_else(|| DevError::Damaged {
        path: folder.settings_file(),
        text: "key cluster: expected 32 hexadecimal digits".to_owned(),
    })?;
    make_folder(&folder.tls())?;
    make_folder(&folder.logs())?;
    let authority = authority(folder, cluster, today)?;
    let certify = |identity, name: &str| issue(folder, &authority, &identity, name, today);
    certify(Identity::Admin(ADMIN.to_owned()), "admin")?;
    for number in 1..=settings.coordinators {
        make_folder(&folder.coordinator(number))?;
        let identity = Identity::Coordinator(CoordinatorId(number));
        certify(identity, &format!("coordinator-{number}"))?;
        let file = folder.coordinator(number).join("coordinator.toml");
        write_missing(&file, || coordinator_document(settings, number))?;
    }
    for node in (1..=settings.nodes).map(NodeId) {
        make_folder(&folder.node(node))?;
        certify(Identity::Node(node), &format!("node-{node}"))?;
        write_missing(&folder.node(node).join("node.toml"), || {
            node_document(settings, node, cores)
        })?;
    }
    write_missing(&folder.client_file(), || client_document(settings, tls_table("tls", "admin")))
}

/// The text of a client's configuration file.
pub(crate) fn client_document(
    settings: &Settings,
    tls: TlsTable,
) -> Result<String, toml::ser::Error> {
    let coordinators = coordinators(settings);
    let data_transport = settings.data_transport;
    toml::to_string(&ClientDocument {
        cluster: &settings.cluster,
        data_transport,
        coordinators,
        tls,
    })
}

fn coordinator_document(settings: &Settings, number: u32) -> Result<String, toml::ser::Error> {
    toml::to_string(&CoordinatorDocument {
        coordinator: number,
        cluster: &settings.cluster,
        listen: format!("127.0.0.1:{}", settings.coordinator_port(number)),
        metrics: format!("127.0.0.1:{}", settings.coordinator_metrics_port(number)),
        data_dir: "data",
        replicas: settings.replicas,
        targets_expected: settings.nodes * u32::from(settings.shards),
        // Nodes are killed and started at will here.
        storm_restarts: 0,
        cache: COORDINATOR_CACHE,
        tls: tls_table("../tls", &format!("coordinator-{number}")),
    })
}

fn node_document(
    settings: &Settings,
    node: NodeId,
    cores: usize,
) -> Result<String, toml::ser::Error> {
    let shard = |number| {
        let shard = ShardId(number);
        let target = settings.target(node, shard).0;
        ShardTable {
            target,
            port: settings.shard_port(node, shard),
            core: settings.core(node, shard, cores),
            device: 0,
            path: format!("t{target}.lane"),
            size: format!("{}MiB", settings.target_size >> 20),
            io_memory: IO_MEMORY,
        }
    };
    toml::to_string(&NodeDocument {
        node: node.0,
        cluster: &settings.cluster,
        address: "127.0.0.1",
        registered_buffers: "preferred",
        data_transport: settings.data_transport,
        clear_networks: &["127.0.0.0/8"],
        metrics: format!("127.0.0.1:{}", settings.node_metrics_port(node)),
        coordinators: coordinators(settings),
        tls: tls_table("../tls", &format!("node-{node}")),
        shard: (0..settings.shards).map(shard).collect(),
    })
}

fn coordinators(settings: &Settings) -> Vec<CoordinatorEntry> {
    let entry = |id| CoordinatorEntry {
        id,
        address: format!("127.0.0.1:{}", settings.coordinator_port(id)),
    };
    (1..=settings.coordinators).map(entry).collect()
}

fn tls_table(folder: &str, name: &str) -> TlsTable {
    let file = |name: String| Path::new(folder).join(name);
    TlsTable {
        ca: file("ca.pem".to_owned()),
        cert: file(format!("{name}.pem")),
        key: file(format!("{name}.key")),
    }
}

/// The authority in the folder, made when there is none.
pub(crate) fn authority(
    folder: &Folder,
    cluster: ClusterId,
    today: Date,
) -> Result<Authority, DevError> {
    let (key, certificate) = (folder.tls().join("ca.key"), folder.tls().join("ca.pem"));
    if key.exists() {
        let text = fs::read_to_string(&key).map_err(DevError::file("read", &key))?;
        let authority = Authority::from_key(cluster, &text)?;
        if !certificate.exists() {
            write_public(&certificate, &authority.own(today)?.certificate)?;
        }
        return Ok(authority);
    }
    let authority = Authority::generate(cluster)?;
    let own = authority.own(today)?;
    write_private(&key, &own.key)?;
    write_public(&certificate, &own.certificate)?;
    Ok(authority)
}

fn issue(
    folder: &Folder,
    authority: &Authority,
    identity: &Identity,
    name: &str,
    today: Date,
) -> Result<(), DevError> {
    let certificate = folder.tls().join(format!("{name}.pem"));
    if certificate.exists() {
        return Ok(());
    }
    let issued = authority.issue(identity, today)?;
    // The certificate is written last: while it is missing, both are made again.
    write_private(&folder.tls().join(format!("{name}.key")), &issued.key)?;
    write_public(&certificate, &issued.certificate)
}

fn write_missing(
    path: &Path,
    text: impl FnOnce() -> Result<String, toml::ser::Error>,
) -> Result<(), DevError> {
    if path.exists() {
        return Ok(());
    }
    let text = text()
        .map_err(|error| DevError::Damaged { path: path.to_owned(), text: error.to_string() })?;
    write_file(path, 0o644, text.as_bytes())
}
