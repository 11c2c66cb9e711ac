//! Writes in place, reads under leases, growth in a pipeline: one scenario for each promise.

use std::rc::Rc;

use node::limits::PENDING_CHAIN_MAX;
use node::shard::effect::PeerMessage;
use node::store::StoreError;
use protocol::cluster_map::Role;
use protocol::ids::{ChunkKey, Fid, TargetId, Version};
use protocol::message::chunk::WriteClass;
use protocol::status::Status;

use super::cluster::{Cluster, Shape};
use super::coordinator::GROUP;
use super::scenarios::{ONE, THREE, TWO, activated, epoch, evicted, newest, quiet, replicate};

/// A cluster at rest with one chunk of these bytes, acknowledged as write 1.
fn chunk(bytes: &[u8]) -> (Cluster, ChunkKey) {
    let (mut cluster, key) = quiet();
    write(&mut cluster, ONE, key, 1, (WriteClass::Growth, 0, bytes));
    cluster.run_ms(100);
    (cluster, key)
}

/// Writes and waits for the answer, which has to be good.
fn write(
    cluster: &mut Cluster,
    target: TargetId,
    key: ChunkKey,
    number: u64,
    change: (WriteClass, u32, &[u8]),
) -> Version {
    cluster.ask_change(target, key, number, change);
    cluster.run_until("an answer", |cluster| answered(cluster, number).is_some());
    match answered(cluster, number) {
        Some(Ok((version, _))) => version,
        other => panic!("write {number} was answered with {other:?}"),
    }
}

fn answered(cluster: &Cluster, number: u64) -> Option<Result<(Version, u32), Status>> {
    cluster.answers.iter().find(|(at, _)| *at == number).map(|(_, answer)| *answer)
}

/// What a target shows of the first bytes of a chunk.
fn read(
    cluster: &mut Cluster,
    target: TargetId,
    key: ChunkKey,
    len: u32,
    growth_only: bool,
) -> Result<Vec<u8>, Status> {
    let number = 2 + cluster.shown.len() as u64;
    cluster.ask_read(target, key, number, len, growth_only);
    cluster.run_ms(5);
    let shown = cluster.shown.iter().find(|(at, _)| *at == number);
    shown.map_or(Err(Status::Internal), |(_, shown)| shown.clone())
}

fn bytes(cluster: &Cluster, target: TargetId, key: ChunkKey) -> Vec<u8> {
    cluster.stores[&target].newest(GROUP, key).map(|held| held.bytes.to_vec()).unwrap_or_default()
}

/// The coordinator gives up a target that is alive and hears nothing of it.
fn lose(cluster: &mut Cluster, target: TargetId) {
    let before = epoch(cluster);
    cluster.deaf.insert(target);
    assert!(cluster.coordinator.on_dead(target));
    cluster.push_maps();
    activated(cluster, before);
}

#[test]
fn overwrites_holes_and_truncations_are_the_same_on_every_member() {
    let (mut cluster, key) = chunk(b"0123456789");
    write(&mut cluster, ONE, key, 2, (WriteClass::Mutation, 3, b"xyz"));
    write(&mut cluster, ONE, key, 3, (WriteClass::Mutation, 12, b"after a hole"));
    write(&mut cluster, ONE, key, 4, (WriteClass::Truncate, 14, b""));
    let last = write(&mut cluster, ONE, key, 5, (WriteClass::Growth, 14, b"!"));
    cluster.run_ms(100);
    for target in [ONE, TWO, THREE] {
        assert_eq!(bytes(&cluster, target, key), b"012xyz6789\0\0af!", "{target}");
        assert_eq!(newest(&cluster, target, key), Some(last));
        let shown = read(&mut cluster, target, key, 15, false);
        assert_eq!(
            shown.as_deref(),
            Ok(&b"012xyz6789\0\0af!"[..]),
            "{target} serves under a lease"
        );
        assert_eq!(read(&mut cluster, target, key, 15, true), Err(Status::NotGrowthOnly));
    }
    cluster.heal();
}

