//! One scenario for each way a write can fail, named after the row of the design's table.

use std::collections::BTreeSet;
use std::rc::Rc;

use node::limits::{
    CHUNK_QUEUE_MAX, PENDING_CHAIN_MAX, ROLLS_IN_FLIGHT_MAX, SHARD_CLIENT_BYTES_MAX,
};
use node::shard::control::{ControlEvent, ShardReport};
use node::shard::effect::PeerMessage;
use node::shard::event::Event;
use node::store::StoreError;
use protocol::cluster_map::Role;
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, OpId, Seq, SessionId, TargetId, Version};
use protocol::message::chunk::{
    QuarantineRequest, ReplicateMode, ReplicateRequest, WriteClass, WriteRequest,
};
use protocol::status::Status;

use super::clients::write_request;
use super::cluster::{Cluster, Shape};
use super::coordinator::GROUP;
use super::fake_store::Bytes;

pub(super) const ONE: TargetId = TargetId(1);
pub(super) const TWO: TargetId = TargetId(2);
pub(super) const THREE: TargetId = TargetId(3);

pub(super) fn cluster(clients: u32) -> Cluster {
    let shape = Shape { targets: 3, min_write: 2, clients, loss: false };
    let mut cluster = Cluster::new(1, shape);
    cluster.run_until("first writes", |cluster| cluster.acks() >= u64::from(clients) * 3);
    cluster
}

/// A cluster whose clients are done, with one chunk that belongs to the caller.
pub(super) fn quiet() -> (Cluster, ChunkKey) {
    let mut cluster = cluster(1);
    cluster.stop_clients();
    cluster.run_ms(600);
    (cluster, ChunkKey { fid: Fid(99), index: 0 })
}

pub(super) fn epoch(cluster: &Cluster) -> Epoch {
    cluster.coordinator.record().epoch
}

/// Waits for an epoch after `before` that is active and known to be so.
pub(super) fn activated(cluster: &mut Cluster, before: Epoch) {
    cluster.run_until("activation", |cluster| {
        epoch(cluster) > before && cluster.coordinator.record().active
    });
    cluster.run_ms(50);
}

/// Waits until the newest incarnation of a target serves.
pub(super) fn promoted(cluster: &mut Cluster, target: TargetId) {
    cluster.run_until("promotion", |cluster| {
        let generation = cluster.procs[&target].generation;
        let member = cluster.coordinator.record().member(target).copied();
        let serves = |role| role != Role::Syncing;
        member.is_some_and(|member| member.generation.0 == generation && serves(member.role))
    });
}

pub(super) fn evicted(cluster: &Cluster, by: TargetId, who: TargetId) -> bool {
    cluster.procs[&by].reports.iter().any(|report| match report {
        ShardReport::Evict(evict) => evict.target == who,
        _ => false,
    })
}

pub(super) fn newest(cluster: &Cluster, target: TargetId, key: ChunkKey) -> Option<Version> {
    cluster.stores[&target].newest(GROUP, key).map(|held| held.version)
}

#[test]
fn f3_an_old_primary_is_stopped_by_members_of_a_newer_epoch() {
    let (mut cluster, key) = quiet();
    cluster.deaf.insert(ONE);
    let old = epoch(&cluster);
    assert!(cluster.coordinator.on_dead(ONE));
    cluster.push_maps();
    cluster.run_ms(200);
    cluster.ask_write(ONE, old, key, 5, 1, 0, b"zombie");
    cluster.run_ms(3000);
    assert_eq!(cluster.answers, [], "nothing is acknowledged by the old primary");
    assert_eq!((newest(&cluster, TWO, key), newest(&cluster, THREE, key)), (None, None));
    cluster.deaf.clear();
    cluster.push_maps();
    cluster.run_ms(200);
    assert_eq!(cluster.answers, [(5, Err(Status::StaleEpoch))]);
    cluster.heal();
}

#[test]
fn f4_a_silent_member_is_evicted_and_writes_go_on() {
    let mut cluster = cluster(2);
    let (acks, before) = (cluster.acks(), epoch(&cluster));
    cluster.cut.push((ONE, THREE));
    cluster.run_ms(700);
    assert!(!evicted(&cluster, ONE, THREE), "a short silence is not enough");
    cluster.run_until("new epoch", |cluster| epoch(cluster) > before);
    cluster.run_until("writes", |cluster| cluster.acks() > acks + 10);
    assert_eq!(cluster.coordinator.record().evicted, [THREE]);
    cluster.heal();
}

