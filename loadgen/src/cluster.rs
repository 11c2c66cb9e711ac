//! A development cluster driven from outside, through the same commands a person types.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// Time between two looks at something that is awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Why a step of a demonstration or measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A command could not be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A command failed.
    #[error("{command} ended with {status}: {stderr}")]
    Failed {
        /// As typed.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A command's output is not what the contract says.
    #[error("{command} printed something unexpected: {what}")]
    Output {
        /// As typed.
        command: String,
        /// What is missing.
        what: String,
    },
    /// Something awaited did not happen.
    #[error("waited {seconds} s for {what}")]
    Timeout {
        /// How long.
        seconds: u64,
        /// For what.
        what: String,
    },
    /// A file operation of the harness itself failed.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program that belongs beside this one is not there.
    #[error("{path} is missing: make build fault-disk makes every program")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// What came back differs from what was stored.
    #[error("{0}")]
    Different(String),
}

/// Ties an error of the system to the path it is about.
pub fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> StepError + '_ {
    move |source| StepError::File { path: path.to_path_buf(), source }
}

/// A running development cluster; ended, with everything it made, when dropped.
pub struct DevCluster {
    lanefs: PathBuf,
    dir: PathBuf,
}

impl DevCluster {
    /// Starts a cluster of one coordinator and `nodes` nodes in `dir`.
    pub fn up(dir: &Path, nodes: u32, options: &[&str]) -> Result<DevCluster, StepError> {
        DevCluster::up_with(&sibling("lanefs")?, dir, nodes, options)
    }

    /// The same with another `lanefs`, which starts the programs that lie beside it.
    pub fn up_with(
        lanefs: &Path,
        dir: &Path,
        nodes: u32,
        options: &[&str],
    ) -> Result<DevCluster, StepError> {
        let cluster = DevCluster { lanefs: lanefs.to_path_buf(), dir: dir.to_path_buf() };
        let nodes = nodes.to_string();
        let mut words = vec!["dev", "up", "--nodes", &nodes];
        words.extend(options);
        cluster.dev(&words)?;
        Ok(cluster)
    }

    /// The cluster's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A `lanefs` command with this cluster's configuration.
    pub fn command<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Command {
        let mut command = Command::new(&self.lanefs);
        command.args(words).env("LANEFS_CONFIG", self.dir.join("client.toml"));
        command
    }

    /// Runs a `lanefs` command to its end and returns what it printed.
    pub fn run<W: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = W>,
    ) -> Result<String, StepError> {
        run(&mut self.command(words))
    }

    /// Starts a `lanefs` command and leaves it running.
    pub fn start<W: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = W>,
    ) -> Result<Child, StepError> {
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().map_err(|source| StepError::Start { program: typed(&command), source })
    }

    /// Runs `lanefs dev ...` on this cluster's folder.
    pub fn dev(&self, words: &[&str]) -> Result<String, StepError> {
        let mut command = self.command(words);
        command.arg("--dir").arg(&self.dir);
        run(&mut command)
    }

    /// Runs a command that prints one JSON document.
    pub fn json(&self, words: &[&str]) -> Result<Value, StepError> {
        let text = self.run(words)?;
        serde_json::from_str(&text).map_err(|error| StepError::Output {
            command: words.join(" "),
            what: format!("{error} in {text:.200}"),
        })
    }

    /// Waits until every group has all its replicas.
    pub fn wait_healthy(&self, limit: Duration) -> Result<Duration, StepError> {
        let begun = now();
        wait_for("the cluster to be healthy", limit, || {
            Ok(self.json(&["status", "--json"])?["state"] == "healthy")
        })?;
        Ok(begun.elapsed())
    }

    /// Process ids of everything that runs, with what each is.
    pub fn pids(&self) -> Result<Vec<(String, u32)>, StepError> {
        let text = self.dev(&["dev", "status", "--json"])?;
        let command = "dev status --json".to_owned();
        let document: Value = serde_json::from_str(&text).map_err(|error| StepError::Output {
            command: command.clone(),
            what: error.to_string(),
        })?;
        let Some(processes) = document["processes"].as_array() else {
            return Err(StepError::Output { command, what: "no `processes`".to_owned() });
        };
        Ok(processes
            .iter()
            .filter_map(|process| {
                let name = format!("{} {}", process["role"].as_str()?, process["number"]);
                Some((name, u32::try_from(process["pid"].as_u64()?).ok()?))
            })
            .collect())
    }

    /// Ends everything and removes what `up` made; fails when a process is left.
    pub fn down(self) -> Result<(), StepError> {
        let pids = self.pids()?;
        self.dev(&["dev", "down", "--purge"])?;
        match pids.iter().find(|(_, pid)| Path::new(&format!("/proc/{pid}")).exists()) {
            None => Ok(()),
            Some((name, pid)) => {
                Err(StepError::Different(format!("{name} (pid {pid}) is still running")))
            }
        }
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        if self.dir.join("dev.toml").exists() {
            let mut command = self.command(["dev", "down", "--purge", "--dir"]);
            command.arg(&self.dir).stdout(Stdio::null()).stderr(Stdio::null());
            if let Err(error) = command.status() {
                eprintln!("cannot end the cluster in {}: {error}", self.dir.display());
            }
        }
    }
}

/// Runs a command to its end; what it printed is the result, a failure is an error with its words.
pub fn run(command: &mut Command) -> Result<String, StepError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| StepError::Start { program: typed(command), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(StepError::Failed {
        command: typed(command),
        status: output.status,
        stderr: last_lines(&String::from_utf8_lossy(&output.stderr)),
    })
}

/// Waits for a started command and fails when it did.
pub fn finish(child: Child, what: &str) -> Result<(), StepError> {
    let output = child
        .wait_with_output()
        .map_err(|source| StepError::Start { program: what.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(StepError::Failed {
        command: what.to_owned(),
        status: output.status,
        stderr: last_lines(&String::from_utf8_lossy(&output.stderr)),
    })
}

/// Looks again and again until `reached` says yes.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut reached: impl FnMut() -> Result<bool, StepError>,
) -> Result<(), StepError> {
    let begun = now();
    while !reached()? {
        if begun.elapsed() > limit {
            return Err(StepError::Timeout { seconds: limit.as_secs(), what: what.to_owned() });
        }
        pause();
    }
    Ok(())
}

/// Wall time of the harness.
#[expect(clippy::disallowed_methods, reason = "the harness measures real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Resident memory of a process, in bytes; 0 when it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// User and system time a process has used, in seconds; 0 when it is gone.
pub fn cpu_seconds(pid: u32) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    // Fields 14 and 15 of the line; the third is the first after the name.
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// Seconds of processor time that this thread used.
#[expect(clippy::cast_precision_loss, reason = "seconds of one process")]
pub fn thread_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The program of that name beside this one.
pub fn sibling(name: &str) -> Result<PathBuf, StepError> {
    let own = std::env::current_exe()
        .map_err(|source| StepError::Start { program: name.to_owned(), source })?;
    let path = own.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(StepError::Missing { path })
}

#[expect(clippy::disallowed_methods, reason = "the harness waits for other processes")]
fn pause() {
    std::thread::sleep(POLL_INTERVAL);
}

fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}
