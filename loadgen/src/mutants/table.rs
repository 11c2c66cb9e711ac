//! The table of guards and killing tests, read from the document that people read.
//!
//! Owns the form of a row. Knows nothing of whether the test exists: `killer` asks it.

use std::fmt;
use std::fs;
use std::path::Path;

use protocol::guard::Guard;
use thiserror::Error;

/// The document, from the root of the repository.
pub const FILE: &str = "docs/guards.md";

/// One guard and the test that its removal must fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The guard.
    pub guard: Guard,
    /// The test.
    pub killer: Killer,
    /// True when the test may hang without the guard instead of failing.
    pub hangs: bool,
}

/// A test, as `cargo nextest list` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Killer {
    /// The binary: a package, or a package and an integration test.
    pub binary: String,
    /// Path of the test in it.
    pub test: String,
}

/// Why the table cannot be used.
#[derive(Debug, Error)]
pub enum TableError {
    /// The document cannot be read.
    #[error("cannot read {FILE}: {0}; run this in the root of the repository")]
    Unreadable(std::io::Error),
    /// A row is not of the form of a row.
    #[error("{FILE} line {line}: {what}")]
    Malformed {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        what: String,
    },
}

/// Reads the table below a root folder.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read(root: &Path) -> Result<Vec<Row>, TableError> {
    parse(&fs::read_to_string(root.join(FILE)).map_err(TableError::Unreadable)?)
}

/// Reads the rows of the document's tables.
///
/// # Errors
/// [`TableError::Malformed`] for a row that names no guard, names one again or names no test.
pub fn parse(document: &str) -> Result<Vec<Row>, TableError> {
    let mut rows: Vec<Row> = Vec::new();
    for (at, line) in document.lines().enumerate() {
        let is_row = line.starts_with("| `");
        if !is_row {
            continue;
        }
        let row = parse_row(line).map_err(|what| TableError::Malformed { line: at + 1, what })?;
        if rows.iter().any(|have| have.guard == row.guard) {
            let what = format!("{} has a row already", row.guard.name());
            return Err(TableError::Malformed { line: at + 1, what });
        }
        rows.push(row);
    }
    Ok(rows)
}

fn parse_row(line: &str) -> Result<Row, String> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [guard, test] = cells[..] else {
        return Err("a row is | `guard` | `binary test` |".to_owned());
    };
    let name = guard.trim_matches('`');
    let guard = Guard::named(name).ok_or_else(|| format!("{name} is no guard"))?;
    let (test, hangs) = match test.strip_suffix("(hangs)") {
        Some(test) => (test.trim(), true),
        None => (test, false),
    };
    let quoted = test.strip_prefix('`').and_then(|test| test.strip_suffix('`'));
    let words = quoted.and_then(|words| words.split_once(' '));
    let (binary, test) = words.ok_or("a killing test is `binary path::of::the_test`")?;
    let killer = Killer { binary: binary.to_owned(), test: test.to_owned() };
    Ok(Row { guard, killer, hangs })
}

impl fmt::Display for Killer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.binary, self.test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_a_guard_and_a_test() {
        let rows = parse("# Guards\n| `EpochCheck` | `node::it group::a` |\n").ok();
        let killer = Killer { binary: "node::it".into(), test: "group::a".into() };
        assert_eq!(rows, Some(vec![Row { guard: Guard::EpochCheck, killer, hangs: false }]));
        let rows = parse("| `OpTable` | `node a` (hangs) |").unwrap_or_default();
        assert!(rows.iter().all(|row| row.hangs) && rows.len() == 1);
    }

    #[test]
    fn what_is_wrong_with_a_row_is_told_with_its_line() {
        let wrong = |text: &str| parse(text).map_err(|error| error.to_string()).unwrap_err();
        assert_eq!(wrong("\n| `Nothing` | `a b` |"), "docs/guards.md line 2: Nothing is no guard");
        assert!(wrong("| `OpTable` | node a |").contains("a killing test is"));
        assert!(wrong("| `OpTable` |").contains("a row is"));
        let twice = "| `OpTable` | `a b` |\n| `OpTable` | `a c` |";
        assert_eq!(wrong(twice), "docs/guards.md line 2: OpTable has a row already");
    }
}
