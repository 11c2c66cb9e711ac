//! A primary that lost what it had confirmed takes it over from whoever has it.

use node::limits::{TAKE_PAUSE_MS, TAKE_TRIES_MAX};
use node::shard::control::ControlEvent;
use node::shard::event::Event;
use protocol::cluster_map::Role;
use protocol::ids::{ChunkKey, Epoch, TargetId, Version};
use protocol::message::chunk::WriteClass;
use protocol::status::Status;

use super::cluster::{Cluster, MS};
use super::coordinator::GROUP;
use super::fake_store::FakeStore;
use super::scenarios::{ONE, THREE, TWO, activated, epoch, newest, promoted, quiet};

/// What a device loses: a new chunk that is committed elsewhere, bytes added to an old one, and a
/// new chunk that is still pending elsewhere.
struct Lost {
    cluster: Cluster,
    keys: [ChunkKey; 3],
    versions: [Option<Version>; 3],
    /// What is left on the first target.
    left: FakeStore,
}

/// Three acknowledged writes of which the device of the first target will know nothing.
fn acknowledged() -> Lost {
    let (mut cluster, key) = quiet();
    let keys = [0, 1, 2].map(|index| ChunkKey { index, ..key });
    cluster.ask_change(ONE, keys[1], 1, (WriteClass::Growth, 0, b"old"));
    cluster.run_ms(500);
    let left = cluster.stores[&ONE].clone();
    cluster.ask_change(ONE, keys[0], 2, (WriteClass::Growth, 0, b"first"));
    cluster.run_ms(200);
    cluster.ask_change(ONE, keys[1], 3, (WriteClass::Growth, 3, b" and new"));
    cluster.run_ms(200);
    cluster.ask_change(ONE, keys[2], 4, (WriteClass::Growth, 0, b"last"));
    cluster.run_until("answers", |cluster| cluster.answers.len() == 4);
    assert!(cluster.answers.iter().all(|(_, answer)| answer.is_ok()));
    let versions = keys.map(|key| newest(&cluster, ONE, key));
    Lost { cluster, keys, versions, left }
}

/// The same; everybody is killed at once, so that the first target is the last that serves, and it
/// comes back alone.
fn alone() -> Lost {
    let mut lost = acknowledged();
    let Lost { cluster, left, .. } = &mut lost;
    for target in [TWO, THREE, ONE] {
        cluster.kill(target);
        cluster.coordinator.on_dead(target);
    }
    cluster.stores.insert(ONE, left.clone());
    let before = epoch(cluster);
    cluster.restart(ONE);
    activated(cluster, before);
    assert_eq!(cluster.coordinator.record().members.len(), 1);
    lost
}

fn check(lost: &Lost, targets: &[TargetId]) {
    for target in targets {
        let held = lost.keys.map(|key| newest(&lost.cluster, *target, key));
        assert_eq!(held, lost.versions, "{target} has what was acknowledged");
    }
}

fn taken(cluster: &Cluster) -> u64 {
    cluster.procs[&ONE].state.core.upkeep.counts.taken_over
}

#[test]
fn what_the_last_serving_member_lost_is_taken_over_from_who_returns() {
    let mut lost = alone();
    lost.cluster.restart(TWO);
    promoted(&mut lost.cluster, TWO);
    check(&lost, &[ONE, TWO]);
    assert_eq!(taken(&lost.cluster), 3);
    assert!(lost.cluster.stores[&TWO].aside.is_empty(), "nothing was set aside");
    lost.cluster.restart(THREE);
    promoted(&mut lost.cluster, THREE);
    lost.cluster.heal();
    check(&lost, &[ONE, TWO, THREE]);
    assert_eq!(
        *lost.cluster.stores[&THREE].newest(GROUP, lost.keys[1]).unwrap().bytes,
        b"old and new"
    );
}

#[test]
fn what_is_taken_over_reaches_a_member_that_was_compared_before() {
    let mut lost = alone();
    let cluster = &mut lost.cluster;
    let before = epoch(cluster);
    // The third lost it as well.
    cluster.stores.insert(THREE, lost.left.clone());
    cluster.restart(TWO);
    cluster.restart(THREE);
    cluster.run_until("two that catch up", |cluster| {
        let record = cluster.coordinator.record();
        record.epoch > before && record.members.len() == 3 && record.active
    });
    (cluster.reports_lost, _) = (true, cluster.slow.insert(ONE, 300));
    cluster.run_ms(200);
    assert!(cluster.procs[&ONE].state.groups[&GROUP].resync[&THREE].listed);
    assert_eq!(taken(cluster), 0);
    cluster.run_until("all that was lost", |cluster| taken(cluster) == 3);
    (cluster.reports_lost, _) = (false, cluster.slow.remove(&ONE));
    promoted(cluster, TWO);
    cluster.heal();
    check(&lost, &[ONE, TWO, THREE]);
}

#[test]
fn what_is_taken_over_is_not_read_before_the_group_can_be_written() {
    let mut lost = alone();
    let (key, cluster) = (lost.keys[2], &mut lost.cluster);
    cluster.slow.insert(TWO, 300);
    cluster.restart(TWO);
    cluster.run_until("a version", |cluster| newest(cluster, ONE, key).is_some());
    assert!(!cluster.coordinator.record().writable());
    cluster.ask_read(ONE, key, 9, 4, false);
    cluster.run_ms(20);
    assert_eq!(cluster.shown, [(9, Err(Status::Frozen))]);
    cluster.slow.clear();
    promoted(cluster, TWO);
    cluster.run_ms(500);
    cluster.ask_read(ONE, key, 10, 4, false);
    cluster.run_ms(20);
    assert_eq!(cluster.shown.last(), Some(&(10, Ok(b"last".to_vec()))));
    cluster.heal();
}

