//! From a configuration to a running node, and back to nothing.
//!
//! Order: look at the machine, look at ports and containers, start one executor a shard, wait until
//! every store is recovered, start the control executor, wait for a signal. The first refusal ends
//! the process with one line. Everything that blocks happens here, on the main thread, before the
//! executors it would stall exist.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use std::{io, process};

use protocol::message::cluster::TargetReport;
use protocol::tls::{TlsError, TlsFiles, client_config, collect_entropy, server_config};

use crate::config::Config;
use crate::container::{Container, ContainerError};
use crate::io::glommio::executor::{Executor, ExecutorError, ExecutorOptions};
use crate::io::glommio::mesh::{Wakeup, pair};
use crate::io::glommio::net::TlsConfigs;
use crate::io::glommio::rng::system_random;
use crate::limits::{
    CONNECT_TIME_MAX_MS, MESH_TO_CONTROL_MAX, MESH_TO_SHARD_MAX, STOP_TIME_MAX_MS,
};
use crate::membership::control::{self, ControlPort, Setup, ShardPort, StopOrder};
use crate::membership::state::Identity;
use crate::probe::{self, ProbeError};
use crate::watchdog::{Pulse, Watchdog};

mod certificate;
mod predecessor;
mod shard;
mod signals;

use certificate::CertificateError;
use predecessor::patiently;
use shard::{ShardSetup, StartError};
use signals::Signals;

/// Time between two looks at executors that should be running, or should have ended.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Why the node does not run: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The machine does not allow it.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// Certificates or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate is not this node's.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A port cannot be bound.
    #[error("{address} of target {target}: {}", port_problem(cause))]
    Port {
        /// Where the shard should listen.
        address: SocketAddr,
        /// The shard's target.
        target: u32,
        /// As the system words it.
        cause: io::Error,
    },
    /// The admin port cannot be bound.
    #[error("metrics {address}: {}", port_problem(cause))]
    MetricsPort {
        /// Where metrics should be told.
        address: SocketAddr,
        /// As the system words it.
        cause: io::Error,
    },
    /// A container cannot be used.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A shard did not start.
    #[error(transparent)]
    Shard(#[from] StartError),
    /// An executor did not start, or failed.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A shard ended though nobody had ordered it.
    #[error("a shard ended unexpectedly")]
    Ended,
    /// The system refused something a process always gets.
    #[error("the system refused {what}: {cause}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// As the system words it.
        cause: io::Error,
    },
    /// The order to stop was not carried out in time.
    #[error(
        "shards have not stopped within {STOP_TIME_MAX_MS} ms; unwritten data was not acknowledged"
    )]
    StopTime,
}

fn port_problem(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::AddrInUse => {
            "port in use: stop the process that listens there or set another port".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "not an address of this machine: set address to one of them".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied: set a port from 1024 upwards".to_owned()
        }
        _ => format!("cannot listen: {cause}"),
    }
}

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// [`BootError`]; everything that was started is stopped or ends with the process.
pub fn run(config: Config) -> Result<(), BootError> {
    let signals = Signals::block().map_err(|cause| system("signal handling", cause))?;
    probe::io_uring()?;
    probe::locked_memory(&config)?.warn();
    let open_files = probe::open_files();
    tracing::debug!(open_files, "limit of open files");
    let tls = tls(&config)?;
    let setups = prepare(&config, &tls)?;
    let running = start(config, tls, setups)?;
    let ended = running.wait(&signals);
    ended.and(running.stop())
}

impl BootError {
    /// Exit status of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            BootError::Tls(_) | BootError::Certificate(_) => 2,
            _ => 1,
        }
    }
}

fn tls(config: &Config) -> Result<TlsConfigs, BootError> {
    let files = TlsFiles {
        ca: config.tls.ca.clone(),
        cert: config.tls.cert.clone(),
        key: config.tls.key.clone(),
    };
    certificate::check(&files.cert, config.cluster, config.node)?;
    let clear = config.clear();
    if !clear.is_empty() {
        tracing::warn!(networks = ?config.clear_networks, "payload is not encrypted with these networks");
    }
    Ok(TlsConfigs { server: server_config(&files)?, client: client_config(&files)?, clear })
}

/// Looks at every port and opens every container, so that nothing is half started when one is
/// refused.
fn prepare(config: &Config, tls: &TlsConfigs) -> Result<Vec<ShardSetup>, BootError> {
    let in_use = |cause: &io::Error| cause.kind() == io::ErrorKind::AddrInUse;
    if let Some(address) = config.metrics {
        patiently(|| look_at_port(address), in_use)
            .map_err(|cause| BootError::MetricsPort { address, cause })?;
    }
    for shard in &config.shards {
        let address = SocketAddr::new(config.address, shard.port);
        patiently(|| look_at_port(address), in_use).map_err(|cause| BootError::Port {
            address,
            target: shard.target.0,
            cause,
        })?;
    }
    let setup = |(position, shard): (usize, &crate::config::Shard)| {
        let locked = |error: &ContainerError| matches!(error, ContainerError::Locked { .. });
        let container =
            patiently(|| Container::open(&shard.path, shard.size, shard.prezero), locked)?;
        Ok(ShardSetup::new(config, position, shard.clone(), container, tls.clone()))
    };
    config.shards.iter().enumerate().map(setup).collect()
}

