//! One shard's executor: container, store, port, then the shard itself.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime};

use protocol::ids::{ClusterId, Generation, NodeId, ShardId};
use protocol::message::cluster::{GroupReport, TargetReport};

use crate::config::{Config, Shard};
use crate::container::{Container, ContainerError};
use crate::io::glommio::GlommioEnv;
use crate::io::glommio::clock::BootClock;
use crate::io::glommio::executor::ExecutorOptions;
use crate::io::glommio::net::{GlommioNet, TlsConfigs};
use crate::io::glommio::rng::ShardRng;
use crate::io::{Clock, DiskError};
use crate::membership::control::ControlPort;
use crate::shard::{self, ShardConfig, Timeouts};
use crate::store::{FormatOptions, Recovered, Store, StoreError};

/// The container of this build.
#[cfg(not(any(feature = "fault-disk", feature = "ram-disk")))]
type ShardDisk = crate::io::glommio::disk::GlommioDisk;
/// The container of a test build, which loses and fails on order.
#[cfg(all(feature = "fault-disk", not(feature = "ram-disk")))]
type ShardDisk = crate::io::glommio::fault_disk::FaultDisk<crate::io::glommio::disk::GlommioDisk>;

/// The container of a build for measurements, in memory.
#[cfg(feature = "ram-disk")]
type ShardDisk = crate::io::glommio::ram_disk::RamDisk;

/// Why a shard did not start: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The container could not be opened for direct I/O.
    #[error("container {path}: {cause}: use a file system with O_DIRECT and io_uring support", path = path.display())]
    Disk {
        /// The container.
        path: PathBuf,
        /// What failed.
        cause: DiskError,
    },
    /// The store could not be formatted or recovered.
    #[error("container {path}: {cause}", path = path.display())]
    Store {
        /// The container.
        path: PathBuf,
        /// What failed.
        cause: StoreError,
    },
    /// The container got no final name.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The port could not be bound.
    #[error("{address}: cannot listen: {cause}")]
    Listen {
        /// Where the shard should listen.
        address: SocketAddr,
        /// As the system words it.
        cause: io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(io::Error),
}

/// What one shard starts with.
pub(super) struct ShardSetup {
    node: NodeId,
    cluster: ClusterId,
    id: ShardId,
    address: SocketAddr,
    shard: Shard,
    container: Container,
    tls: TlsConfigs,
}

/// A shard that is recovered and listens.
struct Started {
    env: GlommioEnv<ShardDisk>,
    disk: Rc<ShardDisk>,
    net: Rc<GlommioNet<ShardDisk>>,
    store: Rc<Store<ShardDisk>>,
    recovered: Recovered,
    took: Duration,
}

impl ShardSetup {
    pub(super) fn new(
        config: &Config,
        position: usize,
        shard: Shard,
        container: Container,
        tls: TlsConfigs,
    ) -> ShardSetup {
        ShardSetup {
            node: config.node,
            cluster: config.cluster,
            id: ShardId(u16::try_from(position).unwrap_or(u16::MAX)),
            address: SocketAddr::new(config.address, shard.port),
            shard,
            container,
            tls,
        }
    }

    pub(super) fn name(&self) -> String {
        format!("shard-{}", self.id)
    }

    pub(super) fn executor_options(&self) -> ExecutorOptions {
        ExecutorOptions {
            name: self.name(),
            core: self.shard.core,
            io_memory: self.shard.io_memory,
            ring_depth: self.shard.ring_depth,
            spin: Duration::from_micros(self.shard.spin_us.into()),
        }
    }

    /// The main task of the shard's executor. Tells once how the start went.
    pub(super) async fn run(
        mut self,
        control: ControlPort,
        tell: SyncSender<Result<TargetReport, StartError>>,
    ) {
        // The receiver is gone only when another shard has failed the process already.
        match self.start().await {
            Ok(started) => {
                if tell.send(Ok(self.report(&started))).is_ok() {
                    self.serve(started, control).await;
                }
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    }

    async fn start(&mut self) -> Result<Started, StartError> {
        let begun = BootClock.now();
        let path = self.container.working_path().to_path_buf();
        let opened = ShardDisk::open(&path, self.container.size()).await;
        let disk = opened.map_err(|cause| StartError::Disk { path: path.clone(), cause })?;
        let disk = Rc::new(disk);
        let options = FormatOptions {
            cluster: self.cluster,
            node: self.node,
            target: self.shard.target,
            first_generation: seconds_of_now(),
        };
        let failed = |cause| StartError::Store { path: path.clone(), cause };
        if self.container.fresh() {
            Store::format(&*disk, &options).await.map_err(failed)?;
            self.container.publish()?;
        }
        let (store, recovered) = Store::open(Rc::clone(&disk), &options).await.map_err(failed)?;
        let net = GlommioNet::new(self.cluster, self.tls.clone(), Rc::clone(&disk));
        let net = Rc::new(net);
        net.listen(self.address)
            .map_err(|cause| StartError::Listen { address: self.address, cause })?;
        let rng = ShardRng::seeded().map_err(StartError::Random)?;
        let env = GlommioEnv::new(Rc::clone(&disk), Rc::clone(&net), rng);
        let took = BootClock.now().since(begun);
        Ok(Started { env, disk, net, store, recovered, took })
    }

    async fn serve(&self, started: Started, control: ControlPort) {
        let Started { env, disk, net, store, recovered, took } = started;
        let compare = Duration::from_secs(self.shard.compare_hours * 3600);
        let config = ShardConfig {
            node: self.node,
            shard: self.id,
            target: self.shard.target,
            generation: recovered.generation,
            port: self.shard.port,
            core: self.shard.core.unwrap_or(u16::MAX),
            cluster: self.cluster,
            timeouts: Timeouts { compare, ..Timeouts::default() },
        };
        tracing::info!(
            shard = %self.id,
            core = self.shard.core.map_or_else(|| "any".to_owned(), |core| core.to_string()),
            target_id = %self.shard.target,
            port = self.shard.port,
            generation = %recovered.generation,
            chunks = recovered.chunks,
            recovery_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            container = %self.container.path().display(),
            "serving"
        );
        shard::run(env, config, store, Rc::new(control)).await;
        net.stop();
        drop(net);
        if let Err(error) = disk.close().await {
            tracing::warn!(shard = %self.id, %error, "container not closed");
        }
    }

    fn report(&self, started: &Started) -> TargetReport {
        let store = &started.store;
        let groups = store.groups().into_iter().map(|(group, info)| GroupReport {
            group,
            epoch: info.epoch,
            committed_through: info.committed_through,
        });
        TargetReport {
            target: self.shard.target,
            shard: self.id,
            device: self.shard.device,
            port: self.shard.port,
            generation: started.recovered.generation,
            recovered_lsn: started.recovered.lsn,
            intact: started.recovered.intact,
            capacity: store.capacity(),
            free: store.free(),
            groups: groups.collect(),
        }
    }
}

/// Newer than the generation of any container that was made, or opened for the last time, before this
/// second; 1 where the clock is not set.
#[expect(clippy::disallowed_methods, reason = "a count that goes on from container to container")]
fn seconds_of_now() -> Generation {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Generation(u32::try_from(since.as_secs()).unwrap_or(1))
}