#[test]
fn f4_a_slow_member_that_says_so_is_evicted_only_after_the_absolute_wait() {
    let mut cluster = cluster(2);
    cluster.slow.insert(THREE, 3000);
    cluster.run_ms(8000);
    assert!(!evicted(&cluster, ONE, THREE), "it works and says so");
    cluster.slow.insert(THREE, 9000);
    cluster.run_until("eviction", |cluster| evicted(cluster, ONE, THREE));
    cluster.slow.clear();
    cluster.run_ms(10_000);
    cluster.heal();
}

#[test]
fn f5_a_primary_that_dies_before_it_replicates_leaves_nothing() {
    let (mut cluster, key) = quiet();
    cluster.cut.extend([(ONE, TWO), (ONE, THREE)]);
    cluster.ask_write(ONE, epoch(&cluster), key, 5, 1, 0, b"lost");
    cluster.run_ms(60);
    let before = epoch(&cluster);
    cluster.kill(ONE);
    cluster.cut.clear();
    activated(&mut cluster, before);
    cluster.ask_write(TWO, epoch(&cluster), key, 6, 1, 0, b"lost");
    cluster.run_ms(200);
    let version = Version { epoch: epoch(&cluster), counter: 1 };
    assert_eq!(cluster.answers, [(6, Ok((version, 4)))], "the same operation, once");
    cluster.heal();
}

#[test]
fn f6_a_pending_the_new_primary_has_is_rolled_forward() {
    let (mut cluster, key) = quiet();
    cluster.cut.push((ONE, THREE));
    let before = epoch(&cluster);
    cluster.ask_write(ONE, before, key, 5, 1, 0, b"half");
    cluster.run_ms(60);
    let version = newest(&cluster, TWO, key);
    assert_eq!((version.is_some(), newest(&cluster, THREE, key)), (true, None));
    cluster.kill(ONE);
    activated(&mut cluster, before);
    assert_eq!(newest(&cluster, THREE, key), version, "under its old version");
    cluster.ask_write(TWO, epoch(&cluster), key, 6, 1, 0, b"half");
    cluster.run_ms(100);
    assert_eq!(cluster.answers, [(6, Ok((version.unwrap_or_default(), 4)))]);
    cluster.heal();
}

#[test]
fn f6_pendings_are_rolled_forward_so_many_at_a_time() {
    const COUNT: u64 = 3 * ROLLS_IN_FLIGHT_MAX as u64;
    let (mut cluster, _) = quiet();
    cluster.cut.push((ONE, THREE));
    let before = epoch(&cluster);
    let key = |number| ChunkKey { fid: Fid(100 + number), index: 0 };
    for number in 0..COUNT {
        cluster.ask_write(ONE, before, key(number), number, 1, 0, b"half");
    }
    cluster.run_ms(60);
    let have = |cluster: &Cluster, target| {
        (0..COUNT).filter(|number| newest(cluster, target, key(*number)).is_some()).count() as u64
    };
    assert_eq!((have(&cluster, TWO), have(&cluster, THREE)), (COUNT, 0));
    cluster.kill(ONE);
    cluster.slow.insert(THREE, 20);
    let mut most = 0;
    for _ in 0..3000 {
        cluster.run_ms(1);
        let member = &cluster.procs[&TWO].state.groups[&GROUP];
        most = most.max(member.activation.rolling);
    }
    assert_eq!((most, have(&cluster, THREE)), (ROLLS_IN_FLIGHT_MAX, COUNT));
    activated(&mut cluster, before);
    cluster.heal();
}

#[test]
fn f6_a_pending_the_new_primary_lacks_is_discarded() {
    let (mut cluster, key) = quiet();
    cluster.cut.push((ONE, TWO));
    let before = epoch(&cluster);
    cluster.ask_write(ONE, before, key, 5, 1, 0, b"half");
    cluster.run_ms(60);
    assert_eq!((newest(&cluster, TWO, key), newest(&cluster, THREE, key).is_some()), (None, true));
    cluster.kill(ONE);
    activated(&mut cluster, before);
    assert_eq!(newest(&cluster, THREE, key), None, "gone before the mark passes it");
    cluster.heal();
}

