//! Damage: found, repaired from whoever has good bytes, and left alone where nobody has.

use node::limits::{FETCHES_PER_SHARD_MAX, REPAIR_PAUSE_MAX_MS, REPAIRS_PER_GROUP_MAX};
use node::shard::control::ControlEvent;
use node::shard::event::{Asked, ConnId, Event, ReplyTo, Request};
use protocol::ids::{ChunkKey, Epoch, Fid, RequestId, TargetId};
use protocol::message::Kind;
use protocol::message::cluster::TargetOrders;
use protocol::message::heal::ReportCorruptRequest;

use super::cluster::{CLIENT, Cluster, MS, SCRIPT, Shape};
use super::coordinator::GROUP;
use super::rot::CELL;

const ONE: TargetId = TargetId(1);
const TWO: TargetId = TargetId(2);
const THREE: TargetId = TargetId(3);
const KEY: ChunkKey = ChunkKey { fid: Fid(5000), index: 0 };

/// Three members with one chunk of three cells.
fn chunk_of_three_cells() -> Cluster {
    let mut cluster = Cluster::new(1, Shape { targets: 3, min_write: 2, clients: 0, loss: false });
    cluster.run_until("activation", |cluster| cluster.coordinator.record().active);
    cluster.run_ms(100);
    write(&mut cluster, 0, KEY, 3 * CELL - 100);
    cluster
}

fn write(cluster: &mut Cluster, number: u64, key: ChunkKey, len: usize) {
    let epoch = cluster.coordinator.record().epoch;
    let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    cluster.ask_write(ONE, epoch, key, number, 1, 0, &bytes);
    cluster.run_until("the write", |cluster| {
        cluster.answers.iter().any(|(of, answer)| *of == number && answer.is_ok())
    });
    cluster.run_ms(100);
}

fn spoil(cluster: &mut Cluster, target: TargetId, cells: &[u32]) {
    let store = cluster.stores.get_mut(&target);
    assert!(store.is_some_and(|store| cells.iter().all(|cell| store.spoil(KEY, *cell))));
}

fn repaired(cluster: &Cluster, target: TargetId) -> u64 {
    cluster.procs[&target].state.core.upkeep.counts.cells_repaired
}

fn divergent(cluster: &Cluster) -> u64 {
    let counts = cluster.procs.values().map(|proc| proc.state.core.upkeep.counts.divergent);
    counts.sum()
}

#[test]
fn damaged_cells_are_found_and_repaired_in_every_role() {
    for target in [ONE, THREE] {
        let mut cluster = chunk_of_three_cells();
        spoil(&mut cluster, target, &[0, 2]);
        cluster.run_until("repair", |cluster| cluster.rotten() == 0);
        cluster.run_ms(200);
        let state = &cluster.procs[&target].state;
        assert_eq!(state.core.upkeep.counts.cells_damaged, 2, "{target}");
        assert_eq!((repaired(&cluster, target), state.cells_bad()), (2, 0), "{target}");
        assert!(state.core.upkeep.scrub.passes > 0, "{target}");
        cluster.heal();
    }
}

#[test]
fn an_ordered_pass_ends_only_when_what_it_found_is_counted() {
    let mut cluster = chunk_of_three_cells();
    for target in [ONE, TWO, THREE] {
        spoil(&mut cluster, target, &[1]);
    }
    let orders = TargetOrders { scrub_pass: 7, ..TargetOrders::default() };
    cluster.tell(ONE, 1, Event::Control(ControlEvent::Orders(orders)));
    let finished = |cluster: &Cluster| cluster.procs[&ONE].state.core.upkeep.scrub.finished == 7;
    while !finished(&cluster) {
        assert!(cluster.now < 60_000 * MS, "the pass ends");
        cluster.run_ms(1);
    }
    assert_eq!(cluster.procs[&ONE].state.cells_bad(), 1, "whoever waited for it learns of it");
}

