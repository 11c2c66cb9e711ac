//! The result of a load: what is printed, kept as JSON and compared. Pure.

use serde::{Deserialize, Serialize};

use super::record::Tally;
use super::scenario::Scenario;
use crate::cluster::StepError;
use crate::limits::{LOAD_BUSY_PERCENT_MAX, LOAD_LATE_PERCENT_MAX};
use crate::stats::figure;

/// Version of the JSON document; readers refuse another.
pub const FORMAT: u32 = 1;
/// Quantiles of the latency curve.
const CURVE: [f64; 12] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0];

/// One run of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// [`FORMAT`].
    pub format: u32,
    /// What was run.
    pub scenario: Scenario,
    /// On what.
    pub machine: String,
    /// lanefs's version.
    pub version: String,
    /// Operations per second.
    pub per_s: f64,
    /// Payload bytes per second.
    pub bytes_per_s: f64,
    /// Operations that succeeded.
    pub succeeded: u64,
    /// Operations that failed.
    pub failed: u64,
    /// The first failures, as they were told.
    pub errors: Vec<String>,
    /// Quantile (0 to 1) and latency in milliseconds.
    pub latency: Vec<(f64, f64)>,
    /// Mean latency in milliseconds.
    pub mean_ms: f64,
    /// Second by second.
    pub seconds: Vec<Point>,
    /// Part of its time that the busiest thread of the generator worked, in per cent.
    pub busy_percent: f64,
    /// Part of the operations that the generator began late, in per cent.
    pub late_percent: f64,
    /// CPU seconds that the named servers used, when some were named.
    pub server_cpu_s: Option<f64>,
    /// Why the figures say nothing about the cluster, when they do not.
    pub void: Option<String>,
    /// The latencies second by second as an interval log, when the result is to be merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hlog: Option<String>,
}

/// One second of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Operations that ended.
    pub operations: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Median and 99th percentile of their latency, in milliseconds.
    pub p50_ms: f64,
    /// See there.
    pub p99_ms: f64,
    /// How busy each processor of this machine was, in per cent.
    pub cores: Vec<f64>,
}

/// What the generator itself needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Seconds from the begin, warm-up included.
    pub(super) elapsed_s: f64,
    /// CPU seconds of its busiest thread.
    pub(super) busiest_cpu_s: f64,
    pub(super) server_cpu_s: Option<f64>,
}

impl Outcome {
    /// Puts a result together.
    pub(super) fn new(
        scenario: Scenario,
        machine: String,
        total: &Tally,
        seconds: Vec<Point>,
        effort: Effort,
    ) -> Outcome {
        let percent = |part: f64, whole: f64| if whole > 0.0 { 100.0 * part / whole } else { 0.0 };
        let busy_percent = percent(effort.busiest_cpu_s, effort.elapsed_s);
        let late_percent = percent(total.late as f64, total.count() as f64);
        let counted_s = f64::from(scenario.seconds);
        let curve = CURVE.iter().map(|quantile| (*quantile, total.ms(*quantile)));
        Outcome {
            format: FORMAT,
            machine,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            per_s: total.times.len() as f64 / counted_s,
            bytes_per_s: total.bytes as f64 / counted_s,
            succeeded: total.times.len(),
            failed: total.failed,
            errors: total.errors.clone(),
            latency: curve.collect(),
            mean_ms: total.times.mean() / 1e3,
            seconds,
            busy_percent,
            late_percent,
            server_cpu_s: effort.server_cpu_s,
            void: void(total, busy_percent, late_percent),
            hlog: None,
            scenario,
        }
    }

    /// A quantile of the curve, in milliseconds; NaN when the curve has no such point.
    pub fn ms(&self, quantile: f64) -> f64 {
        let found = self.latency.iter().find(|(of, _)| (of - quantile).abs() < 1e-9);
        found.map_or(f64::NAN, |(_, ms)| *ms)
    }

    /// Gigabytes for each CPU second of the servers.
    pub fn bytes_per_cpu_s(&self) -> Option<f64> {
        let bytes = self.bytes_per_s * f64::from(self.scenario.seconds);
        self.server_cpu_s.filter(|cpu| *cpu > 0.0).map(|cpu| bytes / cpu)
    }

