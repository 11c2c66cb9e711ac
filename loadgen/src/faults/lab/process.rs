//! One process of the cluster, a child of the harness.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::network::Space;
use crate::cluster::{StepError, file_error};

/// How a process is started, and the process while it runs.
#[derive(Debug)]
pub struct Process {
    name: String,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    space: Option<Space>,
    variables: Vec<(String, PathBuf)>,
    child: Option<Child>,
}

impl Process {
    /// A process that is not running yet.
    pub fn new(name: &str, binary: &Path, config: &Path, log: &Path) -> Process {
        Process {
            name: name.to_owned(),
            binary: binary.to_owned(),
            config: config.to_owned(),
            log: log.to_owned(),
            space: None,
            variables: Vec::new(),
            child: None,
        }
    }

    /// Lets it live in a namespace.
    #[must_use]
    pub fn inside(mut self, space: Option<&Space>) -> Process {
        self.space = space.cloned();
        self
    }

    /// Sets an environment variable to a path.
    #[must_use]
    pub fn with(mut self, variable: &str, path: PathBuf) -> Process {
        self.variables.push((variable.to_owned(), path));
        self
    }

    /// Name and number, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it; it dies with the thread that calls this, whatever happens to the harness.
    ///
    /// # Errors
    /// [`StepError`] when the log cannot be opened or the program not be started.
    pub fn start(&mut self) -> Result<(), StepError> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(file_error(&self.log))?;
        let errors = log.try_clone().map_err(file_error(&self.log))?;
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config).current_dir("/");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        command.envs(self.variables.iter().map(|(name, path)| (name, path)));
        if let Some(space) = &self.space {
            space.enter(&mut command);
        }
        // SAFETY: between fork and exec one async-signal-safe system call runs; it neither
        // allocates nor takes a lock.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let program = self.name.clone();
        let child = command.spawn().map_err(|source| StepError::Start { program, source })?;
        self.child = Some(child);
        Ok(())
    }

    /// Sends a signal; nothing happens when it does not run.
    ///
    /// # Errors
    /// [`StepError`] when the signal is refused.
    pub fn signal(&self, signal: Signal) -> Result<(), StepError> {
        let Some(child) = &self.child else { return Ok(()) };
        // A child that was not waited for keeps its number, so nobody else is hit.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let sent = pid.map_or(Ok(()), |pid| kill_process(pid, signal));
        sent.map_err(|errno| StepError::Start {
            program: format!("a signal to {}", self.name),
            source: errno.into(),
        })
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// [`StepError`] when it cannot be signalled or waited for.
    pub fn kill(&mut self) -> Result<(), StepError> {
        self.signal(Signal::KILL)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let program = self.name.clone();
        child.wait().map(drop).map_err(|source| StepError::Start { program, source })
    }

    /// How it ended, when it ended without being asked to.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        Some(status)
    }

    /// Where it writes what it has to say.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its number in the system while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{}: {error}", self.name);
        }
    }
}
