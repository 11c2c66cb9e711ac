//! Members that differ silently: found by their digests, proved by their lists, made equal.

use std::rc::Rc;
use std::time::Duration;

use node::limits::{
    COMPARE_AGAIN_MS, COMPARE_CHUNKS_MAX, COMPARE_EVERY_MS, COMPARE_LATER_MS, COMPARE_PATIENCE_MS,
    COMPARE_PERIOD_S, COMPARE_SETTLE_MS,
};
use node::shard::control::Timeouts;
use protocol::ids::{ChunkKey, Epoch, Fid, TargetId, Version};
use protocol::message::chunk::WriteClass;

use super::cluster::Cluster;
use super::coordinator::GROUP;
use super::fake_store::Held;
use super::scenarios::{ONE, THREE, TWO, evicted, quiet};

/// A cluster at rest with one chunk that all members have.
fn at_rest() -> (Cluster, ChunkKey) {
    let (mut cluster, key) = quiet();
    cluster.ask_change(ONE, key, 1, (WriteClass::Growth, 0, b"the same"));
    cluster.run_until("an answer", |cluster| !cluster.answers.is_empty());
    cluster.run_ms(500);
    (cluster, key)
}

/// An ordered scrub, which begins with a comparison.
fn order(cluster: &mut Cluster) {
    for proc in cluster.procs.values_mut() {
        proc.state.core.orders.scrub_pass += 1;
    }
}

/// Puts other bytes under the newest version of a chunk.
fn change(cluster: &mut Cluster, target: TargetId, key: ChunkKey) {
    let store = cluster.stores.get_mut(&target).unwrap();
    let held = store.chunks.get_mut(&(GROUP, key)).unwrap();
    held.last_mut().unwrap().bytes = Rc::new(b"no other".to_vec());
}

fn lose(cluster: &mut Cluster, target: TargetId, key: ChunkKey) {
    cluster.stores.get_mut(&target).unwrap().chunks.remove(&(GROUP, key)).unwrap();
}

fn bytes(cluster: &Cluster, target: TargetId, key: ChunkKey) -> Vec<u8> {
    cluster.stores[&target].newest(GROUP, key).map(|held| held.bytes.to_vec()).unwrap_or_default()
}

#[test]
fn a_backup_with_other_bytes_is_found_and_made_equal() {
    let (mut cluster, key) = at_rest();
    change(&mut cluster, TWO, key);
    order(&mut cluster);
    cluster.run_ms(COMPARE_AGAIN_MS);
    assert!(!evicted(&cluster, ONE, TWO), "once is not enough");
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, TWO));
    cluster.run_ms(200);
    assert!(cluster.coordinator.record().member(TWO).is_none());
    cluster.heal();
    assert_eq!(bytes(&cluster, TWO, key), b"the same");
    let aside = &cluster.stores[&TWO].aside[&(GROUP, key)];
    assert_eq!(*aside[0].bytes, b"no other", "kept for whoever wants to know why");
}

#[test]
fn a_chunk_that_a_backup_lost_comes_back() {
    let (mut cluster, key) = at_rest();
    lose(&mut cluster, THREE, key);
    order(&mut cluster);
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, THREE));
    cluster.heal();
    assert_eq!(bytes(&cluster, THREE, key), b"the same");
}

#[test]
fn a_primary_that_lost_a_chunk_has_itself_removed() {
    let (mut cluster, key) = at_rest();
    lose(&mut cluster, ONE, key);
    order(&mut cluster);
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, ONE));
    assert!(!evicted(&cluster, ONE, TWO) && !evicted(&cluster, ONE, THREE));
    cluster.heal();
    assert_eq!(bytes(&cluster, ONE, key), b"the same", "nothing acknowledged is lost");
}

#[test]
fn a_primary_that_lost_a_chunk_with_a_backup_leaves_before_that_is_back() {
    let (mut cluster, key) = at_rest();
    lose(&mut cluster, ONE, key);
    lose(&mut cluster, TWO, key);
    order(&mut cluster);
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, TWO));
    cluster.run_until("another", |cluster| evicted(cluster, ONE, ONE));
    cluster.heal();
    for target in [ONE, TWO, THREE] {
        assert_eq!(bytes(&cluster, target, key), b"the same", "{target}");
    }
    assert!(!cluster.stores[&THREE].aside.contains_key(&(GROUP, key)));
}

#[test]
fn a_difference_that_goes_away_is_no_difference() {
    let (mut cluster, key) = at_rest();
    change(&mut cluster, TWO, key);
    order(&mut cluster);
    cluster.run_ms(3 * COMPARE_AGAIN_MS / 2);
    let store = cluster.stores.get_mut(&TWO).unwrap();
    store.chunks.get_mut(&(GROUP, key)).unwrap()[0].bytes = Rc::new(b"the same".to_vec());
    cluster.run_ms(10 * COMPARE_AGAIN_MS);
    assert!(!evicted(&cluster, ONE, TWO));
    assert_eq!(cluster.procs[&ONE].state.core.upkeep.counts.differing, 0);
}

