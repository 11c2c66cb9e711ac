//! The process: opens everything in order, runs, and stops cleanly.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::message::command::{Caller, Command};
use protocol::tls::{TlsError, TlsFiles, server_config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::kv::{KvError, Redb};
use crate::limits::{READERS_MAX, WORKERS};
use crate::log::{FileLog, LogError, MeteredLog};
use crate::metrics::LogCounts;
use crate::open_files;
use crate::propose::{self, Identity, ProposeError, Proposer, Running};
use crate::serve::{About, Patience, Sessions, Shared, accept, metrics};
use crate::state::State;
use crate::timers;

/// Why the coordinator does not start, or ended other than by a signal; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A file or folder of `data_dir` cannot be used.
    #[error("{}: cannot {action}: {source}; check `data_dir`", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process uses `data_dir`.
    #[error("{}: another coordinator uses this data_dir; stop it first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The state on disk is of another cluster.
    #[error(
        "{}: state of cluster {found}, but the configuration says {expected}; correct `cluster` or `data_dir`",
        path.display()
    )]
    WrongCluster {
        /// The folder.
        path: PathBuf,
        /// Cluster in the state.
        found: protocol::ids::ClusterId,
        /// Cluster in the configuration.
        expected: protocol::ids::ClusterId,
    },
    /// The certificate files cannot be used.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("listen {address}: {source}; choose another address or stop the process that has it")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The admin port cannot be listened on.
    #[error("metrics {address}: {source}; choose another port or stop the process that has it")]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The table cannot be opened.
    #[error("{}: {source}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KvError,
    },
    /// The proposer cannot start, or had to stop.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The proposer's thread ended without a reason.
    #[error("the proposer ended unexpectedly; its last log line says more")]
    Ended,
    /// The runtime cannot start or take signals.
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
}

/// Runs a coordinator until SIGTERM or SIGINT.
///
/// # Errors
/// [`DaemonError`], before anything is served or because going on is not safe.
///
/// # Durability
/// After a clean stop the table holds everything; a crash costs only the replay of the log.
pub fn run(config: &Config) -> Result<(), DaemonError> {
    open_files::raise();
    let _lock = lock(&config.data_dir)?;
    let files = TlsFiles {
        ca: config.tls.ca.clone(),
        cert: config.tls.cert.clone(),
        key: config.tls.key.clone(),
    };
    let acceptor = TlsAcceptor::from(server_config(&files)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(READERS_MAX)
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    // The port is taken before the state is touched: a second start with the same configuration
    // must change nothing.
    let listener = runtime
        .block_on(TcpListener::bind(config.listen))
        .map_err(|source| DaemonError::Listen { address: config.listen, source })?;
    let admin = runtime.block_on(bind_admin(config))?;
    let (sessions, log) = (Arc::new(Sessions::default()), Arc::new(LogCounts::default()));
    let (proposer, running) = open(config, Arc::clone(&sessions), Arc::clone(&log))?;
    let ports = Ports { listener, admin, acceptor, log };
    runtime.block_on(serve(config, ports, proposer, sessions, running))
}

/// What is listened on, and what only the admin port needs.
struct Ports {
    listener: TcpListener,
    admin: Option<TcpListener>,
    acceptor: TlsAcceptor,
    log: Arc<LogCounts>,
}

async fn bind_admin(config: &Config) -> Result<Option<TcpListener>, DaemonError> {
    let Some(address) = config.metrics else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|source| DaemonError::Metrics { address, source })
}

/// Opens log and table and starts the proposer.
fn open(
    config: &Config,
    sessions: Arc<Sessions>,
    counts: Arc<LogCounts>,
) -> Result<(Proposer<Redb>, Running), DaemonError> {
    let (log, recovered) = FileLog::open(&config.data_dir.join("log"), config.cluster)?;
    if recovered.cut > 0 {
        tracing::warn!(bytes = recovered.cut, "cut an incomplete batch from the end of the log");
    }
    let path = config.data_dir.join("state.redb");
    let table = |source| DaemonError::Table { path: path.clone(), source };
    let state = State::open(Redb::open(&path, config.cache).map_err(table)?).map_err(table)?;
    if let Some(settings) = state.settings() {
        check_settings(config, &settings)?;
    }
    let identity =
        Identity { coordinator: config.coordinator, initialize: initialize_command(config) };
    let log = MeteredLog::new(log, counts);
    Ok(propose::start(log, state, &identity, Box::new(sessions))?)
}

