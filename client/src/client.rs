//! The client handle.

use std::sync::Arc;

use protocol::cluster_map::{ClusterMap, Role};
use protocol::ids::{ChunkKey, GroupId, Ino, TargetId};
use protocol::message::chunk::{ShardStatsReply, VerifyReply};
use protocol::message::cluster::StatusReply;
use protocol::message::namespace::{
    DirEntry, Entry, LookupResult, NamespaceOp, PathQuery, ReadDirReply,
};

use crate::config::Config;
use crate::error::Error;
use crate::file::{FileReader, FileWriter};

/// A connection to one cluster; clones share everything.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {}

/// What one replica answered when it was asked to check a chunk.
#[derive(Clone, Debug)]
pub struct ReplicaCheck {
    /// The replica's target.
    pub target: TargetId,
    /// Its role in the group.
    pub role: Role,
    /// What its device holds, or why that is not known.
    pub result: Result<VerifyReply, Error>,
}

fn pending(what: &str) -> Error {
    Error::Closed { what: what.into() }
}

impl Client {
    /// Connects to a cluster.
    pub async fn connect(config: &Config) -> Result<Client, Error> {
        let _ = config;
        let client = Client { inner: Arc::new(Inner {}) };
        let _ = &client.inner;
        Err(pending("connect"))
    }

    /// Looks up one absolute path; `follow` follows a link in the last component.
    pub async fn lookup(&self, path: &[u8], follow: bool) -> Result<Entry, Error> {
        let _ = (path, follow);
        Err(pending("lookup"))
    }

    /// Looks up many paths; results are in the order of the queries.
    pub async fn lookup_many(&self, queries: Vec<PathQuery>) -> Result<Vec<LookupResult>, Error> {
        let _ = queries;
        Err(pending("lookup"))
    }

    /// Reads a whole directory, ascending by name.
    pub async fn read_dir(&self, dir: Ino, with_content: bool) -> Result<Vec<DirEntry>, Error> {
        let _ = (dir, with_content);
        Err(pending("read_dir"))
    }

    /// Reads one page of a directory after the name `after` (empty: from the start).
    pub async fn read_dir_page(
        &self,
        dir: Ino,
        after: &[u8],
        with_content: bool,
    ) -> Result<ReadDirReply, Error> {
        let _ = (dir, after, with_content);
        Err(pending("read_dir"))
    }

    /// Changes the namespace; callers that run at once share a batch.
    pub async fn mutate(&self, op: NamespaceOp) -> Result<Option<Entry>, Error> {
        let _ = op;
        Err(pending("mutate"))
    }

    /// Starts a new, unlinked file; `expect_len` is `u64::MAX` when the length is not known.
    pub async fn create(&self, parent: Ino, expect_len: u64) -> Result<FileWriter, Error> {
        let _ = (parent, expect_len);
        Err(pending("create"))
    }

    /// Opens a file that was looked up with its content.
    pub fn reader(&self, entry: &Entry) -> Result<FileReader, Error> {
        let _ = entry;
        Err(pending("reader"))
    }

    /// Asks every member of a chunk's group to check its replica from the device.
    pub async fn verify_chunk(
        &self,
        group: GroupId,
        key: ChunkKey,
    ) -> Result<Vec<ReplicaCheck>, Error> {
        let _ = (group, key);
        Err(pending("verify"))
    }

    /// The cluster map as this client knows it; fetched when there is none yet.
    pub async fn map(&self) -> Result<Arc<ClusterMap>, Error> {
        Err(pending("map"))
    }

    /// Fetches what is new in the cluster map.
    pub async fn refresh_map(&self) -> Result<Arc<ClusterMap>, Error> {
        Err(pending("map"))
    }

    /// State of the cluster as the coordinator sees it.
    pub async fn status(&self) -> Result<StatusReply, Error> {
        Err(pending("status"))
    }

    /// Counters of the shard that owns a target.
    pub async fn shard_stats(&self, target: TargetId) -> Result<ShardStatsReply, Error> {
        let _ = target;
        Err(pending("shard_stats"))
    }

    /// Ends the session; files that were not published are given back.
    pub async fn close(&self) -> Result<(), Error> {
        Err(pending("close"))
    }
}
