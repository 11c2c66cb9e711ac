//! What a dev cluster is made of, and the arithmetic of its numbers and ports. Pure.

use protocol::ids::{ClusterId, NodeId, ShardId, TargetId};
use protocol::limits::GROUP_MEMBERS_MAX;
use serde::{Deserialize, Serialize};

use crate::config::DataTransport;

/// Ports of one cluster: `base_port..base_port + PORT_SPAN`.
pub(crate) const PORT_SPAN: u16 = 100;
/// The first shard's port, counted from the base; coordinators lie below.
const SHARD_PORT_FIRST: u16 = 10;
/// The port of the first coordinator's metrics, counted from the base; those of the others and of
/// the nodes follow downwards, so they meet those of shards only when the span is used up.
const METRICS_PORT_LAST: u16 = PORT_SPAN - 1;
/// Ports for shards and metrics together: what is left of the span.
const PORTS_MAX: u32 = (PORT_SPAN - SHARD_PORT_FIRST) as u32;
/// Smallest target that holds journal, checkpoints and some data, in bytes.
const TARGET_SIZE_MIN: u64 = 64 << 20;
/// Largest target unless another size is asked for, in bytes.
const TARGET_SIZE_DEFAULT: u64 = 8 << 30;
/// Lowest base port: below it a program needs privileges.
const BASE_PORT_MIN: u16 = 1024;

/// Settings of a dev cluster, kept in `DIR/dev.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Cluster id, 32 hexadecimal digits.
    pub cluster: String,
    /// Data nodes, numbered from 1.
    pub nodes: u32,
    /// Those of them that `add-node` added.
    #[serde(default)]
    pub added: u32,
    /// Shards of each node.
    pub shards: u16,
    /// Coordinators, numbered from 1.
    pub coordinators: u32,
    /// Replicas of each group: what was asked for, or the number of nodes when that is less.
    pub replicas: u8,
    /// Replicas that were asked for.
    pub replicas_asked: u8,
    /// Size of each target, in bytes.
    pub target_size: u64,
    /// First of the cluster's ports.
    pub base_port: u16,
    /// How bulk data crosses the network.
    #[serde(default)]
    pub data_transport: DataTransport,
    /// True when `dev up` made the folder itself, so `--purge` may remove it.
    pub made_folder: bool,
}

/// What the command line asks for; `None` takes the default, or what the folder was made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `--nodes`
    pub nodes: Option<u32>,
    /// `--shards`
    pub shards: Option<u16>,
    /// `--coordinators`
    pub coordinators: Option<u32>,
    /// `--replicas`
    pub replicas: Option<u8>,
    /// `--target-size`, in bytes.
    pub target_size: Option<u64>,
    /// `--base-port`
    pub base_port: Option<u16>,
    /// `--data-transport`
    pub data_transport: Option<DataTransport>,
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A number is outside of its range.
    #[error("{option} must be {expected}, not {got}")]
    Range {
        /// The option.
        option: &'static str,
        /// What it may be.
        expected: String,
        /// What was given.
        got: String,
    },
    /// The folder holds a cluster with another setting.
    #[error(
        "this cluster was made with {option} {have}, not {asked}; leave the option out, or use another --dir"
    )]
    Differs {
        /// The option.
        option: &'static str,
        /// The cluster's value.
        have: String,
        /// What was given.
        asked: String,
    },
}

impl Settings {
    /// Completes what was asked for with defaults.
    ///
    /// `free` is the free space of the file system, `base_port` the port to use when none was
    /// asked for.
    ///
    /// # Errors
    /// [`SettingsError::Range`] when a number is outside of its range.
    pub fn new(
        cluster: ClusterId,
        asked: &Asked,
        free: u64,
        base_port: u16,
    ) -> Result<Settings, SettingsError> {
        let nodes = asked.nodes.unwrap_or(3);
        let shards = asked.shards.unwrap_or(1);
        let replicas_asked = asked.replicas.unwrap_or(3);
        let settings = Settings {
            cluster: cluster.to_string(),
            nodes,
            added: 0,
            shards,
            coordinators: asked.coordinators.unwrap_or(1),
            replicas: replicas_asked.min(u8::try_from(nodes).unwrap_or(u8::MAX)),
            replicas_asked,
            target_size: asked.target_size.unwrap_or_else(|| default_size(free, nodes, shards)),
            base_port: asked.base_port.unwrap_or(base_port),
            data_transport: asked.data_transport.unwrap_or_default(),
            made_folder: false,
        };
        settings.validate()?;
        Ok(settings)
    }

