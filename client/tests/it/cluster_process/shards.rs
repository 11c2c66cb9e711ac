//! Two shards a node: each is reached on its own port, and none passes work to another.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Cluster, tree};

const NODES: usize = 3;
const SHARDS: usize = 2;

/// The list behind a name of a document.
fn list<'a>(document: &'a Value, name: &str) -> &'a [Value] {
    document[name].as_array().map_or(&[], Vec::as_slice)
}

/// Which shards clients must have asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Served {
    /// Each of them.
    Each,
    /// Any: one that has just come back may be the primary of nothing, and the others faster.
    Any,
}

impl Cluster {
    /// The ports of all shards, after checking that each answers and that each request came to
    /// the core that owns what it was about.
    fn direct_ports(&self, served: Served) -> BTreeSet<u64> {
        let status = self.json(&["status"]);
        let shards: Vec<&Value> =
            list(&status, "nodes").iter().flat_map(|node| list(node, "shards")).collect();
        assert_eq!(shards.len(), NODES * SHARDS, "{status}");
        for shard in &shards {
            assert_eq!(shard["answers"], true, "{shard}{}", self.logs());
            assert_eq!((&shard["hops"], &shard["misroutes"]), (&0.into(), &0.into()), "{shard}");
            let asked = shard["requests"].as_u64() > Some(0);
            assert!(asked || served == Served::Any, "{shard}");
        }
        shards.iter().filter_map(|shard| shard["port"].as_u64()).collect()
    }

    /// The ports of all replicas of a tree's files.
    fn replica_ports(&self, paths: &[String]) -> BTreeSet<u64> {
        let documents = paths.iter().map(|path| self.json(&["locate", path]));
        let ports = |document: Value| -> Vec<u64> {
            let replicas = list(&document, "chunks").iter().flat_map(|one| list(one, "replicas"));
            replicas.filter_map(|replica| replica["port"].as_u64()).collect()
        };
        documents.flat_map(ports).collect()
    }
}

#[test]
fn both_shards_of_each_node_serve_their_own_port_and_come_back() {
    let nodes = ["--nodes", &NODES.to_string(), "--shards", &SHARDS.to_string()];
    let cluster = Cluster::sized("128MiB", &nodes);
    let source = cluster.path("source");
    tree::make(&source);
    cluster.ok(&["put", "-r", "source", "/"]);
    cluster.ok(&["get", "-r", "/source", "back"]);
    tree::assert_equal(&source, &cluster.path("back"));

    let ports = cluster.direct_ports(Served::Each);
    assert_eq!(ports.len(), NODES * SHARDS);
    let files = (1..=16).map(|number| format!("/source/folder/below/file{number}"));
    let paths: Vec<String> = files.chain(["/source/large".to_owned()]).collect();
    assert_eq!(cluster.replica_ports(&paths), ports);

    cluster.dev("kill-node", &["2"]);
    cluster.ok(&["put", "-r", "source", "/again"]);
    cluster.dev("start-node", &["2"]);
    let healed = cluster.healed();
    assert_eq!(healed["replicas_verified"].as_u64(), healed["chunks"].as_u64().map(|n| 3 * n));
    cluster.ok(&["get", "-r", "/again", "later"]);
    tree::assert_equal(&source, &cluster.path("later"));
    assert_eq!(cluster.direct_ports(Served::Any), ports);
    assert_eq!(cluster.json(&["status"])["state"], "healthy");
}