#[test]
fn f7_a_version_on_every_backup_survives_a_primary_that_never_acknowledged_it() {
    let (mut cluster, key) = quiet();
    cluster.slow.insert(ONE, 500);
    let before = epoch(&cluster);
    cluster.ask_write(ONE, before, key, 5, 1, 0, b"whole");
    cluster.run_ms(60);
    let version = newest(&cluster, TWO, key);
    assert!(version.is_some() && version == newest(&cluster, THREE, key));
    assert_eq!(cluster.answers, []);
    cluster.kill(ONE);
    activated(&mut cluster, before);
    cluster.ask_write(TWO, epoch(&cluster), key, 6, 1, 0, b"whole");
    cluster.run_ms(100);
    assert_eq!(cluster.answers, [(6, Ok((version.unwrap_or_default(), 5)))], "exactly once");
    cluster.slow.clear();
    cluster.heal();
}

#[test]
fn f8_an_acknowledged_version_survives_a_primary_that_told_nobody() {
    let (mut cluster, key) = quiet();
    let before = epoch(&cluster);
    cluster.ask_write(ONE, before, key, 5, 1, 0, b"acked");
    while cluster.answers.is_empty() {
        cluster.run_ms(1);
    }
    let version = newest(&cluster, ONE, key).unwrap_or_default();
    cluster.kill(ONE);
    assert!(cluster.stores[&TWO].mark(GROUP) < version, "the mark did not reach the backup");
    activated(&mut cluster, before);
    assert!(cluster.stores[&TWO].mark(GROUP) > version, "rolled forward");
    assert_eq!(newest(&cluster, THREE, key), Some(version));
    cluster.heal();
}

#[test]
fn f9_a_backup_that_restarts_quickly_returns_as_syncing_and_is_promoted() {
    let mut cluster = cluster(3);
    cluster.kill(THREE);
    cluster.restart(THREE);
    cluster.run_until("syncing", |cluster| {
        let member = cluster.coordinator.record().member(THREE).copied();
        member.is_some_and(|member| member.role == Role::Syncing && member.generation.0 == 2)
    });
    cluster.run_until("promotion", Cluster::is_healthy);
    cluster.heal();
}

#[test]
fn f10_a_primary_that_restarts_quickly_assigns_nothing_before_a_new_epoch() {
    let (mut cluster, key) = quiet();
    let before = epoch(&cluster);
    cluster.unregistered.insert(ONE);
    cluster.kill(ONE);
    cluster.restart(ONE);
    cluster.hand_map(ONE);
    cluster.run_ms(500);
    assert_eq!(epoch(&cluster), before, "the map still names its former self");
    cluster.ask_write(ONE, before, key, 5, 1, 0, b"early");
    cluster.run_ms(100);
    assert_eq!(cluster.answers, [(5, Err(Status::NotMember))]);
    assert_eq!(newest(&cluster, ONE, key), None);
    cluster.unregistered.clear();
    activated(&mut cluster, before);
    cluster.heal();
}

#[test]
fn f13_one_member_left_is_readable_not_writable_until_another_is_complete() {
    let mut cluster = cluster(2);
    cluster.kill(TWO);
    cluster.run_until("two serve", |cluster| {
        cluster.coordinator.record().member(TWO).is_none() && cluster.coordinator.record().active
    });
    cluster.kill(THREE);
    cluster.run_until("one serves", |cluster| {
        cluster.coordinator.record().serving().count() == 1 && cluster.coordinator.record().active
    });
    let writable = cluster.coordinator.record().last_writable_epoch;
    assert!(writable < epoch(&cluster));
    let (acks, reads) = (cluster.acks(), cluster.reads);
    cluster.run_ms(1000);
    assert_eq!(cluster.acks(), acks, "nothing is acknowledged on one copy");
    assert!(cluster.clients.iter().all(|client| client.last == Some(Status::NotWritable)));
    assert!(cluster.reads > reads, "reads go on");
    cluster.restart(TWO);
    cluster.run_until("writes again", |cluster| cluster.acks() > acks + 5);
    cluster.heal();
}

