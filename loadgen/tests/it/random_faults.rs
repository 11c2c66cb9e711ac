//! Random faults on a whole cluster: whatever breaks, nothing acknowledged is lost or wrong, and
//! once everything is mended the cluster becomes healthy and its replicas equal.

use loadgen::sim::profile::Mode;
use loadgen::sim::run::{Outcome, Plan};

fn run(seed: u64, mode: Mode) -> Outcome {
    let plan = Plan { seed, mode };
    println!("{}", plan.command());
    plan.run(None)
}

#[test]
fn whatever_breaks_nothing_acknowledged_is_lost_and_the_cluster_heals() {
    for seed in [0, 1, 3, 5] {
        let outcome = run(seed, Mode::Liveness);
        assert!(outcome.acknowledged > 0 && outcome.read > 0, "the run does something");
    }
}
