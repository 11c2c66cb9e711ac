use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use protocol::cluster_map::{ClusterMap, Role};
use protocol::ids::{Generation, Lsn, MapVersion, NodeId, ShardId, TargetId};
use protocol::message::Kind;
use protocol::message::cluster::{
    ActivatedReply, ActivatedRequest, HeartbeatReply, HeartbeatRequest, MapPushNotice,
    RegisterReply, RegisterRequest, TargetHealth, TargetReport,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{CallError, Peer};

/// A node that is only a connection and a port: it registers and sends heartbeats.
pub(crate) struct FakeNode {
    pub(crate) number: u32,
    pub(crate) peer: Peer,
    pub(crate) incarnation: u64,
    pub(crate) generation: u32,
    /// Where its shard would listen; nothing does when it is 0.
    pub(crate) port: u16,
    listener: Option<TcpListener>,
    beating: Option<JoinHandle<()>>,
    beats: watch::Sender<u64>,
    pub(crate) map: ClusterMap,
}

impl FakeNode {
    pub(crate) fn new(number: u32, peer: Peer) -> FakeNode {
        FakeNode {
            number,
            peer,
            incarnation: 77,
            generation: 1,
            port: 1,
            listener: None,
            beating: None,
            beats: watch::channel(0).0,
            map: ClusterMap::default(),
        }
    }

    pub(crate) fn target(&self) -> TargetId {
        TargetId(100 + self.number)
    }

    /// Opens the port of its shard, so that probes are not refused.
    pub(crate) async fn listen(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        self.listener = Some(listener);
    }

    pub(crate) fn registration(&self) -> RegisterRequest {
        RegisterRequest {
            node: NodeId(self.number),
            incarnation: self.incarnation,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            release: "test".into(),
            targets: vec![TargetReport {
                target: self.target(),
                shard: ShardId(0),
                device: 0,
                port: self.port,
                generation: Generation(self.generation),
                recovered_lsn: Lsn(0),
                intact: true,
                capacity: 1 << 33,
                free: 1 << 33,
                groups: vec![],
            }],
        }
    }

    pub(crate) async fn register(&mut self) -> Result<RegisterReply, CallError> {
        let reply: RegisterReply = self.peer.call(&self.registration()).await?;
        self.map.apply(&reply.map).unwrap();
        Ok(reply)
    }

    pub(crate) fn heartbeat_of(&self, seq: u64) -> HeartbeatRequest {
        HeartbeatRequest {
            node: NodeId(self.number),
            incarnation: self.incarnation,
            seq,
            map_version: MapVersion(u64::MAX),
            targets: vec![TargetHealth {
                target: self.target(),
                durable_lsn: Lsn(1),
                free: 1 << 33,
                ..TargetHealth::default()
            }],
        }
    }

    pub(crate) async fn heartbeat(&self, seq: u64) -> Result<HeartbeatReply, CallError> {
        self.peer.call(&self.heartbeat_of(seq)).await
    }

    /// Sends heartbeats every 250 ms until it is stopped or the connection ends.
    pub(crate) fn beat(&mut self) {
        let (peer, first) = (self.peer.clone(), self.heartbeat_of(0));
        let beats = self.beats.clone();
        self.beating = Some(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(250));
            for seq in 1.. {
                ticks.tick().await;
                let beat = HeartbeatRequest { seq, ..first.clone() };
                if peer.call::<HeartbeatReply>(&beat).await == Err(CallError::Closed) {
                    return;
                }
                beats.send_replace(seq);
            }
        }));
    }

    /// Waits until so many heartbeats were answered, a quarter of a second each.
    pub(crate) async fn beaten(&self, count: u64) {
        let mut beats = self.beats.subscribe();
        super::soon("heartbeats", beats.wait_for(|&beats| beats >= count)).await.unwrap();
    }

    /// Applies pushed maps until `done` says so.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&ClusterMap) -> bool) {
        while !done(&self.map) {
            let notice = self.peer.notice::<MapPushNotice>(Kind::MapPush);
            let notice = super::soon(what, notice).await.expect("connection ended");
            self.map.apply(&notice.delta).expect("pushes are without gaps");
        }
    }

    /// Reports every group activated whose primary this node is.
    pub(crate) async fn activate(&self) {
        for group in self.map.groups.values().filter(|group| !group.active) {
            let primary = group.members.iter().find(|member| member.role == Role::Primary);
            if primary.is_some_and(|member| member.target == self.target()) {
                let target = self.target();
                let request = ActivatedRequest { group: group.id, epoch: group.epoch, target };
                self.peer.call::<ActivatedReply>(&request).await.unwrap();
            }
        }
    }

    /// Goes away as a killed process does: connections and port are closed.
    pub(crate) fn die(self) {
        if let Some(beating) = &self.beating {
            beating.abort();
        }
        drop(self.listener);
        drop(self.peer);
    }

    /// Breaks the connection but keeps the shard's port open.
    pub(crate) fn disconnect(mut self) -> Option<TcpListener> {
        if let Some(beating) = self.beating.take() {
            beating.abort();
        }
        self.listener.take()
    }
}
