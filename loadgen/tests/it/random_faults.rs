//! Random faults on a whole cluster: whatever breaks, nothing acknowledged is lost or wrong, and
//! once everything is mended the cluster becomes healthy and its replicas equal.
//!
//! `LANEFS_SEED` repeats one seed, `LANEFS_SEEDS` changes how many are run.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use loadgen::sim::check::Ledger;
use loadgen::sim::client::{SimClient, process_of_client};
use loadgen::sim::cluster::SimCluster;
use loadgen::sim::executor::Stop;
use loadgen::sim::fault::{Chaos, Story};
use loadgen::sim::workload::Workload;
use protocol::ids::SessionId;

/// Seeds of a normal run.
const SEEDS: u64 = 4;
/// Clients of each run.
const CLIENTS: u64 = 3;
/// How long things break, and the longest time that operations and checks take afterwards.
const RAGE: Duration = Duration::from_secs(25);
const SETTLING: Duration = Duration::from_secs(60);

#[test]
fn whatever_breaks_nothing_acknowledged_is_lost_and_the_cluster_heals() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("LANEFS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LANEFS_SEEDS").unwrap_or(SEEDS),
    };
    let (mut acknowledged, mut read) = (0, 0);
    for seed in seeds {
        let story = Story::default();
        match catch_unwind(AssertUnwindSafe(|| run(seed, &story))) {
            Ok(ledger) => {
                acknowledged += ledger.acknowledged.get();
                read += ledger.read.get();
            }
            Err(cause) => {
                println!("{}\nrepeat with LANEFS_SEED={seed}", story.borrow().join("\n"));
                resume_unwind(cause);
            }
        }
    }
    println!("{acknowledged} acknowledged writes, {read} checked reads");
    assert!(acknowledged > 0 && read > 0, "the runs do something");
}

/// In this run a member's flush fails and its primary sends the version again.
#[test]
fn a_version_that_a_failed_flush_lost_is_not_acknowledged() {
    run(32, &Story::default());
}

fn run(seed: u64, story: &Story) -> Rc<Ledger> {
    let nodes = 3 + u32::try_from(seed % 3).unwrap_or(0);
    let cluster = SimCluster::start(seed, nodes);
    let sessions: Vec<SessionId> = (1..=CLIENTS).map(SessionId).collect();
    let clients: Vec<_> =
        sessions.iter().map(|session| SimClient::new(&cluster, *session)).collect();
    let ledger = Ledger::new(&cluster, 2);
    let workload = Workload::start(&cluster, &ledger, &clients);
    let processes = sessions.into_iter().map(process_of_client).collect();
    let mut chaos = Chaos::new(cluster, nodes, processes, story);

    chaos.rage(RAGE);
    chaos.heal();
    let cluster = &chaos.cluster;
    cluster.run_until_healthy();
    workload.stop();
    settle(cluster, &workload, "operations");
    workload.read_all(&clients[0]);
    settle(cluster, &workload, "checks");
    ledger.check_inventories(cluster);
    ledger
}

fn settle(cluster: &SimCluster, workload: &Rc<Workload>, what: &str) {
    let stop = cluster.executor().run_until(SETTLING, || workload.running() == 0);
    assert_eq!(stop, Stop::Reached, "{what} end in time: {} tasks run", workload.running());
}
