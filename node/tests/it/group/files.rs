//! Orders about single files: chunks that are cut, lengths that are reported.

use node::limits::{DEAD_FILES_WAITING_MAX, FILE_ORDERS_WAITING_MAX, TRIMS_IN_FLIGHT_MAX};
use node::shard::control::ControlEvent;
use node::shard::control::ShardReport;
use node::shard::event::Event;
use protocol::ids::{ChunkKey, Fid, TargetId};
use protocol::message::chunk::WriteClass;
use protocol::message::heal::{ChunkLen, GroupOrders, GroupReports, Measure, Measured, Trim};
use protocol::status::Status;

use super::cluster::{Cluster, Shape};
use super::coordinator::GROUP;
use super::scenarios::{THREE, activated, epoch, quiet};

const ONE: TargetId = TargetId(1);

fn trim(fid: Fid, len: u64, trunc_gen: u32) -> Trim {
    Trim { fid, len, trunc_gen, chunk_log2: 22 }
}

fn order(cluster: &mut Cluster, trims: Vec<Trim>) {
    order_both(cluster, trims, Vec::new());
}

fn order_both(cluster: &mut Cluster, trims: Vec<Trim>, measures: Vec<Measure>) {
    let orders = vec![GroupOrders { group: GROUP, trims, measures }];
    cluster.tell(ONE, 0, Event::Control(ControlEvent::FileOrders(orders)));
}

#[test]
fn orders_beyond_the_bound_are_left_to_the_coordinator() {
    let shape = Shape { targets: 3, min_write: 2, clients: 0, loss: false };
    let mut cluster = Cluster::new(1, shape);
    cluster.reports_lost = true; // The epoch never becomes active, so no work is done.
    cluster.run_ms(10);
    let fids = (0..=FILE_ORDERS_WAITING_MAX as u64).map(|fid| trim(Fid(fid), 0, 1));
    order(&mut cluster, fids.collect());
    cluster.run_ms(20);
    let files = &cluster.procs[&ONE].state.groups[&GROUP].files;
    assert_eq!(files.trims.len(), FILE_ORDERS_WAITING_MAX);
    assert!(files.trims.values().all(|work| work.cutting.len() <= TRIMS_IN_FLIGHT_MAX));
}

#[test]
fn dead_files_beyond_the_bound_are_left_to_the_coordinator() {
    let shape = Shape { targets: 3, min_write: 2, clients: 0, loss: false };
    let mut cluster = Cluster::new(1, shape);
    cluster.reports_lost = true; // The epoch never becomes active, so no work is done.
    cluster.run_ms(10);
    let all = DEAD_FILES_WAITING_MAX as u64 + 1;
    let drop = |cluster: &mut Cluster, number: u64| {
        let files = vec![(GROUP, vec![Fid(number)])];
        cluster.tell(ONE, 0, Event::Control(ControlEvent::DropFiles(files)));
        cluster.run_ms(2);
    };
    (0..all).for_each(|number| drop(&mut cluster, number));
    assert_eq!(cluster.procs[&ONE].state.groups[&GROUP].dead.len(), DEAD_FILES_WAITING_MAX);
    let dropped = |cluster: &Cluster| {
        let reports = cluster.procs[&ONE].reports.iter().filter_map(|report| match report {
            ShardReport::DropDone(done) => Some(done.groups[0].1[0].0),
            _ => None,
        });
        reports.collect::<Vec<u64>>()
    };
    cluster.reports_lost = false;
    cluster.run_until("reports", |cluster| dropped(cluster).len() == DEAD_FILES_WAITING_MAX);
    assert_eq!(dropped(&cluster), (0..all - 1).collect::<Vec<_>>());
    drop(&mut cluster, all - 1);
    cluster.run_until("the last report", |cluster| dropped(cluster).last() == Some(&(all - 1)));
}

/// What the first member reported, in order.
fn reports(cluster: &Cluster) -> Vec<GroupReports> {
    let files = cluster.procs[&ONE].reports.iter().filter_map(|report| match report {
        ShardReport::FileReports(reports) => Some(reports.groups.clone()),
        _ => None,
    });
    files.flatten().collect()
}

/// Chunks of a file, each with these bytes.
fn file(cluster: &mut Cluster, fid: Fid, chunks: u32, bytes: &[u8]) {
    for index in 0..chunks {
        let key = ChunkKey { fid, index };
        cluster.ask_change(ONE, key, 1, (WriteClass::Growth, 0, bytes));
    }
    cluster.run_ms(300);
    assert!(cluster.answers.iter().all(|(_, answer)| answer.is_ok()));
    assert_eq!(cluster.answers.len() as u32, chunks);
    cluster.answers.clear();
}

