use std::time::Duration;

use protocol::cluster_map::MapDelta;
use protocol::ids::{ClusterId, Epoch, GroupId, MapVersion, NodeId, TargetId};
use protocol::message::cluster::{
    ActivatedRequest, ErrorReply, HeartbeatReply, HeartbeatRequest, MapFetchReply, MapPushNotice,
    RegisterReply,
};
use protocol::message::{Kind, Message};
use protocol::status::Status;

use super::{Session, SessionError};
use crate::io::NoDisk;
use crate::io::{Incoming, Nanos, Outgoing};
use crate::limits::{COORDINATOR_REQUESTS_MAX, COORDINATOR_SILENCE_MAX_MS};
use crate::membership::state::{Identity, State};
use crate::shard::{ControlEvent, ShardReport};

type Out = Outgoing<NoDisk>;

fn state() -> State {
    State::new(Identity {
        node: NodeId(1),
        cluster: ClusterId(1),
        incarnation: 42,
        address: "127.0.0.1".parse().unwrap(),
        targets: Vec::new(),
    })
}

fn at(ms: u64) -> Nanos {
    Nanos(1).after(Duration::from_millis(ms))
}

fn delta(from: u64, to: u64, full: bool) -> MapDelta {
    let (from, to) = (MapVersion(from), MapVersion(to));
    MapDelta { cluster: ClusterId(1), from, to, full, ..MapDelta::default() }
}

fn reply<M: Message>(to: &Out, message: &M) -> Incoming<NoDisk> {
    let body = message.encode();
    let header = to.header.reply(Status::Ok).seal(&body, 0);
    Incoming { header, body, payload: None }
}

fn refusal(to: &Out, status: Status) -> Incoming<NoDisk> {
    let body = ErrorReply { text: "no".to_owned(), ..ErrorReply::default() }.encode();
    Incoming { header: to.header.reply(status).seal(&body, 0), body, payload: None }
}

/// A session whose registration was accepted at 0 ms with a heartbeat each 250 ms.
fn registered(state: &mut State) -> Session {
    let mut session = Session::new(at(0));
    let register: Out = session.register(state);
    let accepted = RegisterReply { lease_ms: 10_000, heartbeat_ms: 250, map: delta(0, 3, true) };
    assert!(session.receive(at(0), &reply(&register, &accepted), state).unwrap().is_none());
    assert!(session.registered());
    assert_eq!(state.map_version(), MapVersion(3));
    session
}

fn beat(session: &mut Session, now: Nanos, state: &mut State) -> Out {
    session.tick(now, state).unwrap().unwrap()
}

#[test]
fn session_beats_at_once_and_then_each_period() {
    let mut state = state();
    let mut session = registered(&mut state);
    assert_eq!(session.idle(at(0)), Duration::ZERO);
    let first = beat(&mut session, at(0), &mut state);
    assert_eq!(HeartbeatRequest::decode(&first.body).unwrap().map_version, MapVersion(3));
    assert_eq!(session.idle(at(100)), Duration::from_millis(150));
    assert!(session.tick::<NoDisk>(at(249), &mut state).unwrap().is_none());
    beat(&mut session, at(250), &mut state);
}

#[test]
fn session_counts_the_lease_from_when_the_heartbeat_left() {
    let mut state = State::new(Identity {
        targets: vec![protocol::message::cluster::TargetReport {
            target: TargetId(1),
            shard: protocol::ids::ShardId(0),
            device: 0,
            port: 1,
            generation: protocol::ids::Generation(1),
            recovered_lsn: protocol::ids::Lsn(0),
            intact: true,
            capacity: 1,
            free: 1,
            groups: Vec::new(),
        }],
        ..state().identity().clone()
    });
    let mut session = registered(&mut state);
    let sent = beat(&mut session, at(0), &mut state);
    let answer = HeartbeatReply {
        seq: 1,
        lease_ms: 1000,
        map_version: MapVersion(3),
        delta: None,
        orders: Vec::new(),
    };
    session.receive(at(900), &reply(&sent, &answer), &mut state).unwrap();
    let mut events = Vec::new();
    let (map, outboxes) = state.outboxes();
    outboxes[0].flush(map, |event| {
        events.push(event);
        true
    });
    assert_eq!(events[1], ControlEvent::Lease { expires: at(949) });
}

#[test]
fn session_fetches_the_map_after_a_gap() {
    let mut state = state();
    let mut session = registered(&mut state);
    let push = |delta| {
        let body = MapPushNotice { delta }.encode();
        let header =
            protocol::frame::Header::new(Kind::MapPush, protocol::ids::RequestId(0)).seal(&body, 0);
        Incoming { header, body, payload: None }
    };
    assert!(session.receive(at(1), &push(delta(3, 4, false)), &mut state).unwrap().is_none());
    assert_eq!(state.map_version(), MapVersion(4));
    let fetch = session.receive(at(2), &push(delta(7, 8, false)), &mut state).unwrap().unwrap();
    assert_eq!(fetch.header.kind, Kind::MapFetch);
    let answer = reply(&fetch, &MapFetchReply { delta: delta(0, 8, true) });
    session.receive(at(3), &answer, &mut state).unwrap();
    assert_eq!(state.map_version(), MapVersion(8));
}

#[test]
fn session_ends_when_refused_or_silent() {
    let mut state = state();
    let mut session = registered(&mut state);
    let sent = beat(&mut session, at(0), &mut state);
    let error = session.receive(at(1), &refusal(&sent, Status::NotLeader), &mut state);
    let refused = SessionError::Refused {
        kind: Kind::Heartbeat,
        status: Status::NotLeader,
        text: "no".to_owned(),
    };
    assert_eq!(error.err(), Some(refused));
    // What was heard last came at 1 ms.
    assert!(session.tick::<NoDisk>(at(COORDINATOR_SILENCE_MAX_MS), &mut state).is_ok());
    let silent = session.tick::<NoDisk>(at(1 + COORDINATOR_SILENCE_MAX_MS), &mut state);
    assert_eq!(silent.err(), Some(SessionError::Silent));
}

#[test]
fn session_bounds_reports_and_survives_their_refusal() {
    let mut state = state();
    let activated = ShardReport::Activated(ActivatedRequest {
        group: GroupId(1),
        epoch: Epoch(1),
        target: TargetId(1),
    });
    let map = MapVersion(3);
    let mut fresh = Session::new(at(0));
    assert!(fresh.report::<NoDisk>(&activated, map).is_none(), "nothing before registration");
    let mut session = registered(&mut state);
    let reports: Vec<Out> = std::iter::from_fn(|| session.report(&activated, map)).collect();
    assert_eq!(reports.len(), COORDINATOR_REQUESTS_MAX);
    session.receive(at(1), &refusal(&reports[0], Status::StaleEpoch), &mut state).unwrap();
    assert!(session.report::<NoDisk>(&activated, map).is_some(), "an answer makes room");
}
