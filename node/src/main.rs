//! The data node process.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use node::boot;
use node::cli::{Cli, version_line};
use node::config::{self, Config, LogFormat};
use tracing_subscriber::EnvFilter;

/// The data path allocates for every request: `docs/design/0006-payload-outside-of-tls.md`.
#[global_allocator]
static ALLOCATOR: node::memory::NodeMemory = node::memory::NodeMemory;

/// Exit status for a command line or configuration that cannot be used.
const EXIT_USAGE: u8 = 2;

pub(crate) fn main() -> ExitCode {
    protocol::cpu::require();
    let cli = Cli::parse();
    if cli.version {
        return print(&version_line());
    }
    let Some(path) = cli.config else { return refuse(EXIT_USAGE, &"--config FILE is missing") };
    let config = match config::load(&path) {
        Ok(config) => config,
        Err(error) => return refuse(EXIT_USAGE, &error),
    };
    if cli.print_config {
        return print(config.to_string().trim_end());
    }
    run(config)
}

fn run(config: Config) -> ExitCode {
    if let Err(error) = log_to_stderr(config.log_format) {
        return refuse(1, &error);
    }
    match boot::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(error.exit_code(), &error),
    }
}

/// Starts the log. The runtime logs through `log`; its warnings are the only sign of buffers that
/// could not be registered, so they are passed on.
fn log_to_stderr(format: LogFormat) -> Result<(), impl std::fmt::Display> {
    let filter = EnvFilter::try_from_env("LANEFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    }
}

fn print(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn refuse(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "lanefs-node: {error}");
    ExitCode::from(code)
}
