//! The command line of `lanefs-node`.

use std::path::PathBuf;

use clap::Parser;

/// Stores chunks on local devices, one shard per core.
#[derive(Debug, Parser)]
#[command(name = "lanefs-node", disable_version_flag = true)]
pub struct Cli {
    /// Configuration file.
    #[arg(long, value_name = "FILE", required_unless_present = "version")]
    pub config: Option<PathBuf>,
    /// Print the configuration as it was understood, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// Print release, compiled checksum path and processor level, and exit.
    #[arg(long)]
    pub version: bool,
}

/// What `--version` prints.
pub fn version_line() -> String {
    protocol::version::line("lanefs-node")
}
