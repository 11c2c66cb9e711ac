//! Clients that do not reach a primary which everybody else reaches.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use loadgen::sim::client::{SimClient, process_of_client};
use loadgen::sim::cluster::{SimCluster, process_of};
use loadgen::sim::executor::{ProcessId, Stop};
use protocol::ids::{ChunkKey, Fid, NodeId, SessionId, TargetId};

/// Process of the workload itself.
const WORKLOAD: ProcessId = ProcessId(900);
/// Time within which writing must go on: doubt, questions, a new epoch.
const SOON: Duration = Duration::from_secs(8);

/// Has as many clients write to a group whose primary they do not reach; how many of them got an
/// answer in time, and whether another target leads.
fn cut_from_the_primary(clients: u64, also_from_others: bool) -> (usize, bool) {
    let cluster = SimCluster::start(7, 3);
    let map = cluster.coordinator().map();
    let (id, group) = map.groups.iter().next().unwrap();
    let primary = group.primary().unwrap().target;
    let done = Rc::new(RefCell::new(0));
    for session in (1..=clients).map(SessionId) {
        let client = SimClient::new(&cluster, session);
        for node in (1..=3).map(NodeId) {
            if also_from_others || map.targets[&primary].node == node {
                cluster.fabric().cuts().cut(process_of_client(session), process_of(node));
            }
        }
        let (group, done) = (*id, Rc::clone(&done));
        cluster.executor().spawn(WORKLOAD, async move {
            let key = ChunkKey { fid: Fid(session.0), index: 0 };
            let written = client.append(group, key, 1, 0, b"bytes").await;
            *done.borrow_mut() += usize::from(written.is_ok());
        });
    }
    let all = usize::try_from(clients).unwrap();
    let stop = cluster.executor().run_until(SOON, || *done.borrow() == all);
    assert_eq!(stop == Stop::Reached, *done.borrow() == all);
    let leads: TargetId = cluster.coordinator().map().groups[id].primary().unwrap().target;
    (*done.borrow(), leads != primary)
}

#[test]
fn f21_three_clients_that_do_not_reach_a_primary_have_it_moved() {
    assert_eq!(cut_from_the_primary(3, false), (3, true));
}

#[test]
fn f21_two_clients_are_too_few() {
    assert_eq!(cut_from_the_primary(2, false), (0, false));
}

#[test]
fn f21_clients_that_reach_nobody_accuse_nobody() {
    assert_eq!(cut_from_the_primary(3, true), (0, false));
}
