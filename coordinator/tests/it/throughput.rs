//! How fast small files are made, how much memory they take, and how long a restart takes.
//!
//! The figures are printed. The size is small unless `LANEFS_MEASURE_FILES` asks for more.

use std::time::Instant;

use protocol::ids::{Ino, Seq};
use protocol::message::namespace::{NamespaceOp, OpOutcome, SetAttributes};

use crate::namespace::{mkdir, mutate};
use crate::support::{Cluster, Peer};

const CLIENTS: u64 = 16;
const RESERVED: u32 = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_made_by_many_clients_are_all_there() {
    let files: u64 = std::env::var("LANEFS_MEASURE_FILES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(CLIENTS * u64::from(RESERVED));
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let mut node = cluster.node(&running, number).await;
        node.register().await.unwrap();
        nodes.push(node);
    }
    nodes[0].until("groups", |map| !map.groups.is_empty()).await;
    let start = Instant::now();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let peer = cluster.admin(&running).await;
        clients.push(tokio::spawn(make_files(peer, number, files / CLIENTS)));
    }
    let mut made = 0;
    for client in clients {
        made += client.await.unwrap();
    }
    let took = start.elapsed().as_secs_f64();
    println!("{made} files by {CLIENTS} clients in {took:.2} s: {:.0}/s", made as f64 / took);
    println!("resident after: {} KiB", running.resident_kib());
    running.kill().await;
    let start = Instant::now();
    let running = cluster.start().await;
    println!("restart after kill -9: {:.3} s", start.elapsed().as_secs_f64());
    println!("{}", running.line("state recovered").await);
    println!("resident after restart: {} KiB", running.resident_kib());
    let admin = cluster.admin(&running).await;
    let status: protocol::message::cluster::StatusReply =
        admin.call(&protocol::message::cluster::StatusRequest).await.unwrap();
    assert_eq!(status.inodes, 1 + CLIENTS + made);
}

/// Reserves files by the batch and publishes each with a request of its own, as `put -r` does.
async fn make_files(peer: Peer, number: u64, count: u64) -> u64 {
    let session = peer.session().await;
    let made =
        mutate(&peer, session, vec![(Seq(1), mkdir(Ino::ROOT, &format!("c{number}")))]).await;
    let dir = match &made[..] {
        [OpOutcome::Done(Some(entry))] => entry.attributes.ino,
        other => panic!("{other:?}"),
    };
    let mut seq = 1;
    let mut published = 0;
    while published < count {
        seq += 1;
        let reserve = NamespaceOp::Reserve { parent: dir, count: RESERVED, expect_len: 4096 };
        let reserved = match mutate(&peer, session, vec![(Seq(seq), reserve)]).await.remove(0) {
            OpOutcome::Reserved(entries) => entries,
            other => panic!("{other:?}"),
        };
        for entry in reserved.iter().take(usize::try_from(count - published).unwrap()) {
            seq += 1;
            let op = NamespaceOp::Publish {
                ino: entry.attributes.ino,
                parent: dir,
                name: format!("file-{seq}").into(),
                size: 4096,
                attributes: SetAttributes { mode: Some(0o644), ..SetAttributes::default() },
                replace: true,
                growth_only: true,
            };
            let outcomes = mutate(&peer, session, vec![(Seq(seq), op)]).await;
            assert!(matches!(outcomes[..], [OpOutcome::Done(Some(_))]), "{outcomes:?}");
            published += 1;
        }
    }
    published
}
