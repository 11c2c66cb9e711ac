//! Orders about single files: chunks that are cut, lengths that are reported.

use node::limits::{FILE_ORDERS_WAITING_MAX, TRIMS_IN_FLIGHT_MAX};
use node::shard::control::ControlEvent;
use node::shard::event::Event;
use protocol::ids::{Fid, TargetId};
use protocol::message::heal::{GroupOrders, Trim};

use super::cluster::{Cluster, Shape};
use super::coordinator::GROUP;

const ONE: TargetId = TargetId(1);

fn trim(fid: Fid, len: u64, trunc_gen: u32) -> Trim {
    Trim { fid, len, trunc_gen, chunk_log2: 22 }
}

fn order(cluster: &mut Cluster, trims: Vec<Trim>) {
    let orders = vec![GroupOrders { group: GROUP, trims, measures: Vec::new() }];
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
