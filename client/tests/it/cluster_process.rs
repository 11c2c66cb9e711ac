//! The whole of lanefs as processes: what a person does with a first cluster.
//!
//! The binaries of nodes and coordinator must have been built beside `lanefs`, as `make test` does.

#![expect(clippy::expect_used, reason = "a test may fail where it stands")]

mod clear;
mod full;
mod lockable;
mod many;
mod openmetrics;
mod shards;
mod tree;
mod watched;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait until replicas are equal again.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// A running cluster; ended and removed when dropped.
struct Cluster {
    folder: tempfile::TempDir,
    /// Changes each command before it starts.
    prepare: fn(&mut Command),
}

impl Cluster {
    fn up(more: &[&str]) -> Cluster {
        Cluster::sized("256MiB", more)
    }

    fn sized(target_size: &str, more: &[&str]) -> Cluster {
        let cluster = Cluster::down(|_| ());
        cluster.dev("up", &[&["--target-size", target_size], more].concat());
        cluster
    }

    /// A folder for a cluster that nothing has been started of.
    fn down(prepare: fn(&mut Command)) -> Cluster {
        Cluster { folder: tempfile::tempdir().expect("a folder"), prepare }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lanefs"));
        command.env("LANEFS_CONFIG", self.path("c/client.toml"));
        command.current_dir(self.folder.path()).args(arguments);
        (self.prepare)(&mut command);
        command.output().expect("lanefs starts")
    }

