//! Seeded runs: kills, restarts, lost and repeated messages, slow devices; then everything heals.
//!
//! `LANEFS_SEED` repeats one seed, `LANEFS_SEEDS` changes how many are run.

use node::store::StoreError;
use protocol::ids::TargetId;

use super::cluster::{Cluster, Happening, Shape};

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
        match cluster.dice(11) {
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
            7 => {
                let delay = 50 + cluster.dice(900);
                cluster.slow.insert(target, delay);
            }
            8 => {
                // It hears the coordinator no more, answers everybody else, and is given up.
                cluster.deaf.insert(target);
                let pause = cluster.dice(1500);
                cluster.later(pause, Happening::Suspect(target));
            }
            9 => damage(&mut cluster, target),
            _ => {
                cluster.deaf.clear();
                cluster.push_maps();
            }
        }
    }
    cluster.heal();
    cluster
}

/// The store of a target has no room for a while, or cannot build on what it has.
fn damage(cluster: &mut Cluster, target: TargetId) {
    let full = cluster.dice(2) == 0;
    if let Some(store) = cluster.stores.get_mut(&target) {
        store.failing = full.then_some(StoreError::NoSpace);
        store.corrupt = !full;
    }
    let pause = cluster.dice(300);
    cluster.run_ms(pause);
    if let Some(store) = cluster.stores.get_mut(&target) {
        (store.failing, store.corrupt) = (None, false);
    }
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
