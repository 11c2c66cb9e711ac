//! Damage that no device reports and nobody reads: an ordered check of everything finds it, and it
//! is repaired; without that order the checker finds it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use loadgen::sim::check::Ledger;
use loadgen::sim::client::SimClient;
use loadgen::sim::cluster::SimCluster;
use loadgen::sim::disk::Damage;
use loadgen::sim::executor::{ProcessId, Stop};
use loadgen::sim::fault::atlas::Damaged;
use loadgen::sim::profile::Mode;
use protocol::ids::{ChunkKey, Fid, GroupId, NodeId, SessionId};

const WORKLOAD: ProcessId = ProcessId(900);
const CHUNKS: u64 = 16;
const CHUNK_LEN: usize = 50_000;
/// Places that rot: some hit what nothing is kept in any more.
const ROTS: usize = 40;
/// Longest a phase may take in virtual time.
const PHASE: Duration = Duration::from_secs(60);

/// A cluster with acknowledged chunks, one of whose devices has rotted.
fn rotten(seed: u64) -> (SimCluster, Rc<Ledger>) {
    let cluster = SimCluster::start(seed, 3);
    let ledger = Ledger::new(&cluster, 2, Mode::Liveness, Damaged::default());
    let client = SimClient::new(&cluster, SessionId(1));
    let groups: Vec<GroupId> = cluster.coordinator().map().groups.keys().copied().collect();
    for number in 1..=CHUNKS {
        let (ledger, client) = (Rc::clone(&ledger), Rc::clone(&client));
        let group = groups[usize::try_from(number).unwrap() % groups.len()];
        let key = ChunkKey { fid: Fid(number), index: 0 };
        cluster.executor().spawn(WORKLOAD, async move {
            let bytes = vec![u8::try_from(number).unwrap(); CHUNK_LEN];
            ledger.on_submit(group, key, &bytes);
            let (reply, epoch) = client.append(group, key, number, 0, &bytes).await.unwrap();
            ledger.on_acknowledged(group, key, reply.version, epoch);
        });
    }
    let written = || ledger.acknowledged.get() == CHUNKS;
    assert_eq!(cluster.executor().run_until(PHASE, written), Stop::Reached);
    for _ in 0..ROTS {
        cluster.disk(NodeId(2)).damage(Damage::Rot, true);
    }
    (cluster, ledger)
}

fn check_replicas(cluster: &SimCluster, ledger: &Rc<Ledger>) {
    let done = Rc::new(Cell::new(false));
    let (ledger, end) = (Rc::clone(ledger), Rc::clone(&done));
    cluster.executor().spawn(WORKLOAD, async move {
        for (group, key, acknowledged) in ledger.chunks() {
            ledger.check_replicas(group, key, acknowledged).await;
        }
        end.set(true);
    });
    assert_eq!(cluster.executor().run_until(PHASE, || done.get()), Stop::Reached);
}

#[test]
fn damage_that_nobody_reads_is_found_and_repaired() {
    let (cluster, ledger) = rotten(7);
    cluster.scrub();
    let repaired: u64 = cluster.coordinator().health().iter().map(|it| it.cells_repaired).sum();
    assert!(repaired > 0, "there was something to repair");
    check_replicas(&cluster, &ledger);
}

#[test]
#[should_panic(expected = "every replica is readable")]
fn damage_that_nobody_looked_for_is_found_by_the_checker() {
    let (cluster, ledger) = rotten(7);
    check_replicas(&cluster, &ledger);
}
