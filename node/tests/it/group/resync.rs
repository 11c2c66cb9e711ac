//! Resync: its byte budget, its resumption, and a member without room.

use std::rc::Rc;
use std::time::Duration;

use node::limits::{
    COPIES_PER_SHARD_MAX, FOREGROUND_BUSY_BYTES, RESYNC_BYTES_PER_S_DEFAULT, RESYNC_PAGE,
    RESYNC_QUEUE_MAX, RESYNC_REFUSED_PAUSE_MAX_MS, RESYNC_REFUSED_PAUSE_MIN_MS,
    RESYNC_STOP_PERCENT,
};
use node::shard::control::{ControlEvent, ShardReport};
use node::shard::effect::Lane;
use node::shard::event::Event;
use node::store::StoreError;
use protocol::cluster_map::PlanReason;
use protocol::ids::{ChunkKey, Epoch, Fid, TargetId, Version};

use super::cluster::{Cluster, MS, Shape};
use super::coordinator::GROUP;
use super::fake_store::Held;

const ONE: TargetId = TargetId(1);
const TWO: TargetId = TargetId(2);
const THREE: TargetId = TargetId(3);
const LEN: usize = 1000;

fn key(number: u64) -> ChunkKey {
    ChunkKey { fid: Fid(5000 + number), index: 0 }
}

/// Three members, of which the third lacks `count` chunks of [`LEN`] bytes and is away.
pub(super) fn behind(count: u64) -> Cluster {
    let mut cluster = Cluster::new(3, Shape { targets: 3, min_write: 2, clients: 0, loss: false });
    cluster.run_until("activation", |cluster| cluster.coordinator.record().active);
    cluster.run_ms(100);
    cluster.kill(THREE);
    cluster.run_until("two members", |cluster| cluster.coordinator.record().members.len() == 2);
    cluster.run_until("activation", |cluster| cluster.coordinator.record().active);
    cluster.run_ms(100);
    let epoch = cluster.coordinator.record().epoch;
    for number in 0..count {
        cluster.ask_write(ONE, epoch, key(number), number, 1, 0, &[number as u8; LEN]);
    }
    cluster.run_ms(500);
    assert_eq!(cluster.answers.len() as u64, count);
    assert!(cluster.answers.iter().all(|(_, answer)| answer.is_ok()), "{:?}", cluster.answers);
    cluster
}

fn rate(cluster: &mut Cluster, target: TargetId, bytes_per_s: u64) {
    if let Some(proc) = cluster.procs.get_mut(&target) {
        proc.state.core.orders.resync_bytes_per_s = bytes_per_s;
    }
}

fn left(cluster: &Cluster) -> u64 {
    cluster.procs[&ONE].state.resync_bytes_left()
}

fn done(cluster: &Cluster) -> u64 {
    cluster.procs[&ONE].state.core.counters.resync_bytes_done
}

#[test]
fn a_resync_uses_its_byte_budget_and_not_more() {
    let mut cluster = behind(100);
    let budget = 20_000;
    rate(&mut cluster, ONE, budget);
    cluster.restart(THREE);
    cluster.run_until("copies", |cluster| done(cluster) > 0);
    let (began, at) = (done(&cluster), cluster.now);
    cluster.run_until("most copies", |cluster| done(cluster) >= 90 * LEN as u64);
    let seconds = (cluster.now - at) as f64 / (1000 * MS) as f64;
    let used = (done(&cluster) - began) as f64 / seconds / budget as f64;
    assert!((0.8..=1.1).contains(&used), "used {used} of the budget");
    assert_eq!(cluster.procs[&ONE].state.core.upkeep.resync.rate(), budget);
    cluster.heal();
}

#[test]
fn without_an_order_a_resync_keeps_to_the_default_rate_and_number() {
    let mut cluster = behind(10);
    cluster.restart(THREE);
    cluster.run_until("copies", |cluster| done(cluster) > 0);
    let core = &cluster.procs[&ONE].state.core;
    assert_eq!(core.upkeep.resync.rate(), RESYNC_BYTES_PER_S_DEFAULT);
    assert!(core.copies <= COPIES_PER_SHARD_MAX);
    cluster.heal();
}

