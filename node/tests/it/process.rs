//! The real binary: what it says and how it ends when it cannot start.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use protocol::ids::{ClusterId, NodeId};
use protocol::tls::Identity;

use crate::certificates::Authority;
use crate::fixture::{CLUSTER, SERVER};

/// An ordinary user on every Linux system.
const NOBODY: u32 = 65_534;

/// A folder with everything a node needs, and the text of its configuration.
pub struct NodeFolder {
    pub authority: Authority,
    pub text: String,
    pub port: u16,
}

impl NodeFolder {
    /// One shard on a free port, with a coordinator address where nobody answers.
    pub fn new() -> NodeFolder {
        NodeFolder::of(Authority::new(CLUSTER), &SERVER)
    }

    fn of(authority: Authority, identity: &Identity) -> NodeFolder {
        let files = authority.files(identity);
        let port = free_port();
        let text = format!(
            "node = 1\n\
             cluster = \"{CLUSTER}\"\n\
             address = \"127.0.0.1\"\n\
             coordinators = [{{ id = 1, address = \"127.0.0.1:{}\" }}]\n\
             [tls]\n\
             ca = {:?}\n\
             cert = {:?}\n\
             key = {:?}\n\
             [[shard]]\n\
             target = 101\n\
             port = {port}\n\
             path = \"t101.lane\"\n\
             size = \"64MiB\"\n\
             io_memory = \"1MiB\"\n",
            free_port(),
            files.ca,
            files.cert,
            files.key,
        );
        NodeFolder { authority, text, port }
    }

    fn replaced(&self, from: &str, to: &str) -> String {
        assert!(self.text.contains(from), "the configuration has no {from:?}");
        self.text.replacen(from, to, 1)
    }

    /// A command that starts the node with this configuration.
    pub fn command(&self, text: &str) -> Command {
        let path = self.config_path();
        fs::write(&path, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lanefs-node"));
        command.arg("--config").arg(path);
        command
    }

    fn config_path(&self) -> PathBuf {
        self.authority.folder().join("node.toml")
    }

    /// Makes the command run without privileges, also when the test has some.
    fn ordinary(&self, mut command: Command) -> Command {
        if rustix::process::geteuid().is_root() {
            let folder = self.authority.folder();
            let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            for path in files.chain([folder.to_path_buf()]) {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Checks the exit status, and that standard error is one line with all these parts.
#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn process_refuses_bad_configurations() {
    let folder = NodeFolder::new();
    let changes = [
        ("node = 1", "node = \"one\"", "node.toml: line 1: node: invalid type"),
        ("node = 1", "node = 1\nspeed = 9", "unknown field `speed`"),
        ("target = 101\n", "", "missing field `target`"),
        ("64MiB", "64 megs", "size: \"64 megs\" is not a size"),
        ("node = 1", "node = 2", "certificate is for lanefs://"),
        ("cert.pem", "cort.pem", "no certificate in PEM form"),
    ];
    for (from, to, expected) in changes {
        let output = folder.command(&folder.replaced(from, to)).output().unwrap();
        refused(&output, 2, &[expected]);
    }
    let missing = folder.command(&folder.text).arg("--config").arg("/nowhere.toml").output();
    assert_eq!(missing.unwrap().status.code(), Some(2));
}

#[test]
fn process_refuses_a_foreign_certificate() {
    let authority = Authority::new(CLUSTER);
    let other = NodeFolder::of(authority, &Identity::Node(NodeId(2)));
    let output = other.command(&other.text).output().unwrap();
    refused(&output, 2, &["certificate is for lanefs://", "/node/2", "/node/1"]);
}

#[test]
fn process_prints_version_and_configuration() {
    let folder = NodeFolder::new();
    let version = Command::new(env!("CARGO_BIN_EXE_lanefs-node")).arg("--version").output();
    let version = String::from_utf8(version.unwrap().stdout).unwrap();
    assert!(version.starts_with("lanefs-node 0."), "{version}");
    let printed = folder.command(&folder.text).arg("--print-config").output().unwrap();
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).unwrap();
    let again = folder.command(&text).arg("--print-config").output().unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), text);
}

#[test]
fn process_refuses_a_port_in_use() {
    let folder = NodeFolder::new();
    let _taken = TcpListener::bind(("127.0.0.1", folder.port)).unwrap();
    let output = folder.command(&folder.text).output().unwrap();
    let address = format!("127.0.0.1:{}", folder.port);
    refused(&output, 1, &[&address, "target 101", "port in use"]);
}

#[test]
fn process_refuses_a_container_it_may_not_use() {
    let folder = NodeFolder::new();
    let path = folder.authority.folder().join("t101.lane");
    let held = fs::File::create(&path).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let output = folder.command(&folder.text).output().unwrap();
    refused(&output, 1, &["t101.lane", "locked by another process"]);
    drop(held);
    fs::remove_file(&path).unwrap();
    let output = folder.command(&folder.replaced("64MiB", "512TiB")).output().unwrap();
    refused(&output, 1, &["t101.lane", "512TiB"]);
    assert!(!path.exists());
    assert!(!folder.authority.folder().join("t101.lane.new").exists());
}

#[test]
fn process_refuses_a_core_that_does_not_exist() {
    let folder = NodeFolder::new();
    let text = folder.replaced("target = 101", "target = 101\ncore = 4000");
    let output = folder.command(&text).output().unwrap();
    refused(&output, 1, &["shard-0", "4000"]);
}

#[test]
fn process_says_that_io_uring_is_forbidden() {
    let folder = NodeFolder::new();
    let mut command = folder.command(&folder.text);
    // SAFETY: the closure makes system calls only, which is allowed between fork and exec.
    unsafe { command.pre_exec(forbid_io_uring) };
    let output = command.output().unwrap();
    refused(&output, 1, &["io_uring is not available", "io_uring_setup", "seccomp"]);
}

/// Installs a filter that answers `io_uring_setup` with EPERM and lets all else pass.
fn forbid_io_uring() -> io::Result<()> {
    let number = u32::try_from(libc::SYS_io_uring_setup).map_err(io::Error::other)?;
    let code = |bits: u32| u16::try_from(bits).unwrap_or(0);
    let statement = |bits, k| libc::sock_filter { code: code(bits), jt: 0, jf: 0, k };
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
            jt: 0,
            jf: 1,
            k: number,
        },
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the arguments are as prctl(2) describes them, and the program lives through the call.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets both memory-lock limits of the process that is about to start.
fn lock_limit(command: &mut Command, bytes: u64) {
    let limit = move || {
        let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
        rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).map_err(Into::into)
    };
    // SAFETY: the closure makes one system call, which is allowed between fork and exec.
    unsafe { command.pre_exec(limit) };
}

