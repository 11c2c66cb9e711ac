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

/// Situations that the runs together must meet.
pub const EXPECTED: &[&str] = &[
    "F1 write never arrives whole",
    "F2 client gives up a write",
    "F3 newer epoch",
    "F4 backup does not answer",
    "F5 primary dies, nothing sent",
    "F6 primary dies, some prepared",
    "F7 primary dies, all prepared",
    "F8 primary dies, acknowledged",
    "F9 backup back within lease",
    "F10 primary back quickly",
    "F11 primary replaced alive",
    "F12 backup replaced alive",
    "F13 one member left",
    "F14 last member dies",
    "F15 all members restarted",
    "F16 disk rolled back",
    "F17 damaged cells",
    "F18 journal or index damaged",
    "F19 report to a predecessor",
    "F20 read without coordinator",
    "F21 client cut off from primary",
    "F22 primary cut off from backup",
    "F23 reader older than overwrite",
    "space of a left group freed",
    "repaired cells",
    "file cut",
    "node emptied and removed",
    "node added",
    "band last copy",
    "band heal",
    "band drain",
    "band rebalance",
    "class Retry",
    "class Refresh",
    "class Elsewhere",
    "class Fatal",
];