#[test]
fn f15_after_a_restart_of_all_everything_acknowledged_is_there() {
    let mut cluster = cluster(3);
    let (acks, before) = (cluster.acks(), epoch(&cluster));
    for target in [ONE, TWO, THREE] {
        cluster.kill(target);
    }
    for target in [THREE, ONE, TWO] {
        cluster.restart(target);
    }
    cluster
        .run_until("a new epoch of all", |cluster| epoch(cluster) > before && cluster.is_healthy());
    cluster.check_acknowledged();
    cluster.run_until("writes again", |cluster| cluster.acks() > acks);
    cluster.heal();
}

#[test]
fn resync_races_with_writes_and_ends_equal() {
    for seed in 0..20 {
        let shape = Shape { targets: 3, min_write: 2, clients: 9, loss: false };
        let mut cluster = Cluster::new(seed, shape);
        cluster.run_until("writes", |cluster| cluster.acks() >= 40);
        cluster.kill(THREE);
        let acks = cluster.acks();
        cluster.run_until("writes without it", |cluster| cluster.acks() > acks + 40);
        cluster.slow.insert(THREE, 40);
        cluster.restart(THREE);
        promoted(&mut cluster, THREE);
        cluster.check_acknowledged();
        cluster.heal();
    }
}

#[test]
fn a_chunk_that_only_the_returning_member_has_is_set_aside_not_deleted() {
    let (mut cluster, key) = quiet();
    cluster.kill(THREE);
    let chunk = cluster.stores[&ONE].chunks.values().next().cloned().unwrap_or_default();
    let mut orphan = vec![chunk[0].clone()];
    orphan[0].version = Version { epoch: Epoch(1), counter: 1 };
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.chunks.insert((GROUP, key), orphan.clone());
    }
    cluster.restart(THREE);
    promoted(&mut cluster, THREE);
    assert_eq!(cluster.stores[&THREE].aside.get(&(GROUP, key)), Some(&orphan));
    cluster.heal();
}

#[test]
fn a_member_without_space_fails_the_write_and_keeps_nobody_waiting() {
    let (mut cluster, key) = quiet();
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.failing = Some(StoreError::NoSpace);
    }
    cluster.ask_write(ONE, epoch(&cluster), key, 5, 1, 0, b"large");
    cluster.run_ms(300);
    assert_eq!(cluster.answers, [(5, Err(Status::NoSpace))]);
    for target in [ONE, TWO, THREE] {
        assert_eq!(newest(&cluster, target, key), None, "{target} dropped it before the answer");
    }
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.failing = None;
    }
    cluster.ask_write(ONE, epoch(&cluster), key, 6, 1, 0, b"large");
    cluster.run_ms(300);
    assert!(matches!(cluster.answers[1], (6, Ok((_, 5)))));
    cluster.heal();
}

#[test]
fn a_member_whose_store_fenced_itself_vouches_for_nothing_any_more() {
    let (mut cluster, key) = quiet();
    let before = epoch(&cluster);
    cluster.tell(THREE, 1, Event::Tick { fenced: true });
    cluster.ask_write(ONE, before, key, 5, 1, 0, b"bytes");
    cluster.run_ms(600);
    let acknowledged = cluster.answers.iter().any(|(_, answer)| answer.is_ok());
    assert!(!acknowledged || epoch(&cluster) > before, "not with the word of a fenced member");
    assert!(cluster.coordinator.record().member(THREE).is_none(), "it is out of the group");
}

#[test]
fn dead_files_are_deleted_from_every_member_and_then_reported() {
    let (mut cluster, _) = quiet();
    let fid = cluster.clients[0].key.fid;
    cluster.slow.insert(THREE, 400);
    let files = vec![(GROUP, vec![fid])];
    cluster.tell(ONE, 1, Event::Control(ControlEvent::DropFiles(files)));
    cluster.run_ms(100);
    let done = |cluster: &Cluster| {
        let reports = &cluster.procs[&ONE].reports;
        reports.iter().any(|report| matches!(report, ShardReport::DropDone(_)))
    };
    assert!(!done(&cluster), "one member still works on it");
    cluster.run_until("report", done);
    for store in cluster.stores.values() {
        assert!(store.chunks.is_empty());
    }
}

