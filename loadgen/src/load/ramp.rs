//! Where the knee is: the load beyond which more of it costs latency and brings little.

use client::Config;

use super::outcome::Outcome;
use super::scenario::Scenario;
use super::{Load, Options};
use crate::cluster::StepError;
use crate::limits::LOAD_AT_ONCE_MAX;
use crate::stats::figure;

/// Throughput that a step must add to go on, as a factor.
const GAIN_LEAST: f64 = 1.03;

/// Doubles what is kept running, up to the scenario's `at_once`, and prints each step and the knee.
///
/// # Errors
/// [`StepError`] when a step fails. A step whose generator is saturated ends the ramp.
pub(super) fn run(
    config: &Config,
    scenario: &Scenario,
    options: &Options,
) -> Result<(), StepError> {
    let mut steps: Vec<Outcome> = Vec::new();
    let mut at_once = 1;
    while at_once <= scenario.at_once.min(LOAD_AT_ONCE_MAX) {
        let clients = scenario.clients.min(at_once);
        let threads = scenario.threads.min(at_once);
        let step = Scenario { rate: None, at_once, clients, threads, ..scenario.clone() };
        let load = Load { quiet: true, ..Load::of(config, &step, options) };
        let outcome = load.put_on()?.outcome;
        println!("{}", line(&outcome));
        let stop = outcome.void.is_some() || outcome.failed > 0;
        let gained = steps.last().is_none_or(|last| outcome.per_s > last.per_s * GAIN_LEAST);
        if !stop {
            steps.push(outcome);
        }
        if stop || !gained {
            break;
        }
        at_once *= 2;
    }
    match knee(&steps) {
        Some(at) => {
            println!("knee: {} at once, {} operations/s", at.scenario.at_once, figure(at.per_s));
            Ok(())
        }
        None => Err(StepError::Different("no step of the ramp can be used".to_owned())),
    }
}

/// The step with the most throughput for its latency (Kleinrock's power).
fn knee(steps: &[Outcome]) -> Option<&Outcome> {
    let power = |step: &Outcome| step.per_s / step.mean_ms;
    steps.iter().max_by(|a, b| power(a).total_cmp(&power(b)))
}

fn line(step: &Outcome) -> String {
    let void = step.void.as_ref().map_or_else(String::new, |why| format!("  VOID: {why}"));
    format!(
        "{:>6} at once {:>9} operations/s {:>9} MB/s  ms: mean {} p99 {}{void}",
        step.scenario.at_once,
        figure(step.per_s),
        figure(step.bytes_per_s / 1e6),
        figure(step.mean_ms),
        figure(step.ms(0.99))
    )
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::outcome;
    use super::*;

    #[test]
    fn the_knee_is_where_throughput_over_latency_is_largest() {
        let step = |at_once, per_s, mean_ms| {
            let mut step = outcome(&[10; 10]);
            (step.scenario.at_once, step.per_s, step.mean_ms) = (at_once, per_s, mean_ms);
            step
        };
        let steps = [step(1, 100.0, 1.0), step(2, 180.0, 1.1), step(4, 220.0, 1.8)];
        assert_eq!(knee(&steps).unwrap().scenario.at_once, 2);
        assert!(knee(&[]).is_none());
    }
}
