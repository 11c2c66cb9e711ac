//! Requests that reach the wrong shard of the right node, and the wrong node.

use node::io::Nanos;
use node::shard::control::{ControlEvent, ShardConfig, Timeouts};
use node::shard::effect::{Effect, Refusal};
use node::shard::event::{Asked, ConnId, Event, ReplyTo, Request};
use node::shard::state::ShardState;
use node::shard::step::step;
use protocol::ids::{
    ChunkKey, ClusterId, Epoch, Fid, Generation, GroupId, Handle, NodeId, RequestId, ShardId,
    TargetId,
};
use protocol::message::Kind;
use protocol::message::chunk::ReadRequest;
use protocol::status::Status;

use super::coordinator::{Coordinator, GROUP};
use super::fake_store::{Bytes, FakeStore};

/// A shard of target 9 on this node; the group's target 2 belongs to another shard of node 2.
fn shard_on(node: NodeId) -> ShardConfig {
    ShardConfig {
        node,
        shard: ShardId(1),
        target: TargetId(9),
        generation: Generation(1),
        port: 7009,
        core: u16::MAX,
        cluster: ClusterId(1),
        timeouts: Timeouts::default(),
    }
}

fn asked() -> Asked {
    let reply = ReplyTo { conn: ConnId(1), request: RequestId(5), kind: Kind::Read };
    Asked { reply, epoch: Epoch(1), deadline: None, node: None }
}

fn read(group: GroupId) -> Request<Bytes> {
    Request::Read(ReadRequest {
        group,
        key: ChunkKey { fid: Fid(1), index: 0 },
        offset: 0,
        len: 1,
        expect_len: 1,
        trunc_gen: 0,
        handle: Handle(0),
        growth_only: true,
        verify: false,
    })
}

/// What the shard answers to a read in a group, and how many misroutes it has counted then.
fn refused(config: ShardConfig, group: GroupId) -> (Refusal, u64) {
    let mut map = Coordinator::new(3, 2).map;
    map.targets.get_mut(&TargetId(2)).unwrap().port = 7042;
    let mut state = ShardState::<Bytes>::new(config, Vec::new());
    let store = FakeStore::default();
    let mut out = Vec::new();
    let map = Event::Control(ControlEvent::Map(map.to_delta()));
    step(&mut state, &store, Nanos(1), map, &mut out);
    out.clear();
    step(&mut state, &store, Nanos(2), Event::Asked(asked(), read(group)), &mut out);
    match &out[..] {
        [Effect::Reply { to, answer: Err(refusal), .. }] if *to == asked().reply => {
            (refusal.clone(), state.core.counters.misroutes)
        }
        other => panic!("one refusal is the answer, not {other:?}"),
    }
}

#[test]
fn a_request_for_another_target_of_the_node_is_told_its_port() {
    let (refusal, misroutes) = refused(shard_on(NodeId(2)), GROUP);
    assert_eq!((refusal.status, refusal.port), (Status::WrongShard, 7042));
    assert_eq!(misroutes, 1);
}

#[test]
fn a_request_for_a_group_of_no_shard_here_is_refused_without_a_port() {
    let unknown = GroupId(GROUP.0 + 1);
    for (node, group) in [(NodeId(2), unknown), (NodeId(4), GROUP)] {
        let (refusal, misroutes) = refused(shard_on(node), group);
        assert_eq!((refusal.status, refusal.port), (Status::NotMember, 0));
        assert_eq!(misroutes, 0, "no shard of this node would have been right");
    }
}