#[test]
fn a_full_chunk_queue_answers_busy_and_takes_effect_in_order() {
    let (mut cluster, key) = quiet();
    cluster.slow.insert(ONE, 300);
    let epoch = epoch(&cluster);
    let fit = CHUNK_QUEUE_MAX + PENDING_CHAIN_MAX;
    let over = fit as u64 + 1;
    for session in 1..=over {
        cluster.ask_write(ONE, epoch, key, session, 1, (session - 1) as u32, b"x");
        cluster.run_ms(1);
    }
    cluster.run_ms(20);
    assert_eq!(cluster.answers, [(over, Err(Status::Busy))]);
    cluster.slow.clear();
    cluster.run_ms(3000);
    let ok: BTreeSet<u64> = cluster.answers[1..]
        .iter()
        .filter_map(|(session, answer)| answer.is_ok().then_some(*session))
        .collect();
    assert_eq!(ok, (1..over).collect());
    assert_eq!(cluster.stores[&THREE].len(GROUP, key), fit);
}

/// A first version of a chunk, as a primary would send it.
pub(super) fn replicate(key: ChunkKey, epoch: Epoch, primary: TargetId) -> (PeerMessage, Bytes) {
    let bytes: Bytes = Rc::new(b"forged".to_vec());
    let len = bytes.len() as u32;
    let body = ReplicateRequest {
        group: GROUP,
        primary,
        key,
        mode: ReplicateMode::Write,
        version: Version { epoch, counter: 900 },
        base: Version::ZERO,
        op: OpId::default(),
        class: WriteClass::Growth,
        offset: 0,
        len,
        chunk_len: len,
        expect_len: len,
        trunc_gen: 0,
        cell_log2: 14,
        chunk_log2: 22,
        sums: vec![Default::default()],
        aux: Vec::new(),
        ops: Vec::new(),
        mutated: false,
        committed_through: Version::ZERO,
    };
    (PeerMessage::Replicate(Box::new(body)), bytes)
}

#[test]
fn only_the_node_of_the_primary_may_replicate() {
    let (mut cluster, key) = quiet();
    let epoch = epoch(&cluster);
    let (message, bytes) = replicate(key, epoch, ONE);
    cluster.forge(TWO, THREE, epoch, message.clone(), Some(Rc::clone(&bytes)));
    cluster.run_ms(100);
    assert_eq!(newest(&cluster, THREE, key), None);
    cluster.forge(ONE, THREE, epoch, message, Some(bytes));
    cluster.run_ms(100);
    assert!(newest(&cluster, THREE, key).is_some(), "the same from the right node is taken");
}

#[test]
fn a_version_of_an_older_epoch_is_refused_also_from_the_same_primary() {
    let (mut cluster, key) = quiet();
    let old = epoch(&cluster);
    cluster.kill(THREE);
    activated(&mut cluster, old);
    let (message, bytes) = replicate(key, old, ONE);
    cluster.forge(ONE, TWO, old, message.clone(), Some(Rc::clone(&bytes)));
    let PeerMessage::Replicate(mut whole) = message else { panic!("a version") };
    whole.mode = ReplicateMode::Whole;
    cluster.forge(ONE, TWO, old, PeerMessage::Replicate(whole), Some(bytes));
    cluster.run_ms(100);
    assert_eq!(newest(&cluster, TWO, key), None);
}

#[test]
fn no_write_begins_before_the_map_shows_the_epoch_active() {
    let (mut cluster, key) = quiet();
    let before = epoch(&cluster);
    cluster.kill(THREE);
    cluster.run_until("new epoch", |cluster| epoch(cluster) > before);
    cluster.reports_lost = true;
    cluster.run_ms(500);
    assert!(!cluster.coordinator.record().active);
    cluster.ask_write(ONE, epoch(&cluster), key, 5, 1, 0, b"early");
    cluster.run_ms(100);
    assert_eq!(cluster.answers, [(5, Err(Status::NotActive))]);
    cluster.reports_lost = false;
    cluster.run_until("repeated report", |cluster| cluster.coordinator.record().active);
    cluster.heal();
}

