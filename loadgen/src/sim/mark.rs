//! Marks: which situations a run met, seen from outside.

use std::collections::BTreeMap;

/// How often each situation was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    counts: BTreeMap<String, u64>,
}

impl Marks {
    /// Counts a situation.
    pub fn hit(&mut self, name: &str) {
        self.add(name, 1);
    }

    /// Counts a situation several times.
    pub fn add(&mut self, name: &str, count: u64) {
        match self.counts.get_mut(name) {
            Some(have) => *have += count,
            None => {
                self.counts.insert(name.to_owned(), count);
            }
        }
    }

    /// Every situation that was met, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// How often a situation was met.
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }
}

/// Situations that the runs together must meet, and what each one is.
pub const EXPECTED: &[(&str, &str)] = &[];