    fn validate(&self) -> Result<(), SettingsError> {
        let range = |option, fits: bool, expected: String, got: String| {
            if fits { Ok(()) } else { Err(SettingsError::Range { option, expected, got }) }
        };
        let shards = u32::from(self.shards);
        // A port for each shard, and one for the metrics of each process.
        let ports = self.nodes.saturating_mul(shards.saturating_add(1));
        let ports = ports.saturating_add(self.coordinators);
        range("--nodes", self.nodes >= 1, "at least 1".into(), self.nodes.to_string())?;
        range("--shards", shards >= 1, "at least 1".into(), shards.to_string())?;
        range(
            "ports of shards and metrics (--nodes times --shards, one a node, one a coordinator)",
            ports <= PORTS_MAX,
            format!("at most {PORTS_MAX}"),
            ports.to_string(),
        )?;
        range(
            "--replicas",
            (1..GROUP_MEMBERS_MAX).contains(&usize::from(self.replicas_asked)),
            format!("1 to {}", GROUP_MEMBERS_MAX - 1),
            self.replicas_asked.to_string(),
        )?;
        range(
            "--target-size",
            self.target_size >= TARGET_SIZE_MIN,
            format!("at least {} MiB", TARGET_SIZE_MIN >> 20),
            format!("{} MiB", self.target_size >> 20),
        )?;
        let top = u16::MAX - (PORT_SPAN - 1);
        range(
            "--base-port",
            (BASE_PORT_MIN..=top).contains(&self.base_port),
            format!("{BASE_PORT_MIN} to {top}"),
            self.base_port.to_string(),
        )
    }

    /// Checks that nothing else was asked for than the cluster was made with.
    ///
    /// # Errors
    /// [`SettingsError::Differs`] names the first option that differs.
    pub fn accepts(&self, asked: &Asked) -> Result<(), SettingsError> {
        // Both numbers are true of a cluster that grew: those it was made with, and all.
        let nodes = asked.nodes.filter(|&asked| asked != self.nodes - self.added);
        same("--nodes", self.nodes, nodes)?;
        same("--shards", self.shards, asked.shards)?;
        same("--coordinators", self.coordinators, asked.coordinators)?;
        same("--replicas", self.replicas_asked, asked.replicas)?;
        same("--target-size", self.target_size, asked.target_size)?;
        same("--base-port", self.base_port, asked.base_port)?;
        same("--data-transport", self.data_transport, asked.data_transport)
    }

    /// The settings with one more node.
    ///
    /// # Errors
    /// [`SettingsError::Range`] when the cluster has no port left for it.
    pub fn grown(&self) -> Result<Settings, SettingsError> {
        let (nodes, added) = (self.nodes.saturating_add(1), self.added.saturating_add(1));
        let grown = Settings { nodes, added, ..self.clone() };
        grown.validate()?;
        Ok(grown)
    }

    /// Identity of the cluster; `None` when the settings file was damaged.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        ClusterId::parse(&self.cluster)
    }

    /// Port of a coordinator, numbered from 1.
    pub fn coordinator_port(&self, number: u32) -> u16 {
        self.base_port + u16::try_from(number - 1).unwrap_or(0)
    }

    /// Port of a node's shard.
    pub fn shard_port(&self, node: NodeId, shard: ShardId) -> u16 {
        let ordinal = (node.0 - 1) * u32::from(self.shards) + u32::from(shard.0);
        self.base_port + SHARD_PORT_FIRST + u16::try_from(ordinal).unwrap_or(0)
    }

    /// Port of a coordinator's metrics.
    pub fn coordinator_metrics_port(&self, number: u32) -> u16 {
        self.metrics_port(number - 1)
    }

    /// Port of a node's metrics.
    pub fn node_metrics_port(&self, node: NodeId) -> u16 {
        self.metrics_port(self.coordinators + node.0 - 1)
    }

    fn metrics_port(&self, ordinal: u32) -> u16 {
        let last = self.base_port + METRICS_PORT_LAST;
        last.saturating_sub(u16::try_from(ordinal).unwrap_or(0))
    }

    /// Target of a node's shard.
    pub fn target(&self, node: NodeId, shard: ShardId) -> TargetId {
        TargetId(node.0 * 100 + u32::from(shard.0) + 1)
    }

    /// The CPU a shard is pinned to on a machine with `cores` CPUs.
    pub fn core(&self, node: NodeId, shard: ShardId, cores: usize) -> usize {
        ((node.0 as usize - 1) * usize::from(self.shards) + usize::from(shard.0)) % cores.max(1)
    }

    /// Every port the cluster listens on, ascending.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports = Vec::new();
        for number in 1..=self.coordinators {
            ports.extend([self.coordinator_port(number), self.coordinator_metrics_port(number)]);
        }
        for node in (1..=self.nodes).map(NodeId) {
            ports.extend(self.node_ports(node));
            ports.push(self.node_metrics_port(node));
        }
        ports.sort_unstable();
        ports
    }

    /// The ports of one node's data, shard by shard.
    pub fn node_ports(&self, node: NodeId) -> Vec<u16> {
        (0..self.shards).map(|shard| self.shard_port(node, ShardId(shard))).collect()
    }
}

fn same<T: PartialEq + ToString + Copy>(
    option: &'static str,
    have: T,
    asked: Option<T>,
) -> Result<(), SettingsError> {
    match asked {
        Some(asked) if asked != have => {
            Err(SettingsError::Differs { option, have: have.to_string(), asked: asked.to_string() })
        }
        _ => Ok(()),
    }
}

