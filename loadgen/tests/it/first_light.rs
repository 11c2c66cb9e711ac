//! A whole cluster on one seed: writes, a kill, reads, more writes, a return, equal replicas.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use loadgen::sim::client::SimClient;
use loadgen::sim::cluster::SimCluster;
use loadgen::sim::executor::{ProcessId, Stop};
use protocol::ids::{ChunkKey, Fid, GroupId, NodeId, SessionId};

/// Process of the workload itself.
const WORKLOAD: ProcessId = ProcessId(900);
/// Chunks each phase writes.
const CHUNKS: u64 = 12;
/// Longest a phase may take in virtual time.
const PHASE: Duration = Duration::from_secs(60);

/// What the workload was told is stored.
type Model = Rc<RefCell<BTreeMap<(GroupId, ChunkKey), Vec<u8>>>>;

#[test]
fn nothing_acknowledged_is_lost_when_a_node_dies_and_returns() {
    for seed in 0..15 {
        run(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_events() {
    assert_eq!(run(42), run(42));
    assert_ne!(run(42), run(43));
}

fn run(seed: u64) -> u64 {
    let mut cluster = SimCluster::start(seed, 3);
    let client = SimClient::new(&cluster, SessionId(1));
    let model = Model::default();
    let victim = NodeId(1 + u32::try_from(seed % 3).unwrap_or(0));

    write_all(&cluster, &client, &model, 1);
    start_writing(&cluster, &client, &model, 2);
    cluster.executor().run_until(Duration::from_millis(3 + seed % 17), || false);
    cluster.kill_node(victim);
    finish_writing(&cluster, &model, 2);
    read_all(&cluster, &client, &model);
    write_all(&cluster, &client, &model, 3);
    cluster.start_node(victim);
    cluster.run_until_healthy();
    read_all(&cluster, &client, &model);
    assert_replicas_equal(&cluster, &model);
    cluster.executor().event_hash()
}

fn write_all(cluster: &SimCluster, client: &Rc<SimClient>, model: &Model, phase: u64) {
    start_writing(cluster, client, model, phase);
    finish_writing(cluster, model, phase);
}

/// Starts one task for each chunk, so that writes of different chunks run at the same time.
fn start_writing(cluster: &SimCluster, client: &Rc<SimClient>, model: &Model, phase: u64) {
    let groups: Vec<GroupId> = cluster.coordinator().map().groups.keys().copied().collect();
    for number in 0..CHUNKS {
        let (client, model) = (Rc::clone(client), Rc::clone(model));
        let group = groups[usize::try_from(number).unwrap_or(0) % groups.len()];
        cluster.executor().spawn(WORKLOAD, async move {
            let key = ChunkKey { fid: Fid(phase * 1000 + number), index: 0 };
            let mut stored: Vec<u8> = Vec::new();
            // Whole cells, then parts of cells, so that the last cell grows more than once.
            for (piece, len) in [16384usize, 40_000, 1, 9000].into_iter().enumerate() {
                let bytes = content(key, stored.len(), len);
                let seq = phase * 10_000 + number * 10 + piece as u64 + 1;
                let offset = u32::try_from(stored.len()).unwrap_or(u32::MAX);
                let reply = client.append(group, key, seq, offset, &bytes).await;
                stored.extend(&bytes);
                assert_eq!(reply.map(|(reply, _)| reply.chunk_len as usize), Ok(stored.len()));
            }
            model.borrow_mut().insert((group, key), stored);
        });
    }
}

fn finish_writing(cluster: &SimCluster, model: &Model, phase: u64) {
    let expected = usize::try_from(phase * CHUNKS).unwrap_or(usize::MAX);
    let stop = cluster.executor().run_until(PHASE, || model.borrow().len() == expected);
    assert_eq!(stop, Stop::Reached, "phase {phase}: {} of {expected}", model.borrow().len());
}

fn read_all(cluster: &SimCluster, client: &Rc<SimClient>, model: &Model) {
    let left = Rc::new(RefCell::new(model.borrow().len()));
    for ((group, key), bytes) in model.borrow().clone() {
        let (client, left) = (Rc::clone(client), Rc::clone(&left));
        cluster.executor().spawn(WORKLOAD, async move {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let read = client.read(group, key, 0, len, len).await;
            assert_eq!(read.as_ref(), Ok(&bytes), "chunk {key}");
            *left.borrow_mut() -= 1;
        });
    }
    let stop = cluster.executor().run_until(PHASE, || *left.borrow() == 0);
    assert_eq!(stop, Stop::Reached, "{} reads are left", left.borrow());
}

fn assert_replicas_equal(cluster: &SimCluster, model: &Model) {
    for group in cluster.coordinator().map().groups.keys() {
        let inventories = cluster.inventories(*group);
        assert_eq!(inventories.len(), 3);
        let lists: Vec<_> = inventories.values().collect();
        assert!(lists.windows(2).all(|pair| pair[0] == pair[1]), "group {group}: {inventories:#?}");
        let keys: Vec<_> = lists[0].iter().map(|entry| (entry.key, entry.chunk_len)).collect();
        let expected: Vec<_> = model
            .borrow()
            .iter()
            .filter(|((held, _), _)| held == group)
            .map(|((_, key), bytes)| (*key, u32::try_from(bytes.len()).unwrap_or(u32::MAX)))
            .collect();
        assert_eq!(keys, expected, "group {group} holds exactly what was acknowledged");
    }
}

/// Bytes that name their place, so that no piece can pass for another.
fn content(key: ChunkKey, at: usize, len: usize) -> Vec<u8> {
    (at..at + len)
        .map(|place| {
            let word = key.fid.0.wrapping_mul(0x9e37_79b9).wrapping_add(place as u64 / 8);
            word.rotate_left(u32::try_from(place % 8 * 8).unwrap_or(0)).to_le_bytes()[0]
        })
        .collect()
}
