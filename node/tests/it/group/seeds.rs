//! Seeded runs: kills, restarts, lost and repeated messages, slow devices; then everything heals.
//!
//! `LANEFS_SEED` repeats one seed, `LANEFS_SEEDS` changes how many are run.

use protocol::ids::TargetId;

use super::cluster::{Cluster, Shape};

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("LANEFS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LANEFS_SEEDS").unwrap_or(300),
    }
}

fn run(seed: u64, shape: Shape) -> Cluster {
    let mut cluster = Cluster::new(seed, shape);
    let rounds = 3 + cluster.dice(5);
    for _ in 0..rounds {
        let pause = 20 + cluster.dice(700);
        cluster.run_ms(pause);
        let target = TargetId(1 + cluster.dice(u64::from(shape.targets)) as u32);
        match cluster.dice(8) {
            0..=2 => cluster.kill(target),
            3..=5 => cluster.revive(target),
            6 => {
                let targets: Vec<TargetId> = cluster.procs.keys().copied().collect();
                targets.iter().for_each(|target| cluster.kill(*target));
                let pause = cluster.dice(300);
                cluster.run_ms(pause);
                for target in targets {
                    if cluster.dice(4) > 0 {
                        cluster.restart(target);
                    }
                }
            }
            _ => {
                let delay = 50 + cluster.dice(900);
                cluster.slow.insert(target, delay);
            }
        }
    }
    cluster.heal();
    cluster
}

fn run_all(shape: Shape) {
    let (mut acks, mut reads, mut frozen) = (0, 0, 0);
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(|| run(seed, shape));
        match outcome {
            Ok(cluster) => {
                acks += cluster.acks();
                reads += cluster.reads;
                frozen += cluster.frozen_seen;
            }
            Err(cause) => {
                println!("repeat with LANEFS_SEED={seed}, shape {shape:?}");
                std::panic::resume_unwind(cause);
            }
        }
    }
    println!("{acks} acknowledged writes, {reads} reads, {frozen} looks at frozen pendings");
    assert!(acks > 0 && reads > 0, "the runs do something");
}

#[test]
fn three_members_lose_nothing_and_end_equal() {
    run_all(Shape { targets: 3, min_write: 2, clients: 3, loss: true });
}

#[test]
fn a_group_that_needs_all_members_freezes_and_ends_equal() {
    run_all(Shape { targets: 3, min_write: 3, clients: 2, loss: true });
}

#[test]
fn two_members_end_equal() {
    run_all(Shape { targets: 2, min_write: 2, clients: 2, loss: true });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let shape = Shape { targets: 3, min_write: 2, clients: 3, loss: true };
    assert_eq!(run(11, shape).digest, run(11, shape).digest);
    assert_ne!(run(11, shape).digest, run(12, shape).digest);
}