#[test]
fn i9_a_backup_keeps_a_pending_that_the_primary_lacks_while_the_group_is_not_writable() {
    let shape = Shape { targets: 3, min_write: 3, clients: 1, loss: false };
    let mut cluster = Cluster::new(1, shape);
    cluster.run_until("first writes", |cluster| cluster.acks() >= 3);
    cluster.stop_clients();
    cluster.run_ms(600);
    let key = ChunkKey { fid: Fid(99), index: 0 };
    let before = epoch(&cluster);
    cluster.cut.push((ONE, TWO));
    cluster.ask_write(ONE, before, key, 5, 1, 0, b"half");
    cluster.run_ms(60);
    let version = newest(&cluster, THREE, key);
    assert!(version.is_some());
    cluster.kill(ONE);
    activated(&mut cluster, before);
    assert!(!cluster.coordinator.record().writable());
    cluster.run_ms(500);
    assert_eq!((newest(&cluster, TWO, key), newest(&cluster, THREE, key)), (None, version));
    cluster.heal();
    // The former primary is back before the group can be written, and has it as well.
    assert_eq!(newest(&cluster, THREE, key), version, "settled once the group is writable");
}

#[test]
fn a_returning_member_commits_nothing_of_its_own_before_the_primary_has_looked_at_it() {
    let (mut cluster, key) = quiet();
    cluster.cut.extend([(ONE, TWO), (ONE, THREE)]);
    cluster.ask_write(ONE, epoch(&cluster), key, 5, 1, 0, b"only here");
    cluster.run_ms(60);
    cluster.slow.insert(ONE, 300);
    assert!(newest(&cluster, ONE, key).is_some());
    cluster.kill(ONE);
    cluster.cut.clear();
    cluster.clients[0].active = true;
    cluster.wake_clients();
    let acks = cluster.acks();
    cluster.run_until("writes without it", |cluster| cluster.acks() > acks + 5);
    // Its adoption is slow, so marks would reach it first if they were sent.
    cluster.restart(ONE);
    promoted(&mut cluster, ONE);
    cluster.heal();
    assert_eq!(newest(&cluster, ONE, key), None);
}

#[test]
fn a_chunk_that_reaches_a_syncing_member_before_the_primary_stored_it_is_no_extra() {
    let shape = Shape { targets: 3, min_write: 2, clients: 9, loss: false };
    let mut cluster = Cluster::new(3, shape);
    cluster.run_until("writes", |cluster| cluster.acks() >= 40);
    cluster.kill(THREE);
    let acks = cluster.acks();
    cluster.run_until("writes without it", |cluster| cluster.acks() > acks + 40);
    cluster.stop_clients();
    cluster.slow.insert(THREE, 60);
    cluster.restart(THREE);
    let syncing = |cluster: &Cluster| {
        let record = cluster.coordinator.record();
        record.active && record.member(THREE).is_some_and(|member| member.role == Role::Syncing)
    };
    cluster.run_until("syncing", syncing);
    cluster.run_ms(30);
    cluster.slow.insert(ONE, 2000);
    let key = ChunkKey { fid: Fid(99), index: 0 };
    let now = epoch(&cluster);
    cluster.ask_write(ONE, now, key, 5, 1, 0, b"new");
    cluster.run_ms(150);
    assert!(syncing(&cluster) && newest(&cluster, THREE, key).is_some());
    assert_eq!(newest(&cluster, ONE, key), None, "the primary is not done yet");
    // And a quarantine that comes late names it in vain.
    let late = QuarantineRequest { group: GROUP, keys: vec![key] };
    cluster.forge(ONE, THREE, now, PeerMessage::Quarantine(late), None);
    cluster.run_ms(1000);
    assert!(newest(&cluster, THREE, key).is_some());
    cluster.slow.clear();
    promoted(&mut cluster, THREE);
    cluster.run_ms(2500);
    cluster.heal();
    let version = Some(Version { epoch: now, counter: 1 });
    assert_eq!((newest(&cluster, ONE, key), newest(&cluster, THREE, key)), (version, version));
}