/// Fails when somebody listens on the port, or the address cannot be listened on at all.
///
/// The runtime shares ports, so it would not notice. A plain bind would notice too much: what is
/// left of the connections of a node that was killed a moment ago is no reason to refuse.
fn look_at_port(address: SocketAddr) -> io::Result<()> {
    match TcpListener::bind(address) {
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse && !is_listening(address) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Tries to connect. A port that nobody listens on can only be reached by a connection to itself.
fn is_listening(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(CONNECT_TIME_MAX_MS))
        .is_ok_and(|stream| stream.local_addr().is_ok_and(|local| local != address))
}

/// A node whose shards serve.
struct Running {
    shards: Vec<Executor<()>>,
    control: Executor<()>,
    stop: Arc<StopOrder>,
    _watchdog: Watchdog,
}

fn start(config: Config, tls: TlsConfigs, setups: Vec<ShardSetup>) -> Result<Running, BootError> {
    let control_pulse = Pulse::new("control".to_owned());
    let pulses: Vec<Arc<Pulse>> = setups.iter().map(|setup| Pulse::new(setup.name())).collect();
    let watched = pulses.iter().chain([&control_pulse]).map(Arc::clone).collect();
    let watchdog =
        Watchdog::start(watched, abort).map_err(|cause| system("the watchdog thread", cause))?;
    let stop = Arc::new(StopOrder::default());
    let (mut shards, mut ports, mut started) = (Vec::new(), Vec::new(), Vec::new());
    for (setup, pulse) in setups.into_iter().zip(pulses) {
        let (port, far) = mesh_pair(&stop);
        let (tell, told) = sync_channel(1);
        let options = setup.executor_options();
        shards.push(Executor::start(options, pulse, move || setup.run(far, tell))?);
        ports.push(port);
        started.push(told);
    }
    // This thread has nothing else to do while the shards recover.
    collect_entropy()?;
    let targets = wait_started(&mut shards, started)?;
    let incarnation = system_random().map_err(|cause| system("random numbers", cause))?;
    let identity = Identity {
        node: config.node,
        cluster: config.cluster,
        incarnation,
        address: config.address,
        targets,
    };
    let setup = Setup {
        identity,
        coordinators: config.coordinators,
        tls,
        ports,
        stop: Arc::clone(&stop),
        metrics: config.metrics,
    };
    let options = ExecutorOptions::without_disk("control");
    let control = Executor::start(options, control_pulse, move || control::run(setup))?;
    Ok(Running { shards, control, stop, _watchdog: watchdog })
}

fn mesh_pair(stop: &StopOrder) -> (ShardPort, ControlPort) {
    let control = (stop.wakeup(), MESH_TO_CONTROL_MAX);
    let (port, far) = pair(control, (&Wakeup::default(), MESH_TO_SHARD_MAX));
    (port, ControlPort(far))
}

/// Waits until every shard has recovered its target and listens.
fn wait_started(
    shards: &mut Vec<Executor<()>>,
    started: Vec<Receiver<Result<TargetReport, StartError>>>,
) -> Result<Vec<TargetReport>, BootError> {
    let mut reports = Vec::new();
    for (position, told) in started.into_iter().enumerate() {
        match told.recv() {
            Ok(report) => reports.push(report?),
            // The executor ended before it could say anything: its own error is the reason.
            Err(_) => {
                return Err(shards
                    .swap_remove(position)
                    .join()
                    .err()
                    .map_or(BootError::Ended, BootError::from));
            }
        }
    }
    Ok(reports)
}

fn abort(executor: &str) {
    tracing::error!(executor, "executor has not run for 10 s; the process aborts");
    process::abort();
}

fn system(what: &'static str, cause: io::Error) -> BootError {
    BootError::System { what, cause }
}

impl Running {
    /// Waits for a signal, or for an executor that ends without one.
    fn wait(&self, signals: &Signals) -> Result<(), BootError> {
        loop {
            if let Some(signal) = signals.wait(LOOK_PERIOD * 10) {
                tracing::info!(signal, "stopping");
                return Ok(());
            }
            if self.shards.iter().any(Executor::is_finished) || self.control.is_finished() {
                return Err(BootError::Ended);
            }
        }
    }

    /// Stops every shard and ends every executor, in a bounded time.
    #[expect(clippy::disallowed_methods, reason = "the edge of the process, where no task runs")]
    fn stop(self) -> Result<(), BootError> {
        self.stop.ask();
        let begun = Instant::now();
        let all = || self.shards.iter().chain([&self.control]);
        while !all().all(Executor::is_finished) {
            in_time(begun.elapsed())?;
            thread::park_timeout(LOOK_PERIOD);
        }
        for executor in self.shards.into_iter().chain([self.control]) {
            executor.join()?;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Fails when executors have been stopping for too long.
fn in_time(stopping: Duration) -> Result<(), BootError> {
    match stopping > Duration::from_millis(STOP_TIME_MAX_MS) {
        true => Err(BootError::StopTime),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_does_not_stop_ends_the_process_with_an_error() {
        assert!(in_time(Duration::from_millis(STOP_TIME_MAX_MS)).is_ok());
        let error = in_time(Duration::from_millis(STOP_TIME_MAX_MS + 1)).unwrap_err();
        assert!(matches!(error, BootError::StopTime));
        assert_eq!(error.exit_code(), 1);
    }
}
