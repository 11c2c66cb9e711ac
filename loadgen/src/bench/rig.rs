//! Clusters of one node for measurements, and connections to its shards that speak for themselves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::{Client, Config, FileBytes, ReadManyOptions};
use protocol::cluster_map::ClusterMap;
use protocol::ids::{ChunkKey, NodeId, TargetId};
use protocol::message::namespace::Entry;
use protocol::session::hello::{self, FEATURE_CLEAR};
use protocol::session::{EXPORTER_LABEL, FrameMacs, FrameReader};
use protocol::tls::{Identity, TlsFiles, client_config, server_name};
use rustls::{ClientConfig, ClientConnection, Stream};

use super::frames::{Frames, Reads};
use super::process::process_cpu;
use super::pull::Line;
use crate::cluster::{DevCluster, StepError, file_error};
use crate::load::Load;
use crate::load::outcome::Outcome;
use crate::load::scenario::Scenario;
use crate::load::subject::Target;

/// A cluster and its first node.
pub(super) struct Rig {
    pub(super) cluster: DevCluster,
    config: Config,
    tls: Arc<ClientConfig>,
    map: Arc<ClusterMap>,
    pid: u32,
    runtime: tokio::runtime::Runtime,
}

/// A file on one shard.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    entry: Entry,
}

/// How a connection is made, and what its reads are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// Bytes of one read.
    pub(super) block: u32,
    /// Payload is not encrypted.
    pub(super) clear: bool,
    /// The node verifies before it sends.
    pub(super) verify: bool,
    /// This side verifies what arrives.
    pub(super) check: bool,
}

