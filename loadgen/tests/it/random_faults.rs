//! Random faults on a whole cluster: whatever breaks, nothing acknowledged is lost or wrong, and
//! once everything is mended the cluster becomes healthy and its replicas equal.

use std::process::Command;

use loadgen::sim::profile::{Mode, Profile};
use loadgen::sim::run::{Outcome, Plan};

/// Seeds of a normal run: two standard ones and two that make something scarce.
const SEEDS: [u64; 2] = [0, 3];

fn run(seed: u64, mode: Mode) -> Outcome {
    let plan = Plan { seed, mode };
    eprintln!("{}", plan.command());
    plan.run(None)
}

#[test]
fn whatever_breaks_nothing_acknowledged_is_lost_and_the_cluster_heals() {
    for seed in SEEDS {
        let outcome = run(seed, Mode::Liveness);
        assert!(outcome.acknowledged > 0 && outcome.read > 0, "the run does something");
    }
}

#[test]
fn whatever_breaks_without_restriction_no_wrong_byte_is_returned() {
    let outcome = run(5, Mode::Unrestricted);
    assert!(outcome.acknowledged > 0 && outcome.read > 0, "the run does something");
}

/// The command runs seeds in processes of its own; neither that nor their number changes a run.
#[test]
fn the_same_seed_gives_the_same_run_in_any_process() {
    let program = env!("CARGO_BIN_EXE_lanefs-loadgen");
    let arguments = ["sim", "--seed", "9", "--seeds", "2", "--hashes", "--jobs", "2"];
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let mut told: Vec<&str> = text.lines().filter(|line| line.starts_with("hash ")).collect();
    told.sort_unstable();
    let own = |seed| format!("hash {seed} {:016x}", run(seed, Mode::Liveness).hash);
    let mut wanted = [own(9), own(10)];
    wanted.sort_unstable();
    assert_eq!(told, wanted);
}

#[test]
fn profiles_follow_from_the_seed_and_every_second_one_is_standard() {
    let names = || (0..200).map(|seed| Profile::of(seed).name).collect::<Vec<_>>();
    assert_eq!(names(), names());
    assert_eq!(names().iter().filter(|name| **name == "standard").count(), 100);
    let different: std::collections::BTreeSet<_> = names().into_iter().collect();
    assert!(different.len() >= 8, "{different:?}");
}