#[test]
fn f7_a_change_on_every_backup_takes_effect_once_and_only_after_the_lease_of_the_dead() {
    let (mut cluster, key) = chunk(b"old bytes");
    cluster.slow.insert(ONE, 500);
    let before = epoch(&cluster);
    cluster.ask_change(ONE, key, 2, (WriteClass::Mutation, 0, b"new"));
    cluster.run_ms(60);
    let version = newest(&cluster, TWO, key);
    assert_eq!(bytes(&cluster, TWO, key), b"new bytes");
    cluster.kill(ONE);
    activated(&mut cluster, before);
    // It may have been acknowledged, and it may not have been: nobody is shown either.
    assert_eq!(read(&mut cluster, TWO, key, 3, false), Err(Status::Frozen));
    cluster.ask_change(TWO, key, 2, (WriteClass::Mutation, 0, b"new"));
    cluster.run_ms(50);
    assert_eq!(answered(&cluster, 2), None, "its repetition waits with it");
    let growth = ChunkKey { fid: Fid(98), index: 0 };
    write(&mut cluster, TWO, growth, 3, (WriteClass::Growth, 0, b"growth goes on"));
    assert!(cluster.now < cluster.coordinator.leases[&ONE]);
    cluster.run_until("mutations", |cluster| cluster.coordinator.record().mutations);
    assert!(cluster.now >= cluster.coordinator.leases[&ONE], "the lease of the dead ran out");
    cluster.run_until("the answer", |cluster| answered(cluster, 2).is_some());
    let again = answered(&cluster, 2).and_then(|answer| answer.ok()).map(|(version, _)| version);
    assert_eq!(again, version, "once, under its old version");
    assert_eq!(read(&mut cluster, TWO, key, 3, false).as_deref(), Ok(&b"new"[..]));
    cluster.slow.clear();
    cluster.heal();
}

#[test]
fn f11_a_change_waits_for_the_lease_of_a_former_primary_and_growth_does_not() {
    let (mut cluster, key) = chunk(b"old bytes");
    lose(&mut cluster, ONE);
    let (growth, end) = (ChunkKey { fid: Fid(98), index: 0 }, cluster.coordinator.leases[&ONE]);
    cluster.ask_change(TWO, key, 2, (WriteClass::Mutation, 0, b"new"));
    write(&mut cluster, TWO, growth, 3, (WriteClass::Growth, 0, b"growth goes on"));
    // The work is done meanwhile.
    cluster.run_until("the change", |cluster| bytes(cluster, THREE, key) == b"new bytes");
    assert!(answered(&cluster, 2).is_none(), "but not acknowledged");
    assert_eq!(read(&mut cluster, ONE, key, 3, false).as_deref(), Ok(&b"old"[..]));
    assert_eq!(read(&mut cluster, TWO, key, 3, false).as_deref(), Ok(&b"old"[..]));
    assert_eq!(read(&mut cluster, THREE, key, 3, false), Err(Status::Dirty));
    cluster.run_until("the change", |cluster| answered(cluster, 2).is_some());
    assert!(cluster.now >= end, "nobody can be shown the old bytes any more");
    assert_eq!(read(&mut cluster, ONE, key, 3, false), Err(Status::LeaseExpired));
    assert_eq!(read(&mut cluster, TWO, key, 3, false).as_deref(), Ok(&b"new"[..]));
    cluster.heal();
}

#[test]
fn f11_who_changes_what_a_former_primary_left_unsettled_waits_with_it_and_need_not_ask_again() {
    let (mut cluster, key) = chunk(b"old bytes");
    write(&mut cluster, ONE, key, 2, (WriteClass::Mutation, 0, b"new"));
    // Acknowledged, and nobody else knows that yet.
    lose(&mut cluster, ONE);
    let end = cluster.coordinator.leases[&ONE];
    cluster.ask_change(TWO, key, 3, (WriteClass::Mutation, 4, b"ones!"));
    cluster.run_until("the lease", |cluster| cluster.now >= end);
    assert!(answered(&cluster, 3).is_none(), "neither refused nor acknowledged");
    cluster.run_until("the answer", |cluster| answered(cluster, 3).is_some());
    assert!(matches!(answered(&cluster, 3), Some(Ok(_))), "{:?}", answered(&cluster, 3));
    assert_eq!(read(&mut cluster, TWO, key, 9, false).as_deref(), Ok(&b"new ones!"[..]));
    cluster.heal();
}

#[test]
fn f12_a_former_backup_is_short_and_never_wrong() {
    let (mut cluster, key) = chunk(b"old bytes");
    lose(&mut cluster, THREE);
    write(&mut cluster, ONE, key, 2, (WriteClass::Growth, 9, b" and more"));
    assert_eq!(read(&mut cluster, THREE, key, 9, true).as_deref(), Ok(&b"old bytes"[..]));
    assert_eq!(read(&mut cluster, THREE, key, 18, true), Err(Status::ChunkShort));
    cluster.run_ms(3000);
    assert_eq!(read(&mut cluster, THREE, key, 9, true).as_deref(), Ok(&b"old bytes"[..]));
    assert_eq!(read(&mut cluster, THREE, key, 9, false), Err(Status::LeaseExpired));
    cluster.heal();
}

