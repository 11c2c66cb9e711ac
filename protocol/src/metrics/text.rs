//! The text form: OpenMetrics 1.0.

use std::fmt::Write as _;
use std::time::Duration;

use super::Durations;
use super::table::{Definition, Form, Metric, Sample, Value};

/// What the answer says it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of a histogram, as powers of two of microseconds: 16 us to 67 s, each four times the one
/// before it.
const BOUNDS_LOG2: [u32; 12] = [4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26];

/// Writes every metric of a table with the samples it has now.
///
/// # Cost
/// As long as all samples together; nothing is shared with the source.
pub fn expose<S>(metrics: &[Metric<S>], source: &S) -> String {
    let mut out = String::new();
    for metric in metrics {
        head(&mut out, &metric.definition);
        for sample in (metric.read)(source) {
            debug_assert_eq!(sample.labels.len(), metric.definition.labels.len());
            body(&mut out, &metric.definition, &sample);
        }
    }
    out.push_str("# EOF\n");
    out
}

fn head(out: &mut String, definition: &Definition) {
    let Definition { name, form, unit, help, .. } = definition;
    // Writing into a string cannot fail.
    let _ = writeln!(out, "# TYPE {name} {}", form.word());
    if !unit.is_empty() {
        let _ = writeln!(out, "# UNIT {name} {unit}");
    }
    let _ = writeln!(out, "# HELP {name} {}", escaped(help));
}

fn body(out: &mut String, definition: &Definition, sample: &Sample) {
    let labels = definition.labels.iter().zip(&sample.labels);
    let labels: Vec<String> =
        labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    match &sample.value {
        Value::Durations(durations) => histogram(out, definition.name, &labels, durations),
        value => {
            debug_assert_ne!(definition.form, Form::Histogram);
            line(out, &definition.sample_name(), &labels, &number(value));
        }
    }
}

fn histogram(out: &mut String, name: &str, labels: &[String], durations: &Durations) {
    let count = durations.count();
    let bucket = format!("{name}_bucket");
    let mut bounded = |bound: &str, within: u64| {
        let mut labels = labels.to_vec();
        labels.push(format!("le=\"{bound}\""));
        line(out, &bucket, &labels, &within.to_string());
    };
    for log2 in BOUNDS_LOG2 {
        let within = durations.within_us_log2(log2);
        // What took longer than the last bucket counts as it.
        bounded(&seconds(Duration::from_micros(1 << log2)), within);
    }
    bounded("+Inf", count);
    line(out, &format!("{name}_count"), labels, &count.to_string());
    let sum = seconds(Duration::from_micros(durations.sum_us()));
    line(out, &format!("{name}_sum"), labels, &sum);
}

fn line(out: &mut String, name: &str, labels: &[String], value: &str) {
    out.push_str(name);
    if !labels.is_empty() {
        let _ = write!(out, "{{{}}}", labels.join(","));
    }
    let _ = writeln!(out, " {value}");
}

fn number(value: &Value) -> String {
    match value {
        Value::Count(count) => count.to_string(),
        Value::Number(number) if number.is_finite() => number.to_string(),
        Value::Number(_) => "NaN".to_owned(),
        Value::Seconds(time) => seconds(*time),
        Value::Durations(durations) => durations.count().to_string(),
    }
}

/// Seconds with as many decimals as the value has.
fn seconds(time: Duration) -> String {
    let text = format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    let short = text.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::Stability;
    use super::*;

    const PLAIN: Definition = Definition {
        name: "lanefs_test_reads",
        form: Form::Counter,
        unit: "",
        labels: &[],
        stability: Stability::Stable,
        help: "Reads.",
    };

    #[test]
    fn a_table_becomes_families_with_type_unit_help_and_an_end() {
        let metrics: [Metric<u64>; 3] = [
            Metric { definition: PLAIN, read: |n| Sample::alone(Value::Count(*n)) },
            Metric {
                definition: Definition {
                    name: "lanefs_test_cpu_seconds",
                    unit: "seconds",
                    labels: &["shard"],
                    ..PLAIN
                },
                read: |_| {
                    let value = Value::Seconds(Duration::from_millis(1500));
                    vec![Sample::labelled(["a\"\\\nb".to_owned()], value)]
                },
            },
            Metric {
                definition: Definition {
                    name: "lanefs_test_busy_ratio",
                    form: Form::Gauge,
                    unit: "ratio",
                    ..PLAIN
                },
                read: |_| Sample::alone(Value::Number(0.25)),
            },
        ];
        assert_eq!(
            expose(&metrics, &7),
            "# TYPE lanefs_test_reads counter\n\
             # HELP lanefs_test_reads Reads.\n\
             lanefs_test_reads_total 7\n\
             # TYPE lanefs_test_cpu_seconds counter\n\
             # UNIT lanefs_test_cpu_seconds seconds\n\
             # HELP lanefs_test_cpu_seconds Reads.\n\
             lanefs_test_cpu_seconds_total{shard=\"a\\\"\\\\\\nb\"} 1.5\n\
             # TYPE lanefs_test_busy_ratio gauge\n\
             # UNIT lanefs_test_busy_ratio ratio\n\
             # HELP lanefs_test_busy_ratio Reads.\n\
             lanefs_test_busy_ratio 0.25\n\
             # EOF\n"
        );
    }

    #[test]
    fn a_histogram_counts_up_to_infinity() {
        let definition = Definition {
            name: "lanefs_test_seconds",
            form: Form::Histogram,
            unit: "seconds",
            ..PLAIN
        };
        let read = |durations: &Durations| Sample::alone(Value::Durations(durations.clone()));
        let mut durations = Durations::default();
        for ms in [0, 1, 200_000] {
            durations.note(Duration::from_millis(ms));
        }
        let text = expose(&[Metric { definition, read }], &durations);
        for expected in [
            "lanefs_test_seconds_bucket{le=\"0.000016\"} 1\n",
            "lanefs_test_seconds_bucket{le=\"0.001024\"} 2\n",
            "lanefs_test_seconds_bucket{le=\"+Inf\"} 3\n",
            "lanefs_test_seconds_count 3\n",
            "lanefs_test_seconds_sum 200.001\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
    }
}
