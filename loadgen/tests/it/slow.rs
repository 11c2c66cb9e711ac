//! A device that is much slower than its peers is found and avoided; one that is busy is not.

use std::rc::Rc;
use std::time::Duration;

use loadgen::sim::check::Ledger;
use loadgen::sim::client::SimClient;
use loadgen::sim::cluster::{SimCluster, target_of};
use loadgen::sim::disk::Pace;
use loadgen::sim::fault::atlas::Damaged;
use loadgen::sim::profile::{Load, Mode, Profile};
use loadgen::sim::workload::Workload;
use protocol::cluster_map::TargetState;
use protocol::ids::{NodeId, SessionId, TargetId};

/// A moderate load on five nodes.
fn start(seed: u64, change: impl Fn(&mut Load)) -> (SimCluster, Rc<Workload>) {
    let mut load = Profile::standard().load;
    load = Load { clients: 2, writers: 3, readers: 2, operations_per_s: 60, ..load };
    change(&mut load);
    let cluster = SimCluster::start(seed, 5);
    let sessions = (1..=load.clients).map(SessionId);
    let clients: Vec<_> = sessions.map(|session| SimClient::new(&cluster, session)).collect();
    let ledger = Ledger::new(&cluster, 2, Mode::Liveness, Damaged::default());
    let workload = Workload::start(&cluster, &ledger, &load, &clients);
    (cluster, workload)
}

fn seconds(cluster: &SimCluster, count: u64) {
    cluster.executor().run_until(Duration::from_secs(count), || false);
}

fn slow(cluster: &SimCluster) -> Vec<TargetId> {
    let targets = cluster.coordinator().map().targets.clone();
    let slow = targets.values().filter(|target| target.state == TargetState::Slow);
    slow.map(|target| target.id).collect()
}

fn leads(cluster: &SimCluster, target: TargetId) -> usize {
    let map = cluster.coordinator().map();
    let leads = map.groups.values().filter_map(|group| group.primary());
    leads.filter(|primary| primary.target == target).count()
}

fn end(cluster: &SimCluster, workload: &Workload) {
    workload.stop();
    cluster.executor().run_until(Duration::from_secs(60), || workload.running() == 0);
    assert_eq!(workload.running(), 0);
    cluster.executor().finish();
}

#[test]
fn a_target_twenty_times_slower_is_avoided_and_leads_nothing_within_half_a_minute() {
    let (cluster, workload) = start(3, |_| {});
    seconds(&cluster, 10);
    assert_eq!(slow(&cluster), []);
    let sick = target_of(NodeId(2));
    assert!(leads(&cluster, sick) > 0);
    cluster.disk(NodeId(2)).set_pace(Pace::Times(20));
    seconds(&cluster, 30);
    assert_eq!((slow(&cluster), leads(&cluster, sick)), (vec![sick], 0));
    cluster.disk(NodeId(2)).set_pace(Pace::Normal);
    seconds(&cluster, 75);
    assert_eq!(slow(&cluster), [], "it was well for long enough");
    end(&cluster, &workload);
}

#[test]
fn targets_that_have_more_to_do_than_others_are_not_accused() {
    let (cluster, workload) = start(4, |load| {
        load.groups = 1;
        load.operations_per_s = 120;
    });
    for _ in 0..40 {
        seconds(&cluster, 1);
        assert_eq!(slow(&cluster), []);
    }
    end(&cluster, &workload);
}