fn lens(cluster: &Cluster, target: u32, fid: Fid, chunks: u32) -> Vec<usize> {
    let store = &cluster.stores[&TargetId(target)];
    (0..chunks).map(|index| store.len(GROUP, ChunkKey { fid, index })).collect()
}

#[test]
fn a_file_is_cut_on_every_member_once_and_late_writes_of_before_are_refused() {
    let (mut cluster, _) = quiet();
    let (fid, count) = (Fid(500), TRIMS_IN_FLIGHT_MAX as u32 + 3);
    file(&mut cluster, fid, count, b"0123456789");
    file(&mut cluster, Fid(501), 1, b"another file");
    let len = (1u64 << 22) + 4;
    order(&mut cluster, vec![trim(fid, len, 7)]);
    cluster.run_until("the report", |cluster| !reports(cluster).is_empty());
    let mut expected = vec![0; count as usize];
    (expected[0], expected[1]) = (10, 4);
    for target in 1..=3 {
        assert_eq!(lens(&cluster, target, fid, count), expected, "{target}");
        assert_eq!(lens(&cluster, target, Fid(501), 1), [12]);
    }
    let group = GroupReports { group: GROUP, trimmed: vec![(fid, 7)], measured: Vec::new() };
    assert_eq!(reports(&cluster), vec![group.clone()]);
    // A writer of before the cut.
    cluster.ask_change(ONE, ChunkKey { fid, index: 1 }, 2, (WriteClass::Growth, 4, b"late"));
    cluster.run_ms(50);
    assert_eq!(cluster.answers, [(2, Err(Status::StaleFile))]);
    // The same order again changes nothing and is reported again.
    let counter = cluster.procs[&ONE].state.groups[&GROUP].writes.counter;
    order(&mut cluster, vec![trim(fid, len, 7)]);
    cluster.run_ms(50);
    assert_eq!(reports(&cluster), vec![group.clone(), group]);
    assert_eq!(cluster.procs[&ONE].state.groups[&GROUP].writes.counter, counter);
    cluster.heal();
}

#[test]
fn a_cut_goes_on_under_the_next_primary_when_it_is_ordered_again() {
    let (mut cluster, _) = quiet();
    let fid = Fid(500);
    file(&mut cluster, fid, 3, b"0123456789");
    cluster.cut.push((ONE, THREE));
    order(&mut cluster, vec![trim(fid, 0, 7)]);
    cluster.run_ms(60);
    assert_eq!(lens(&cluster, 2, fid, 3), [0, 0, 0]);
    assert_eq!(lens(&cluster, 3, fid, 3), [10, 10, 10]);
    let before = epoch(&cluster);
    cluster.kill(ONE);
    cluster.cut.clear();
    activated(&mut cluster, before);
    let orders =
        vec![GroupOrders { group: GROUP, trims: vec![trim(fid, 0, 7)], measures: Vec::new() }];
    cluster.tell(TargetId(2), 0, Event::Control(ControlEvent::FileOrders(orders)));
    cluster.run_until("the report", |cluster| {
        let reports = &cluster.procs[&TargetId(2)].reports;
        reports.iter().any(|report| matches!(report, ShardReport::FileReports(_)))
    });
    assert_eq!(lens(&cluster, 3, fid, 3), [0, 0, 0]);
    assert!(cluster.coordinator.record().mutations, "a cut changes bytes like any other change");
    cluster.heal();
}

#[test]
fn a_file_is_measured_when_nothing_of_it_is_on_its_way() {
    let (mut cluster, _) = quiet();
    let fid = Fid(500);
    file(&mut cluster, fid, 3, b"0123456789");
    cluster.slow.insert(TargetId(3), 300);
    let key = ChunkKey { fid, index: 2 };
    cluster.ask_change(ONE, key, 9, (WriteClass::Growth, 10, b"more"));
    cluster.run_ms(20);
    order_both(&mut cluster, Vec::new(), vec![Measure { fid, first_chunk: 1 }]);
    cluster.run_ms(100);
    assert_eq!(reports(&cluster), [], "a write is on its way");
    cluster.run_until("the report", |cluster| !reports(cluster).is_empty());
    let chunks = vec![ChunkLen { index: 1, len: 10 }, ChunkLen { index: 2, len: 14 }];
    assert_eq!(reports(&cluster)[0].measured, [Measured { fid, chunks }]);
    cluster.slow.clear();
    cluster.heal();
}
