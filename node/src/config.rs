//! The configuration file of a data node.
//!
//! Owns names, units, defaults and ranges. Knows nothing of what is done with the values. Every
//! complaint is one line that names the file, the key and what is expected. Start at [`load`].

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use protocol::config_file;
use protocol::ids::{ClusterId, NodeId, TargetId};
use serde::Deserialize;

use crate::limits::{
    COMPARE_HOURS_MAX, CONTAINER_SIZE_MIN, COORDINATORS_MAX, IO_MEMORY_MAX, IO_MEMORY_MIN,
    RING_DEPTH, RING_DEPTH_MAX, SHARDS_MAX, SPIN_US_MAX,
};

mod clear;
mod file;
mod size;

pub use clear::{ClearNetworks, DataTransport};
pub use size::Size;

/// What a node needs to know to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's number.
    pub node: NodeId,
    /// Cluster it belongs to.
    pub cluster: ClusterId,
    /// Where its shards listen.
    pub address: IpAddr,
    /// Coordinators, in the order in which they are tried.
    pub coordinators: Vec<Coordinator>,
    /// How payload goes over the network.
    pub data_transport: DataTransport,
    /// With whose addresses it may go unencrypted.
    pub clear_networks: ClearNetworks,
    /// What to do when buffers cannot be registered with the kernel.
    pub registered_buffers: RegisteredBuffers,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Where the node tells its metrics; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
    /// Certificate of the cluster's authority, own certificate, own key.
    pub tls: TlsPaths,
    /// One entry for each shard; its position is the shard's number.
    pub shards: Vec<Shard>,
}

/// A coordinator and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coordinator {
    /// Its number; its certificate must say the same.
    pub id: u32,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What to do when the memory-lock limit is too low to register buffers with the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegisteredBuffers {
    /// Refuse to start.
    #[default]
    Required,
    /// Warn and go on.
    Preferred,
}

/// Form of the log on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Files with certificates and key; absolute or relative to the working directory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsPaths {
    /// Certificate of the authority that signs every certificate of the cluster.
    pub ca: PathBuf,
    /// This node's certificate.
    pub cert: PathBuf,
    /// The key of the certificate.
    pub key: PathBuf,
}

/// One shard: a core, a port and a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The target it owns.
    pub target: TargetId,
    /// Its own port.
    pub port: u16,
    /// CPU it is pinned to; `None` leaves it to the scheduler.
    pub core: Option<u16>,
    /// Physical device inside the node, for failure domains.
    pub device: u16,
    /// The container: a file or a block device.
    pub path: PathBuf,
    /// Size of the container when it is created, in bytes; a multiple of the I/O alignment.
    pub size: u64,
    /// Arena of registered buffers, in bytes; a power of two.
    pub io_memory: u64,
    /// Whether a container is written with zeros when it is created, so that no later flush waits
    /// until the file system has made room of what it only reserved.
    pub prezero: bool,
    /// Hours between two comparisons of the members of the groups it leads.
    pub compare_hours: u64,
    /// Entries of each of its rings; a power of two.
    pub ring_depth: u16,
    /// Microseconds that its executor looks for work before it sleeps: a core of its own burns idle
    /// time for a faster first answer.
    pub spin_us: u32,
}

/// Why a configuration cannot be used: one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}", file = file.display())]
pub struct ConfigError {
    file: PathBuf,
    problem: String,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`ConfigError`] names the file, the line or key, and what is expected there.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let error = |problem| ConfigError { file: path.to_path_buf(), problem };
    let text =
        config_file::read(path).map_err(|cause| error(format!("cannot be read: {cause}")))?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    parse(&text, folder).map_err(error)
}

/// Reads a configuration from text; relative paths in it start from `folder`.
///
/// # Errors
/// One line that names the key and what is expected there.
pub fn parse(text: &str, folder: &Path) -> Result<Config, String> {
    let raw = file::parse(text)?;
    let config = Config {
        node: NodeId(raw.node),
        cluster: ClusterId::parse(&raw.cluster)
            .ok_or_else(|| "cluster: expected 32 hexadecimal digits".to_owned())?,
        address: raw.address,
        coordinators: raw.coordinators,
        data_transport: raw.data_transport,
        clear_networks: ClearNetworks::parse(&raw.clear_networks)?,
        registered_buffers: raw.registered_buffers,
        log_format: raw.log_format,
        metrics: raw.metrics,
        tls: TlsPaths {
            ca: folder.join(raw.tls.ca),
            cert: folder.join(raw.tls.cert),
            key: folder.join(raw.tls.key),
        },
        shards: raw.shard.into_iter().map(|shard| shard.resolve(folder)).collect(),
    };
    config.check()?;
    Ok(config)
}