    /// The result for people, one figure a line.
    pub fn lines(&self) -> Vec<String> {
        let ms = |quantile| figure(self.ms(quantile));
        let mut lines = vec![
            format!("{} operations/s, {} MB/s", figure(self.per_s), figure(self.bytes_per_s / 1e6)),
            format!(
                "latency ms: p50 {} p90 {} p99 {} p99.9 {} max {}",
                ms(0.5),
                ms(0.9),
                ms(0.99),
                ms(0.999),
                ms(1.0)
            ),
            format!("{} succeeded, {} failed", self.succeeded, self.failed),
            format!(
                "generator: busiest thread {} % busy, {} % of the operations begun late",
                figure(self.busy_percent),
                figure(self.late_percent)
            ),
        ];
        lines.extend(
            self.bytes_per_cpu_s()
                .map(|bytes| format!("servers: {} GB per CPU second", figure(bytes / 1e9))),
        );
        lines.extend(self.errors.iter().map(|text| format!("error: {text}")));
        lines.extend(self.void.iter().map(|why| format!("VOID: {why}")));
        lines
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`StepError::Different`] with `name` and what is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Outcome, StepError> {
        let wrong = |what: String| StepError::Different(format!("{name}: {what}"));
        let outcome: Outcome =
            serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        match outcome.format {
            FORMAT => Ok(outcome),
            other => Err(wrong(format!("format {other}; this release reads {FORMAT}"))),
        }
    }
}

/// Why a run says nothing about the cluster.
fn void(total: &Tally, busy_percent: f64, late_percent: f64) -> Option<String> {
    if total.times.is_empty() {
        return Some("no operation succeeded".to_owned());
    }
    if busy_percent > LOAD_BUSY_PERCENT_MAX {
        return Some(format!(
            "the generator's busiest thread was {busy_percent:.0} % busy: more `threads`, or less load"
        ));
    }
    (late_percent > LOAD_LATE_PERCENT_MAX).then(|| {
        format!(
            "{late_percent:.1} % of the operations were begun late: a lower `rate`, more `threads`, \
             or a larger `at_once`"
        )
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::load::record::Done;

    /// A run whose seconds had so many operations each.
    pub(in crate::load) fn outcome(operations: &[u64]) -> Outcome {
        let mut total = Tally::new().unwrap();
        for took_us in 1..=operations.iter().sum::<u64>() {
            total.note(Done { took_us: 1_000 + took_us, late_us: 0, outcome: Ok(4096) });
        }
        let point = |count: &u64| Point {
            operations: *count,
            bytes: count * 4096,
            p50_ms: 1.0,
            p99_ms: 2.0,
            cores: vec![50.0, 25.0],
        };
        let scenario =
            Scenario { seconds: u32::try_from(operations.len()).unwrap(), ..Scenario::default() };
        let effort = Effort { elapsed_s: 10.0, busiest_cpu_s: 1.0, server_cpu_s: Some(2.0) };
        let seconds = operations.iter().map(point).collect();
        Outcome::new(scenario, "a machine".to_owned(), &total, seconds, effort)
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let outcome = outcome(&[100, 110, 90]);
        let text = serde_json::to_string(&outcome).unwrap();
        assert_eq!(Outcome::parse("a.json", &text).unwrap(), outcome);
        assert_eq!(outcome.void, None);
        let newer = text.replace("\"format\":1", "\"format\":2");
        let error = Outcome::parse("a.json", &newer).unwrap_err().to_string();
        assert!(error.starts_with("a.json: format 2"), "{error}");
    }

    #[test]
    fn figures_are_of_what_succeeded() {
        let outcome = outcome(&[100, 100]);
        assert!((outcome.per_s - 100.0).abs() < 1e-9);
        assert!((outcome.bytes_per_s - 409_600.0).abs() < 1e-6);
        assert!((outcome.bytes_per_cpu_s().unwrap() - 409_600.0).abs() < 1e-6);
        assert!((outcome.ms(0.5) - 1.1).abs() < 0.01, "{}", outcome.ms(0.5));
        let text = outcome.lines().join("\n");
        assert!(text.contains("100 operations/s"), "{text}");
    }

    #[test]
    fn a_saturated_generator_voids_the_run_and_says_so() {
        let mut total = Tally::new().unwrap();
        assert!(void(&total, 0.0, 0.0).unwrap().contains("no operation"));
        total.note(Done { took_us: 1, late_us: 0, outcome: Ok(1) });
        assert_eq!(void(&total, LOAD_BUSY_PERCENT_MAX, LOAD_LATE_PERCENT_MAX), None);
        assert!(void(&total, LOAD_BUSY_PERCENT_MAX + 0.1, 0.0).unwrap().contains("busy"));
        assert!(void(&total, 0.0, LOAD_LATE_PERCENT_MAX + 0.1).unwrap().contains("late"));
    }
}
