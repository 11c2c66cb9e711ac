//! Results of the parts of one load, put together. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use super::Run;
use super::collect::point;
use super::outcome::{Effort, Outcome, Point};
use super::record::Tally;
use crate::cluster::StepError;

/// Puts results together that were kept with their histograms.
///
/// # Errors
/// [`StepError::Different`] when one was not, or they are not of one scenario.
pub(super) fn merge(parts: &[Outcome]) -> Result<Run, StepError> {
    let Some(first) = parts.first() else {
        return Err(StepError::Different("nothing to merge".to_owned()));
    };
    if parts.iter().any(|part| part.scenario != first.scenario) {
        return Err(StepError::Different("the parts are of different scenarios".to_owned()));
    }
    let mut by_second = Vec::new();
    for _ in 0..first.scenario.seconds {
        by_second.push(Tally::new()?);
    }
    for part in parts {
        add(&mut by_second, part)?;
    }
    let mut total = Tally::new()?;
    for second in &by_second {
        total.add(second)?;
    }
    let points = by_second.iter().zip(0..);
    let points = points.map(|(second, at)| point(second, cores(parts, at))).collect();
    let mut outcome = Outcome::new(first.scenario.clone(), machines(parts), &total, points, NONE);
    outcome.failed = parts.iter().map(|part| part.failed).sum();
    outcome.errors = parts.iter().flat_map(|part| part.errors.clone()).collect();
    outcome.errors.truncate(crate::limits::LOAD_ERRORS_KEPT);
    outcome.busy_percent = parts.iter().map(|part| part.busy_percent).fold(0.0, f64::max);
    outcome.late_percent = late(parts);
    outcome.server_cpu_s = parts.iter().filter_map(|part| part.server_cpu_s).reduce(f64::max);
    // One part that says nothing spoils the sum.
    outcome.void = parts
        .iter()
        .zip(1..)
        .find_map(|(part, number)| part.void.as_ref().map(|why| format!("part {number}: {why}")));
    Ok(Run { outcome, total, by_second })
}

/// Each part knows its own effort; what is put together is set afterwards.
const NONE: Effort = Effort { elapsed_s: 0.0, busiest_cpu_s: 0.0, server_cpu_s: None };

fn add(by_second: &mut [Tally], part: &Outcome) -> Result<(), StepError> {
    let missing = || StepError::Different("a part was run without --mergeable".to_owned());
    let log = part.hlog.as_ref().ok_or_else(missing)?;
    let wrong = |what: String| StepError::Different(format!("the log of a part: {what}"));
    let mut deserializer = Deserializer::new();
    let intervals = IntervalLogIterator::new(log.as_bytes()).filter_map(|entry| match entry {
        Ok(LogEntry::Interval(interval)) => Some(Ok(interval)),
        Ok(_) => None,
        Err(error) => Some(Err(wrong(format!("{error:?}")))),
    });
    for (sum, interval) in by_second.iter_mut().zip(intervals) {
        let bytes = interval?.encoded_histogram();
        let decoded = STANDARD.decode(bytes).map_err(|error| wrong(error.to_string()))?;
        let times = deserializer
            .deserialize::<u64, _>(&mut decoded.as_slice())
            .map_err(|error| wrong(format!("{error:?}")))?;
        sum.times.add(&times).map_err(|error| wrong(error.to_string()))?;
    }
    for (sum, point) in by_second.iter_mut().zip(&part.seconds) {
        sum.bytes += point.bytes;
    }
    Ok(())
}

fn cores(parts: &[Outcome], second: usize) -> Vec<f64> {
    // Parts of one machine see the same processors: each machine's are shown once.
    let mut seen: Vec<&str> = Vec::new();
    let mut cores = Vec::new();
    for part in parts {
        if seen.contains(&part.machine.as_str()) {
            continue;
        }
        seen.push(&part.machine);
        cores.extend(part.seconds.get(second).into_iter().flat_map(|point: &Point| &point.cores));
    }
    cores
}

fn machines(parts: &[Outcome]) -> String {
    let mut machines: Vec<&str> = parts.iter().map(|part| part.machine.as_str()).collect();
    machines.dedup();
    format!("{} parts on: {}", parts.len(), machines.join("; "))
}

/// Operations begun late, of those of all parts, in per cent.
fn late(parts: &[Outcome]) -> f64 {
    let count = |part: &Outcome| (part.succeeded + part.failed) as f64;
    let all: f64 = parts.iter().map(count).sum();
    let late: f64 = parts.iter().map(|part| part.late_percent * count(part)).sum();
    if all > 0.0 { late / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::export::interval_log;
    use super::super::outcome::tests::outcome;
    use super::super::record::Done;
    use super::*;

    /// A part with ten operations of so many milliseconds in each second.
    fn part(ms: u64, seconds: u32) -> Outcome {
        let mut tallies = Vec::new();
        for _ in 0..seconds {
            let mut tally = Tally::new().unwrap();
            let done = || Done { took_us: ms * 1000, late_us: 0, outcome: Ok(5) };
            (0..10).for_each(|_| tally.note(done()));
            tallies.push(tally);
        }
        let mut part = outcome(&vec![10; seconds as usize]);
        part.scenario.seconds = seconds;
        (part.succeeded, part.failed, part.void) = (10 * u64::from(seconds), 0, None);
        part.seconds.iter_mut().for_each(|point| point.bytes = 50);
        part.hlog = Some(String::from_utf8(interval_log(&tallies).unwrap()).unwrap());
        part
    }

    #[test]
    fn every_operation_of_every_part_counts() {
        let run = merge(&[part(1, 4), part(100, 4)]).unwrap();
        let merged = run.outcome;
        assert_eq!((merged.succeeded, merged.seconds.len()), (80, 4));
        assert_eq!((merged.seconds[0].operations, merged.seconds[3].bytes), (20, 100));
        assert!((merged.per_s - 20.0).abs() < 1e-9 && (merged.bytes_per_s - 100.0).abs() < 1e-9);
        assert!((merged.ms(0.25) - 1.0).abs() < 0.01 && (merged.ms(0.99) - 100.0).abs() < 0.1);
        assert!(merged.void.is_none());
        assert_eq!(run.by_second.len(), 4);
    }

    #[test]
    fn a_void_part_voids_the_sum_and_others_are_named() {
        let void = Outcome { void: Some("busy".to_owned()), ..part(1, 4) };
        let merged = merge(&[part(1, 4), void]).unwrap().outcome;
        assert_eq!(merged.void.as_deref(), Some("part 2: busy"));
        assert!(merge(&[]).is_err());
        let bare = Outcome { hlog: None, ..part(1, 4) };
        let error = |parts: &[Outcome]| merge(parts).err().map(|error| error.to_string());
        assert!(error(&[bare]).unwrap().contains("--mergeable"));
        assert!(error(&[part(1, 4), part(1, 5)]).unwrap().contains("different scenarios"));
        let torn = Outcome { hlog: Some("0.0,1.0,2.0,HIST!!".to_owned()), ..part(1, 4) };
        assert!(error(&[torn]).unwrap().contains("log of a part"));
    }
}