/// 8 GiB or a fifth of the free space a node, and always less than all nodes together may fill.
fn default_size(free: u64, nodes: u32, shards: u16) -> u64 {
    let parts = u64::from(nodes.saturating_add(2).max(5)) * u64::from(shards.max(1));
    let size = TARGET_SIZE_DEFAULT.min(free / parts);
    size & !((1 << 20) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(asked: &Asked) -> Result<Settings, SettingsError> {
        Settings::new(ClusterId(7), asked, 400 << 30, 7400)
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let settings = settings(&Asked::default()).unwrap();
        assert_eq!((settings.nodes, settings.shards, settings.replicas), (3, 1, 3));
        assert_eq!(settings.target_size, 8 << 30);
        assert_eq!(settings.ports(), [7400, 7410, 7411, 7412, 7496, 7497, 7498, 7499]);
        assert_eq!(settings.coordinator_metrics_port(1), 7499);
        assert_eq!(settings.node_metrics_port(NodeId(3)), 7496);
    }

    #[test]
    fn the_default_target_is_a_fifth_of_a_small_disk() {
        assert_eq!(default_size(10 << 30, 3, 1), 2 << 30);
        assert_eq!(default_size(10 << 30, 8, 1), 1 << 30);
        assert_eq!(default_size(10 << 30, 3, 2), 1 << 30);
    }

    #[test]
    fn fewer_nodes_than_replicas_lower_the_replicas() {
        let one = settings(&Asked { nodes: Some(1), ..Asked::default() }).unwrap();
        assert_eq!((one.replicas, one.replicas_asked), (1, 3));
        assert_eq!(one.accepts(&Asked { replicas: Some(3), ..Asked::default() }), Ok(()));
        assert!(one.accepts(&Asked { replicas: Some(1), ..Asked::default() }).is_err());
    }

    #[test]
    fn numbers_outside_of_their_range_are_refused() {
        let refused = |asked: Asked| match settings(&asked) {
            Err(SettingsError::Range { option, .. }) => option,
            other => panic!("accepted: {other:?}"),
        };
        assert_eq!(refused(Asked { nodes: Some(0), ..Asked::default() }), "--nodes");
        assert_eq!(refused(Asked { shards: Some(0), ..Asked::default() }), "--shards");
        let many = Asked { nodes: Some(30), shards: Some(2), ..Asked::default() };
        assert!(refused(many).starts_with("ports of shards and metrics"));
        assert_eq!(refused(Asked { replicas: Some(8), ..Asked::default() }), "--replicas");
        assert_eq!(refused(Asked { target_size: Some(1), ..Asked::default() }), "--target-size");
        assert_eq!(refused(Asked { base_port: Some(80), ..Asked::default() }), "--base-port");
        assert_eq!(refused(Asked { base_port: Some(65_500), ..Asked::default() }), "--base-port");
    }

    #[test]
    fn the_largest_clusters_stay_inside_their_ports_and_use_none_twice() {
        for (nodes, shards, coordinators) in [(44, 1, 2), (29, 2, 3), (1, 88, 1), (1, 87, 2)] {
            let asked = Asked {
                nodes: Some(nodes),
                shards: Some(shards),
                coordinators: Some(coordinators),
                ..Asked::default()
            };
            let settings = settings(&asked).unwrap();
            let ports = settings.ports();
            let wanted = nodes * (u32::from(shards) + 1) + 2 * coordinators;
            assert_eq!(ports.len(), wanted as usize, "{nodes} x {shards}");
            assert!(ports.windows(2).all(|pair| pair[0] < pair[1]), "{ports:?}");
            assert_eq!((ports.first(), ports.last()), (Some(&7400), Some(&7499)));
        }
    }

    #[test]
    fn a_cluster_that_grew_accepts_both_numbers_of_nodes() {
        let grown = settings(&Asked::default()).unwrap().grown().unwrap();
        assert_eq!((grown.nodes, grown.added), (4, 1));
        let with = |nodes| grown.accepts(&Asked { nodes: Some(nodes), ..Asked::default() });
        assert_eq!((with(3), with(4)), (Ok(()), Ok(())));
        assert!(with(5).is_err());
        let full = Settings { nodes: 44, ..grown };
        assert!(full.grown().is_err(), "no port is left");
    }

    #[test]
    fn another_setting_than_the_clusters_is_named() {
        let settings = settings(&Asked::default()).unwrap();
        let clear = Asked { data_transport: Some(DataTransport::Clear), ..Asked::default() };
        let error = settings.accepts(&clear).unwrap_err();
        assert!(error.to_string().contains("--data-transport tls, not clear"), "{error}");
        let error = settings.accepts(&Asked { shards: Some(2), ..Asked::default() }).unwrap_err();
        assert!(error.to_string().contains("--shards 1, not 2"), "{error}");
    }
}
