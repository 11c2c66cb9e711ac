//! One background process of a dev cluster: starting it, finding it again, ending it.
//!
//! A pid file holds pid and start time. A process counts as running only when both match and it
//! is not a zombie, so a recycled pid is neither reported nor signalled.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use protocol::ids::NodeId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use super::folder::write_file;
use super::{DevError, Folder};

/// Most bytes of a log that an error quotes.
const TAIL_BYTES: u64 = 2048;
/// Most lines of a log that an error quotes.
const TAIL_LINES: usize = 3;

/// What a process of the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A coordinator, numbered from 1.
    Coordinator(u32),
    /// A data node.
    Node(NodeId),
}

impl Role {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Coordinator(_) => "coordinator",
            Role::Node(_) => "node",
        }
    }

    pub(crate) fn number(self) -> u32 {
        match self {
            Role::Coordinator(number) => number,
            Role::Node(node) => node.0,
        }
    }

    fn folder(self, folder: &Folder) -> PathBuf {
        match self {
            Role::Coordinator(number) => folder.coordinator(number),
            Role::Node(node) => folder.node(node),
        }
    }
}

/// The place of one process in a cluster, running or not.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) role: Role,
    pid_file: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

/// What is known of a process from its pid file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Running(Pid),
    /// It ended without being asked to.
    Dead,
    /// It was never started, or was stopped in order.
    Stopped,
}

/// A running process that can be signalled and waited for.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    fd: AsyncFd<OwnedFd>,
}

impl Slot {
    pub(crate) fn new(folder: &Folder, role: Role) -> Slot {
        let own = role.folder(folder);
        let word = role.word();
        Slot {
            role,
            pid_file: own.join("pid"),
            config: own.join(format!("{word}.toml")),
            log: folder.logs().join(format!("{word}-{}.log", role.number())),
        }
    }

    /// Role and number, for people.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.role.word(), self.role.number())
    }

    pub(crate) fn state(&self) -> State {
        match read_pid_file(&self.pid_file) {
            Some((pid, started)) if start_time(pid) == Some(started) => State::Running(pid),
            Some(_) => State::Dead,
            None => State::Stopped,
        }
    }

    /// The running process; `None` when there is none.
    pub(crate) fn running(&self) -> Result<Option<Running>, DevError> {
        let Some((pid, started)) = read_pid_file(&self.pid_file) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(self.signal_error("open", error.into())),
        };
        // The descriptor pins the process, so its start time cannot change after this check.
        if start_time(pid) != Some(started) {
            return Ok(None);
        }
        // SAFETY: an `OwnedFd` is an open descriptor, and nothing closes or replaces it before the
        // `AsyncFd` that owns it is dropped.
        let fd = unsafe { AsyncFd::register(fd) };
        let fd = fd.map_err(|error| self.signal_error("watch", error.into()))?;
        Ok(Some(Running { name: self.name(), fd }))
    }

    /// Starts the process in the background, in a session of its own.
    ///
    /// # Errors
    /// [`DevError::File`] when the log, the binary or the pid file cannot be used.
    pub(crate) fn start(&self, binary: &Path) -> Result<(), DevError> {
        let mut log = OpenOptions::new();
        let log = log.create(true).append(true).mode(0o600).open(&self.log);
        let log = log.map_err(DevError::file("open", &self.log))?;
        let errors = log.try_clone().map_err(DevError::file("open", &self.log))?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(&self.config).current_dir("/");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        // SAFETY: between fork and exec only two async-signal-safe system calls run; neither
        // allocates nor takes a lock.
        unsafe { command.pre_exec(detach) };
        let child = command.spawn().map_err(DevError::file("start", binary))?;
        let pid = child.id();
        let started = Pid::from_raw(i32::try_from(pid).unwrap_or(0)).and_then(start_time);
        // A process that is gone already leaves a pid file that matches nothing: it reads "dead".
        let line = format!("{pid} {}\n", started.unwrap_or(0));
        write_file(&self.pid_file, 0o600, line.as_bytes())
    }

    /// Forgets a process that ended in order.
    pub(crate) fn forget(&self) -> Result<(), DevError> {
        match fs::remove_file(&self.pid_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DevError::file("remove", &self.pid_file)(error))
            }
            _ => Ok(()),
        }
    }

    /// The error that a process ended while it was waited for.
    pub(crate) fn died(&self) -> DevError {
        let tail = tail(&self.log).unwrap_or_default();
        let tail = if tail.is_empty() { "it said nothing".to_owned() } else { tail };
        DevError::Died { name: self.name(), tail, log: self.log.clone() }
    }

    fn signal_error(&self, action: &'static str, source: io::Error) -> DevError {
        DevError::Signal { name: self.name(), action, source }
    }
}