impl Rig {
    /// Starts a cluster of `nodes` nodes in `dir`. With `program`, that takes the place of the node.
    ///
    /// # Errors
    /// [`StepError`] when it does not come up.
    pub(super) fn start(
        dir: &Path,
        nodes: u32,
        program: Option<&Path>,
        options: &[&str],
    ) -> Result<Rig, StepError> {
        let options: Vec<&str> = [&["--data-transport", "clear"], options].concat();
        let cluster = match program {
            None => DevCluster::up(dir, nodes, &options)?,
            Some(node) => DevCluster::up_with(&programs(dir, node)?, dir, nodes, &options)?,
        };
        let config = Config::load(&dir.join("client.toml")).map_err(text)?;
        let files = TlsFiles {
            ca: config.tls.ca.clone(),
            cert: config.tls.cert.clone(),
            key: config.tls.key.clone(),
        };
        let tls = client_config(&files).map_err(text)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StepError::Start { program: "a thread".to_owned(), source })?;
        let map = runtime.block_on(async {
            let client = Client::connect(&config).await.map_err(text)?;
            let map = client.map().await.map_err(text)?;
            client.close().await.map_err(text)?;
            Ok::<_, StepError>(map)
        })?;
        let is_node = |(name, _): &(String, u32)| name == "node 1";
        let pid = cluster.pids()?.into_iter().find(is_node).map(|(_, pid)| pid);
        let pid = pid.ok_or_else(|| StepError::Different("node 1 does not run".to_owned()))?;
        Ok(Rig { cluster, config, tls, map, pid, runtime })
    }

    /// CPU time of the first node so far, in seconds.
    pub(super) fn cpu(&self) -> f64 {
        process_cpu(self.pid)
    }

    /// The first node's process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// A counter of `status`, added up over every shard.
    ///
    /// # Errors
    /// [`StepError`] when the cluster does not answer.
    pub(super) fn counter(&self, name: &str) -> Result<f64, StepError> {
        let status = self.cluster.json(&["status", "--json"])?;
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let shards = nodes.flat_map(|node| node["shards"].as_array().into_iter().flatten());
        Ok(shards.map(|shard| shard[name].as_f64().unwrap_or(f64::NAN)).sum())
    }

    /// Puts a load on it, in a folder of the root.
    ///
    /// # Errors
    /// [`StepError`] when an operation failed. A void run is a result: this machine is small.
    pub(super) fn load(&self, dir: &str, scenario: &Scenario) -> Result<Outcome, StepError> {
        let target = Target::Cluster(Box::new(self.config.clone()), dir.to_owned());
        let outcome = Load::quiet(target, scenario).put_on()?.outcome;
        match outcome.errors.first() {
            Some(error) => Err(StepError::Different(error.clone())),
            None => Ok(outcome),
        }
    }

    /// Threads of the first node that are shards.
    pub(super) fn shard_threads(&self) -> Result<Vec<u32>, StepError> {
        let folder = PathBuf::from(format!("/proc/{}/task", self.pid));
        let threads = std::fs::read_dir(&folder).map_err(file_error(&folder))?.flatten();
        let is_shard = |thread: &std::fs::DirEntry| {
            let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            name.starts_with("shard-")
        };
        let number = |thread: std::fs::DirEntry| thread.file_name().to_str()?.parse().ok();
        Ok(threads.filter(is_shard).filter_map(number).collect())
    }

    /// The container of the first target.
    pub(super) fn container(&self) -> Result<PathBuf, StepError> {
        let folder = self.cluster.dir().join("node-1");
        let entries = std::fs::read_dir(&folder).map_err(file_error(&folder))?;
        let is_container = |path: &PathBuf| path.extension().is_some_and(|it| it == "lane");
        let found = entries.flatten().map(|entry| entry.path()).find(is_container);
        found.ok_or_else(|| StepError::Different(format!("no container in {}", folder.display())))
    }

    /// Stores a local file under a name of the root and says where it lies.
    pub(super) fn store(&self, local: &Path, path: &str) -> Result<Stored, StepError> {
        self.cluster.run(["put".as_ref(), local.as_os_str(), path.as_ref()])?;
        let entry = self.runtime.block_on(async {
            let client = Client::connect(&self.config).await.map_err(text)?;
            let entry = client.lookup(path.as_bytes(), true).await.map_err(text)?;
            client.close().await.map_err(text)?;
            Ok::<_, StepError>(entry)
        })?;
        Ok(Stored { entry })
    }

    /// Reads small files of the root's folders with few lookups, or one file as a stream, and throws the
    /// bytes away; their number.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub(super) fn read(&self, paths: Vec<Vec<u8>>) -> Result<u64, StepError> {
        self.runtime.block_on(async {
            let client = Client::connect(&self.config).await.map_err(text)?;
            let mut bytes = 0;
            let mut many = client.read_many(paths, ReadManyOptions::default());
            while let Some(file) = many.next().await {
                bytes += match file.result.map_err(text)? {
                    FileBytes::Whole(whole) => whole.len() as u64,
                    FileBytes::Long(reader) => {
                        let mut stream = reader.stream(0, u64::MAX);
                        let mut bytes = 0;
                        while let Some(piece) = stream.next().await {
                            bytes += piece.map_err(text)?.len() as u64;
                        }
                        bytes
                    }
                };
            }
            client.close().await.map_err(text)?;
            Ok(bytes)
        })
    }

    /// Targets of the first node, in the order of its shards.
    pub(super) fn targets(&self) -> Vec<TargetId> {
        let own =
            |id: &&TargetId| self.map.endpoint(**id).is_some_and(|(node, _)| node == NodeId(1));
        self.map.targets.keys().filter(own).copied().collect()
    }

    /// Opens `count` connections to the shard that owns `target`, for reads of its part of a file.
    ///
    /// # Errors
    /// [`StepError`] when the node cannot be reached or the file has nothing there.
    pub(super) fn lines(
        &self,
        stored: &Stored,
        target: TargetId,
        way: Way,
        count: u64,
    ) -> Result<Vec<Line>, StepError> {
        let reads = Arc::new(self.reads(stored, target, way)?);
        (0..count).map(|number| self.line(&reads, target, way.clear, number)).collect()
    }

    fn reads(&self, stored: &Stored, target: TargetId, way: Way) -> Result<Reads, StepError> {
        let missing = || StepError::Different("the file has no chunk on that shard".to_owned());
        let content = stored.entry.content.as_ref().ok_or_else(missing)?;
        let size = stored.entry.attributes.size;
        let ranges = content.layout.split(0, size).map_err(text)?;
        let mut chunks = Vec::new();
        for range in ranges {
            let group = self.map.groups.get(&range.group).ok_or_else(missing)?;
            if group.member(target).is_some() && range.len >= way.block {
                let key = ChunkKey { fid: content.fid, index: range.index };
                chunks.push((group.id, group.epoch, key, range.len));
            }
        }
        if chunks.is_empty() {
            return Err(missing());
        }
        let Way { block, verify, check, .. } = way;
        Ok(Reads { chunks, trunc_gen: content.trunc_gen, block, verify, check })
    }

    fn line(
        &self,
        reads: &Arc<Reads>,
        target: TargetId,
        clear: bool,
        number: u64,
    ) -> Result<Line, StepError> {
        let unknown = || StepError::Different(format!("target {target} is not in the map"));
        let (node, address) = self.map.endpoint(target).ok_or_else(unknown)?;
        let (mut stream, mut tls) = self.greet(node, address)?;
        let wanted = if clear { FEATURE_CLEAR } else { 0 };
        let mut reader = FrameReader::new(self.config.cluster.tag());
        let agreed = {
            let mut talk = Stream::new(&mut tls, &mut stream);
            let (header, body) = hello::request(self.config.cluster, target, wanted);
            talk.write_all(&header.encode()).and_then(|()| talk.write_all(&body)).map_err(text)?;
            let frame = loop {
                let len = talk.read(reader.space()).map_err(text)?;
                reader.filled(len).map_err(text)?;
                if let Some(frame) = reader.take().map_err(text)? {
                    break frame;
                }
            };
            hello::accept(&frame.header, &frame.body).map_err(text)?
        };
        if agreed.features != wanted {
            return Err(StepError::Different("the node does not leave TLS".to_owned()));
        }
        let about = (self.config.cluster.tag(), number);
        if !clear {
            let frames = Frames::new(Arc::clone(reads), reader, None, about);
            return Line::new(stream, Some(tls), Box::new(frames));
        }
        let export = |key, context| tls.export_keying_material(key, EXPORTER_LABEL, Some(context));
        let FrameMacs { of_client, of_server } = FrameMacs::derive(export).map_err(text)?;
        reader.authenticate(of_server);
        let frames = Frames::new(Arc::clone(reads), reader, Some(of_client), about);
        Line::new(stream, None, Box::new(frames))
    }

    fn greet(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<(TcpStream, ClientConnection), StepError> {
        let name = server_name(self.config.cluster, &Identity::Node(node));
        self.handshake(address, name)
    }

    /// Connects to anybody who has a certificate of this name from the cluster's authority.
    pub(super) fn handshake(
        &self,
        address: SocketAddr,
        name: rustls::pki_types::ServerName<'static>,
    ) -> Result<(TcpStream, ClientConnection), StepError> {
        let mut stream = TcpStream::connect(address).map_err(text)?;
        let mut tls = ClientConnection::new(Arc::clone(&self.tls), name).map_err(text)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).map_err(text)?;
        }
        Ok((stream, tls))
    }

    /// The name in the first node's certificate.
    pub(super) fn node_name(&self) -> rustls::pki_types::ServerName<'static> {
        server_name(self.config.cluster, &Identity::Node(NodeId(1)))
    }
}

/// A folder with the programs of this one, in which `node` is the node.
fn programs(dir: &Path, node: &Path) -> Result<PathBuf, StepError> {
    let folder = dir.with_extension("programs");
    std::fs::create_dir_all(&folder).map_err(file_error(&folder))?;
    let own = crate::cluster::sibling("lanefs")?;
    let coordinator = crate::cluster::sibling("lanefs-coordinator")?;
    for (from, name) in
        [(own.as_path(), "lanefs"), (&coordinator, "lanefs-coordinator"), (node, "lanefs-node")]
    {
        let to = folder.join(name);
        std::fs::copy(from, &to).map_err(file_error(&to))?;
    }
    Ok(folder.join("lanefs"))
}

fn text(error: impl ToString) -> StepError {
    StepError::Different(error.to_string())
}
