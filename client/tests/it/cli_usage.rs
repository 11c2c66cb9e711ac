//! Exit codes and messages of wrong command lines and configurations, by the real program.

#![expect(clippy::expect_used, reason = "a test may fail where it stands")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn lanefs(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lanefs"));
    command.args(arguments).env_remove("LANEFS_CONFIG").output().expect("lanefs starts")
}

/// Runs a command line that must be refused; returns its one line.
fn refused(arguments: &[&str], code: i32) -> String {
    let output = lanefs(arguments);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    assert!(text.starts_with("lanefs: "), "{text}");
    text
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_wrong_command_line_ends_with_2_and_one_line() {
    for arguments in [
        &[] as &[&str],
        &["frobnicate"],
        &["put"],
        &["put", "only-one"],
        &["get", "-x", "a", "b"],
        &["stat"],
        &["ls", "a", "b"],
        &["dev"],
        &["dev", "up"],
        &["dev", "kill-node", "--dir", "x"],
        &["dev", "kill-node", "two", "--dir", "x"],
        &["mount", "/mnt"],
    ] {
        refused(arguments, 2);
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = lanefs(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).expect("UTF-8");
    for verb in ["put", "get", "cat", "ls", "stat", "mkdir", "mv", "rm", "ln", "touch", "df"] {
        assert!(text.contains(&format!("\n  {verb} ")), "{verb} is missing in: {text}");
    }
    let version = lanefs(&["--version"]);
    let text = String::from_utf8(version.stdout).expect("UTF-8");
    assert!(text.starts_with("lanefs 0.") && text.contains("xxh3/"), "{text}");
}

#[test]
fn a_missing_or_broken_configuration_ends_with_2() {
    assert!(refused(&["ls", "/"], 2).contains("LANEFS_CONFIG"));
    assert!(refused(&["--config", "/no/such.toml", "ls"], 2).contains("/no/such.toml"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("client.toml");
    std::fs::write(&file, "cluster = 7\n").expect("writable");
    assert!(refused(&["ls", "--config", path_text(&file)], 2).contains("client.toml"));
}

#[test]
fn dev_refuses_what_it_cannot_do_before_it_makes_anything() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir: PathBuf = folder.path().join("c");
    let up = ["dev", "up", "--dir", path_text(&dir)];
    for (more, text) in [
        (&["--data-transport", "none"] as &[&str], "clear"),
        (&["--coordinators", "3"], "not supported yet"),
        (&["--target-size", "lots"], "8GiB"),
    ] {
        let line = refused(&[&up[..], more].concat(), 2);
        assert!(line.contains(text), "{line}");
        assert!(!dir.exists(), "{more:?} made a folder");
    }
    for verb in ["status", "add-node", "down"] {
        let line = refused(&["dev", verb, "--dir", path_text(&dir)], 1);
        assert!(line.contains("lanefs dev up"), "{line}");
    }
}
