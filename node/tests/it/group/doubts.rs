//! Pendings that the primary has and does not trust: kept where they may have been acknowledged,
//! dropped where they cannot have been.

use protocol::ids::{ChunkKey, Epoch, TargetId, Version};
use protocol::message::chunk::WriteClass;

use super::cluster::Cluster;
use super::coordinator::GROUP;
use super::scenarios::{ONE, THREE, TWO, epoch, newest, quiet};

/// Everybody crashes with a write under way that `cut` members have not got, and these members
/// come back not trusting it; runs until all have adopted the next epoch, and longer.
fn crash_of_all(
    cut: &[TargetId],
    distrusting: &[TargetId],
) -> (Cluster, ChunkKey, Option<Version>, Option<Version>) {
    crash_with(cut, distrusting, &[])
}

/// The same; beside it the write has rotted, unnoticed, where it is `rotten`.
fn crash_with(
    cut: &[TargetId],
    distrusting: &[TargetId],
    rotten: &[TargetId],
) -> (Cluster, ChunkKey, Option<Version>, Option<Version>) {
    let (mut cluster, key) = quiet();
    cluster.ask_change(ONE, key, 1, (WriteClass::Growth, 0, b"before"));
    cluster.run_ms(200);
    let base = newest(&cluster, ONE, key);
    for target in cut {
        cluster.cut.push((ONE, *target));
    }
    cluster.slow.insert(THREE, 40);
    cluster.ask_change(ONE, key, 2, (WriteClass::Growth, 6, b" and after"));
    cluster.run_ms(60);
    let version = newest(&cluster, ONE, key);
    assert!(version > base);
    let before = epoch(&cluster);
    for target in [ONE, TWO, THREE] {
        cluster.kill(target);
        let store = cluster.stores.get_mut(&target);
        if let Some(store) = store.filter(|_| distrusting.contains(&target)) {
            store.suspect.extend(version.map(|version| (key, version)));
        }
    }
    for target in rotten {
        let store = cluster.stores.get_mut(target);
        assert!(store.is_some_and(|store| store.spoil(key, 0)));
    }
    cluster.cut.clear();
    all_return(&mut cluster, before);
    (cluster, key, base, version)
}

/// Everybody comes back after a crash of all in epoch `before`, and has adopted the next one for a
/// while.
fn all_return(cluster: &mut Cluster, before: Epoch) {
    cluster.slow.clear();
    cluster.coordinator.power_cut();
    for target in [ONE, TWO, THREE] {
        cluster.restart(target);
    }
    cluster.run_until("a new epoch", |cluster| {
        let adopted = |target| cluster.stores[&target].adopted(GROUP) > before;
        [ONE, TWO, THREE].into_iter().all(adopted)
    });
    assert_eq!(cluster.coordinator.record().primary().map(|it| it.target), Some(ONE));
    cluster.run_ms(1000);
}

#[test]
fn a_pending_that_only_the_primary_distrusts_is_kept_and_repaired() {
    let (mut cluster, key, _, version) = crash_of_all(&[], &[ONE, THREE]);
    assert!(!cluster.coordinator.record().active, "nothing is decided before the repair");
    assert_eq!(newest(&cluster, TWO, key), version, "it may have been acknowledged");
    if let Some(store) = cluster.stores.get_mut(&ONE) {
        store.suspect.clear(); // As the repair from the second member does.
    }
    cluster.run_until("activation", |cluster| cluster.coordinator.record().active);
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), version);
        assert!(cluster.stores[&target].suspect.is_empty(), "brought to who did not trust it");
    }
    cluster.heal();
}

#[test]
fn a_pending_that_a_serving_member_lacks_was_never_acknowledged_and_goes() {
    let (mut cluster, key, base, _) = crash_of_all(&[TWO], &[ONE]);
    assert!(cluster.coordinator.record().active);
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), base, "{target}");
    }
    cluster.heal();
}

#[test]
fn a_pending_that_rotted_and_that_a_serving_member_lacks_goes_as_well() {
    let (mut cluster, key, base, _) = crash_with(&[TWO, THREE], &[], &[ONE]);
    assert!(cluster.coordinator.record().active);
    assert_eq!(cluster.coordinator.record().serving().count(), 3, "nobody had to leave");
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), base, "{target}");
    }
    cluster.heal();
}

#[test]
fn a_pending_that_rotted_and_that_everybody_has_is_repaired() {
    let (mut cluster, key, _, version) = crash_with(&[], &[], &[ONE]);
    assert!(cluster.coordinator.record().active);
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), version, "{target}");
    }
    cluster.heal();
}

/// A member that was brought up to date with the newest version never had the one before.
#[test]
fn a_pending_below_one_that_the_primary_trusts_goes_with_nobody() {
    let (mut cluster, key) = quiet();
    cluster.ask_change(ONE, key, 1, (WriteClass::Growth, 0, b"before"));
    cluster.run_ms(200);
    cluster.slow.insert(THREE, 40);
    cluster.ask_change(ONE, key, 2, (WriteClass::Growth, 6, b" and after"));
    cluster.run_ms(2);
    cluster.ask_change(ONE, key, 3, (WriteClass::Growth, 16, b" that"));
    cluster.run_ms(60);
    let held = &cluster.stores[&ONE].chunks[&(GROUP, key)];
    let [.., below, last] = &held[..] else { panic!("both are under way: {held:?}") };
    let (below, last) = (below.version, last.version);
    let before = epoch(&cluster);
    for target in [ONE, TWO, THREE] {
        cluster.kill(target);
    }
    if let Some(store) = cluster.stores.get_mut(&ONE) {
        store.suspect.insert((key, below));
    }
    if let Some(store) = cluster.stores.get_mut(&TWO) {
        let held = store.chunks.get_mut(&(GROUP, key)).unwrap();
        held.retain(|held| held.version != below);
    }
    all_return(&mut cluster, before);
    assert!(cluster.coordinator.record().active, "there is nothing to wait for");
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), Some(last), "{target}");
    }
    cluster.heal();
}