#[test]
fn process_refuses_too_little_lockable_memory() {
    let folder = NodeFolder::new();
    let mut command = folder.ordinary(folder.command(&folder.text));
    lock_limit(&mut command, 1 << 20);
    let output = command.output().unwrap();
    // 3 x (1 MiB of the shard + 64 KiB of the control executor).
    let parts = ["1048576 bytes", "3342336 are needed", "LimitMEMLOCK=3342336", "ulimit -l 3264"];
    refused(&output, 1, &parts);
    let preferred = folder.replaced("[tls]", "registered_buffers = \"preferred\"\n[tls]");
    let mut command = folder.ordinary(folder.command(&preferred));
    lock_limit(&mut command, 1 << 18);
    let output = command.output().unwrap();
    refused(&output, 1, &["262144 bytes", "the runtime needs at least 524288"]);
}

/// A started node that is killed at the latest when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, which is what most tests want.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts the node and waits until a line of its log has this text.
    fn until(mut command: Command, text: &str) -> (Running, String) {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let found = lines.find(|line| {
            said.push(line.clone());
            line.contains(text)
        });
        let line = found.unwrap_or_else(|| panic!("the node never says {text:?}: {said:#?}"));
        // What it says later goes on being read, so that it never waits for this test.
        std::thread::spawn(move || lines.count());
        (Running(child), line)
    }

    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

#[test]
fn process_serves_without_a_coordinator_and_stops_on_sigterm() {
    let folder = NodeFolder::new();
    let (node, line) = Running::until(folder.command(&folder.text), "serving");
    for part in ["target_id=101", &format!("port={}", folder.port), "core=\"any\""] {
        assert!(line.contains(part), "{line:?} does not say {part:?}");
    }
    assert_eq!(node.stop(), Some(0));
    let first = generation(&line);
    let (node, line) = Running::until(folder.command(&folder.text), "serving");
    assert_eq!(generation(&line), first + 1);
    assert_eq!(node.stop(), Some(0));
}

#[expect(clippy::disallowed_methods, reason = "the wall clock is what is waited for")]
#[test]
fn process_with_a_new_container_is_newer_than_with_the_one_it_replaces() {
    let folder = NodeFolder::new();
    let (node, line) = Running::until(folder.command(&folder.text), "serving");
    assert_eq!(node.stop(), Some(0));
    let old = generation(&line);
    std::fs::remove_file(folder.authority.folder().join("t101.lane")).unwrap();
    while seconds_of_now() <= u64::from(old) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (node, line) = Running::until(folder.command(&folder.text), "serving");
    assert!(generation(&line) > old, "{line}");
    assert_eq!(node.stop(), Some(0));
}

#[expect(clippy::disallowed_methods, reason = "what the node counts from")]
fn seconds_of_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The generation that a node says it serves with.
fn generation(line: &str) -> u32 {
    let text = line.split("generation=").nth(1).unwrap_or_default();
    text.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn process_refuses_a_container_of_another_cluster() {
    let folder = NodeFolder::new();
    let (node, _) = Running::until(folder.command(&folder.text), "serving");
    assert_eq!(node.stop(), Some(0));
    let other = NodeFolder::of(Authority::new(ClusterId(0xbad)), &SERVER);
    let container = format!("{:?}", folder.authority.folder().join("t101.lane"));
    let cluster = CLUSTER.to_string();
    let text = other.replaced(&cluster, &ClusterId(0xbad).to_string());
    let text = text.replacen("\"t101.lane\"", &container, 1);
    let output = other.command(&text).output().unwrap();
    refused(&output, 1, &["t101.lane", "cluster"]);
}

#[test]
fn process_killed_starts_again_on_its_port() {
    let folder = NodeFolder::new();
    let (node, _) = Running::until(folder.command(&folder.text), "serving");
    // The server ends this connection, so what is left of it stays on the server's port.
    let open = std::net::TcpStream::connect(("127.0.0.1", folder.port)).unwrap();
    drop(node);
    let (node, _) = Running::until(folder.command(&folder.text), "serving");
    drop(open);
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn process_goes_on_with_unregistered_buffers_when_told_to() {
    let folder = NodeFolder::new();
    let preferred = folder.replaced("[tls]", "registered_buffers = \"preferred\"\n[tls]");
    let mut command = folder.ordinary(folder.command(&preferred));
    lock_limit(&mut command, 1 << 20);
    let (node, line) = Running::until(command, "WARN");
    assert!(line.contains("unregistered buffers"), "{line}");
    assert_eq!(node.stop(), Some(0));
}