#[test]
fn f20_without_the_coordinator_leased_reads_end_and_everything_else_goes_on() {
    let (mut cluster, key) = chunk(b"old bytes");
    cluster.deaf.extend([ONE, TWO, THREE]);
    cluster.reports_lost = true;
    assert_eq!(read(&mut cluster, TWO, key, 3, false).as_deref(), Ok(&b"old"[..]));
    cluster.run_ms(5000);
    for target in [ONE, TWO, THREE] {
        assert_eq!(read(&mut cluster, target, key, 3, true).as_deref(), Ok(&b"old"[..]));
        assert_eq!(read(&mut cluster, target, key, 3, false), Err(Status::LeaseExpired));
    }
    write(&mut cluster, ONE, key, 2, (WriteClass::Growth, 9, b" and more"));
    write(&mut cluster, ONE, key, 3, (WriteClass::Mutation, 0, b"new"));
    cluster.reports_lost = false;
    cluster.heal();
}

#[test]
fn f21_backups_serve_a_client_that_does_not_reach_the_primary() {
    let (mut cluster, key) = chunk(b"old bytes");
    for target in [TWO, THREE] {
        assert_eq!(read(&mut cluster, target, key, 9, false).as_deref(), Ok(&b"old bytes"[..]));
        let nothing = ChunkKey { fid: Fid(5000), index: 0 };
        assert_eq!(read(&mut cluster, target, key, 10, false), Err(Status::Dirty));
        assert_eq!(read(&mut cluster, target, nothing, 1, false), Err(Status::Dirty));
    }
    assert_eq!(read(&mut cluster, ONE, key, 10, false), Err(Status::ChunkShort));
    cluster.heal();
}

#[test]
fn f22_of_two_members_that_lost_each_other_the_primary_names_the_one_to_go() {
    let (mut cluster, key) = chunk(b"old bytes");
    let before = epoch(&cluster);
    cluster.cut.push((ONE, TWO));
    cluster.ask_change(ONE, key, 2, (WriteClass::Growth, 9, b" and more"));
    activated(&mut cluster, before);
    assert!(evicted(&cluster, ONE, TWO) && !evicted(&cluster, TWO, ONE));
    cluster.ask_change(ONE, key, 2, (WriteClass::Growth, 9, b" and more"));
    cluster.run_ms(100);
    assert!(answered(&cluster, 2).is_some());
    cluster.heal();
    assert_eq!(bytes(&cluster, TWO, key), b"old bytes and more");
}

#[test]
fn f23_a_reader_is_not_shown_new_bytes_and_then_old_ones() {
    let (mut cluster, key) = chunk(b"old bytes");
    lose(&mut cluster, THREE);
    cluster.ask_change(ONE, key, 2, (WriteClass::Mutation, 0, b"new"));
    let mut new_seen = false;
    for _ in 0..300 {
        for target in [ONE, TWO, THREE] {
            for growth_only in [true, false] {
                let Ok(shown) = read(&mut cluster, target, key, 3, growth_only) else { continue };
                assert!(!growth_only || shown == b"old", "new bytes without a lease");
                assert!(growth_only || !new_seen || shown == b"new", "{target} goes back");
                new_seen |= shown == b"new";
            }
        }
    }
    assert!(new_seen && answered(&cluster, 2).is_some());
    cluster.heal();
}

#[test]
fn a_syncing_member_serves_nothing_under_a_lease() {
    let (mut cluster, key) = chunk(b"old bytes");
    cluster.kill(THREE);
    cluster.slow.insert(THREE, 300);
    cluster.restart(THREE);
    cluster.run_until("syncing and adopted", |cluster| {
        let member = cluster.procs[&THREE].state.groups.get(&GROUP);
        let ready = |phase| phase == node::group::member::Phase::Ready;
        member.is_some_and(|it| it.role == Some(Role::Syncing) && ready(it.phase))
    });
    cluster.reports_lost = true; // It is not promoted.
    cluster.run_ms(300);
    assert_eq!(read(&mut cluster, THREE, key, 9, false), Err(Status::NotMember));
    assert_eq!(read(&mut cluster, THREE, key, 9, true).as_deref(), Ok(&b"old bytes"[..]));
    cluster.reports_lost = false;
    cluster.slow.clear();
    cluster.heal();
}

#[test]
fn a_primary_alone_acknowledges_only_under_its_lease() {
    let shape = Shape { targets: 2, min_write: 1, clients: 0, loss: false };
    let mut cluster = Cluster::new(1, shape);
    cluster.run_ms(200);
    lose(&mut cluster, TWO);
    let key = ChunkKey { fid: Fid(99), index: 0 };
    write(&mut cluster, ONE, key, 1, (WriteClass::Growth, 0, b"alone"));
    cluster.deaf.insert(ONE);
    cluster.run_ms(2500);
    cluster.ask_change(ONE, key, 2, (WriteClass::Growth, 5, b" and cut off"));
    cluster.run_ms(500);
    assert!(answered(&cluster, 2).is_none(), "somebody may have gone on without it");
    cluster.deaf.remove(&ONE);
    cluster.run_until("an answer", |cluster| answered(cluster, 2).is_some());
    cluster.heal();
}

