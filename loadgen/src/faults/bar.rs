//! A time that must hold in almost every repetition, and its distribution. Pure.

use std::time::Duration;

/// One repetition of this many may exceed the first limit.
const ONE_OF: usize = 20;

/// Repeated measurements of one time, and what is required of them.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What was measured.
    pub name: String,
    /// One value for each repetition.
    pub values: Vec<Duration>,
    /// What 19 of 20 repetitions must keep; `None` when nothing is required.
    pub almost_all: Option<Duration>,
    /// What every repetition must keep.
    pub all: Option<Duration>,
}

impl Bar {
    /// A bar without values yet.
    pub fn new(name: &str, almost_all: Option<u64>, all: Option<u64>) -> Bar {
        let ms = |limit: Option<u64>| limit.map(Duration::from_millis);
        let (almost_all, all) = (ms(almost_all), ms(all));
        Bar { name: name.to_owned(), values: Vec::new(), almost_all, all }
    }

    /// True when both limits hold and something was measured.
    pub fn met(&self) -> bool {
        let above = |limit: Option<Duration>| {
            limit.map_or(0, |limit| self.values.iter().filter(|value| **value > limit).count())
        };
        !self.values.is_empty()
            && above(self.almost_all) <= self.values.len() / ONE_OF
            && above(self.all) == 0
    }

    /// The verdict, the limits and the distribution in one line.
    pub fn line(&self) -> String {
        let mut sorted = self.values.clone();
        sorted.sort();
        let texts: Vec<String> = sorted.iter().map(|value| ms(*value)).collect();
        let middle = sorted.get(sorted.len() / 2).map_or_else(String::new, |value| ms(*value));
        let limit = |word: &str, limit: Option<Duration>| {
            limit.map_or_else(String::new, |limit| format!(" {word} <= {}", ms(limit)))
        };
        let verdict = match (self.almost_all, self.all) {
            (None, None) => "seen",
            _ if self.met() => "met",
            _ => "MISSED",
        };
        format!(
            "{verdict:<7}{:<44} median {middle:>6} ms{}{}; sorted: {}",
            self.name,
            limit("19 of 20", self.almost_all),
            limit("all", self.all),
            texts.join(" ")
        )
    }
}

fn ms(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(values: &[u64]) -> Bar {
        let values = values.iter().map(|ms| Duration::from_millis(*ms)).collect();
        Bar { values, ..Bar::new("x", Some(50), Some(200)) }
    }

    #[test]
    fn one_of_twenty_may_exceed_the_first_limit_and_none_the_second() {
        let mut values = vec![10; 19];
        values.push(150);
        assert!(bar(&values).met());
        values[0] = 51;
        assert!(!bar(&values).met());
        let mut values = vec![10; 19];
        values.push(201);
        assert!(!bar(&values).met());
        assert!(!bar(&[51]).met(), "fewer than twenty leave no exception");
        assert!(!bar(&[]).met());
    }
}