#[test]
fn a_pending_that_nobody_trusts_gives_way_to_the_version_before() {
    let (mut cluster, key, base, _) = crash_of_all(&[], &[ONE, TWO, THREE]);
    assert!(cluster.coordinator.record().active);
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), base, "{target}");
        assert!(cluster.stores[&target].suspect.is_empty());
    }
    cluster.heal();
}

#[test]
fn a_pending_whose_repair_never_comes_is_given_up() {
    let (mut cluster, key, base, _) = crash_of_all(&[], &[ONE]);
    assert!(!cluster.coordinator.record().active);
    cluster.run_ms(6000);
    assert!(cluster.coordinator.record().active);
    assert_eq!(newest(&cluster, ONE, key), base);
    cluster.heal();
}

#[test]
fn a_pending_that_a_backup_distrusts_goes_with_the_primary_that_lacks_it() {
    let (mut cluster, key) = quiet();
    cluster.cut.push((ONE, TWO));
    cluster.ask_change(ONE, key, 1, (WriteClass::Growth, 0, b"half"));
    cluster.run_ms(60);
    let version = newest(&cluster, THREE, key);
    assert!(version.is_some());
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.suspect.extend(version.map(|version| (key, version)));
    }
    let before = epoch(&cluster);
    cluster.kill(ONE);
    cluster.cut.clear();
    cluster.run_until("activation", |cluster| {
        epoch(cluster) > before && cluster.coordinator.record().active
    });
    assert_eq!(newest(&cluster, THREE, key), None);
    cluster.heal();
}

/// The first member serves alone and has a pending that `holder` got too. The others are dead.
fn alone_with_pending(
    holder: Option<TargetId>,
) -> (Cluster, ChunkKey, Option<Version>, Option<Version>) {
    let (mut cluster, key) = quiet();
    cluster.ask_change(ONE, key, 1, (WriteClass::Growth, 0, b"before"));
    cluster.run_ms(200);
    let base = newest(&cluster, ONE, key);
    for target in [TWO, THREE].into_iter().filter(|target| Some(*target) != holder) {
        cluster.cut.push((ONE, target));
    }
    cluster.ask_change(ONE, key, 2, (WriteClass::Growth, 6, b" and after"));
    cluster.run_ms(60);
    let version = newest(&cluster, ONE, key);
    assert!(version > base);
    for target in [TWO, THREE] {
        cluster.kill(target);
    }
    cluster.cut.clear();
    cluster.run_until("nobody else serves", |cluster| {
        cluster.coordinator.record().serving().count() == 1
    });
    (cluster, key, base, version)
}

/// As before, and it does not trust its pending.
fn alone_in_doubt(
    holder: Option<TargetId>,
) -> (Cluster, ChunkKey, Option<Version>, Option<Version>) {
    let (mut cluster, key, base, version) = alone_with_pending(holder);
    cluster.kill(ONE);
    if let Some(store) = cluster.stores.get_mut(&ONE) {
        store.suspects.extend(version.map(|version| (GROUP, key, version)));
    }
    cluster.run_ms(500);
    cluster.restart(ONE);
    cluster.run_until("it leads alone", |cluster| cluster.coordinator.record().active);
    cluster.run_ms(3000);
    assert_eq!(newest(&cluster, ONE, key), version, "nobody answered");
    (cluster, key, base, version)
}

#[test]
fn a_frozen_pending_that_nobody_else_has_goes() {
    let (mut cluster, key, base, _) = alone_in_doubt(None);
    for target in [TWO, THREE] {
        cluster.restart(target);
    }
    cluster.heal();
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), base, "{target}");
        assert!(cluster.stores[&target].suspects.is_empty());
    }
}

#[test]
fn a_frozen_pending_that_rots_and_nobody_else_has_goes() {
    let (mut cluster, key, base, version) = alone_with_pending(None);
    cluster.run_until("it leads alone", |cluster| cluster.coordinator.record().active);
    assert!(cluster.stores.get_mut(&ONE).is_some_and(|store| store.spoil(key, 0)));
    cluster.run_ms(3000);
    assert_eq!(newest(&cluster, ONE, key), version, "nobody answered");
    for target in [TWO, THREE] {
        cluster.restart(target);
    }
    cluster.heal();
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), base, "{target}");
    }
    assert_eq!(cluster.rotten(), 0);
}

#[test]
fn a_frozen_pending_waits_for_everybody_who_may_have_it() {
    let (mut cluster, key, _, version) = alone_in_doubt(Some(THREE));
    cluster.restart(TWO);
    cluster.run_ms(8000);
    assert_eq!(newest(&cluster, ONE, key), version, "the third member may have it");
    cluster.restart(THREE);
    cluster.heal();
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), version, "{target}");
    }
}
