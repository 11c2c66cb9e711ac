//! The command line of `lanefs-coordinator`.

use std::path::PathBuf;

use clap::Parser;

/// What the process was asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(
    name = "lanefs-coordinator",
    about = "The coordinator of a lanefs cluster: namespace, map and sessions",
    disable_version_flag = true
)]
pub struct Cli {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", required_unless_present = "version")]
    pub config: Option<PathBuf>,
    /// Print the configuration with every default filled in, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// Print release and processor level, and exit.
    #[arg(long, short = 'V')]
    pub version: bool,
}

/// Release, checksum path and processor level, as `--version` prints them.
pub fn version() -> String {
    format!(
        "lanefs-coordinator {} ({}, {})",
        env!("CARGO_PKG_VERSION"),
        protocol::checksum::compiled_path(),
        protocol::cpu::LEVEL
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_required_unless_the_version_is_asked_for() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["lanefs-coordinator"], args].concat());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--version"]).unwrap().version);
        let cli = parse(&["--config", "c.toml", "--print-config"]).unwrap();
        assert_eq!((cli.config, cli.print_config), (Some("c.toml".into()), true));
    }

    #[test]
    fn the_version_names_the_checksum_path() {
        assert!(version().starts_with("lanefs-coordinator 0.1.0 (xxh3/"), "{}", version());
    }
}
