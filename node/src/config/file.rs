//! The form of the configuration file: TOML in, TOML out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use protocol::ids::TargetId;
use protocol::limits::IO_ALIGN;
use serde::Deserialize;

use super::{
    Config, Coordinator, DataTransport, LogFormat, RegisteredBuffers, Shard, Size, TlsPaths,
};
use crate::limits::{COMPARE_PERIOD_S, RING_DEPTH};

const IO_MEMORY_DEFAULT: Size = Size(16 << 20);

/// The file's top level, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) node: u32,
    pub(super) cluster: String,
    pub(super) address: IpAddr,
    pub(super) coordinators: Vec<Coordinator>,
    #[serde(default)]
    pub(super) data_transport: DataTransport,
    #[serde(default)]
    pub(super) clear_networks: Vec<String>,
    #[serde(default)]
    pub(super) registered_buffers: RegisteredBuffers,
    #[serde(default)]
    pub(super) log_format: LogFormat,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) tls: TlsPaths,
    #[serde(default)]
    pub(super) shard: Vec<RawShard>,
}

/// One `[[shard]]` table, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawShard {
    target: u32,
    port: u16,
    core: Option<u16>,
    #[serde(default)]
    device: u16,
    path: PathBuf,
    size: Size,
    #[serde(default = "io_memory_default")]
    io_memory: Size,
    #[serde(default)]
    prezero: bool,
    #[serde(default = "compare_hours_default")]
    compare_hours: u64,
    #[serde(default = "ring_depth_default")]
    ring_depth: u16,
    #[serde(default)]
    spin_us: u32,
}

fn io_memory_default() -> Size {
    IO_MEMORY_DEFAULT
}

fn compare_hours_default() -> u64 {
    COMPARE_PERIOD_S / 3600
}

fn ring_depth_default() -> u16 {
    RING_DEPTH
}

impl RawShard {
    pub(super) fn resolve(self, folder: &Path) -> Shard {
        Shard {
            target: TargetId(self.target),
            port: self.port,
            core: self.core,
            device: self.device,
            path: folder.join(self.path),
            size: self.size.0 - self.size.0 % IO_ALIGN as u64,
            io_memory: self.io_memory.0.checked_next_power_of_two().unwrap_or(u64::MAX),
            prezero: self.prezero,
            compare_hours: self.compare_hours,
            ring_depth: self.ring_depth,
            spin_us: self.spin_us,
        }
    }
}

/// Reads TOML; the error is one line with line number, key and what is expected.
pub(super) fn parse(text: &str) -> Result<RawConfig, String> {
    toml::from_str(text).map_err(|error| {
        let message = error.message().replace('\n', " ");
        match error.span() {
            Some(span) => format!("{}{message}", place(text, span.start)),
            None => message,
        }
    })
}

/// Line number and, where the line assigns one, the key.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or_default();
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    match line.split_once('=') {
        Some((key, _)) => format!("line {number}: {}: ", key.trim()),
        None => format!("line {number}: "),
    }
}

/// Writes the configuration as a file that reads back to the same.
pub(super) fn write(config: &Config, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "node = {}", config.node)?;
    writeln!(f, "cluster = \"{}\"", config.cluster)?;
    writeln!(f, "address = \"{}\"", config.address)?;
    writeln!(f, "coordinators = [")?;
    for coordinator in &config.coordinators {
        writeln!(f, "  {{ id = {}, address = \"{}\" }},", coordinator.id, coordinator.address)?;
    }
    writeln!(f, "]")?;
    let transport = match config.data_transport {
        DataTransport::Tls => "tls",
        DataTransport::Clear => "clear",
    };
    writeln!(f, "data_transport = \"{transport}\"")?;
    writeln!(f, "clear_networks = {:?}", config.clear_networks.texts())?;
    let buffers = match config.registered_buffers {
        RegisteredBuffers::Required => "required",
        RegisteredBuffers::Preferred => "preferred",
    };
    writeln!(f, "registered_buffers = \"{buffers}\"")?;
    let format = match config.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    writeln!(f, "log_format = \"{format}\"")?;
    if let Some(metrics) = config.metrics {
        writeln!(f, "metrics = \"{metrics}\"")?;
    }
    writeln!(f, "\n[tls]")?;
    writeln!(f, "ca = {:?}", config.tls.ca)?;
    writeln!(f, "cert = {:?}", config.tls.cert)?;
    writeln!(f, "key = {:?}", config.tls.key)?;
    config.shards.iter().try_for_each(|shard| write_shard(shard, f))
}

fn write_shard(shard: &Shard, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "\n[[shard]]")?;
    writeln!(f, "target = {}", shard.target)?;
    writeln!(f, "port = {}", shard.port)?;
    if let Some(core) = shard.core {
        writeln!(f, "core = {core}")?;
    }
    writeln!(f, "device = {}", shard.device)?;
    writeln!(f, "path = {:?}", shard.path)?;
    writeln!(f, "size = \"{}\"", Size(shard.size))?;
    writeln!(f, "io_memory = \"{}\"", Size(shard.io_memory))?;
    writeln!(f, "prezero = {}", shard.prezero)?;
    writeln!(f, "compare_hours = {}", shard.compare_hours)?;
    writeln!(f, "ring_depth = {}", shard.ring_depth)?;
    writeln!(f, "spin_us = {}", shard.spin_us)
}