#[test]
fn nobody_is_removed_from_a_group_that_needs_everybody_until_it_has_its_replicas() {
    let (mut cluster, key) = at_rest();
    cluster.kill(THREE);
    cluster.run_until("an eviction", |cluster| cluster.coordinator.record().serving().count() == 2);
    cluster.run_ms(500);
    change(&mut cluster, TWO, key);
    order(&mut cluster);
    cluster.run_ms(10 * COMPARE_AGAIN_MS);
    assert!(cluster.procs[&ONE].state.core.upkeep.counts.differing > 0, "it is reported");
    assert!(!evicted(&cluster, ONE, TWO));
    let reported = cluster.procs[&ONE].state.core.upkeep.counts.differing;
    cluster.run_ms(COMPARE_LATER_MS);
    let again = cluster.procs[&ONE].state.core.upkeep.counts.differing;
    assert!(again > reported, "and reported again");
    assert!(again <= 2 * reported, "but not all the time");
    cluster.restart(THREE);
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, TWO));
    cluster.heal();
    assert_eq!(bytes(&cluster, TWO, key), b"the same");
}

#[test]
fn a_group_whose_replicas_are_all_needed_waits_for_the_one_that_is_made_equal() {
    let (mut cluster, key) = at_rest();
    cluster.coordinator.needs(3);
    cluster.push_maps();
    change(&mut cluster, TWO, key);
    order(&mut cluster);
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, TWO));
    cluster.heal();
    assert_eq!(bytes(&cluster, TWO, key), b"the same");
}

#[test]
fn who_comes_back_and_is_believed_is_compared() {
    let (mut cluster, key) = at_rest();
    // What comes later says durably that the first write is committed.
    for number in 2..4 {
        let later = ChunkKey { index: number, ..key };
        cluster.ask_change(ONE, later, number.into(), (WriteClass::Growth, 0, b"later"));
        cluster.run_ms(500);
    }
    for target in [ONE, TWO, THREE] {
        cluster.kill(target);
    }
    cluster.coordinator.power_cut();
    lose(&mut cluster, TWO, key);
    for target in [ONE, TWO, THREE] {
        cluster.restart(target);
    }
    cluster.run_ms(COMPARE_SETTLE_MS + 2 * COMPARE_AGAIN_MS);
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, TWO));
    cluster.heal();
    assert_eq!(bytes(&cluster, TWO, key), b"the same");
}

#[test]
fn an_ordered_pass_ends_with_the_comparison_or_without_it_after_a_while() {
    let (mut cluster, key) = at_rest();
    let reported = |cluster: &Cluster| cluster.procs[&ONE].state.core.upkeep.scrub.reported;
    change(&mut cluster, TWO, key);
    order(&mut cluster);
    cluster.run_ms(COMPARE_AGAIN_MS);
    let finished = cluster.procs[&ONE].state.core.upkeep.scrub.finished;
    assert!(finished > reported(&cluster), "everything was read, not everything compared");
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, TWO));
    cluster.heal();
    cluster.run_until("the end of the pass", |cluster| reported(cluster) == finished);
    // A member that catches up for ever, so the group is never at rest.
    cluster.kill(THREE);
    cluster.run_ms(1_000);
    cluster.cut.extend([(ONE, THREE), (THREE, ONE)]);
    order(&mut cluster);
    cluster.run_ms(COMPARE_PATIENCE_MS + 1_000);
    assert!(reported(&cluster) > finished);
}

#[test]
fn without_an_order_groups_are_compared_once_a_period() {
    assert_eq!(Timeouts::default().compare, Duration::from_secs(COMPARE_PERIOD_S));
    let (mut cluster, key) = at_rest();
    cluster.run_ms(COMPARE_SETTLE_MS + COMPARE_AGAIN_MS); // The comparison of who begins to lead.
    change(&mut cluster, TWO, key);
    let next = |cluster: &Cluster| cluster.procs[&ONE].state.core.upkeep.compare_at;
    let before = next(&cluster);
    cluster.run_ms(60_000);
    assert_eq!(next(&cluster), before, "a day has not passed");
    for proc in cluster.procs.values_mut() {
        proc.state.core.config.timeouts.compare = Duration::from_secs(30);
    }
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, TWO));
    assert!(next(&cluster).as_ms() < cluster.now / 1_000_000 + COMPARE_EVERY_MS);
}

#[test]
fn a_group_with_more_differences_than_are_remembered_is_made_equal_too() {
    let (mut cluster, _) = at_rest();
    for target in [ONE, TWO] {
        let store = cluster.stores.get_mut(&target).unwrap();
        for number in 0..2 * COMPARE_CHUNKS_MAX as u64 {
            let key = ChunkKey { fid: Fid(10_000 + number), index: 0 };
            let version = Version { epoch: Epoch(1), counter: 1 };
            let held = Held { version, bytes: Rc::new(vec![1]), ..Held::default() };
            store.chunks.insert((GROUP, key), vec![held]);
        }
    }
    order(&mut cluster);
    cluster.run_until("an eviction", |cluster| evicted(cluster, ONE, THREE));
    assert_eq!(cluster.procs[&ONE].state.core.upkeep.counts.differing, COMPARE_CHUNKS_MAX as u64);
    cluster.heal();
}