#[test]
fn a_cell_is_taken_only_from_a_copy_that_verifies() {
    let mut cluster = chunk_of_three_cells();
    spoil(&mut cluster, ONE, &[1]);
    spoil(&mut cluster, TWO, &[1]);
    cluster.run_until("repair", |cluster| cluster.rotten() == 0);
    assert_eq!(divergent(&cluster), 0, "nobody was sent other bytes");
    cluster.heal();
}

#[test]
fn a_version_that_is_damaged_everywhere_is_whole_when_each_cell_is_good_somewhere() {
    let mut cluster = chunk_of_three_cells();
    spoil(&mut cluster, ONE, &[0, 1]);
    spoil(&mut cluster, TWO, &[1, 2]);
    spoil(&mut cluster, THREE, &[0, 2]);
    cluster.run_until("repair", |cluster| cluster.rotten() == 0);
    cluster.heal();
}

#[test]
fn a_cell_that_nobody_has_stays_damaged_and_is_asked_for_ever_more_rarely() {
    let mut cluster = chunk_of_three_cells();
    for target in [ONE, TWO, THREE] {
        spoil(&mut cluster, target, &[1]);
    }
    spoil(&mut cluster, ONE, &[0]);
    cluster.run_ms(60_000);
    assert_eq!(cluster.rotten(), 3, "the cell that others have was repaired");
    assert_eq!(cluster.procs[&ONE].state.cells_bad(), 1);
    let before = cluster.fetches;
    cluster.run_ms(10 * REPAIR_PAUSE_MAX_MS);
    let asked = cluster.fetches - before;
    assert!((12..=3 * 2 * 2 * 11).contains(&asked), "asked {asked} times");
    assert_eq!(cluster.coordinator.record().members.len(), 3, "and nobody is removed for it");
}

#[test]
fn a_member_that_was_removed_still_gives_what_the_others_lost() {
    let mut cluster = chunk_of_three_cells();
    assert!(cluster.coordinator.on_dead(THREE), "it is removed, but lives");
    cluster.push_maps();
    cluster.run_until("activation", |cluster| cluster.coordinator.record().active);
    spoil(&mut cluster, ONE, &[1]);
    spoil(&mut cluster, TWO, &[1]);
    cluster.run_until("repair", |cluster| cluster.rotten() == 0);
    cluster.heal();
}

#[test]
fn a_version_that_nobody_else_has_takes_the_cells_it_shares_with_the_one_before() {
    let mut cluster = chunk_of_three_cells();
    let store = cluster.stores.get_mut(&ONE);
    let Some(store) = store else { return };
    let Some(held) = store.chunks.get_mut(&(GROUP, KEY)) else { return };
    let Some(mut next) = held.last().cloned() else { return };
    next.version.counter += 1;
    held.push(next);
    spoil(&mut cluster, ONE, &[0]);
    cluster.run_until("repair", |cluster| cluster.rotten() == 0);
    assert_eq!(divergent(&cluster), 0);
}

#[test]
fn a_suspect_version_is_replaced_whole_and_is_no_source() {
    let mut cluster = chunk_of_three_cells();
    let version = cluster.stores[&TWO].newest(GROUP, KEY).map(|held| held.version);
    let name = (GROUP, KEY, version.unwrap_or_default());
    for target in [TWO, THREE] {
        cluster.stores.get_mut(&target).map(|store| store.suspects.insert(name));
    }
    spoil(&mut cluster, TWO, &[0, 1, 2]);
    let trusted = |cluster: &Cluster| {
        cluster.stores.values().all(|store| store.suspects.is_empty()) && cluster.rotten() == 0
    };
    cluster.run_until("repair", trusted);
    assert_eq!((repaired(&cluster, TWO), repaired(&cluster, THREE)), (1, 1), "each as a whole");
    cluster.heal();
}

#[test]
fn a_report_of_a_reader_is_believed_only_when_the_device_agrees() {
    let mut cluster = chunk_of_three_cells();
    report(&mut cluster, TWO, 1);
    cluster.run_ms(10);
    assert_eq!(cluster.rechecked, [false]);
    spoil(&mut cluster, TWO, &[1]);
    report(&mut cluster, TWO, 1);
    cluster.run_ms(10);
    assert_eq!(cluster.rechecked, [false, true]);
    cluster.run_until("repair", |cluster| cluster.rotten() == 0);
    cluster.heal();
}

