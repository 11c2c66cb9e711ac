//! One metric, and the table that an exposition is made from.

use std::time::Duration;

use super::Durations;

/// What a metric is, for people and for the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Name of the family, with the unit at its end when there is one, without `_total`.
    pub name: &'static str,
    /// How its values behave.
    pub form: Form,
    /// Base unit: `seconds`, `bytes` or `ratio`; empty for plain numbers.
    pub unit: &'static str,
    /// Labels of its samples, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// Whether dashboards may rely on it.
    pub stability: Stability,
    /// One sentence.
    pub help: &'static str,
}

/// How the values of a metric behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Only grows, from zero at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by duration, which only grow.
    Histogram,
    /// Always 1; what is said is in the labels.
    Info,
}

/// Whether dashboards and alarms may rely on a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// Name, unit and meaning stay; a change is announced one release before.
    Stable,
    /// May change with any release.
    Experimental,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// A fraction.
    Number(f64),
    /// A time.
    Seconds(Duration),
    /// Counts by duration.
    Durations(Durations),
}

/// One value and the labels that tell it from the others of its metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// One for each name in [`Definition::labels`].
    pub labels: Vec<String>,
    /// The value.
    pub value: Value,
}

/// A metric and where its samples come from.
#[derive(Clone, Copy, Debug)]
pub struct Metric<S: 'static> {
    /// What it is.
    pub definition: Definition,
    /// Takes its samples from what is known now.
    pub read: fn(&S) -> Vec<Sample>,
}

impl Definition {
    /// The name of its samples, as a query uses it; a histogram has three that begin with it.
    pub fn sample_name(&self) -> String {
        format!("{}{}", self.name, self.form.suffix())
    }
}

impl Form {
    /// The word for it in an exposition.
    pub fn word(self) -> &'static str {
        match self {
            Form::Counter => "counter",
            Form::Gauge => "gauge",
            Form::Histogram => "histogram",
            Form::Info => "info",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Form::Counter => "_total",
            Form::Info => "_info",
            Form::Gauge | Form::Histogram => "",
        }
    }
}

impl Stability {
    /// The word for it in `docs/metrics.md`.
    pub fn word(self) -> &'static str {
        match self {
            Stability::Stable => "stable",
            Stability::Experimental => "experimental",
        }
    }
}

impl Sample {
    /// The one sample of a metric without labels.
    pub fn alone(value: Value) -> Vec<Sample> {
        vec![Sample { labels: Vec::new(), value }]
    }

    /// A sample with labels.
    pub fn labelled(labels: impl IntoIterator<Item = String>, value: Value) -> Sample {
        Sample { labels: labels.into_iter().collect(), value }
    }
}

/// The rows of `docs/metrics.md` for these metrics: exposed name, type, unit, labels, stability,
/// help. A test of each process compares them with the document.
pub fn rows<S>(metrics: &[Metric<S>]) -> Vec<[String; 6]> {
    let row = |metric: &Metric<S>| {
        let definition = metric.definition;
        [
            definition.sample_name(),
            definition.form.word().to_owned(),
            definition.unit.to_owned(),
            definition.labels.join(", "),
            definition.stability.word().to_owned(),
            definition.help.to_owned(),
        ]
    };
    metrics.iter().map(row).collect()
}
