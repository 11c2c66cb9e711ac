//! The process itself: command line, configuration, folder, port, signals.

use std::fs;
use std::process::Command;

use coordinator::limits::OPEN_FILES_WANTED;
use protocol::message::cluster::{StatusReply, StatusRequest};

use crate::support::{Cluster, Running};

#[test]
fn the_version_names_release_checksum_and_processor_level() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_lanefs-coordinator")).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("lanefs-coordinator 0.1.0 (xxh3/"), "{text}");
    assert!(output.status.success() && text.lines().count() == 1);
}

#[test]
fn the_configuration_is_printed_with_its_defaults() {
    let cluster = Cluster::new();
    let output = Command::new(env!("CARGO_BIN_EXE_lanefs-coordinator"))
        .arg("--config")
        .arg(cluster.config())
        .arg("--print-config")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("groups_per_target = 64"), "{text}");
}

#[test]
fn a_wrong_configuration_is_one_line_and_code_2() {
    let cluster = Cluster::new().with("replicas = \"three\"");
    let output = Command::new(env!("CARGO_BIN_EXE_lanefs-coordinator"))
        .arg("--config")
        .arg(cluster.config())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("coordinator.toml: line 5, replicas: invalid type"), "{text}");
}

#[tokio::test]
async fn a_second_coordinator_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let mut cluster = Cluster::new();
    let first = cluster.start().await;
    let text = fs::read_to_string(cluster.config()).unwrap();
    let other = cluster.path().join("other.toml");
    fs::write(&other, text.replace(&first.address.port().to_string(), "0")).unwrap();
    let (code, lines) = Running::spawn(&other).ended().await;
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.len() == 1 && lines[0].contains("another coordinator uses"), "{lines:?}");
    let admin = cluster.admin(&first).await;
    let status: StatusReply = admin.call(&StatusRequest).await.unwrap();
    assert_eq!(status.inodes, 1);
}

#[tokio::test]
async fn a_port_in_use_is_one_line() {
    let mut cluster = Cluster::new();
    let first = cluster.start().await;
    let text = fs::read_to_string(cluster.config()).unwrap();
    let other = cluster.path().join("other.toml");
    fs::write(&other, text.replace("\"data\"", "\"data2\"")).unwrap();
    let (code, lines) = Running::spawn(&other).ended().await;
    assert_eq!(code, Some(1), "{lines:?}");
    let address = first.address.to_string();
    assert!(lines.len() == 1 && lines[0].contains(&address), "{lines:?}");
    assert!(lines[0].contains("in use"), "{lines:?}");
}

#[tokio::test]
async fn a_folder_of_another_cluster_is_refused() {
    let mut cluster = Cluster::new();
    assert!(cluster.start().await.terminate().await.success());
    let text = fs::read_to_string(cluster.config()).unwrap();
    let other = cluster.path().join("other.toml");
    fs::write(&other, text.replace("1a2b3c4d", "ffffffff")).unwrap();
    let (code, lines) = Running::spawn(&other).ended().await;
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.len() == 1 && lines[0].contains("belongs to cluster 1a2b3c4d"), "{lines:?}");
}

#[tokio::test]
async fn a_key_that_is_missing_is_one_line() {
    let cluster = Cluster::new();
    fs::remove_file(cluster.path().join("c1.key")).unwrap();
    let (code, lines) = Running::spawn(&cluster.config()).ended().await;
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.len() == 1 && lines[0].contains("c1.key"), "{lines:?}");
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_refuses_to_start_and_says_where() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let admin = cluster.admin(&running).await;
    for _ in 0..5 {
        admin.session().await;
    }
    running.kill().await;
    let segment = cluster.path().join("data/log/00000000000000000001.log");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[2 * 4096 + 100] ^= 4;
    fs::write(&segment, bytes).unwrap();
    let (code, lines) = Running::spawn(&cluster.config()).ended().await;
    assert_eq!(code, Some(1), "{lines:?}");
    let line = lines.last().unwrap();
    assert!(line.contains("damaged at byte 8192") && line.contains("backup"), "{lines:?}");
}

#[tokio::test]
async fn a_stop_is_clean_and_leaves_nothing_to_replay() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let admin = cluster.admin(&running).await;
    for _ in 0..50 {
        admin.session().await;
    }
    assert!(running.terminate().await.success());
    let running = cluster.start().await;
    let line = running.line("state recovered").await;
    assert!(line.contains("replayed=0") && line.contains("term=2"), "{line}");
    let admin = cluster.admin(&running).await;
    let status: StatusReply = admin.call(&StatusRequest).await.unwrap();
    assert_eq!(status.sessions, 50);
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_to_what_connections_may_need() {
    let cluster = Cluster::new();
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", "ulimit -Sn 256 && exec \"$0\" --config \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_lanefs-coordinator")).arg(cluster.config());
    let running = Running::run(command);
    running.line("serving").await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let values: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [soft, hard] = values[..] else { panic!("{line}") };
    assert_eq!(soft, OPEN_FILES_WANTED.min(hard), "{line}");
}
