//! What a campaign prints.

#![expect(clippy::print_stdout, reason = "a command prints its results")]

use std::time::Duration;

use super::{COVERAGE_MIN_PERCENT, Green, Totals};
use crate::sim::mark::EXPECTED;
use crate::sim::run::Plan;

/// Prints a red seed and the command that repeats it.
pub(super) fn print_red(plan: &Plan, why: &str) {
    println!("RED seed {}: {why}\n    {}", plan.seed, plan.command());
}

/// Prints the digest of a seed.
pub(super) fn print_hash(green: &Green) {
    println!("hash {} {:016x}", green.seed, green.hash);
}

/// Prints the sums.
pub(super) fn print(totals: &Totals, real: Duration) {
    let per_s = |count: f64| count / real.as_secs_f64().max(0.001);
    let busy = totals.busy.as_secs_f64().max(0.001);
    println!(
        "{} seeds in {:.0} s ({:.2} seeds/s), {} red",
        totals.seeds,
        real.as_secs_f64(),
        per_s(as_f64(totals.seeds)),
        totals.red.len()
    );
    println!(
        "{:.0} simulated s, {:.0} times real time on one processor, {:.2} M events/s",
        totals.simulated.as_secs_f64(),
        rate(totals.simulated, totals.busy),
        as_f64(totals.polls) / busy / 1e6
    );
    println!("{} acknowledged writes, {} checked reads", totals.acknowledged, totals.read);
    print_profiles(totals);
    print_marks(totals);
    if !totals.red.is_empty() {
        println!("red seeds: {:?}", totals.red);
    }
}

/// The bar for the speed is stated for the standard profile.
fn print_profiles(totals: &Totals) {
    println!("{:<28} {:>8} {:>22}", "profile", "runs", "times real time");
    for (name, share) in &totals.profiles {
        let rate = rate(share.simulated, share.busy);
        println!("{name:<28} {:>8} {rate:>22.0}", share.seeds);
    }
}

/// Simulated seconds for each second of processor time.
fn rate(simulated: Duration, busy: Duration) -> f64 {
    simulated.as_secs_f64() / busy.as_secs_f64().max(0.001)
}

fn print_marks(totals: &Totals) {
    println!("{:<28} {:>8} {:>7} {:>10}", "met", "runs", "%", "times");
    let known = EXPECTED.iter().map(|name| (*name, totals.marks.get(*name)));
    let other = totals.marks.iter().filter(|(name, _)| !EXPECTED.contains(&name.as_str()));
    let other = other.map(|(name, counts)| (name.as_str(), Some(counts)));
    for (name, counts) in known.chain(other) {
        let (runs, times) = counts.copied().unwrap_or_default();
        let percent = as_f64(runs) * 100.0 / as_f64(totals.seeds.max(1));
        println!("{name:<28} {runs:>8} {percent:>7.1} {times:>10}");
    }
}

/// Situations that too few runs met.
pub(super) fn rare(totals: &Totals) -> Vec<&'static str> {
    let runs = |name: &str| totals.marks.get(name).map_or(0, |(runs, _)| *runs);
    EXPECTED
        .iter()
        .copied()
        .filter(|name| runs(name) * 100 < totals.seeds * COVERAGE_MIN_PERCENT)
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
