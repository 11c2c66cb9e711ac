//! Runs one killing test, first with its guard and then without.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use protocol::guard::VARIABLE;

use super::build::{Binaries, TestBinary};
use super::table::Row;
use crate::cluster::now;

/// Longest run of a killing test, with or without its guard.
///
/// Killers are chosen for speed: all of them together must fit into a few minutes of two cores.
pub const KILLER_TIME_MAX: Duration = Duration::from_secs(60);
/// Pause between two looks at a running test.
const LOOK: Duration = Duration::from_millis(5);
/// Exit code of a test program in which a test failed.
const TEST_FAILED: i32 = 101;

/// What became of a guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The test passes with the guard and fails without it.
    Killed,
    /// The test passes without the guard too.
    Survived,
    /// The test says nothing about the guard, for this reason.
    NoProof(String),
}

impl Verdict {
    /// True when the guard is proved.
    pub fn is_proof(&self) -> bool {
        *self == Verdict::Killed
    }

    /// One word for the table.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Killed => "killed",
            Verdict::Survived => "SURVIVED",
            Verdict::NoProof(_) => "NO PROOF",
        }
    }

    /// Why there is no proof.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Verdict::NoProof(why) => Some(why),
            _ => None,
        }
    }
}

/// Runs the killer of a row with and without the guard.
pub fn judge(row: &Row, binaries: &Binaries) -> Verdict {
    let Some(binary) = binaries.test(&row.killer.binary) else {
        return Verdict::NoProof(format!("there is no test binary {}", row.killer.binary));
    };
    match run(binary, &row.killer.test, None) {
        Ended::Passed => {}
        Ended::Missing => return Verdict::NoProof("there is no such test".to_owned()),
        other => return Verdict::NoProof(format!("with the guard the test {}", other.words())),
    }
    match run(binary, &row.killer.test, Some(row.guard.name())) {
        Ended::Failed => Verdict::Killed,
        Ended::Hung if row.hangs => Verdict::Killed,
        Ended::Passed => Verdict::Survived,
        other => Verdict::NoProof(format!("without the guard the test {}", other.words())),
    }
}

/// How a run of one test ended.
enum Ended {
    Passed,
    Failed,
    Missing,
    Hung,
    Other(String),
}

impl Ended {
    fn words(&self) -> String {
        match self {
            Ended::Passed => "passes".to_owned(),
            Ended::Failed => "fails".to_owned(),
            Ended::Missing => "is not there".to_owned(),
            Ended::Hung => format!("runs for over {} s", KILLER_TIME_MAX.as_secs()),
            Ended::Other(what) => what.clone(),
        }
    }
}

fn run(binary: &TestBinary, test: &str, without: Option<&str>) -> Ended {
    let mut command = Command::new(&binary.path);
    command.args(["--exact", test]).current_dir(&binary.folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.env("CARGO_MANIFEST_DIR", &binary.folder);
    // A property that fails on purpose must not leave its case in the source tree.
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
    match without {
        Some(name) => command.env(VARIABLE, name),
        None => command.env_remove(VARIABLE),
    };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ended::Other(format!("cannot be started: {error}")),
    };
    // Read beside the wait: a talkative test would fill the pipe and stop.
    let reader = child.stdout.take().map(|mut pipe| {
        thread::spawn(move || {
            let mut said = Vec::new();
            // What could not be read says nothing, and then the test counts as missing.
            let _ = pipe.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        })
    });
    let status = wait(&mut child);
    let said = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let Some(status) = status else { return Ended::Hung };
    match status.code() {
        Some(0) if said.contains("test result: ok. 1 passed") => Ended::Passed,
        Some(0) => Ended::Missing,
        Some(TEST_FAILED) => Ended::Failed,
        _ => Ended::Other(format!("ends with {status}")),
    }
}

/// Waits for the end; `None` when it took too long, and then the process is gone.
#[expect(clippy::disallowed_methods, reason = "a child process tells its end to no event")]
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let begun = now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if begun.elapsed() > KILLER_TIME_MAX {
            // Either it has just ended or it ends now; there is nobody else to tell.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(LOOK);
    }
}
