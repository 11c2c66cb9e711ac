//! Processor time that the host of a virtual machine gave to others.
//!
//! While it does, every latency is the host's: what is measured then says nothing about us.

use std::path::Path;

use crate::cluster::{StepError, file_error};

/// Where the system counts processor time.
const COUNTERS: &str = "/proc/stat";
/// Field of the line `cpu` with the stolen ticks.
const STOLEN: usize = 7;

/// Ticks of all processors since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// The counters as they are now.
    ///
    /// # Errors
    /// [`StepError`] when they cannot be read.
    pub(super) fn now() -> Result<Ticks, StepError> {
        let path = Path::new(COUNTERS);
        let text = std::fs::read_to_string(path).map_err(file_error(path))?;
        Ticks::parse(&text).ok_or_else(|| StepError::Output {
            command: COUNTERS.to_owned(),
            what: "no line `cpu` with stolen time".to_owned(),
        })
    }

    fn parse(text: &str) -> Option<Ticks> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
        let ticks = ticks.ok()?;
        // What guests of this machine use counts as user time already.
        Some(Ticks { all: ticks.iter().take(STOLEN + 1).sum(), stolen: *ticks.get(STOLEN)? })
    }

    /// Percent of the time since `before` that was stolen.
    pub(super) fn stolen_since(self, before: Ticks) -> f64 {
        let [all, stolen] = [self.all - before.all, self.stolen - before.stolen]
            .map(|ticks| f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)));
        stolen * 100.0 / all.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Ticks;

    #[test]
    fn stolen_time_is_a_share_of_all() {
        let before = Ticks::parse("cpu  10 0 10 100 0 0 0 5 7 0\ncpu0 1 2\n").unwrap();
        assert_eq!(before, Ticks { all: 125, stolen: 5 });
        let after = Ticks::parse("intr 1\ncpu  20 0 20 150 0 0 0 35 7 0\n").unwrap();
        assert!((after.stolen_since(before) - 30.0).abs() < 1e-9);
        assert!(before.stolen_since(before).abs() < 1e-9);
    }

    #[test]
    fn counters_without_stolen_time_are_refused() {
        assert_eq!(Ticks::parse("cpu  10 0 10 100 0 0 0\n"), None);
        assert_eq!(Ticks::parse("cpu0 10 0 10 100 0 0 0 1\n"), None);
        assert_eq!(Ticks::parse("cpu  a b\n"), None);
        Ticks::now().unwrap();
    }
}