fn report(cluster: &mut Cluster, target: TargetId, cell: u32) {
    let version = cluster.stores[&target].newest(GROUP, KEY).map(|held| held.version);
    let report = ReportCorruptRequest {
        group: GROUP,
        key: KEY,
        version: version.unwrap_or_default(),
        cells: vec![cell],
    };
    let conn = ConnId(CLIENT + SCRIPT as u64);
    let reply = ReplyTo { conn, request: RequestId(1), kind: Kind::ReportCorrupt };
    let asked = Asked { reply, epoch: Epoch(0), deadline: None, node: None };
    cluster.tell(target, 0, Event::Asked(asked, Request::ReportCorrupt(report)));
}

#[test]
fn a_chunk_that_is_damaged_at_the_primary_is_repaired_before_it_is_copied() {
    let mut cluster = chunk_of_three_cells();
    cluster.kill(THREE);
    cluster.run_until("two members", |cluster| cluster.coordinator.record().members.len() == 2);
    cluster.run_until("activation", |cluster| cluster.coordinator.record().active);
    cluster.run_ms(100);
    let other = ChunkKey { fid: Fid(5001), index: 0 };
    write(&mut cluster, 1, other, 2 * CELL);
    for target in [ONE, TWO] {
        assert!(cluster.stores.get_mut(&target).is_some_and(|store| store.spoil(other, 1)));
    }
    cluster.restart(THREE);
    cluster.run_ms(3000);
    assert_eq!(cluster.stores[&THREE].newest(GROUP, other), None, "nothing good to copy");
    assert_eq!(cluster.coordinator.record().serving().count(), 2, "so it is not complete");
    if let Some(store) = cluster.stores.get_mut(&TWO) {
        store.rot.clear();
    }
    cluster.heal();
    assert_eq!(cluster.rotten(), 0);
}

#[test]
fn more_damage_than_is_repaired_at_a_time_is_repaired_in_turn() {
    let mut cluster = chunk_of_three_cells();
    let count = REPAIRS_PER_GROUP_MAX as u64 + 10;
    let key = |number: u64| ChunkKey { fid: Fid(6000 + number), index: 0 };
    for number in 1..=count {
        write(&mut cluster, number, key(number), 10);
    }
    for number in 1..=count {
        assert!(cluster.stores.get_mut(&TWO).is_some_and(|store| store.spoil(key(number), 0)));
    }
    let mut most = 0;
    while cluster.rotten() > 0 {
        cluster.run_ms(1);
        most = most.max(cluster.procs[&TWO].state.core.upkeep.fetches.len());
    }
    assert_eq!(most, FETCHES_PER_SHARD_MAX);
    cluster.run_ms(200);
    assert_eq!(repaired(&cluster, TWO), count);
    cluster.heal();
}

#[test]
fn random_flips_beside_kills_are_all_found_and_repaired() {
    let mut flips = 0;
    for seed in 0..60 {
        let shape = Shape { targets: 3, min_write: 2, clients: 2, loss: seed % 2 == 0 };
        let mut cluster = Cluster::new(seed, shape);
        for number in 0..4 {
            let epoch = cluster.coordinator.record().epoch;
            let key = ChunkKey { fid: Fid(5000 + number), index: 0 };
            cluster.run_ms(300);
            cluster.ask_write(ONE, epoch, key, number, 1, 0, &vec![7; 2 * CELL + 5]);
        }
        for _ in 0..20 {
            let pause = cluster.dice(300);
            cluster.run_ms(pause);
            flips += u64::from(cluster.flip());
            let target = TargetId(1 + cluster.dice(3) as u32);
            match cluster.dice(12) {
                0 => cluster.kill(target),
                1..=3 => cluster.revive(target),
                _ => {}
            }
        }
        cluster.heal();
        cluster.run_until("repair of everything", |cluster| cluster.rotten() == 0);
        assert_eq!(divergent(&cluster), 0, "seed {seed}");
    }
    assert!(flips > 300, "{flips} cells were damaged");
}
