//! What is seen of a running cluster: `top`, and the metrics of every process.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::{CoordinatorId, NodeId};
use protocol::tls::{self, Identity, TlsFiles};
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;

use super::{Cluster, openmetrics};

const NODES: u64 = 3;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

impl Cluster {
    /// The admin port of a process, from `dev status`.
    fn metrics_port(&self, role: &str, number: u64) -> u16 {
        let text = self.dev("status", &["--json"]);
        let status: Value = serde_json::from_str(&text).expect("one JSON document");
        let processes = status["processes"].as_array().expect("a list");
        let process = processes.iter().find(|one| one["role"] == role && one["number"] == number);
        let port = process.expect("a process")["metrics"].as_u64().expect("a port");
        u16::try_from(port).expect("a port")
    }

    /// What a process says at its admin port to the administrator.
    fn metrics(&self, identity: &Identity, port: u16) -> openmetrics::Samples {
        let file = |name: &str| self.path("c/tls").join(name);
        let files =
            TlsFiles { ca: file("ca.pem"), cert: file("admin.pem"), key: file("admin.key") };
        let config = client::Config::load(&self.path("c/client.toml")).expect("a configuration");
        let name = tls::server_name(config.cluster, identity);
        let tls = tls::client_config(&files).expect("good files");
        let connection = ClientConnection::new(Arc::clone(&tls), name).expect("a good name");
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut stream = StreamOwned::new(connection, socket);
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer that ends");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        openmetrics::read(body).unwrap_or_else(|error| panic!("{error}\n{body}"))
    }

    fn node_metrics(&self, number: u32) -> openmetrics::Samples {
        let port = self.metrics_port("node", number.into());
        self.metrics(&Identity::Node(NodeId(number)), port)
    }

    fn cores(&self) -> Vec<Value> {
        let document = self.json(&["top", "--interval", "0.5"]);
        document["cores"].as_array().expect("a list").clone()
    }
}

#[test]
fn every_core_is_seen_by_top_and_every_process_by_its_metrics() {
    let cluster = Cluster::up(&[]);
    std::fs::write(cluster.path("file"), vec![7; 3 << 20]).expect("written");
    cluster.ok(&["put", "file", "/file"]);
    cluster.ok(&["cat", "/file"]);

    let cores = cluster.cores();
    assert_eq!(cores.len() as u64, NODES, "{cores:?}");
    for core in &cores {
        assert_eq!((&core["answers"], &core["state"]), (&true.into(), &"up".into()), "{core}");
        let busy = core["utilisation"].as_f64().expect("a share");
        assert!((0.0..=1.0).contains(&busy), "{core}");
        assert!(core["interval_s"].as_f64() >= Some(0.4), "{core}");
        // This very look is a request.
        assert!(core["ops_per_s"].as_f64() > Some(0.0), "{core}");
    }
    let text = cluster.ok(&["top", "--once", "--interval", "0.2"]);
    assert_eq!(text.lines().count() as u64, 1 + NODES, "{text}");

    let coordinator = Identity::Coordinator(CoordinatorId(1));
    let seen = cluster.metrics(&coordinator, cluster.metrics_port("coordinator", 1));
    assert_eq!(seen["lanefs_coordinator_nodes{state=\"up\"}"], NODES as f64);
    assert!(seen["lanefs_coordinator_groups{state=\"healthy\"}"] > 0.0);
    assert!(seen["lanefs_coordinator_requests_total{kind=\"Mutate\",status=\"Ok\"}"] > 0.0);
    assert!(seen["lanefs_coordinator_log_append_duration_seconds_sum"] > 0.0);

    let labels = |node: u32| format!("node=\"{node}\",shard=\"0\",target=\"{node}01\"");
    let of_all = |name: &str, more: &str| -> f64 {
        let of_node = |node: u32| {
            let key = format!("lanefs_node_{name}{{{}{more}}}", labels(node));
            *cluster.node_metrics(node).get(&key).unwrap_or_else(|| panic!("{key} is missing"))
        };
        (1..=3).map(of_node).sum()
    };
    assert!(of_all("requests_total", ",class=\"write\"") >= 1.0);
    assert!(of_all("requests_total", ",class=\"read\"") >= 1.0);
    assert!(of_all("requests_total", ",class=\"replicate\"") >= 2.0, "two copies at least");
    assert!(of_all("received_bytes_total", "") >= (3 * (3 << 20)) as f64);
    assert!(of_all("member_sent_bytes_total", "") >= (2 * (3 << 20)) as f64);
    assert!(of_all("write_duration_seconds_count", "") >= 1.0);
    assert!(of_all("cpu_seconds_total", "") > 0.0);
    assert_eq!(of_all("hops_total", ""), 0.0);
    assert!(of_all("figures_age_seconds", "") < 3.0 * 5.0, "reports come once a second");
}

#[test]
fn a_core_that_does_not_answer_is_a_line_that_says_so() {
    let cluster = Cluster::up(&[]);
    cluster.dev("kill-node", &["2"]);
    let cores = cluster.cores();
    let of = |node: u64| cores.iter().find(|core| core["node"] == node).expect("a core");
    assert_eq!(of(1)["answers"], true);
    assert_eq!(of(2)["answers"], false);
    assert!(of(2).get("utilisation").is_none());
    let text = cluster.ok(&["top", "--once", "--interval", "0.1"]);
    assert_eq!(text.lines().filter(|line| line.contains("no answer")).count(), 1, "{text}");
}