    /// Runs a command that must succeed; returns what it printed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lanefs {arguments:?}: {errors}{}", self.logs());
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command that must fail with one line; returns the line.
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "lanefs {arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "lanefs {arguments:?}: {errors}");
        errors
    }

    fn dev(&self, verb: &str, more: &[&str]) -> String {
        self.ok(&[&["dev", verb, "--dir", "c"], more].concat())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).expect("one JSON document")
    }

    /// Reads a file back and compares it with its source.
    fn intact(&self, path: &str, content: &[u8]) {
        let output = self.run(&["cat", path]);
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == content, "{path} has other bytes");
    }

    /// Waits until no replica is missing, then checks that all are equal.
    #[expect(clippy::disallowed_methods, reason = "the cluster heals in real time")]
    fn healed(&self) -> Value {
        let until = Instant::now() + HEALED_WITHIN;
        loop {
            let document = self.json(&["verify", "-r", "/"]);
            if document["replicas_missing"] == 0 {
                return document;
            }
            assert!(Instant::now() < until, "not healed: {document}{}", self.logs());
        }
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.path("c/logs")).into_iter().flatten().flatten() {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            text.push_str(&format!("\n--- {}\n{last}", entry.path().display()));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run(&["dev", "down", "--dir", "c", "--purge"]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_tree_survives_the_loss_of_every_node_in_turn() {
    let cluster = Cluster::up(&[]);
    let source = cluster.path("source");
    tree::make(&source);

    cluster.ok(&["put", "-r", "source", "/"]);
    cluster.dev("kill-node", &["2"]);
    cluster.ok(&["get", "-r", "/source", "back"]);
    tree::assert_equal(&source, &cluster.path("back"));

    cluster.ok(&["put", "-r", "source", "/again"]);
    assert_eq!(cluster.json(&["status"])["state"], "degraded");
    let replicas = &cluster.json(&["locate", "/again/large"])["chunks"][0]["replicas"];
    assert_eq!(replicas.as_array().map(Vec::len), Some(2), "{replicas}");
    let before = cluster.json(&["verify", "-r", "/"]);
    assert!(before["replicas_missing"].as_u64() > Some(0), "{before}");

    cluster.dev("start-node", &["2"]);
    cluster.healed();
    for number in ["1", "2", "3"] {
        cluster.dev("kill-node", &[number]);
        cluster.ok(&["put", "source/small", &format!("/r{number}")]);
        cluster.dev("start-node", &[number]);
    }
    let healed = cluster.healed();
    assert_eq!(healed["replicas_verified"].as_u64(), healed["chunks"].as_u64().map(|n| 3 * n));
    assert_eq!(cluster.json(&["status"])["state"], "healthy");
    assert_eq!(
        cluster.ok(&["cat", "/r3"]),
        fs::read_to_string(source.join("small")).expect("UTF-8")
    );

    cluster.dev("down", &[]);
    cluster.dev("up", &[]);
    cluster.ok(&["get", "-r", "/again", "later"]);
    tree::assert_equal(&source, &cluster.path("later"));
}

#[test]
fn killing_everything_loses_nothing_that_was_acknowledged() {
    let cluster = Cluster::up(&[]);
    let source = cluster.path("source");
    tree::make(&source);
    cluster.ok(&["put", "-r", "source", "/"]);
    for number in ["1", "2", "3"] {
        cluster.dev("kill-node", &[number]);
    }
    cluster.dev("kill-coordinator", &["1"]);
    assert!(cluster.dev("status", &[]).lines().all(|line| line.contains(" dead ")));
    cluster.dev("up", &[]);
    cluster.ok(&["get", "-r", "/source", "back"]);
    tree::assert_equal(&source, &cluster.path("back"));
    cluster.healed();
}

#[test]
fn wrong_requests_are_one_line_each_and_harm_nothing() {
    let cluster = Cluster::up(&["--nodes", "1"]);
    fs::write(cluster.path("file"), "content").expect("writable");
    fs::create_dir(cluster.path("folder")).expect("writable");
    cluster.ok(&["put", "file", "/file"]);
    for (arguments, says) in [
        (&["put", "file", "/no/such/dir"] as &[&str], "/no/such: no such file"),
        (&["put", "folder", "/"], "put -r"),
        (&["put", "-r", "folder", "/file"], "/file: is a file"),
        (&["put", "missing", "/"], "missing: no such file"),
        (&["get", "/missing", "."], "/missing: no such file"),
        (&["get", "/file", "missing/"], "no such directory"),
        (&["cat", "/"], "/: is a directory"),
        (&["mkdir", "/file/x"], "not a directory"),
        (&["rm", "/missing"], "/missing: no such file"),
        (&["dev", "kill-coordinator", "1", "--dir", "other"], "no dev cluster"),
    ] {
        let line = cluster.refused(arguments, 1);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    for (arguments, says) in [
        (&["dev", "up", "--dir", "c", "--nodes", "3"] as &[&str], "--nodes 1, not 3"),
        (&["dev", "kill-node", "7", "--dir", "c"], "no node 7"),
    ] {
        let line = cluster.refused(arguments, 2);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    assert_eq!(cluster.ok(&["cat", "/file"]), "content");
    assert_eq!(cluster.ok(&["ls", "/"]), "file\n");
}

#[test]
fn a_taken_port_and_a_foreign_certificate_are_named() {
    let cluster = Cluster::up(&["--nodes", "1"]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    // The listener's port is the coordinator's of a cluster with that base port.
    let port = taken.local_addr().expect("bound").port().min(u16::MAX - 99);
    let held = TcpListener::bind(("127.0.0.1", port));
    let arguments = ["dev", "up", "--dir", "other", "--base-port", &port.to_string()];
    assert!(cluster.refused(&arguments, 1).contains(&format!("port {port} is in use")));
    drop((taken, held));

    let other = Cluster::up(&["--nodes", "1"]);
    let config = fs::read_to_string(cluster.path("c/client.toml")).expect("it exists");
    let foreign = config.replace("tls/admin", &format!("{}/admin", text(&other.path("c/tls"))));
    assert_ne!(config, foreign);
    fs::write(cluster.path("c/foreign.toml"), foreign).expect("writable");
    cluster.refused(&["ls", "/", "--config", "c/foreign.toml"], 1);
    cluster.ok(&["ls", "/"]);
}