#[test]
fn growth_is_pipelined_and_what_builds_on_a_failure_fails_with_it() {
    let (mut cluster, key) = chunk(b"0");
    cluster.slow.insert(THREE, 50);
    let count = 4u64;
    for number in 2..2 + count {
        cluster.ask_change(ONE, key, number, (WriteClass::Growth, number as u32 - 1, b"x"));
        cluster.run_ms(1);
    }
    cluster.run_ms(10);
    let chain = cluster.procs[&ONE].state.groups[&GROUP].writes.chunks[&key].in_flight.len();
    assert!(chain as u64 == count && chain <= PENDING_CHAIN_MAX, "{chain} in flight");
    assert!(answered(&cluster, 2).is_none());
    cluster.run_ms(300);
    let order: Vec<u64> = cluster.answers.iter().map(|(number, _)| *number).collect();
    assert_eq!(order, [1, 2, 3, 4, 5], "committed in order");
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.failing = Some(StoreError::NoSpace);
    }
    for number in 6..9u64 {
        cluster.ask_change(ONE, key, number, (WriteClass::Growth, number as u32 - 1, b"y"));
        cluster.run_ms(1);
    }
    cluster.run_ms(500);
    for number in 6..9u64 {
        assert_eq!(answered(&cluster, number), Some(Err(Status::NoSpace)));
    }
    for target in [ONE, TWO, THREE] {
        assert_eq!(bytes(&cluster, target, key), b"0xxxx", "{target} dropped all of it");
    }
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.failing = None;
    }
    cluster.answers.clear();
    write(&mut cluster, ONE, key, 9, (WriteClass::Growth, 5, b"z"));
    cluster.heal();
}

#[test]
fn a_member_whose_old_bytes_are_damaged_gets_the_whole_chunk() {
    let (mut cluster, key) = chunk(b"old bytes");
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.corrupt = true;
    }
    write(&mut cluster, ONE, key, 2, (WriteClass::Mutation, 0, b"new"));
    assert_eq!(bytes(&cluster, THREE, key), b"new bytes");
    if let Some(store) = cluster.stores.get_mut(&ONE) {
        store.corrupt = true;
    }
    cluster.ask_change(ONE, key, 3, (WriteClass::Mutation, 0, b"own"));
    cluster.run_ms(300);
    assert_eq!(answered(&cluster, 3), Some(Err(Status::Busy)), "until it is repaired");
    assert_eq!(bytes(&cluster, TWO, key), b"new bytes", "nothing is left of it");
    cluster.heal();
}

#[test]
fn a_primary_refuses_what_needs_space_before_anybody_takes_some() {
    let (mut cluster, key) = chunk(b"old bytes");
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.free = 1 << 20; // Of 1 GiB.
    }
    write(&mut cluster, ONE, key, 2, (WriteClass::Growth, 9, b"!"));
    cluster.run_ms(50);
    for (number, class) in [(3, WriteClass::Growth), (4, WriteClass::Mutation)] {
        cluster.ask_change(ONE, key, number, (class, 10, b"more"));
        cluster.run_ms(20);
        assert_eq!(answered(&cluster, number), Some(Err(Status::NoSpace)));
    }
    assert_eq!(bytes(&cluster, TWO, key), b"old bytes!", "nobody stored it");
    write(&mut cluster, ONE, key, 5, (WriteClass::Truncate, 3, b""));
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.free = 0; // As much as ever.
    }
    cluster.run_ms(1200);
    write(&mut cluster, ONE, key, 6, (WriteClass::Growth, 3, b"more"));
    cluster.heal();
}

#[test]
fn a_version_that_was_dropped_does_not_come_back_with_a_late_repeat() {
    let (mut cluster, key) = quiet();
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.failing = Some(StoreError::NoSpace);
    }
    let now = epoch(&cluster);
    cluster.ask_change(ONE, key, 2, (WriteClass::Growth, 0, b"failed"));
    cluster.run_ms(200);
    assert_eq!(answered(&cluster, 2), Some(Err(Status::NoSpace)));
    let counter = cluster.procs[&ONE].state.groups[&GROUP].writes.counter;
    let (message, payload) = replicate(key, now, ONE);
    if let PeerMessage::Replicate(mut body) = message {
        body.version = Version { epoch: now, counter };
        let late = PeerMessage::Replicate(body);
        cluster.forge(ONE, TWO, now, late, Some(Rc::clone(&payload)));
    }
    cluster.run_ms(100);
    assert_eq!(newest(&cluster, TWO, key), None);
    cluster.heal();
}