#[test]
fn what_a_primary_lost_that_was_believed_is_taken_over_before_anything_is_dropped() {
    for pending in [[TWO, THREE].as_slice(), &[TWO], &[THREE]] {
        let (mut cluster, key) = quiet();
        let left = cluster.stores[&ONE].clone();
        cluster.ask_change(ONE, key, 1, (WriteClass::Growth, 0, b"acknowledged"));
        cluster.run_until("an answer", |cluster| cluster.answers.len() == 1);
        let version = newest(&cluster, ONE, key);
        for target in [ONE, TWO, THREE] {
            cluster.kill(target);
        }
        cluster.coordinator.power_cut();
        cluster.stores.insert(ONE, left.clone());
        for target in [TWO, THREE].into_iter().filter(|target| !pending.contains(target)) {
            // It never arrived there, so it was not acknowledged; nobody can tell that it was not.
            cluster.stores.insert(target, left.clone());
        }
        let before = epoch(&cluster);
        for target in [ONE, TWO, THREE] {
            cluster.restart(target);
        }
        activated(&mut cluster, before);
        assert!(cluster.is_healthy());
        assert_eq!(cluster.coordinator.record().primary().map(|it| it.target), Some(ONE));
        for target in [ONE, TWO, THREE] {
            assert_eq!(newest(&cluster, target, key), version, "{target}");
        }
        assert_eq!(taken(&cluster), 1);
        cluster.heal();
    }
}

#[test]
fn what_died_is_not_taken_over_and_holds_nothing_up() {
    let (mut cluster, key) = quiet();
    let left = cluster.stores[&ONE].clone();
    cluster.ask_change(ONE, key, 1, (WriteClass::Growth, 0, b"acknowledged"));
    cluster.run_until("an answer", |cluster| cluster.answers.len() == 1);
    for target in [ONE, TWO, THREE] {
        cluster.kill(target);
    }
    cluster.coordinator.power_cut();
    cluster.stores.insert(ONE, left.clone());
    cluster.stores.insert(THREE, left);
    // The second has it, answers last, and then it is known that the file is dead.
    cluster.cut.push((ONE, TWO));
    let before = epoch(&cluster);
    for target in [ONE, TWO, THREE] {
        cluster.restart(target);
    }
    cluster.run_until("an activation", |cluster| {
        let member = cluster.procs[&ONE].state.groups.get(&GROUP);
        member.is_some_and(|member| member.activation.adopts.iter().eq([&TWO]))
    });
    let dead = ControlEvent::DropFiles(vec![(GROUP, vec![key.fid])]);
    cluster.tell(ONE, 0, Event::Control(dead));
    cluster.run_ms(10);
    cluster.cut.clear();
    activated(&mut cluster, before);
    cluster.run_ms(500);
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), None, "{target}");
    }
    cluster.heal();
}

#[test]
fn what_was_left_behind_by_writes_since_is_not_taken_over() {
    let (mut cluster, key) = quiet();
    cluster.kill(THREE);
    let chunk = cluster.stores[&ONE].chunks.values().next().cloned().unwrap();
    let mut orphan = vec![chunk[0].clone()];
    orphan[0].version = Version { epoch: Epoch(1), counter: 1000 };
    cluster.stores.get_mut(&THREE).unwrap().chunks.insert((GROUP, key), orphan);
    let before = epoch(&cluster);
    activated(&mut cluster, before);
    cluster.kill(TWO);
    let before = epoch(&cluster);
    activated(&mut cluster, before);
    assert!(!cluster.coordinator.record().writable());
    cluster.restart(THREE);
    promoted(&mut cluster, THREE);
    assert_eq!((newest(&cluster, ONE, key), newest(&cluster, THREE, key)), (None, None));
    assert_eq!(taken(&cluster), 0);
    cluster.heal();
}

#[test]
fn what_nobody_can_give_is_set_aside_after_a_while() {
    let mut lost = alone();
    let (key, cluster) = (lost.keys[0], &mut lost.cluster);
    assert!(cluster.stores.get_mut(&TWO).unwrap().spoil(key, 0));
    let (began, fetches) = (cluster.now, cluster.fetches);
    cluster.restart(TWO);
    promoted(cluster, TWO);
    let pauses: u64 = (0..TAKE_TRIES_MAX).map(|turn| TAKE_PAUSE_MS << turn).sum();
    let waited = (cluster.now - began) / MS;
    assert!((pauses / 2..pauses * 2).contains(&waited), "{waited} ms");
    assert_eq!(cluster.fetches - fetches, u64::from(TAKE_TRIES_MAX) + 2);
    assert!(cluster.stores[&TWO].aside.contains_key(&(GROUP, key)), "kept for whoever wants it");
    assert_eq!(newest(cluster, TWO, lost.keys[2]), lost.versions[2], "the others came");
    let serves = |member: &protocol::cluster_map::Member| member.role != Role::Syncing;
    assert!(cluster.coordinator.record().member(TWO).is_some_and(serves));
    cluster.heal();
}
