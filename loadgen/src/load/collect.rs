//! The seconds of all threads, put together while they arrive.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use super::cores::Cores;
use super::drive::Second;
use super::outcome::Point;
use super::record::Tally;
use super::scenario::Scenario;
use crate::cluster::StepError;
use crate::stats::figure;

/// Puts the seconds of all threads together until the last thread has ended.
pub(super) fn collect(
    received: &Receiver<Second>,
    threads: u32,
    scenario: &Scenario,
    quiet: bool,
) -> Result<(Vec<Point>, Vec<Tally>), StepError> {
    let mut open: BTreeMap<u64, (u32, Tally)> = BTreeMap::new();
    let (mut points, mut tallies) = (Vec::new(), Vec::new());
    let mut cores = Cores::now();
    for Second { number, tally } in received {
        let (count, sum) = match open.remove(&number) {
            None => (1, tally),
            Some((count, mut sum)) => {
                sum.add(&tally)?;
                (count + 1, sum)
            }
        };
        if count < threads {
            open.insert(number, (count, sum));
            continue;
        }
        let newer = Cores::now();
        let point = point(&sum, newer.busy_since(&cores));
        cores = newer;
        if !quiet && number < u64::from(scenario.seconds) {
            eprintln!("{}", live(number + 1, &point, &sum));
        }
        points.push(point);
        tallies.push(sum);
    }
    // What ended after the last second, and what one thread shipped more often than another.
    let rest = open.into_values().map(|(_, sum)| sum);
    let whole = scenario.seconds as usize;
    let rest: Vec<Tally> = tallies.drain(whole.min(tallies.len())..).chain(rest).collect();
    points.truncate(whole);
    if let Some(last) = tallies.last_mut() {
        for more in rest {
            last.add(&more)?;
        }
    } else {
        tallies.extend(rest);
    }
    Ok((points, tallies))
}

pub(super) fn point(sum: &Tally, cores: Vec<f64>) -> Point {
    let (operations, bytes) = (sum.times.len(), sum.bytes);
    Point { operations, bytes, p50_ms: sum.ms(0.5), p99_ms: sum.ms(0.99), cores }
}

fn live(second: u64, point: &Point, sum: &Tally) -> String {
    format!(
        "{second:>5} s {:>9} ops/s {:>9} MB/s  ms: p50 {} p99 {} p99.9 {} max {}  failed {}",
        point.operations,
        figure(point.bytes as f64 / 1e6),
        figure(point.p50_ms),
        figure(point.p99_ms),
        figure(sum.ms(0.999)),
        figure(sum.ms(1.0)),
        sum.failed
    )
}
