//! The load generator itself: what it reports beside what an independent recorder saw, and what it
//! costs when the operations do nothing.

use std::time::Duration;

use super::Bench;
use super::rounds::{Rounds, Seen, Side};
use super::table::Row;
use crate::cluster::StepError;
use crate::load::Load;
use crate::load::echo::{Answered, Recorder};
use crate::load::scenario::Scenario;
use crate::load::subject::Target;

/// Operations per second that the recorder answers.
const ECHO_RATE: f64 = 2_000.0;
/// Operations per second of which the cost is measured.
const IDLE_RATE: f64 = 50_000.0;
/// What is compared; the standstill is in the last ones.
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.95, 0.99, 1.0];

/// Measures every row about the generator.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, StepError> {
    let sides = vec![
        Side::new("report", |_| recorded().map(|off| Seen { per_s: off, eff: 1.0 })),
        Side::new("busy", |_| busy().map(|part| Seen { per_s: part, eff: 1.0 })),
        Side::new("one", |_| Ok(Seen { per_s: 1.0, eff: 1.0 })),
    ];
    let rounds = Rounds::run(bench.rounds, sides)?;
    let report = "loadgen: reported latency off an independent recorder's, p50 to max";
    let busy = "loadgen: part of a core at 50,000 operations/s that do nothing";
    Ok(vec![
        Row::at_most(report, rounds.per_s("report", "one"), 0.02),
        Row::at_most(busy, rounds.per_s("busy", "one"), 0.10),
    ])
}

/// The largest difference of a quantile, as a part of what the recorder saw.
fn recorded() -> Result<f64, StepError> {
    let failed = |error: std::io::Error| StepError::Different(format!("recorder: {error}"));
    let recorder = Recorder::start().map_err(failed)?;
    let scenario = Scenario {
        rate: Some(ECHO_RATE),
        at_once: 4096,
        warm_up: 0.0,
        seconds: 2,
        ..Scenario::default()
    };
    let load = Load::quiet(Target::Echo(recorder.address()), &scenario);
    let outcome = load.put_on()?.outcome;
    let expected = latencies(&recorder.end().map_err(failed)?);
    if outcome.failed > 0 || expected.len() as u64 != outcome.succeeded {
        return Err(StepError::Different(format!(
            "{} operations failed; {} were answered and {} reported",
            outcome.failed,
            expected.len(),
            outcome.succeeded
        )));
    }
    let off = |quantile: f64| {
        let expected = exact(&expected, quantile).as_secs_f64() * 1e3;
        (outcome.ms(quantile) - expected).abs() / expected
    };
    Ok(QUANTILES.into_iter().map(off).fold(0.0, f64::max))
}

/// What should have been reported: from when each was due to when it was answered, in order.
///
/// The begin of the load is not known to the recorder: it is when the earliest would have been due.
fn latencies(seen: &[Answered]) -> Vec<Duration> {
    let after = |number: u64| Duration::from_secs_f64(number as f64 / ECHO_RATE);
    let begins = seen.iter().filter_map(|it| it.came.checked_sub(after(it.number)));
    let Some(begun) = begins.min() else { return Vec::new() };
    let took = |it: &Answered| it.answered.saturating_duration_since(begun + after(it.number));
    let mut latencies: Vec<Duration> = seen.iter().map(took).collect();
    latencies.sort_unstable();
    latencies
}

/// The value of that rank, exactly.
fn exact(sorted: &[Duration], quantile: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank of a few thousand"
    )]
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The part of a core that the generator uses when the operations do nothing.
fn busy() -> Result<f64, StepError> {
    let scenario = Scenario {
        rate: Some(IDLE_RATE),
        at_once: 4096,
        warm_up: 0.2,
        seconds: 1,
        ..Scenario::default()
    };
    let outcome = Load::quiet(Target::Nothing, &scenario).put_on()?.outcome;
    Ok(outcome.busy_percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::now;

    #[test]
    fn what_was_due_during_a_standstill_counts_from_when_it_was_due() {
        let begun = now();
        let ms = Duration::from_millis;
        // Due every half millisecond; the first two came in time, the third 100 ms late.
        let seen = [(0, 0, 5), (1, 1, 5), (2, 101, 106)].map(|(number, came, answered)| Answered {
            number,
            came: begun + ms(came),
            answered: begun + ms(answered),
        });
        let latencies = latencies(&seen);
        assert_eq!(latencies[0], Duration::from_micros(4_500));
        assert_eq!(latencies[2], ms(105));
        assert_eq!(exact(&latencies, 1.0), ms(105));
        assert_eq!(exact(&latencies, 0.5), ms(5));
        assert_eq!(exact(&[], 0.5), Duration::ZERO);
    }
}