#[test]
fn what_is_left_counts_the_whole_group_from_the_start() {
    let mut cluster = behind(40);
    rate(&mut cluster, ONE, 1000);
    cluster.restart(THREE);
    cluster.run_until("a resync", |cluster| !cluster.procs[&ONE].state.resyncs().is_empty());
    let whole = 40 * LEN as u64;
    assert_eq!(left(&cluster), whole, "before anything was compared");
    cluster.run_ms(3000);
    let resyncs = cluster.procs[&ONE].state.resyncs();
    assert_eq!((resyncs.len(), resyncs[0].group, resyncs[0].target), (1, GROUP, THREE));
    assert_eq!(resyncs[0].bytes_left + resyncs[0].bytes_done, whole);
    assert!(resyncs[0].bytes_done > 0 && resyncs[0].bytes_left > whole / 2, "{resyncs:?}");
    rate(&mut cluster, ONE, 0);
    cluster.heal();
}

#[test]
fn a_copy_on_its_way_does_not_bring_back_what_is_deleted() {
    for wait_ms in 0..40 {
        let mut cluster = behind(8);
        // Every other time some wait for the budget while the primary deletes its own.
        let some_wait = wait_ms % 2 == 1;
        rate(&mut cluster, ONE, if some_wait { 10_000 } else { 0 });
        cluster.restart(THREE);
        let copying = |cluster: &Cluster| cluster.procs[&ONE].state.core.copies > 0;
        cluster.run_until("copies", copying);
        if some_wait {
            cluster.slow.insert(ONE, 300);
        }
        cluster.run_ms(wait_ms % 5);
        let fids = (0..8).map(|number| key(number).fid).collect();
        let files = ControlEvent::DropFiles(vec![(GROUP, fids)]);
        cluster.tell(ONE, wait_ms / 5, Event::Control(files));
        cluster.run_until("report", |cluster| {
            let mut reports = cluster.procs[&ONE].reports.iter();
            reports.any(|report| matches!(report, ShardReport::DropDone(_)))
        });
        cluster.run_until("promotion", |cluster| {
            cluster.coordinator.record().serving().any(|member| member.target == THREE)
        });
        for (target, store) in &cluster.stores {
            assert!(store.chunks.is_empty(), "{target} has chunks of dead files, {wait_ms}");
        }
    }
}

#[test]
fn a_resync_that_was_cut_off_copies_nothing_twice() {
    let mut cluster = behind(60);
    rate(&mut cluster, ONE, 20_000);
    cluster.restart(THREE);
    cluster.run_until("half of the copies", |cluster| done(cluster) >= 30 * LEN as u64);
    let before = cluster.coordinator.record().epoch;
    assert!(cluster.coordinator.on_dead(TWO), "another member leaves: a new epoch");
    cluster.push_maps();
    cluster.run_until("promotion", |cluster| {
        cluster.coordinator.record().serving().any(|member| member.target == THREE)
    });
    assert!(cluster.coordinator.record().epoch > before);
    let twice = cluster.installs.iter().filter(|(_, count)| **count > 1).count();
    assert!(twice <= COPIES_PER_SHARD_MAX, "{twice} chunks were in flight when it was cut off");
    assert_eq!(cluster.installs.keys().filter(|(target, _)| *target == THREE).count(), 60);
    cluster.heal();
}

#[test]
fn copies_have_a_connection_of_their_own_so_that_clients_never_wait_for_one_to_pass() {
    let mut cluster = behind(20);
    cluster.restart(THREE);
    cluster.heal();
    assert_eq!(cluster.wholes.get(&Lane::Urgent), None, "nobody waits for a whole chunk");
    assert!(cluster.wholes[&Lane::Bulk] >= 20, "{:?}", cluster.wholes);
}

#[test]
fn a_member_without_room_is_left_in_peace_ever_longer() {
    let mut cluster = behind(20);
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.failing = Some(StoreError::NoSpace);
    }
    cluster.restart(THREE);
    cluster.run_until("the refusal", |cluster| refused(cluster) > 0);
    cluster.run_ms(RESYNC_REFUSED_PAUSE_MIN_MS / 2);
    assert!(refused(&cluster) <= COPIES_PER_SHARD_MAX as u64, "{}", refused(&cluster));
    cluster.run_ms(300_000);
    let most = 5 + 300_000 / RESYNC_REFUSED_PAUSE_MAX_MS + 1;
    let moments = refused(&cluster) / COPIES_PER_SHARD_MAX as u64;
    assert!((5..=most).contains(&moments), "{moments} attempts in five minutes");
    let member = &cluster.procs[&ONE].state.groups[&GROUP];
    let pause = member.resync[&THREE].refused.map(|(pause, _)| pause);
    assert_eq!(pause, Some(Duration::from_millis(RESYNC_REFUSED_PAUSE_MAX_MS)));
    assert_eq!(left(&cluster), 20 * LEN as u64, "nothing is forgotten");
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.failing = None;
    }
    cluster.heal();
}

