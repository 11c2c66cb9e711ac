//! Latencies in the formats of HdrHistogram's own tools: the interval log and the percentile table.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use super::record::Tally;
use crate::cluster::StepError;

/// Steps of the table in each half of the distance to 100 %.
const TICKS: u32 = 5;

/// One histogram of microseconds for each second, as `.hlog`.
pub(super) fn interval_log(seconds: &[Tally]) -> Result<Vec<u8>, StepError> {
    let failed = |what: String| StepError::Different(format!("hlog: {what}"));
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[Latencies in microseconds, from when an operation was due]")
        .with_base_time(SystemTime::UNIX_EPOCH)
        .begin_log_with(&mut log, &mut serializer)
        .map_err(|error| failed(error.to_string()))?;
    for (second, number) in seconds.iter().zip(0u64..) {
        let (start, length) = (Duration::from_secs(number), Duration::from_secs(1));
        writer
            .write_histogram(&second.times, start, length, None)
            .map_err(|error| failed(format!("{error:?}")))?;
    }
    Ok(log)
}

/// Value, percentile, count and 1/(1-percentile), in milliseconds, as `.hgrm`.
pub(super) fn percentiles(total: &Tally) -> String {
    let mut text = format!(
        "{:>12} {:>16} {:>12} {:>16}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut count = 0;
    for at in total.times.iter_quantiles(TICKS) {
        let (of, ms) = (at.quantile_iterated_to(), at.value_iterated_to() as f64 / 1e3);
        count += at.count_since_last_iteration();
        // Writing to a string cannot fail.
        let _ = match of < 1.0 {
            true => writeln!(text, "{ms:>12.3} {of:>16.12} {count:>12} {:>16.2}", 1.0 / (1.0 - of)),
            false => writeln!(text, "{ms:>12.3} {of:>16.12} {count:>12}"),
        };
    }
    let (mean, deviation) = (total.times.mean() / 1e3, total.times.stdev() / 1e3);
    let (most, count) = (total.ms(1.0), total.times.len());
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(text, "#[Max     = {most:>12.3}, Total count    = {count:>12}]");
    let _ =
        writeln!(text, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", total.times.buckets(), 2048);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::record::Done;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn tally() -> Tally {
        let mut tally = Tally::new().unwrap();
        (1..=1_000).for_each(|ms| {
            tally.note(Done { took_us: ms * 1_000, late_us: 0, outcome: Ok(1) });
        });
        tally
    }

    #[test]
    fn the_log_holds_one_interval_a_second() {
        let log = interval_log(&[tally(), tally(), tally()]).unwrap();
        let entries: Vec<_> = IntervalLogIterator::new(&log).collect();
        let intervals = entries.iter().filter(|entry| matches!(entry, Ok(LogEntry::Interval(_))));
        assert_eq!(intervals.count(), 3);
        assert!(entries.iter().all(Result::is_ok));
    }

    #[test]
    fn the_table_ends_with_the_largest_value() {
        let table = percentiles(&tally());
        assert!(table.contains("TotalCount"), "{table}");
        let last = table.lines().rfind(|line| !line.starts_with('#')).unwrap();
        assert!(last.trim().starts_with("1000") && last.contains("1.000000000000"), "{last}");
        assert!(table.contains("Total count    =         1000"), "{table}");
    }
}
