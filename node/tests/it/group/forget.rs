//! Space of a group that a target left: freed when the group goes on without it for good, and
//! never before.

use std::rc::Rc;

use node::io::Nanos;
use node::limits::{FORGET_AFTER_MS, FORGET_EVERY_MS, FORGET_FILES_MAX};
use node::shard::control::ControlEvent;
use node::shard::event::Event;
use protocol::ids::{ChunkKey, Epoch, Fid, Version};
use protocol::message::chunk::WriteClass;

use super::cluster::{Cluster, MS};
use super::coordinator::GROUP;
use super::fake_store::Held;
use super::scenarios::{ONE, THREE, activated, epoch, newest, quiet};

/// A cluster of three whose third member was given up, alive; all of them have one chunk.
fn left() -> (Cluster, ChunkKey) {
    let (mut cluster, key) = quiet();
    cluster.ask_change(ONE, key, 1, (WriteClass::Growth, 0, b"kept"));
    cluster.run_until("an answer", |cluster| !cluster.answers.is_empty());
    cluster.run_ms(100);
    let before = epoch(&cluster);
    cluster.deaf.insert(THREE);
    assert!(cluster.coordinator.on_dead(THREE));
    cluster.push_maps();
    activated(&mut cluster, before);
    assert!(newest(&cluster, THREE, key).is_some());
    (cluster, key)
}

/// The third target hears the newest map; its node has a lease, or none.
fn hears(cluster: &mut Cluster, lease: bool) {
    let expires = Nanos(if lease { cluster.now + 3_600_000 * MS } else { 0 });
    cluster.tell(THREE, 0, Event::Control(ControlEvent::Lease { expires }));
    cluster.hand_map(THREE);
}

/// The group has all its replicas without the third target.
fn whole_without(cluster: &mut Cluster) {
    let before = epoch(cluster);
    cluster.coordinator.go_on_without(THREE);
    cluster.push_maps();
    activated(cluster, before);
    cluster.run_ms(3000); // Nobody who left may answer reads any more.
    assert!(cluster.coordinator.record().healthy() && cluster.coordinator.record().mutations);
}

fn chunks(cluster: &Cluster) -> usize {
    cluster.stores[&THREE].chunks.len()
}

#[test]
fn a_target_that_was_evicted_keeps_everything_until_the_group_is_whole() {
    let (mut cluster, key) = left();
    let held = chunks(&cluster);
    hears(&mut cluster, true);
    cluster.run_ms(4 * FORGET_AFTER_MS);
    assert_eq!(chunks(&cluster), held, "the group lacks a replica, it may be needed");

    whole_without(&mut cluster);
    hears(&mut cluster, true);
    cluster.run_ms(FORGET_AFTER_MS - 1000);
    assert_eq!(chunks(&cluster), held, "it is kept for a while all the same");
    cluster.run_ms(2000);
    assert_eq!(chunks(&cluster), 0);
    assert!(cluster.stores[&THREE].adopted(GROUP) > Epoch(0), "the fence stays");
    assert!(newest(&cluster, ONE, key).is_some());
    cluster.heal(); // It may come back, and is brought up to date.
}

#[test]
fn a_target_without_a_lease_believes_no_map_that_would_free_something() {
    let (mut cluster, _) = left();
    let held = chunks(&cluster);
    cluster.run_ms(3000); // Its own lease ends.
    whole_without(&mut cluster);
    hears(&mut cluster, false);
    cluster.run_ms(4 * FORGET_AFTER_MS);
    assert_eq!(chunks(&cluster), held);
}

#[test]
fn a_restart_goes_on_freeing_and_what_was_set_aside_stays() {
    let (mut cluster, key) = left();
    let aside = ChunkKey { index: 7, ..key };
    let store = cluster.stores.get_mut(&THREE).unwrap();
    store.aside.insert((GROUP, aside), vec![Held::default()]);
    whole_without(&mut cluster);
    cluster.unregistered.insert(THREE);
    cluster.kill(THREE);
    cluster.restart(THREE);
    hears(&mut cluster, true);
    cluster.run_ms(FORGET_AFTER_MS + 1000);
    let left: Vec<_> = cluster.stores[&THREE].chunks.keys().map(|(_, key)| *key).collect();
    assert_eq!(left, [key], "the file with a chunk that is set aside");
    assert!(cluster.stores[&THREE].aside.contains_key(&(GROUP, aside)));
    cluster.stores.get_mut(&THREE).unwrap().aside.clear();
    cluster.run_ms(1000);
    assert_eq!(chunks(&cluster), 0);
}

#[test]
fn a_batch_frees_a_bounded_number_of_files() {
    let (mut cluster, _) = left();
    let store = cluster.stores.get_mut(&THREE).unwrap();
    for number in 0..3 * FORGET_FILES_MAX as u64 {
        let key = ChunkKey { fid: Fid(10_000 + number), index: 0 };
        let version = Version { epoch: Epoch(1), counter: 1000 };
        let held = Held { version, bytes: Rc::new(vec![1]), ..Held::default() };
        store.chunks.insert((GROUP, key), vec![held]);
    }
    whole_without(&mut cluster);
    hears(&mut cluster, true);
    let mut before = chunks(&cluster);
    let mut batches = 0;
    for _ in 0..(FORGET_AFTER_MS + 2000) / FORGET_EVERY_MS {
        cluster.run_ms(FORGET_EVERY_MS);
        let now = chunks(&cluster);
        assert!(before - now <= FORGET_FILES_MAX, "{before} to {now}");
        batches += usize::from(now < before);
        before = now;
    }
    assert_eq!((before, batches), (0, 4));
}
