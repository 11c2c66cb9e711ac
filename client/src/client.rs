//! The client handle: connects, and answers questions about the cluster.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, Role};
use protocol::ids::{ChunkKey, Epoch, GroupId, TargetId};
use protocol::message::chunk::{ShardStatsReply, ShardStatsRequest, VerifyReply, VerifyRequest};
use protocol::message::cluster::{StatusReply, StatusRequest};
use protocol::message::operate::{AdminOp, AdminReply, AdminRequest, PlansReply, PlansRequest};
use protocol::tls::{TlsFiles, client_config};

use crate::config::Config;
use crate::core::Core;
use crate::error::{ConfigError, Error};
use crate::file::Reservations;
use crate::limits::VERIFY_TIMEOUT_MS;
use crate::session::{Mutations, Session};
use crate::transport::pool::Pool;
use crate::transport::tls::Dialer;
use crate::transport::{Peer, PeerId, Transport};

/// A connection to one cluster; clones share everything.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    session: Arc<Session>,
    mutations: Mutations,
    reservations: Reservations,
}

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

impl Client {
    /// Prepares the use of a cluster.
    ///
    /// Connections are opened when they are first needed, so a cluster that cannot be reached
    /// shows in the first operation.
    ///
    /// # Errors
    /// [`Error::Config`] when the certificates cannot be used.
    ///
    /// # Cancel safety
    /// Nothing has happened.
    pub async fn connect(config: &Config) -> Result<Client, Error> {
        let files = TlsFiles {
            ca: config.tls.ca.clone(),
            cert: config.tls.cert.clone(),
            key: config.tls.key.clone(),
        };
        let tls = client_config(&files).map_err(|error| ConfigError::Tls {
            path: config.path.clone(),
            detail: error.to_string(),
        })?;
        let coordinators = config.coordinators.iter().map(|coordinator| Peer {
            id: PeerId::Coordinator(coordinator.id),
            address: coordinator.address.clone(),
        });
        let pool = Pool::new(Dialer::new(config.cluster, tls, config.data_transport));
        // The hasher's keys are the one source of randomness the standard library has.
        let seed = RandomState::new().hash_one(std::process::id());
        Ok(Client::over(config.cluster, Arc::new(pool), coordinators.collect(), seed))
    }

