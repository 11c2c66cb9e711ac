//! A cluster of real processes on this machine, for development, tests and demonstrations.
//!
//! Owns one folder `DIR`: settings, certificates, configuration files, containers, logs and
//! pid files of one coordinator and a few nodes. Knows the other binaries only by their command
//! line and configuration files. Invariant: a process is signalled only when its pid *and* its
//! start time are those that were recorded when it was started, so a recycled pid is never hit.
//! Start at [`run`], then `up`.

mod certificates;
mod control;
mod files;
mod folder;
mod grow;
mod identity;
mod ports;
mod process;
mod ready;
mod settings;
mod status;
mod up;

use std::path::PathBuf;

pub use certificates::{Authority, write_private, write_public};
pub use files::write_configuration;
pub use folder::Folder;
pub use ports::choose_base_port;
pub use settings::{Asked, Settings, SettingsError};

use crate::cli::args::{DevArgs, DevCommand};

/// Why a `dev` command failed.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The command line does not fit this version or this folder.
    #[error("{0}")]
    Usage(String),
    /// Settings are out of range or differ from those the folder was made with.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The folder does not hold a cluster.
    #[error("{}: no dev cluster here; make one with: lanefs dev up --dir {}", .0.display(), .0.display())]
    NoCluster(PathBuf),
    /// A file or folder could not be read or written.
    #[error("{}: cannot {action}: {source}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A configuration file is not what `dev up` wrote.
    #[error("{}: {text}; restore the file, or remove the cluster with: lanefs dev down --purge", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A port is in use by another program.
    #[error(
        "port {0} is in use by another program; stop it (ss -ltnp names it), or leave --base-port out when the cluster is new"
    )]
    PortInUse(u16),
    /// No free range of ports was found.
    #[error("no free ports between 7400 and 65499 on 127.0.0.1; stop another cluster first")]
    NoPorts,
    /// A binary is not installed.
    #[error("{0}: not found beside lanefs nor in PATH; build it with: make")]
    NoBinary(String),
    /// A process ended while it was waited for.
    #[error("{name} ended at start: {tail}; its log is {}", .log.display())]
    Died {
        /// Role and number.
        name: String,
        /// End of its log, in one line.
        tail: String,
        /// The log.
        log: PathBuf,
    },
    /// A process did not do what was expected in time.
    #[error("{what} did not happen within {seconds} s; see the logs in {}", .logs.display())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// Where the logs are.
        logs: PathBuf,
    },
    /// The process to act on is not running.
    #[error("{0} is not running")]
    NotRunning(String),
    /// A request to the cluster failed.
    #[error("{what}: {text}")]
    Cluster {
        /// What was asked.
        what: &'static str,
        /// What went wrong.
        text: String,
    },
    /// A signal or a wait failed.
    #[error("{name}: cannot {action}: {source}")]
    Signal {
        /// Role and number.
        name: String,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl DevError {
    /// True when the command line is at fault, so the exit code is 2.
    pub fn is_usage(&self) -> bool {
        matches!(self, DevError::Usage(_) | DevError::Settings(_))
    }

    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> DevError {
        let path = path.into();
        move |source| DevError::File { action, path, source }
    }
}

/// Carries out one `lanefs dev` command.
///
/// # Errors
/// [`DevError`]; processes that the command itself started have been ended again.
///
/// # Cancel safety
/// Dropping the future ends the processes it started, unless they were ready.
pub async fn run(args: DevArgs) -> Result<(), DevError> {
    match args.command {
        DevCommand::Up(command) => up::up(command).await,
        DevCommand::Status { dir, json } => status::status(&dir, json).await,
        DevCommand::KillNode { number, dir } => control::kill_node(&dir, number).await,
        DevCommand::StartNode { number, dir } => control::start_node(&dir, number).await,
        DevCommand::StopNode { number, dir } => control::stop_node(&dir, number).await,
        DevCommand::KillCoordinator { number, dir } => {
            control::kill_coordinator(&dir, number).await
        }
        DevCommand::StartCoordinator { number, dir } => {
            control::start_coordinator(&dir, number).await
        }
        DevCommand::AddNode { dir } => grow::add_node(&dir).await,
        DevCommand::Down { dir, purge } => control::down(&dir, purge).await,
        DevCommand::Client { user, uid, out, dir } => identity::client(&dir, &user, uid, &out),
    }
}
