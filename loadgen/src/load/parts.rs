//! One load put on by several processes of this machine, begun at the same time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::Config;

use super::put_on::wall_clock;
use super::scenario::Scenario;
use super::subject::Share;
use super::{Load, Options, Run, merge, read_outcome};
use crate::cluster::{StepError, file_error};

/// Until the processes have started and connected.
const START_WITHIN: Duration = Duration::from_secs(3);
/// And further for each of them.
const START_EACH: Duration = Duration::from_millis(500);

/// Starts a process for each part and puts their results together.
///
/// # Errors
/// [`StepError`] when a part cannot be started or ends without a result.
pub(super) fn run(
    config: &Config,
    scenario: &Scenario,
    options: &Options,
) -> Result<Run, StepError> {
    Load::of(config, scenario, options).prepare()?;
    let folder = tempdir()?;
    let done = in_folder(&folder, scenario, options);
    let removed = std::fs::remove_dir_all(&folder).map_err(file_error(&folder));
    let run = done?;
    removed.map(|()| run)
}

fn in_folder(folder: &Path, scenario: &Scenario, options: &Options) -> Result<Run, StepError> {
    let file = folder.join("scenario.toml");
    let text =
        toml::to_string(scenario).map_err(|error| StepError::Different(error.to_string()))?;
    std::fs::write(&file, text).map_err(file_error(&file))?;
    let begin = wall_clock() + START_WITHIN + START_EACH * options.processes;
    let since_1970 = begin.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut started = Vec::new();
    for part in 0..options.processes {
        let share = Share { part, of: options.processes };
        let result = folder.join(format!("{part}.json"));
        let command = command(options, &file, share, since_1970.as_secs_f64(), &result)?;
        started.push((start(command)?, result));
    }
    let mut outcomes = Vec::new();
    for (child, result) in started {
        outcomes.push(finish(child, &result)?);
    }
    merge::merge(&outcomes)
}

fn command(
    options: &Options,
    scenario: &Path,
    share: Share,
    start_at: f64,
    result: &Path,
) -> Result<Command, StepError> {
    let program = std::env::current_exe()
        .map_err(|source| StepError::Start { program: "this program".to_owned(), source })?;
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg(scenario)
        .args(["--dir", &options.dir, "--quiet", "--mergeable"])
        .args(["--part", &format!("{}/{}", share.part + 1, share.of)])
        .args(["--start-at", &start_at.to_string()])
        .arg("--json")
        .arg(result);
    if let Some(config) = &options.config {
        command.arg("--config").arg(config);
    }
    if share.part == 0 {
        // Counted once.
        for pid in &options.servers {
            command.args(["--server", &pid.to_string()]);
        }
    }
    Ok(command)
}

fn start(mut command: Command) -> Result<Child, StepError> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().map_err(|source| StepError::Start { program: "a part".to_owned(), source })
}

/// Waits for a part. One that failed but has a result is judged by it: it may be void.
fn finish(child: Child, result: &Path) -> Result<super::outcome::Outcome, StepError> {
    let output = child
        .wait_with_output()
        .map_err(|source| StepError::Start { program: "a part".to_owned(), source })?;
    if result.exists() {
        return read_outcome(result);
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(StepError::Different(format!("a part of the load failed: {told}")))
}

fn tempdir() -> Result<PathBuf, StepError> {
    let folder = std::env::temp_dir().join(format!("lanefs-load-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(file_error(&folder))?;
    Ok(folder)
}
