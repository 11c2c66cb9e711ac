//! The process that runs seeds: one number a line comes in, one line of JSON goes out.

use std::io::{BufRead, Write};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::Green;
use crate::sim::mark::Marks;
use crate::sim::profile::Mode;
use crate::sim::run::Plan;

/// Runs seeds until the input ends.
///
/// # Errors
/// When the other end is gone.
///
/// # Panics
/// When a run breaks a promise; that is how it says so.
pub fn serve(mode: Mode) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Ok(seed) = line.parse() else {
            return Err(std::io::Error::other(format!("not a seed: {line}")));
        };
        let begin = busy();
        let outcome = Plan { seed, mode }.run(None);
        let green = Green {
            seed,
            hash: outcome.hash,
            profile: outcome.profile.to_owned(),
            simulated: outcome.simulated,
            busy: busy().saturating_sub(begin),
            acknowledged: outcome.acknowledged,
            read: outcome.read,
            polls: outcome.polls,
            marks: outcome.marks,
        };
        writeln!(out, "{}", green.to_json())?;
        out.flush()?;
    }
    Ok(())
}

/// Processor time that this process has used.
fn busy() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = Duration::from_secs(u64::try_from(spent.tv_sec).unwrap_or(0));
    seconds + Duration::from_nanos(u64::try_from(spent.tv_nsec).unwrap_or(0))
}

impl Green {
    pub(super) fn to_json(&self) -> Value {
        let marks: serde_json::Map<_, _> =
            self.marks.iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        json!({
            "seed": self.seed, "hash": self.hash, "profile": self.profile,
            "simulated_us": micros(self.simulated), "busy_us": micros(self.busy),
            "acknowledged": self.acknowledged, "read": self.read, "polls": self.polls,
            "marks": marks,
        })
    }

    /// `None` when the line is not what [`serve`] writes.
    pub(super) fn from_json(line: &str) -> Option<Green> {
        let value: Value = serde_json::from_str(line).ok()?;
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        let mut marks = Marks::default();
        for (name, count) in value.get("marks")?.as_object()? {
            marks.add(name, count.as_u64()?);
        }
        Some(Green {
            seed: number("seed")?,
            hash: number("hash")?,
            profile: value.get("profile")?.as_str()?.to_owned(),
            simulated: Duration::from_micros(number("simulated_us")?),
            busy: Duration::from_micros(number("busy_us")?),
            acknowledged: number("acknowledged")?,
            read: number("read")?,
            polls: number("polls")?,
            marks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_says_is_understood() {
        let mut marks = Marks::default();
        marks.add("F6", 3);
        let green = Green {
            seed: u64::MAX,
            hash: u64::MAX - 1,
            profile: "standard".to_owned(),
            simulated: Duration::from_micros(5),
            busy: Duration::from_micros(7),
            acknowledged: 9,
            read: 11,
            polls: 13,
            marks,
        };
        assert_eq!(Green::from_json(&green.to_json().to_string()), Some(green));
        assert_eq!(Green::from_json("{}"), None);
    }
}
