//! `lanefs-coordinator`: reads its configuration and runs.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use coordinator::cli::{Cli, version};
use coordinator::config::{Config, LogFormat};
use coordinator::daemon;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    protocol::cpu::require();
    let cli = Cli::parse();
    if cli.version {
        return print(&version());
    }
    // The parser demands a configuration unless the version was asked for.
    let config = match Config::load(cli.config.as_deref().unwrap_or(Path::new(""))) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("lanefs-coordinator: {error}");
            return ExitCode::from(2);
        }
    };
    if cli.print_config {
        return print(config.print().trim_end());
    }
    start_logging(config.log_format);
    match daemon::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "coordinator ends");
            ExitCode::FAILURE
        }
    }
}

/// Writes what was asked for to standard output; a closed pipe is no reason to panic.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("LANEFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
