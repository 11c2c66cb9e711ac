//! A target whose journal has rotted is not believed, also when the process that found it could tell
//! nobody.

use std::rc::Rc;
use std::time::Duration;

use loadgen::sim::check::Ledger;
use loadgen::sim::client::SimClient;
use loadgen::sim::cluster::{SimCluster, process_of};
use loadgen::sim::coordinator::COORDINATOR;
use loadgen::sim::disk::Damage;
use loadgen::sim::executor::{ProcessId, Stop};
use loadgen::sim::fault::atlas::Damaged;
use loadgen::sim::profile::Mode;
use protocol::ids::{ChunkKey, Fid, GroupId, NodeId, SessionId};

const WORKLOAD: ProcessId = ProcessId(900);
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// The node whose journal rots.
const ROTTEN: NodeId = NodeId(2);
const CHUNKS: u64 = 16;
/// Longest a phase may take in virtual time.
const PHASE: Duration = Duration::from_secs(60);
/// Longer than a coordinator waits for all before it goes on with those that are there.
const ALONE: Duration = Duration::from_secs(30);

/// A cluster that has acknowledged some chunks.
fn written(seed: u64) -> (SimCluster, Rc<Ledger>) {
    let cluster = SimCluster::start(seed, 3);
    let ledger = Ledger::new(&cluster, 2, Mode::Liveness, Damaged::default());
    let client = SimClient::new(&cluster, SessionId(1));
    let groups: Vec<GroupId> = cluster.coordinator().map().groups.keys().copied().collect();
    for number in 1..=CHUNKS {
        let (ledger, client) = (Rc::clone(&ledger), Rc::clone(&client));
        let group = groups[usize::try_from(number).unwrap() % groups.len()];
        let key = ChunkKey { fid: Fid(number), index: 0 };
        cluster.executor().spawn(WORKLOAD, async move {
            let bytes = vec![u8::try_from(number).unwrap(); 20_000];
            ledger.on_submit(group, key, &bytes);
            let (reply, epoch) = client.append(group, key, number, 0, &bytes).await.unwrap();
            ledger.on_acknowledged(group, key, reply.version, epoch);
        });
    }
    let all = || ledger.acknowledged.get() == CHUNKS;
    assert_eq!(cluster.executor().run_until(PHASE, all), Stop::Reached);
    (cluster, ledger)
}

/// Starts a node that reaches no coordinator, and kills it once it has recovered.
fn start_and_end_unheard(cluster: &mut SimCluster, node: NodeId) {
    let ways = [(process_of(node), COORDINATOR), (COORDINATOR, process_of(node))];
    ways.iter().for_each(|(from, to)| cluster.fabric().cuts().cut(*from, *to));
    cluster.start_node(node);
    let recovered = || cluster.running().contains(&node);
    assert_eq!(cluster.executor().run_until(PHASE, recovered), Stop::Reached);
    cluster.kill_node(node);
    ways.iter().for_each(|(from, to)| cluster.fabric().cuts().join(*from, *to));
}

#[test]
fn f18_a_verdict_that_was_told_nobody_is_not_forgotten() {
    let (mut cluster, ledger) = written(7);
    NODES.iter().for_each(|node| cluster.kill_node(*node));
    cluster.disk(ROTTEN).damage(Damage::RecordRot, true);
    start_and_end_unheard(&mut cluster, ROTTEN);
    cluster.start_node(ROTTEN);
    let led = || cluster.coordinator().map().groups.values().any(|group| !group.down);
    let registered = || cluster.coordinator().map().groups.values().all(|group| group.down);
    assert_eq!(cluster.executor().run_until(PHASE, registered), Stop::Reached);
    let stop = cluster.executor().run_until(ALONE, led);
    assert_ne!(stop, Stop::Reached, "a target with a rotted journal leads a group");
    for node in NODES.into_iter().filter(|node| *node != ROTTEN) {
        cluster.start_node(node);
    }
    cluster.run_until_healthy();
    let done = Rc::new(std::cell::Cell::new(false));
    let end = Rc::clone(&done);
    cluster.executor().spawn(WORKLOAD, async move {
        for (group, key, acknowledged) in ledger.chunks() {
            ledger.check_replicas(group, key, acknowledged).await;
        }
        end.set(true);
    });
    assert_eq!(cluster.executor().run_until(PHASE, || done.get()), Stop::Reached);
}
