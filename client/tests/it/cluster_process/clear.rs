//! A cluster whose payload is not encrypted, and files with cells of another size.

use std::fs;

use super::Cluster;

impl Cluster {
    /// Connections to nodes whose payload is not encrypted, and all of them.
    fn connections(&self) -> (u64, u64) {
        let status = self.json(&["status"]);
        let nodes = status["nodes"].as_array().expect("a list").clone();
        let shards = nodes.iter().flat_map(|node| node["shards"].as_array().expect("a list"));
        let sum = |name: &str| {
            let count = |shard: &serde_json::Value| shard[name].as_u64().expect("a number");
            shards.clone().map(count).sum()
        };
        (sum("clear_connections"), sum("connections"))
    }
}

impl Cluster {
    /// Lines of the nodes' logs about connections whose payload is not encrypted.
    fn audited(&self) -> Vec<String> {
        let logs = (1..=3).map(|node| self.path(&format!("c/logs/node-{node}.log")));
        let texts = logs.map(|log| fs::read_to_string(log).expect("a log"));
        let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|line| line.contains("payload of this connection is not encrypted")).collect()
    }
}

/// Bytes that no cell repeats.
fn content() -> Vec<u8> {
    (0..5_000_000u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn a_clear_cluster_carries_files_and_says_that_it_is_clear() {
    let cluster = Cluster::up(&["--data-transport", "clear"]);
    let bytes = content();
    fs::write(cluster.path("local"), &bytes).expect("written");
    cluster.ok(&["put", "local", "/file"]);
    cluster.intact("/file", &bytes);
    cluster.ok(&["verify", "-r", "/"]);
    let (clear, all) = cluster.connections();
    assert!(clear > 0 && clear <= all, "{clear} of {all}");
    assert!(cluster.ok(&["status"]).contains("connections not encrypted"));
    // Each of them leaves a line for an audit: who it was, and from where.
    let audited = cluster.audited();
    assert!(audited.iter().any(|line| line.contains("Node(")), "{audited:?}");
    assert!(audited.iter().any(|line| line.contains("Admin(")), "{audited:?}");
    assert!(audited.iter().all(|line| line.contains("audit") && line.contains("127.0.0.1")));
    // A client that does not want it talks TLS to the same nodes.
    let path = cluster.path("c/client.toml");
    let text = fs::read_to_string(&path).expect("a configuration");
    assert!(text.contains("data_transport = \"clear\""), "{text}");
    fs::write(&path, text.replace("\"clear\"", "\"tls\"")).expect("written");
    cluster.intact("/file", &bytes);
    let peers = |lines: &[String]| lines.iter().filter(|line| line.contains("Admin(")).count();
    assert_eq!(peers(&cluster.audited()), peers(&audited));
}

#[test]
fn an_ordinary_cluster_has_no_clear_connection_and_small_cells_where_they_are_wanted() {
    let cluster = Cluster::up(&[]);
    let bytes = content();
    fs::write(cluster.path("local"), &bytes).expect("written");
    cluster.ok(&["mkdir", "-p", "--cell", "4KiB", "/small/below"]);
    cluster.ok(&["mkdir", "/plain"]);
    for (folder, cell) in [("/small/below", 4096), ("/plain", 16_384)] {
        let path = format!("{folder}/file");
        cluster.ok(&["put", "local", &path]);
        cluster.intact(&path, &bytes);
        assert_eq!(cluster.json(&["stat", &path])["cell_size"], cell, "{path}");
    }
    assert_eq!(cluster.connections().0, 0);
    assert!(!cluster.ok(&["status"]).contains("not encrypted"));
    assert_eq!(cluster.audited(), Vec::<String>::new());
    let line = cluster.refused(&["mkdir", "--cell", "8KiB", "/odd"], 2);
    assert!(line.contains("expected 4KiB, 16KiB or 64KiB"), "{line}");
}