    /// Makes a client over any transport; `seed` decides pauses and the choice of replicas.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn over(
        cluster: protocol::ids::ClusterId,
        transport: Arc<dyn Transport>,
        coordinators: Vec<Peer>,
        seed: u64,
    ) -> Client {
        let notices = transport.notices();
        let core = Core::new(cluster, transport, coordinators, seed);
        if let Some(notices) = notices {
            tokio::spawn(Core::listen(Arc::downgrade(&core), notices));
        }
        let session = Session::new(Arc::clone(&core));
        let mutations = Mutations::start(Arc::clone(&session));
        let reservations = Reservations::default();
        Client { inner: Arc::new(Inner { core, session, mutations, reservations }) }
    }

    /// The cluster map as this client knows it; fetched when there is none yet.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn map(&self) -> Result<Arc<ClusterMap>, Error> {
        self.core().map().await
    }

    /// Fetches what is new in the cluster map.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn refresh_map(&self) -> Result<Arc<ClusterMap>, Error> {
        self.core().refresh_map().await
    }

    /// State of the cluster as the coordinator sees it.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn status(&self) -> Result<StatusReply, Error> {
        self.core().ask("status", &StatusRequest).await
    }

    /// Gives an operator's order; only administrators may.
    ///
    /// # Durability
    /// On return the order survives a restart of the coordinator.
    ///
    /// # Cancel safety
    /// The order may have been given; giving it again changes nothing.
    pub async fn admin(&self, op: AdminOp) -> Result<AdminReply, Error> {
        self.core().ask("order", &AdminRequest { op }).await
    }

    /// One page of the groups that have a plan or a syncing member, ascending.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn plans(&self, after: GroupId) -> Result<PlansReply, Error> {
        self.core().ask("plans", &PlansRequest { after }).await
    }

    /// Counters of the shard that owns a target.
    ///
    /// # Errors
    /// Also [`Error::Deadline`], after a short while, when the shard does not answer.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn shard_stats(&self, target: TargetId) -> Result<ShardStatsReply, Error> {
        let what = format!("counters of target {target}");
        let peer = self.peer_of(target, &what).await?;
        let timeout = Duration::from_millis(VERIFY_TIMEOUT_MS);
        self.core().ask_peer(&what, &peer, Epoch(0), timeout, &ShardStatsRequest).await
    }

    /// Asks every member of a chunk's group to check its replica from the device.
    ///
    /// # Shape
    /// One entry for each member, the primary first, then in the map's order.
    ///
    /// # Errors
    /// That the map cannot be had or does not name the group; a replica that cannot be checked is
    /// an entry.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn verify_chunk(
        &self,
        group: GroupId,
        key: ChunkKey,
    ) -> Result<Vec<ReplicaCheck>, Error> {
        let what = format!("verify chunk {key}");
        let map = self.map().await?;
        let record = map.groups.get(&group).ok_or_else(|| Error::NotMapped {
            what: what.clone(),
            detail: format!("group {group} is not in the map"),
        })?;
        let mut members = record.members.clone();
        members.sort_by_key(|member| member.role);
        let mut checks = tokio::task::JoinSet::new();
        for (position, member) in members.iter().enumerate() {
            let (client, target) = (self.clone(), member.target);
            let (epoch, what) = (record.epoch, format!("{what} on target {target}"));
            checks.spawn(async move {
                (position, client.verify_replica(&what, group, key, epoch, target).await)
            });
        }
        let mut results = checks.join_all().await;
        results.sort_by_key(|(position, _)| *position);
        Ok(members
            .iter()
            .zip(results)
            .map(|(member, (_, result))| ReplicaCheck {
                target: member.target,
                role: member.role,
                result,
            })
            .collect())
    }

    /// True when the coordinator lets this client set owners.
    ///
    /// # Errors
    /// That no coordinator answered.
    ///
    /// # Cancel safety
    /// A session may have been opened that nobody uses; it ends with its lease.
    pub async fn is_admin(&self) -> Result<bool, Error> {
        self.inner.session.is_admin().await
    }

    /// Ends the session; files that were not published are given back, and nobody who wants to
    /// change a file waits for this client any more.
    ///
    /// # Errors
    /// That no coordinator answered: the session then ends with its lease.
    ///
    /// # Cancel safety
    /// The session ends now or with its lease.
    pub async fn close(&self) -> Result<(), Error> {
        if self.core().has_words() {
            self.core().give_words_back(Vec::new()).await;
        }
        self.inner.session.close().await
    }

    async fn verify_replica(
        &self,
        what: &str,
        group: GroupId,
        key: ChunkKey,
        epoch: Epoch,
        target: TargetId,
    ) -> Result<VerifyReply, Error> {
        let peer = self.peer_of(target, what).await?;
        let timeout = Duration::from_millis(VERIFY_TIMEOUT_MS);
        self.core().ask_peer(what, &peer, epoch, timeout, &VerifyRequest { group, key }).await
    }

    async fn peer_of(&self, target: TargetId, what: &str) -> Result<Peer, Error> {
        let map = self.map().await?;
        let (node, address) = map.endpoint(target).ok_or_else(|| Error::NotMapped {
            what: what.into(),
            detail: format!("target {target} is not in the map"),
        })?;
        Ok(Peer { id: PeerId::Target { node, target }, address: address.to_string() })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.inner.session
    }

    pub(crate) fn mutations(&self) -> &Mutations {
        &self.inner.mutations
    }

    pub(crate) fn reservations(&self) -> &Reservations {
        &self.inner.reservations
    }
}
