//! Little lockable memory and no privileges: everything works, and each start of a node says the price once.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Resource, Rlimit, geteuid, setrlimit};

use super::{Cluster, tree};

/// An ordinary user on every Linux system.
const NOBODY: u32 = 65_534;
/// Memory that a process may lock, in bytes: enough for the runtime, too little for the buffers.
const LOCKABLE: u64 = 1 << 20;
/// Bytes of the file that is stored: many more than one buffer.
const LARGE: usize = (20 << 20) + 777;

/// Takes privileges and lockable memory from the process that is about to start.
fn ordinary(command: &mut Command) {
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let limit = || {
        let limit = Rlimit { current: Some(LOCKABLE), maximum: Some(LOCKABLE) };
        setrlimit(Resource::Memlock, limit).map_err(Into::into)
    };
    // SAFETY: the closure makes one system call, which is allowed between fork and exec.
    unsafe { command.pre_exec(limit) };
}

#[test]
fn little_lockable_memory_costs_cpu_and_each_start_says_so_once() {
    let cluster = Cluster::down(ordinary);
    let content = tree::noise(LARGE);
    fs::write(cluster.path("large"), &content).expect("writable");
    if geteuid().is_root() {
        chown(cluster.folder.path(), Some(NOBODY), Some(NOBODY)).expect("privileged");
    }
    cluster.dev("up", &["--nodes", "3", "--target-size", "256MiB"]);
    cluster.ok(&["put", "large", "/large"]);
    cluster.intact("/large", &content);
    cluster.dev("kill-node", &["2"]);
    cluster.ok(&["put", "large", "/again"]);
    cluster.dev("start-node", &["2"]);
    let checked = cluster.healed();
    assert_eq!(checked["replicas_verified"].as_u64(), checked["chunks"].as_u64().map(|n| 3 * n));
    assert_eq!(cluster.json(&["status"])["state"], "healthy");
    cluster.dev("down", &[]);

    for (number, starts) in [(1, 1), (2, 2), (3, 1)] {
        let log = fs::read_to_string(cluster.path(&format!("c/logs/node-{number}.log")));
        let log = log.expect("readable");
        let priced = |line: &&str| line.contains("WARN") && line.contains("more CPU per byte");
        let lines: Vec<&str> = log.lines().filter(priced).collect();
        assert_eq!(lines.len(), starts, "{log}");
        for part in ["unregistered buffers", "LimitMEMLOCK", "ulimit -l"] {
            assert!(lines[0].contains(part), "{:?} does not say {part:?}", lines[0]);
        }
    }
}
