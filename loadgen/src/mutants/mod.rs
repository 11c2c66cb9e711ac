//! The proof that the tests test: removes one guard at a time and wants a named test to fail.
//!
//! Owns reading `docs/guards.md`, building the tests with removable guards, and running each
//! killing test with and without its guard. Knows nothing of what a guard protects. Invariant: it
//! ends well only when every guard has a killer that exists, passes with the guard and fails
//! without it, and when the programs people get cannot lose a guard. Start at [`run`].

#![expect(clippy::print_stdout, reason = "a command prints its results")]

pub mod build;
pub mod killer;
pub mod table;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use protocol::guard::{Guard, VARIABLE};
use thiserror::Error;

use build::{Binaries, BuildError};
use killer::Verdict;
use table::{Row, TableError};

/// Programs that people get; none of them may know how to lose a guard.
const PROGRAMS: [&str; 3] = ["lanefs", "lanefs-node", "lanefs-coordinator"];

/// Why the guards could not be put to the proof, or did not pass it.
#[derive(Debug, Error)]
pub enum MutantsError {
    /// The table is missing or malformed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The tests could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// No guard is meant.
    #[error("{0} names no guard with a row in {file}", file = table::FILE)]
    NoGuard(String),
    /// A program that people get could lose a guard, or could not be looked at.
    #[error("{0}")]
    Program(String),
    /// Some guards have no killing test.
    #[error("no row of {file} is about {0}", file = table::FILE)]
    NoKiller(String),
    /// Some guards are not proved.
    #[error("{0} of {1} guards are not proved: see the lines above")]
    Survivors(usize, usize),
}

/// Removes each guard, or only those named, and prints what became of it.
///
/// `released` is the folder of the programs people get; they are looked into before anything runs.
///
/// # Errors
/// One line about what is missing, or how many guards are not proved.
pub fn run(root: &Path, released: Option<&Path>, only: &[String]) -> Result<(), MutantsError> {
    let rows = chosen(table::read(root)?, only)?;
    if let Some(folder) = released {
        for program in PROGRAMS {
            expect_switch(&folder.join(program), false)?;
        }
        println!("the release programs know no {VARIABLE}");
    }
    let binaries = build::build(root)?;
    // The same look finds the switch where it is, or it would prove nothing.
    expect_switch(&binaries.program("lanefs-node")?, true)?;
    let verdicts = judge_all(&rows, &binaries);
    let mut survivors = 0;
    for (row, verdict) in rows.iter().zip(&verdicts) {
        survivors += usize::from(!verdict.is_proof());
        println!("{:<22} {:<10} {}", row.guard.name(), verdict.word(), row.killer);
        if let Some(detail) = verdict.detail() {
            println!("{:<22} {detail}", "");
        }
    }
    println!("{} guards, {} proved", rows.len(), rows.len() - survivors);
    if survivors > 0 { Err(MutantsError::Survivors(survivors, rows.len())) } else { Ok(()) }
}

fn chosen(rows: Vec<Row>, only: &[String]) -> Result<Vec<Row>, MutantsError> {
    for name in only {
        let named = Guard::named(name).filter(|guard| rows.iter().any(|row| row.guard == *guard));
        named.ok_or_else(|| MutantsError::NoGuard(name.clone()))?;
    }
    let named = |guard: &&Guard| rows.iter().any(|row| row.guard == **guard);
    let bare: Vec<&str> =
        Guard::ALL.iter().filter(|guard| !named(guard)).map(|guard| guard.name()).collect();
    if only.is_empty() && !bare.is_empty() {
        return Err(MutantsError::NoKiller(bare.join(", ")));
    }
    let wanted = |row: &Row| only.is_empty() || only.iter().any(|name| row.guard.name() == name);
    Ok(rows.into_iter().filter(wanted).collect())
}

/// Judges every row, as many at a time as there are cores.
fn judge_all(rows: &[Row], binaries: &Binaries) -> Vec<Verdict> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(rows.len().max(1));
    let next = AtomicUsize::new(0);
    let mut verdicts: Vec<(usize, Verdict)> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(row) = rows.get(at) else { return done };
                done.push((at, killer::judge(row, binaries)));
            }
        };
        let started: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended = started.into_iter().map(|worker| worker.join().unwrap_or_default());
        ended.flatten().collect()
    });
    verdicts.sort_by_key(|(at, _)| *at);
    verdicts.into_iter().map(|(_, verdict)| verdict).collect()
}

/// Looks for the name of the switch in a program's bytes.
fn expect_switch(program: &Path, wanted: bool) -> Result<(), MutantsError> {
    let bytes = fs::read(program).map_err(|error| {
        MutantsError::Program(format!("cannot read {}: {error}; build it first", program.display()))
    })?;
    let name = VARIABLE.as_bytes();
    let found = bytes.windows(name.len()).any(|window| window == name);
    match (found, wanted) {
        (true, false) => Err(MutantsError::Program(format!(
            "{} was built with removable guards and must not be used: build it again",
            program.display()
        ))),
        (false, true) => Err(MutantsError::Program(format!(
            "{} has no removable guards although it was built with them",
            program.display()
        ))),
        _ => Ok(()),
    }
}
