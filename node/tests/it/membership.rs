//! The control executor against a coordinator that only follows the script.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use node::config::Coordinator;
use node::io::NoDisk;
use node::io::glommio::link::GlommioLink;
use node::io::glommio::mesh::{Wakeup, pair};
use node::io::{Link, Outgoing, Payload};
use node::limits::{MESH_TO_CONTROL_MAX, MESH_TO_SHARD_MAX};
use node::membership::control::{self, ControlPort, Setup, StopOrder};
use node::membership::state::Identity;
use node::shard::{Control, ControlEvent, ShardReport};
use protocol::cluster_map::MapDelta;
use protocol::frame::Header;
use protocol::ids::{
    Epoch, Generation, GroupId, Lsn, MapVersion, NodeId, RequestId, ShardId, TargetId,
};
use protocol::message::cluster::{
    ActivatedReply, ActivatedRequest, HeartbeatReply, HeartbeatRequest, MapPushNotice,
    RegisterReply, RegisterRequest, TargetReport,
};
use protocol::message::{Kind, Message};
use protocol::status::Status;

use crate::certificates::Authority;
use crate::fixture::{CLUSTER, COORDINATOR, SERVER, Server, start};

const INCARNATION: u64 = 77;

fn delta(from: u64, to: u64, full: bool) -> MapDelta {
    let (from, to) = (MapVersion(from), MapVersion(to));
    MapDelta { cluster: CLUSTER, from, to, full, ..MapDelta::default() }
}

fn reply<M: Message>(to: &Header, message: &M) -> Outgoing<NoDisk> {
    let body = message.encode();
    let header = to.reply(Status::Ok).seal(&body, 0);
    Outgoing { header, body, payload: Payload::empty() }
}

/// Registers the node with map 1, pushes map 2 after the first heartbeat, closes the connection
/// when a shard reports for the first time, and answers from then on.
async fn coordinate(link: Rc<GlommioLink<NoDisk>>, reports: Rc<Cell<u32>>) {
    while let Ok(frame) = link.receive().await {
        let header = &frame.header;
        match header.kind {
            Kind::Register => {
                let register = RegisterRequest::decode(&frame.body).unwrap();
                assert_eq!(register.incarnation, INCARNATION, "also on the second connection");
                assert_eq!(register.targets.len(), 1);
                let map = delta(0, 1, true);
                let accepted = RegisterReply { lease_ms: 10_000, heartbeat_ms: 20, map };
                link.send(reply(header, &accepted)).unwrap();
            }
            Kind::Heartbeat => {
                let beat = HeartbeatRequest::decode(&frame.body).unwrap();
                let map_version = beat.map_version;
                let answer = HeartbeatReply {
                    seq: beat.seq,
                    lease_ms: 10_000,
                    map_version,
                    delta: None,
                    orders: Vec::new(),
                };
                link.send(reply(header, &answer)).unwrap();
                if beat.seq == 1 {
                    let body = MapPushNotice { delta: delta(1, 2, false) }.encode();
                    let header = Header::new(Kind::MapPush, RequestId(0)).seal(&body, 0);
                    link.send(Outgoing { header, body, payload: Payload::empty() }).unwrap();
                }
            }
            Kind::Activated => {
                reports.set(reports.get() + 1);
                if reports.get() == 1 {
                    link.close();
                } else {
                    link.send(reply(header, &ActivatedReply)).unwrap();
                    // The shard of this test ends when it sees this version.
                    let body = MapPushNotice { delta: delta(2, 3, false) }.encode();
                    let header = Header::new(Kind::MapPush, RequestId(0)).seal(&body, 0);
                    link.send(Outgoing { header, body, payload: Payload::empty() }).unwrap();
                }
            }
            kind => panic!("{kind:?} was not expected"),
        }
    }
}

fn setup(
    authority: &Authority,
    coordinator: SocketAddr,
    stop: &Arc<StopOrder>,
) -> (Setup, ControlPort) {
    let target = TargetReport {
        target: TargetId(101),
        shard: ShardId(0),
        device: 0,
        port: 7411,
        generation: Generation(1),
        recovered_lsn: Lsn(0),
        intact: true,
        capacity: 1 << 30,
        free: 1 << 30,
        groups: Vec::new(),
    };
    let identity = Identity {
        node: NodeId(1),
        cluster: CLUSTER,
        incarnation: INCARNATION,
        address: "127.0.0.1".parse().unwrap(),
        targets: vec![target],
    };
    let to_shard = Wakeup::default();
    let (port, far) = pair((stop.wakeup(), MESH_TO_CONTROL_MAX), (&to_shard, MESH_TO_SHARD_MAX));
    let setup = Setup {
        identity,
        coordinators: vec![
            // Nobody answers at the first one.
            Coordinator { id: 2, address: "127.0.0.1:1".parse().unwrap() },
            Coordinator { id: 1, address: coordinator },
        ],
        tls: authority.configs(&SERVER),
        ports: vec![port],
        stop: Arc::clone(stop),
        metrics: None,
    };
    (setup, ControlPort(far))
}

/// Reports an activation until the map shows it, then ends when ordered.
async fn shard(control: ControlPort, stop: Arc<StopOrder>) -> (Vec<u64>, u32) {
    let activated = ActivatedRequest { group: GroupId(1), epoch: Epoch(1), target: TargetId(101) };
    let (mut maps, mut leases) = (Vec::new(), 0);
    loop {
        match control.next().await {
            ControlEvent::Map(delta) => {
                maps.push(delta.to.0);
                if delta.to == MapVersion(3) {
                    stop.ask();
                }
            }
            ControlEvent::Lease { .. } => {
                leases += 1;
                control.report(ShardReport::Activated(activated.clone()));
            }
            ControlEvent::DropFiles(_)
            | ControlEvent::Orders(_)
            | ControlEvent::FileOrders(_)
            | ControlEvent::Census(_) => {}
            ControlEvent::Shutdown => {
                assert!(control.report(ShardReport::Stopped));
                return (maps, leases);
            }
        }
    }
}

#[test]
fn membership_registers_renews_reconnects_and_stops() {
    let authority = Authority::new(CLUSTER);
    let server = Server::with(authority.configs(&COORDINATOR), {
        thread_local! { static REPORTS: Rc<Cell<u32>> = Rc::default(); }
        |link| coordinate(link, REPORTS.with(Rc::clone))
    });
    let stop = Arc::new(StopOrder::default());
    let (setup, port) = setup(&authority, server.address, &stop);
    let control = start(move || control::run(setup));
    let shard = start(move || shard(port, stop));
    let (maps, leases) = shard.join().unwrap();
    control.join().unwrap();
    assert_eq!(maps.first(), Some(&1), "the map comes first");
    assert_eq!(maps.last(), Some(&3));
    assert!(maps.is_sorted(), "{maps:?}");
    assert!(leases >= 2, "{leases}");
    assert_eq!(server.stop().accepted, 2, "one connection and one more after it was closed");
}
