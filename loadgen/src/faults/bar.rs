//! A figure that must hold in almost every repetition, and its distribution. Pure.

use std::time::Duration;

use crate::stats::{self, figure, quantile};

/// One repetition of this many may miss what is required of almost all.
const ONE_OF: usize = 20;

/// What is required of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// It may not be larger.
    AtMost(f64),
    /// It may not be smaller.
    AtLeast(f64),
}

/// Repeated measurements of one figure, and what is required of them.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What was measured.
    pub name: String,
    /// Unit of the values.
    pub unit: &'static str,
    /// One value for each repetition.
    pub values: Vec<f64>,
    /// What 19 of 20 repetitions must keep; `None` when nothing is required.
    pub almost_all: Option<Limit>,
    /// What every repetition must keep.
    pub all: Option<Limit>,
    /// What the median must keep.
    pub median: Option<Limit>,
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Limit::AtMost(most) => value <= most,
            Limit::AtLeast(least) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Limit::AtMost(most) => format!("<= {}", figure(most)),
            Limit::AtLeast(least) => format!(">= {}", figure(least)),
        }
    }
}

impl Bar {
    /// A time without values yet; limits in milliseconds.
    pub fn new(name: &str, almost_all: Option<u32>, all: Option<u32>) -> Bar {
        let most = |limit: Option<u32>| limit.map(|ms| Limit::AtMost(f64::from(ms)));
        Bar { almost_all: most(almost_all), all: most(all), ..Bar::of(name, "ms") }
    }

    /// A figure of which nothing is required yet.
    pub fn of(name: &str, unit: &'static str) -> Bar {
        let name = name.to_owned();
        Bar { name, unit, values: Vec::new(), almost_all: None, all: None, median: None }
    }

    /// Requires something of every repetition.
    #[must_use]
    pub fn all(mut self, limit: Limit) -> Bar {
        self.all = Some(limit);
        self
    }

    /// Requires something of the median.
    #[must_use]
    pub fn median(mut self, limit: Limit) -> Bar {
        self.median = Some(limit);
        self
    }

    /// Adds a time.
    pub fn push(&mut self, time: Duration) {
        self.values.push(time.as_secs_f64() * 1e3);
    }

    /// True when something is required.
    pub fn is_judged(&self) -> bool {
        self.almost_all.is_some() || self.all.is_some() || self.median.is_some()
    }

    /// True when all that is required holds and something was measured.
    pub fn met(&self) -> bool {
        let missed = |limit: Option<Limit>| {
            limit.map_or(0, |limit| self.values.iter().filter(|it| !limit.holds(**it)).count())
        };
        !self.values.is_empty()
            && missed(self.almost_all) <= self.values.len() / ONE_OF
            && missed(self.all) == 0
            && self.median.is_none_or(|limit| limit.holds(quantile(&self.sorted(), 50)))
    }

    /// The verdict, what is required, and the distribution, in one line.
    pub fn line(&self) -> String {
        let sorted = self.sorted();
        let texts: Vec<String> = sorted.iter().map(|value| figure(*value)).collect();
        let limit = |word: &str, limit: Option<Limit>| {
            limit.map_or_else(String::new, |limit| format!(" {word} {}", limit.text()))
        };
        let verdict = match (self.is_judged(), self.met()) {
            (false, _) => "seen",
            (true, true) => "PASS",
            (true, false) => "FAIL",
        };
        let at = |percent| figure(quantile(&sorted, percent));
        format!(
            "{verdict:<5}{:<52} {}: min {} median {} p95 {} max {};{}{}{} all: {}",
            self.name,
            self.unit,
            at(0),
            at(50),
            at(95),
            at(100),
            limit("19 of 20", self.almost_all),
            limit("every", self.all),
            limit("median", self.median),
            texts.join(" ")
        )
    }

    fn sorted(&self) -> Vec<f64> {
        stats::sorted(&self.values)
    }
}

/// Prints every bar and how many hold; false when one does not.
pub fn print(bars: &[Bar]) -> bool {
    bars.iter().for_each(|bar| println!("{}", bar.line()));
    let judged = || bars.iter().filter(|bar| bar.is_judged());
    let met = judged().filter(|bar| bar.met()).count();
    println!("{met} of {} bars met", judged().count());
    met == judged().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(values: &[f64]) -> Bar {
        Bar { values: values.to_vec(), ..Bar::new("x", Some(50), Some(200)) }
    }

    #[test]
    fn one_of_twenty_may_exceed_the_first_limit_and_none_the_second() {
        let mut values = vec![10.0; 19];
        values.push(150.0);
        assert!(bar(&values).met());
        values[0] = 51.0;
        assert!(!bar(&values).met());
        let mut values = vec![10.0; 19];
        values.push(201.0);
        assert!(!bar(&values).met());
        assert!(!bar(&[51.0]).met(), "fewer than twenty leave no exception");
        assert!(!bar(&[]).met());
    }

    #[test]
    fn a_median_and_a_floor_are_judged_as_such() {
        let ratio = |values: &[f64]| {
            let bar = Bar::of("x", "times").median(Limit::AtMost(1.5));
            Bar { values: values.to_vec(), ..bar }
        };
        assert!(ratio(&[1.0, 9.0, 1.4]).met());
        assert!(!ratio(&[1.0, 9.0, 1.6]).met());
        let floor = Bar::of("x", "%").all(Limit::AtLeast(80.0));
        assert!(Bar { values: vec![80.0, 99.0], ..floor.clone() }.met());
        assert!(!Bar { values: vec![79.0, 99.0], ..floor }.met());
    }

    #[test]
    fn the_line_shows_the_distribution_and_every_value() {
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let line = bar(&values).line();
        assert!(line.contains("min 1.00 median 10 p95 19 max 20"), "{line}");
        assert!(line.starts_with("PASS") && line.ends_with("18 19 20"), "{line}");
    }
}
