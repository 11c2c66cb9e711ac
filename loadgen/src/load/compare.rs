//! Whether one run was faster than another, or whether that was not shown. Pure.
//!
//! Neighbouring seconds of a run resemble each other, so they are averaged in batches first: the
//! batches' means are what the interval is computed from (Welch's, 90 %).

use super::outcome::Outcome;
use crate::cluster::StepError;

/// Batches of one run.
const BATCHES: usize = 10;
/// Batches without which there is no interval.
const BATCHES_LEAST: usize = 4;

/// What a comparison showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The second is faster.
    Faster,
    /// The second is slower.
    Slower,
    /// The interval holds zero.
    NotShown,
}

/// Throughput of a second run against a first.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Change, in per cent of the first.
    pub percent: f64,
    /// The change lies between these with 90 % confidence.
    pub interval: (f64, f64),
    /// What that says.
    pub verdict: Verdict,
}

/// Compares the throughput of two runs of one scenario.
///
/// # Errors
/// [`StepError::Different`] when a run is void, was too short, or was of another scenario.
pub fn compare(before: &Outcome, after: &Outcome) -> Result<Comparison, StepError> {
    if before.scenario != after.scenario {
        return Err(StepError::Different("the runs are of different scenarios".to_owned()));
    }
    for run in [before, after] {
        if let Some(why) = &run.void {
            return Err(StepError::Different(format!("a run is void: {why}")));
        }
    }
    let (old, new) = (batches(before)?, batches(after)?);
    let (old_mean, old_error) = mean_and_error(&old);
    let (new_mean, new_error) = mean_and_error(&new);
    let error = (old_error + new_error).sqrt();
    let percent = |change: f64| 100.0 * change / old_mean;
    let freedom = freedom((old_error, old.len()), (new_error, new.len()));
    let change = new_mean - old_mean;
    let reach = student_95(freedom) * error;
    let interval = (percent(change - reach), percent(change + reach));
    let verdict = match interval {
        (low, _) if low > 0.0 => Verdict::Faster,
        (_, high) if high < 0.0 => Verdict::Slower,
        _ => Verdict::NotShown,
    };
    Ok(Comparison { percent: percent(change), interval, verdict })
}

impl Comparison {
    /// The comparison in one line.
    pub fn line(&self) -> String {
        let word = match self.verdict {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::NotShown => "no difference shown",
        };
        let (low, high) = self.interval;
        format!("throughput {:+.1} % ({low:+.1} to {high:+.1}, 90 %): {word}", self.percent)
    }
}

/// Means of operations per second, batch by batch.
fn batches(run: &Outcome) -> Result<Vec<f64>, StepError> {
    let each = (run.seconds.len() / BATCHES).max(1);
    let batches: Vec<f64> = run
        .seconds
        .chunks_exact(each)
        .map(|batch| batch.iter().map(|it| it.operations as f64).sum::<f64>() / each as f64)
        .collect();
    if batches.len() < BATCHES_LEAST {
        let what = format!("a run of {} s is too short to compare", run.seconds.len());
        return Err(StepError::Different(what));
    }
    Ok(batches)
}

/// The mean, and the square of its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let spread = values.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, spread / count)
}

/// Welch and Satterthwaite's degrees of freedom, of squared errors and counts.
fn freedom((a, of_a): (f64, usize), (b, of_b): (f64, usize)) -> f64 {
    let parts = a.powi(2) / (of_a as f64 - 1.0) + b.powi(2) / (of_b as f64 - 1.0);
    if parts > 0.0 { (a + b).powi(2) / parts } else { f64::INFINITY }
}

/// The 95th percentile of Student's distribution (Cornish and Fisher's expansion; within 0.02 from
/// three degrees of freedom on).
fn student_95(freedom: f64) -> f64 {
    const Z: f64 = 1.644_853_627;
    let first = (Z.powi(3) + Z) / 4.0;
    let second = (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / 96.0;
    let third = (3.0 * Z.powi(7) + 19.0 * Z.powi(5) + 17.0 * Z.powi(3) - 15.0 * Z) / 384.0;
    Z + first / freedom + second / freedom.powi(2) + third / freedom.powi(3)
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::outcome;
    use super::*;

    #[test]
    fn the_quantile_is_that_of_the_tables() {
        for (freedom, expected) in [(3.0, 2.353), (5.0, 2.015), (9.0, 1.833), (30.0, 1.697)] {
            let off = (student_95(freedom) - expected).abs();
            assert!(off < 0.02, "{freedom}: {}", student_95(freedom));
        }
    }

    #[test]
    fn a_difference_beyond_the_noise_is_shown_and_one_within_is_not() {
        let slow = outcome(&[100, 102, 98, 101, 99, 100, 103, 97, 100, 100]);
        let fast = outcome(&[120, 122, 118, 121, 119, 120, 123, 117, 120, 120]);
        let noisy = outcome(&[60, 150, 90, 140, 80, 110, 130, 70, 100, 120]);
        let faster = compare(&slow, &fast).unwrap();
        assert_eq!(faster.verdict, Verdict::Faster);
        assert!((faster.percent - 20.0).abs() < 1e-9);
        assert!(faster.interval.0 < 20.0 && faster.interval.1 > 20.0);
        assert_eq!(compare(&fast, &slow).unwrap().verdict, Verdict::Slower);
        assert_eq!(compare(&slow, &noisy).unwrap().verdict, Verdict::NotShown);
        assert_eq!(compare(&slow, &slow).unwrap().verdict, Verdict::NotShown);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let run = outcome(&[100; 10]);
        let error = |a: &Outcome, b: &Outcome| compare(a, b).unwrap_err().to_string();
        assert!(error(&run, &outcome(&[100; 11])).contains("different scenarios"));
        let mut void = run.clone();
        void.void = Some("late".to_owned());
        assert!(error(&run, &void).contains("void: late"));
        let short = outcome(&[100; 3]);
        assert!(error(&short, &short).contains("too short"));
    }
}
