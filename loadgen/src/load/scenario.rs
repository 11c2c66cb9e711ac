//! What load is put on the cluster: parsed, checked, nothing done yet. Pure.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cluster::{StepError, file_error};
use crate::limits::{
    LOAD_AT_ONCE_MAX, LOAD_FILE_BYTES_MAX, LOAD_FILES_MAX, LOAD_RATE_MAX, LOAD_SECONDS_MAX,
};

/// What the operations are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Reads of `block` bytes at random places of the files.
    #[default]
    Read,
    /// New files of `file` bytes; each replaces one that is removed.
    Write,
    /// Reads, and `write_percent` of new files.
    Mixed,
    /// Blocks of `block` bytes changed in place, durably, at random places of files of each client's own.
    Rewrite,
    /// Names made, looked up and removed; no bytes.
    Meta,
    /// Whole files of `file` bytes read, `batch` with each operation, looked up by their names.
    SmallFiles,
    /// Every byte once, `block` by `block`, in an order that is shuffled anew for each pass.
    Epoch,
}

/// One load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What the operations are.
    pub work: Work,
    /// Bytes of one read.
    pub block: u64,
    /// Bytes of each file.
    pub file: u64,
    /// Files: with `file`, the working set.
    pub files: u32,
    /// Skew of the choice between files: 0 chooses each alike, 0.99 is the usual Zipf of key-value loads.
    pub zipf: f64,
    /// Whole files that one operation reads: with more than one, they are read together.
    pub batch: u32,
    /// Operations of 100 that make a new file, in mixed load.
    pub write_percent: u8,
    /// Operations per second, each at its own time whatever the others do; without it, `at_once` are
    /// kept running.
    pub rate: Option<f64>,
    /// Operations kept running without a rate; with one, the most that may be outstanding.
    pub at_once: u32,
    /// Clients, each with sessions and connections of its own.
    pub clients: u32,
    /// Threads that drive the load, in all processes together.
    pub threads: u32,
    /// Seconds before anything counts.
    pub warm_up: f64,
    /// Seconds that count.
    pub seconds: u32,
    /// Where every random choice comes from.
    pub seed: u64,
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario {
            work: Work::Read,
            block: 1 << 20,
            file: 64 << 20,
            files: 16,
            zipf: 0.0,
            batch: 1,
            write_percent: 20,
            rate: None,
            at_once: 16,
            clients: 1,
            threads: 1,
            warm_up: 2.0,
            seconds: 10,
            seed: 1,
        }
    }
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// [`StepError`] with file, line and key of what is wrong.
    pub fn load(path: &Path) -> Result<Scenario, StepError> {
        let text = std::fs::read_to_string(path).map_err(file_error(path))?;
        toml::from_str(&text).map_err(|error| {
            StepError::Different(format!("{}: {}", path.display(), error.to_string().trim_end()))
        })
    }

    /// Refuses what cannot be measured.
    ///
    /// # Errors
    /// [`StepError::Different`] with key, value and what is allowed.
    pub fn check(self) -> Result<Scenario, StepError> {
        let positive = |value: f64, most: f64| value > 0.0 && value <= most;
        let rules = [
            ("block", self.block >= 1 && self.block <= self.file, "1 to `file` bytes"),
            ("file", self.file >= 1 && self.file <= LOAD_FILE_BYTES_MAX, "1 byte to 1 TiB"),
            ("files", self.files >= 1 && self.files <= LOAD_FILES_MAX, "1 to 10,000,000"),
            ("zipf", (0.0..1.0).contains(&self.zipf), "0 to below 1"),
            ("batch", self.batch >= 1 && self.batch <= self.files, "1 to `files`"),
            ("write_percent", self.write_percent <= 100, "0 to 100"),
            ("rate", self.rate.is_none_or(|it| positive(it, LOAD_RATE_MAX)), "up to 10,000,000"),
            ("at_once", self.at_once >= 1 && self.at_once <= LOAD_AT_ONCE_MAX, "1 to 65,536"),
            ("clients", self.clients >= 1 && self.clients <= self.at_once, "1 to `at_once`"),
            ("threads", self.threads >= 1 && self.threads <= 1024, "1 to 1,024"),
            ("warm_up", (0.0..=f64::from(LOAD_SECONDS_MAX)).contains(&self.warm_up), "0 to a day"),
            ("seconds", (1..=LOAD_SECONDS_MAX).contains(&self.seconds), "1 to a day"),
        ];
        match rules.iter().find(|(_, holds, _)| !holds) {
            None => Ok(self),
            Some((key, _, allowed)) => {
                Err(StepError::Different(format!("scenario: `{key}` must be {allowed}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_only_what_differs_from_the_default() {
        let parsed: Scenario = toml::from_str("work = \"small-files\"\nfile = 102400\n").unwrap();
        let expected = Scenario { work: Work::SmallFiles, file: 102_400, ..Scenario::default() };
        assert_eq!(parsed, expected);
        let error = toml::from_str::<Scenario>("blok = 1\n").unwrap_err().to_string();
        assert!(error.contains("blok"), "{error}");
    }

    #[test]
    fn every_scenario_of_perf_can_be_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../perf/scenarios");
        let mut found = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            Scenario::load(&path).unwrap().check().unwrap();
            found += 1;
        }
        assert!(found >= 7);
    }

    #[test]
    fn what_cannot_be_measured_is_refused_by_its_key() {
        let good = Scenario::default;
        assert_eq!(good().check().unwrap(), good());
        let bad = [
            ("block", Scenario { block: 0, ..good() }),
            ("block", Scenario { block: 2, file: 1, ..good() }),
            ("file", Scenario { block: 1, file: LOAD_FILE_BYTES_MAX + 1, ..good() }),
            ("files", Scenario { files: 0, ..good() }),
            ("files", Scenario { files: LOAD_FILES_MAX + 1, ..good() }),
            ("zipf", Scenario { zipf: 1.0, ..good() }),
            ("zipf", Scenario { zipf: f64::NAN, ..good() }),
            ("write_percent", Scenario { write_percent: 101, ..good() }),
            ("rate", Scenario { rate: Some(0.0), ..good() }),
            ("rate", Scenario { rate: Some(LOAD_RATE_MAX * 2.0), ..good() }),
            ("at_once", Scenario { at_once: LOAD_AT_ONCE_MAX + 1, ..good() }),
            ("clients", Scenario { clients: 17, ..good() }),
            ("threads", Scenario { threads: 0, ..good() }),
            ("warm_up", Scenario { warm_up: -1.0, ..good() }),
            ("seconds", Scenario { seconds: LOAD_SECONDS_MAX + 1, ..good() }),
        ];
        for (key, scenario) in bad {
            let error = scenario.check().unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{key}: {error}");
        }
    }
}