#[test]
fn a_returning_member_never_wins_with_a_higher_version_of_an_older_epoch() {
    let (mut cluster, _) = quiet();
    let key = cluster.clients[0].key;
    let right = newest(&cluster, ONE, key);
    cluster.kill(THREE);
    if let Some(held) = cluster.stores.get_mut(&THREE).and_then(|s| s.chunks.get_mut(&(GROUP, key)))
    {
        for held in held {
            held.version.counter += 500;
        }
    }
    cluster.restart(THREE);
    promoted(&mut cluster, THREE);
    assert_eq!(newest(&cluster, THREE, key), right);
    cluster.heal();
}

#[test]
fn writes_beyond_the_memory_of_the_shard_are_answered_busy() {
    let (mut cluster, _) = quiet();
    cluster.slow.insert(ONE, 500);
    let now = epoch(&cluster);
    let fit = SHARD_CLIENT_BYTES_MAX >> 22;
    for number in 0..=fit {
        let key = ChunkKey { fid: Fid(1000 + number), index: 0 };
        let op = OpId { session: SessionId(77), seq: Seq(1) };
        let request = write_request(key, op, 0, 1 << 22);
        cluster.ask(ONE, now, number, request, b"stands for 4 MiB");
        cluster.run_ms(2);
    }
    assert_eq!(cluster.answers, [(fit, Err(Status::Busy))]);
    cluster.slow.clear();
    cluster.run_ms(1500);
    let ok = cluster.answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    assert_eq!(ok as u64, fit, "the others are done and their memory is free");
    cluster.heal();
}

#[test]
fn a_request_for_an_unknown_group_or_a_wrong_epoch_is_told_to_refresh() {
    let (mut cluster, key) = quiet();
    let now = epoch(&cluster);
    cluster.ask_write(TWO, now, key, 1, 1, 0, b"x");
    cluster.ask_write(ONE, Epoch(now.0 - 1), key, 2, 1, 0, b"x");
    cluster.ask_write(ONE, Epoch(now.0 + 1), key, 3, 1, 0, b"x");
    cluster.ask_write(ONE, now, key, 4, 1, 7, b"x");
    let op = OpId { session: SessionId(1), seq: Seq(1) };
    let other_group = WriteRequest { group: GroupId(8), ..write_request(key, op, 0, 1) };
    cluster.ask(ONE, now, 5, other_group, b"x");
    cluster.run_ms(100);
    let mut answers = std::mem::take(&mut cluster.answers);
    answers.sort_by_key(|(session, _)| *session);
    let expected = [
        (1, Err(Status::NotPrimary)),
        (2, Err(Status::StaleEpoch)),
        (3, Err(Status::NewerEpoch)),
        (4, Err(Status::ChunkShort)),
        (5, Err(Status::NotMember)),
    ];
    assert_eq!(answers, expected);
}

#[test]
fn a_member_joins_an_epoch_only_after_its_older_writes_have_landed() {
    let (mut cluster, key) = quiet();
    let before = epoch(&cluster);
    cluster.cut.push((ONE, TWO));
    cluster.slow.insert(THREE, 400);
    cluster.ask_write(ONE, before, key, 5, 1, 0, b"late");
    cluster.run_ms(60);
    cluster.kill(ONE);
    activated(&mut cluster, before);
    cluster.run_ms(1000);
    assert_eq!(newest(&cluster, TWO, key), None, "the new primary never had it");
    assert_eq!(newest(&cluster, THREE, key), None, "it was pending when the primary asked");
    cluster.slow.clear();
    cluster.heal();
}

#[test]
fn a_copy_that_comes_late_does_not_undo_a_newer_write() {
    let (mut cluster, key) = quiet();
    let now = epoch(&cluster);
    cluster.ask_write(ONE, now, key, 5, 1, 0, b"new");
    cluster.run_ms(300);
    let have = newest(&cluster, THREE, key);
    let (PeerMessage::Replicate(copy), bytes) = replicate(key, now, ONE) else { return };
    let version = Version { epoch: Epoch(now.0 - 1), counter: 1 };
    let body = ReplicateRequest { mode: ReplicateMode::Whole, version, ..*copy };
    let message = PeerMessage::Replicate(Box::new(body));
    cluster.forge(ONE, THREE, now, message, Some(bytes));
    cluster.run_ms(100);
    assert_eq!((newest(&cluster, THREE, key), have.is_some()), (have, true));
}