impl Config {
    /// Networks with whose addresses payload goes unencrypted: none unless that is asked for.
    pub fn clear(&self) -> ClearNetworks {
        match self.data_transport {
            DataTransport::Tls => ClearNetworks::default(),
            DataTransport::Clear => self.clear_networks.clone(),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.node.0 == 0 {
            return Err("node: expected a number from 1".to_owned());
        }
        if self.coordinators.is_empty() || self.coordinators.len() > COORDINATORS_MAX {
            return Err(format!("coordinators: expected 1 to {COORDINATORS_MAX} entries"));
        }
        if self.coordinators.iter().any(|coordinator| coordinator.id == 0) {
            return Err("coordinators: id: expected a number from 1".to_owned());
        }
        if self.data_transport == DataTransport::Clear && self.clear_networks.is_empty() {
            return Err(
                "clear_networks: data_transport = \"clear\" needs at least one network of \
                        this cluster's fabric"
                    .to_owned(),
            );
        }
        if self.shards.is_empty() || self.shards.len() > SHARDS_MAX {
            return Err(format!("shard: expected 1 to {SHARDS_MAX} [[shard]] tables"));
        }
        for (position, shard) in self.shards.iter().enumerate() {
            shard.check().map_err(|problem| format!("shard {position}: {problem}"))?;
        }
        unique("target", self.shards.iter().map(|shard| shard.target))?;
        unique("port", self.shards.iter().map(|shard| shard.port))?;
        unique("core", self.shards.iter().filter_map(|shard| shard.core))?;
        unique("path", self.shards.iter().map(|shard| shard.path.display().to_string()))?;
        self.metrics.map_or(Ok(()), |metrics| self.check_metrics(metrics))
    }

    fn check_metrics(&self, metrics: SocketAddr) -> Result<(), String> {
        let everywhere = metrics.ip().is_unspecified() || self.address.is_unspecified();
        let same_address = everywhere || metrics.ip() == self.address;
        if metrics.port() == 0 {
            return Err("metrics: expected a port from 1 to 65535".to_owned());
        }
        if same_address && self.shards.iter().any(|shard| shard.port == metrics.port()) {
            let port = metrics.port();
            return Err(format!("metrics: port {port} is a shard's: expected one of its own"));
        }
        Ok(())
    }
}

impl Shard {
    fn check(&self) -> Result<(), String> {
        if self.target.0 == 0 {
            return Err("target: expected a number from 1".to_owned());
        }
        if self.port == 0 {
            return Err("port: expected a port from 1 to 65535".to_owned());
        }
        if self.size < CONTAINER_SIZE_MIN {
            return Err(format!("size: expected at least {}", Size(CONTAINER_SIZE_MIN)));
        }
        if !(IO_MEMORY_MIN..=IO_MEMORY_MAX).contains(&self.io_memory) {
            let (min, max) = (Size(IO_MEMORY_MIN), Size(IO_MEMORY_MAX));
            return Err(format!("io_memory: expected {min} to {max}"));
        }
        if !(1..=COMPARE_HOURS_MAX).contains(&self.compare_hours) {
            return Err(format!("compare_hours: expected 1 to {COMPARE_HOURS_MAX}"));
        }
        let depths = RING_DEPTH..=RING_DEPTH_MAX;
        if !depths.contains(&self.ring_depth) || !self.ring_depth.is_power_of_two() {
            return Err(format!(
                "ring_depth: expected a power of two, {RING_DEPTH} to {RING_DEPTH_MAX}"
            ));
        }
        if self.spin_us > SPIN_US_MAX {
            return Err(format!("spin_us: expected at most {SPIN_US_MAX}"));
        }
        if self.spin_us > 0 && self.core.is_none() {
            return Err("spin_us: needs `core`: a shard that spins must not roam".to_owned());
        }
        Ok(())
    }
}

fn unique<T: Ord + fmt::Display>(key: &str, values: impl Iterator<Item = T>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for value in values {
        if seen.contains(&value) {
            return Err(format!("shard: {key} {value} is used twice"));
        }
        seen.insert(value);
    }
    Ok(())
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        file::write(self, f)
    }
}

#[cfg(test)]
mod tests;