fn refused(cluster: &Cluster) -> u64 {
    cluster.procs[&ONE].state.core.upkeep.counts.resync_refused
}

#[test]
fn while_clients_keep_the_shard_busy_copies_go_one_by_one() {
    let mut cluster = behind(40);
    let busy = FOREGROUND_BUSY_BYTES as u32;
    if let Some(proc) = cluster.procs.get_mut(&ONE) {
        assert!(proc.state.core.budget.clients.take(busy));
    }
    cluster.restart(THREE);
    let mut most = 0;
    while done(&cluster) < 20 * LEN as u64 {
        cluster.run_ms(1);
        most = most.max(cluster.procs[&ONE].state.core.copies);
    }
    assert_eq!(most, 1);
    if let Some(proc) = cluster.procs.get_mut(&ONE) {
        proc.state.core.budget.clients.give(busy);
    }
    cluster.heal();
}

#[test]
fn a_large_group_is_compared_only_as_far_as_its_copies_find_room() {
    let mut cluster = behind(1);
    for (_, store) in cluster.stores.iter_mut().filter(|(target, _)| **target != THREE) {
        for number in 0..RESYNC_QUEUE_MAX as u64 {
            let version = Version { epoch: Epoch(1), counter: 1 };
            let held = Held { version, bytes: Rc::new(vec![1]), ..Held::default() };
            store.chunks.insert((GROUP, key(10 + number)), vec![held]);
        }
    }
    rate(&mut cluster, ONE, 1);
    cluster.restart(THREE);
    let queued = |cluster: &Cluster| {
        let member = &cluster.procs[&ONE].state.groups[&GROUP];
        member.resync.get(&THREE).map_or(0, |resync| resync.copies.len())
    };
    cluster.run_until("a full queue", |cluster| queued(cluster) > RESYNC_QUEUE_MAX - RESYNC_PAGE);
    cluster.run_ms(2000);
    assert!(queued(&cluster) <= RESYNC_QUEUE_MAX, "{}", queued(&cluster));
    let all = (RESYNC_QUEUE_MAX + LEN) as u64;
    assert_eq!(left(&cluster) + done(&cluster), all, "what was not compared counts");
    rate(&mut cluster, ONE, 0);
    cluster.heal();
}

/// Three members, of which the third lacks 20 chunks, is back and has just the room left at which
/// no copy of a plan is taken any more.
fn nearly_full() -> Cluster {
    let mut cluster = behind(20);
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.free = (1 << 30) * (100 - RESYNC_STOP_PERCENT) / 100;
    }
    cluster.restart(THREE);
    cluster.run_until("a member that catches up", |cluster| {
        cluster.coordinator.record().member(THREE).is_some()
    });
    cluster
}

fn serves_three(cluster: &Cluster) -> bool {
    cluster.coordinator.record().serving().any(|member| member.target == THREE)
}

#[test]
fn a_move_into_a_nearly_full_target_waits_for_room() {
    let mut cluster = nearly_full();
    assert!(cluster.coordinator.plan_copy(THREE, PlanReason::Rebalance));
    cluster.push_maps();
    cluster.run_until("the refusal", |cluster| refused(cluster) > 0);
    cluster.run_ms(10_000);
    let copied = |cluster: &Cluster| {
        let of_three = |key: &ChunkKey| cluster.stores[&THREE].newest(GROUP, *key).is_some();
        (0..20).map(key).filter(of_three).count()
    };
    assert_eq!((copied(&cluster), serves_three(&cluster)), (0, false));
    if let Some(store) = cluster.stores.get_mut(&THREE) {
        store.free += 1 << 20;
    }
    cluster.run_until("promotion", serves_three);
    assert_eq!(copied(&cluster), 20);
}

#[test]
fn a_nearly_full_target_replaces_a_lost_replica() {
    let mut cluster = nearly_full();
    assert!(cluster.coordinator.plan_copy(THREE, PlanReason::Heal));
    cluster.push_maps();
    cluster.run_until("promotion", serves_three);
    assert_eq!(refused(&cluster), 0);
    cluster.heal();
}

#[test]
fn a_member_that_returned_is_brought_up_to_date_also_when_it_is_nearly_full() {
    let mut cluster = nearly_full();
    cluster.run_until("promotion", serves_three);
    assert_eq!(refused(&cluster), 0);
    cluster.heal();
}