fn check_settings(config: &Config, settings: &crate::state::Settings) -> Result<(), DaemonError> {
    if settings.cluster != config.cluster {
        let (path, expected) = (config.data_dir.clone(), config.cluster);
        return Err(DaemonError::WrongCluster { path, found: settings.cluster, expected });
    }
    let configured = (config.replicas, config.min_write, config.groups_per_target);
    if configured != (settings.replicas, settings.min_write, settings.groups_per_target) {
        tracing::warn!(
            replicas = settings.replicas,
            min_write = settings.min_write,
            groups_per_target = settings.groups_per_target,
            "the cluster keeps the settings it was made with; the configuration differs"
        );
    }
    Ok(())
}

fn initialize_command(config: &Config) -> Command {
    Command::Initialize {
        cluster: config.cluster,
        replicas: config.replicas,
        min_write: config.min_write,
        groups_per_target: config.groups_per_target,
        targets_expected: config.targets_expected,
        owner: Caller { uid: 0, gid: 0, admin: true },
    }
}

async fn serve(
    config: &Config,
    ports: Ports,
    proposer: Proposer<Redb>,
    sessions: Arc<Sessions>,
    running: Running,
) -> Result<(), DaemonError> {
    let Ports { listener, admin, acceptor, log } = ports;
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Runtime)?;
    // Port 0 in the configuration means any free one.
    let listen = listener.local_addr().map_err(DaemonError::Runtime)?;
    let about = About {
        coordinator: config.coordinator,
        cluster: config.cluster,
        address: listen.to_string(),
        users: config.users.clone(),
        tuning: config.tuning,
        patience: Patience::default(),
    };
    let (control, events) = timers::channel();
    let shared = Arc::new(Shared::new(about, proposer.clone(), sessions, control));
    tokio::spawn(timers::run(Arc::clone(&shared), events));
    if let Some(admin) = admin {
        tokio::spawn(metrics::run(admin, acceptor.clone(), Arc::clone(&shared), log));
    }
    tokio::spawn(accept::run(listener, acceptor, shared));
    tracing::info!(
        coordinator = %config.coordinator,
        cluster = %config.cluster,
        %listen,
        release = %crate::cli::version(),
        "serving"
    );
    let mut stopped = watch_thread(running);
    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
        _ = interrupt.recv() => tracing::info!("stopping on SIGINT"),
        ended = &mut stopped => return Err(reason(ended)),
    }
    // The queue may be full; the thread that empties it goes on, so this ends.
    let stopping = tokio::task::spawn_blocking(move || proposer.stop());
    let ended = stopped.await;
    stopping.await.map_err(|_| DaemonError::Ended)?;
    match ended {
        Ok(Ok(())) => {
            tracing::info!("stopped");
            Ok(())
        }
        ended => Err(reason(ended)),
    }
}

type Ended = Result<Result<(), ProposeError>, oneshot::error::RecvError>;

fn reason(ended: Ended) -> DaemonError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) | Err(_) => DaemonError::Ended,
    }
}

/// Makes the end of a thread something to wait for.
fn watch_thread(running: Running) -> oneshot::Receiver<Result<(), ProposeError>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        if let Ok(result) = running.join() {
            // Nobody waits any more when the process is ending.
            let _ = sender.send(result);
        }
    });
    receiver
}

/// Takes the exclusive lock of `data_dir`, which is made when it is missing.
fn lock(data_dir: &Path) -> Result<File, DaemonError> {
    let failed = |path: &Path, action: &'static str| {
        let path = path.to_path_buf();
        move |source| DaemonError::Folder { path, action, source }
    };
    std::fs::create_dir_all(data_dir).map_err(failed(data_dir, "create the folder"))?;
    let path = data_dir.join("lock");
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed(&path, "open"))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DaemonError::Locked { path }),
        Err(error) => Err(failed(&path, "lock")(error.into())),
    }
}