impl Running {
    /// Sends a signal; a process that has ended meanwhile is no error.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), DevError> {
        match pidfd_send_signal(self.fd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(DevError::Signal {
                name: self.name.clone(),
                action: "signal",
                source: error.into(),
            }),
        }
    }

    /// Waits until every thread of the process has ended; false when that takes too long.
    ///
    /// # Cancel safety
    /// Nothing changes; the wait can be repeated.
    pub(crate) async fn ended(&self, within: Duration) -> Result<bool, DevError> {
        match tokio::time::timeout(within, self.fd.readable()).await {
            Err(_) => Ok(false),
            Ok(Ok(_)) => Ok(true),
            Ok(Err(source)) => {
                Err(DevError::Signal { name: self.name.clone(), action: "wait for", source })
            }
        }
    }
}

/// Leaves the caller's session and its descriptors behind. Runs between fork and exec.
fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    // SAFETY: the call changes only flags of descriptors; it marks them instead of closing them,
    // because the pipe through which a failed exec is reported is among them.
    let result = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn read_pid_file(path: &Path) -> Option<(Pid, u64)> {
    let text = fs::read_to_string(path).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    Some((Pid::from_raw(pid.parse().ok()?)?, started.parse().ok()?))
}

/// When a process started, in clock ticks since boot; `None` when it has ended.
fn start_time(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse_stat(&stat)
}

/// Start time from a line of `/proc/PID/stat`; `None` for a zombie.
fn parse_stat(stat: &str) -> Option<u64> {
    // The name in parentheses may hold spaces and parentheses; the fields after it may not.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

/// The last lines of a log, joined to one.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | "))
}

/// Finds another program of lanefs: beside this one, else in `PATH`.
///
/// # Errors
/// [`DevError::NoBinary`].
pub(crate) fn find_binary(name: &str) -> Result<PathBuf, DevError> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|folder| folder.join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(OsStr::new(&path)).map(|folder| folder.join(name));
    beside
        .into_iter()
        .chain(in_path)
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| DevError::NoBinary(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(folder: &Path) -> Slot {
        fs::create_dir_all(folder.join("node-1")).unwrap();
        fs::create_dir_all(folder.join("logs")).unwrap();
        Slot::new(&Folder::at(folder).unwrap(), Role::Node(NodeId(1)))
    }

    #[test]
    fn a_process_name_cannot_confuse_the_start_time() {
        let line = |state| {
            format!("7 (a) S 1 b) {state} 1 7 7 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 9 0 4242 8 9")
        };
        assert_eq!(parse_stat(&line("S")), Some(4242));
        assert_eq!(parse_stat(&line("Z")), None);
        assert_eq!(parse_stat("garbage"), None);
    }

    #[tokio::test]
    async fn a_recycled_pid_is_neither_running_nor_signalled() {
        let folder = tempfile::tempdir().unwrap();
        let slot = slot(folder.path());
        assert_eq!(slot.state(), State::Stopped);
        let own = std::process::id();
        fs::write(&slot.pid_file, format!("{own} 1\n")).unwrap();
        assert_eq!(slot.state(), State::Dead);
        assert!(slot.running().unwrap().is_none());
        let started = parse_stat(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        fs::write(&slot.pid_file, format!("{own} {started}\n")).unwrap();
        assert!(matches!(slot.state(), State::Running(_)));
        assert!(slot.running().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_process_is_started_found_again_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let slot = slot(folder.path());
        let program = folder.path().join("program");
        fs::write(&program, "#!/bin/sh\necho first line\nexec sleep 600\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
        slot.start(&program).unwrap();
        let running = slot.running().unwrap().unwrap();
        assert!(!running.ended(Duration::ZERO).await.unwrap());
        running.signal(Signal::KILL).unwrap();
        assert!(running.ended(Duration::from_secs(20)).await.unwrap());
        assert_eq!(slot.state(), State::Dead);
        assert!(slot.running().unwrap().is_none());
        slot.forget().unwrap();
        assert_eq!(slot.state(), State::Stopped);
    }

    #[test]
    fn the_error_of_a_dead_process_quotes_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let slot = slot(folder.path());
        fs::write(&slot.log, "one\ntwo\n\nthree\nport 7410 is in use\n").unwrap();
        let text = slot.died().to_string();
        assert!(
            text.contains("node 1 ended at start: two | three | port 7410 is in use"),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }
}
