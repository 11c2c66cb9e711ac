//! The admin port of the process: who is told figures, and what a peer can hold; and that
//! `docs/metrics.md` says what the code does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use coordinator::metrics::METRICS;
use protocol::ids::{ClusterId, NodeId};
use protocol::limits::{METRICS_CONNECTIONS_MAX, METRICS_HEAD_LEN_MAX, METRICS_TIME_MAX_MS};
use protocol::message::cluster::{StatusReply, StatusRequest};
use protocol::metrics::table::rows;
use protocol::tls::{Identity, TlsFiles, client_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{CLUSTER, Cluster, Raw, Running, soon};

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");
const ASK: &str = "GET /metrics HTTP/1.1\r\nHost: coordinator\r\n\r\n";

/// A running coordinator with an admin port, and where that is.
async fn watched() -> (Cluster, Running, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut cluster = Cluster::new().with(&format!("metrics = \"{free}\"\n"));
    let running = cluster.start().await;
    (cluster, running, free)
}

/// What is said until the connection ends; `None` when it breaks.
async fn asked(files: &TlsFiles, address: SocketAddr, request: &str) -> Option<String> {
    let mut raw = Raw::connect(address, client_config(files).unwrap()).await.ok()?;
    raw.stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    soon("answer", raw.stream.read_to_string(&mut text)).await.ok().map(|_| text)
}

#[tokio::test]
async fn figures_are_told_to_members_of_the_cluster_alone() {
    let (cluster, running, address) = watched().await;
    let root = Identity::Admin("root".into());
    let status = cluster.admin(&running).await;
    status.call::<StatusReply>(&StatusRequest).await.unwrap();
    for member in [root.clone(), Identity::Client("monitor".into()), Identity::Node(NodeId(1))] {
        let text = asked(&cluster.tls(&member), address, ASK).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{member:?}: {text}");
        for line in [
            "lanefs_coordinator_nodes{state=\"up\"} 0\n",
            "lanefs_coordinator_requests_total{kind=\"Status\",status=\"Ok\"} 1\n",
            "lanefs_coordinator_connections 1\n",
            "lanefs_coordinator_log_appends_total ",
            "lanefs_coordinator_log_append_duration_seconds_bucket{le=\"+Inf\"} ",
            "# EOF\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("log_appends_total 0\n"), "the first command was appended: {text}");
    }
    let files = cluster.tls(&root);
    let other = asked(&files, address, "GET /status HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    let stranger = asked(&cluster.tls_of(ClusterId(99), &root), address, ASK).await;
    assert_eq!(stranger.unwrap_or_default(), "");
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(ASK.as_bytes()).await.unwrap();
    let mut alert = Vec::new();
    let _ = soon("close", plain.read_to_end(&mut alert)).await;
    assert!(alert.len() < 64, "{alert:?}");
    assert_ne!(CLUSTER, ClusterId(99));
}

#[tokio::test]
async fn what_a_peer_can_hold_is_bounded() {
    let (cluster, _running, address) = watched().await;
    let files = cluster.tls(&Identity::Client("monitor".into()));
    let long = format!("GET /metrics HTTP/1.1\r\nx: {}", "a".repeat(METRICS_HEAD_LEN_MAX));
    let text = asked(&files, address, &long).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");

    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..METRICS_CONNECTIONS_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut one_more = TcpStream::connect(address).await.unwrap();
    assert_eq!(soon("close", one_more.read(&mut [0; 9])).await.unwrap_or(0), 0);
    let patience = Duration::from_millis(METRICS_TIME_MAX_MS);
    assert!(begun.elapsed() < patience, "one too many is closed at once");
    for stream in &mut silent {
        assert_eq!(soon("close", stream.read(&mut [0; 9])).await.unwrap_or(0), 0);
    }
    assert!(begun.elapsed() >= patience, "the others have their time");
    let text = asked(&files, address, ASK).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

/// The cells of the rows between `<!-- name -->` and `<!-- end -->`.
fn documented(name: &str) -> Vec<Vec<String>> {
    let start = format!("<!-- {name} -->\n");
    let (_, rest) = DOCUMENT.split_once(&start).expect("the section is in the document");
    let (inside, _) = rest.split_once("<!-- end -->").expect("the section ends");
    let row = |line: &str| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    inside.lines().skip(2).map(row).collect()
}

#[test]
fn the_metrics_are_those_of_the_document() {
    let rows: Vec<Vec<String>> = rows(METRICS).into_iter().map(Vec::from).collect();
    let line = |row: &Vec<String>| format!("| `{}` | {} |\n", row[0], row[1..].join(" | "));
    let wanted: String = rows.iter().map(line).collect();
    assert!(documented("coordinator") == rows, "docs/metrics.md should have:\n{wanted}");
}

#[test]
fn names_are_by_the_rules() {
    for metric in METRICS {
        let definition = metric.definition;
        assert!(definition.name.starts_with("lanefs_coordinator"), "{definition:?}");
        let unit_last = definition.unit.is_empty()
            || definition.name.ends_with(&format!("_{}", definition.unit));
        assert!(unit_last && definition.help.ends_with('.'), "{definition:?}");
        assert!(!definition.name.ends_with("_total"), "{definition:?}");
    }
    let mut names: Vec<_> = METRICS.iter().map(|metric| metric.definition.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), METRICS.len(), "a name is used twice");
}
