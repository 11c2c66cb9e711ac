//! A coordinator that is killed keeps everything it has acknowledged.

use protocol::ids::{Ino, Seq, SessionId};
use protocol::message::cluster::{
    SessionRenewReply, SessionRenewRequest, StatusReply, StatusRequest,
};
use protocol::message::namespace::{LookupResult, MutateReply, MutateRequest, OpOutcome};
use tokio::sync::watch;

use crate::namespace::{lookup, mkdir};
use crate::support::{CallError, Cluster, Peer, soon};

/// Makes directories one after the other until the connection breaks.
///
/// Returns how many were acknowledged, and the request that was on its way.
async fn make_until_broken(
    peer: Peer,
    session: SessionId,
    name: String,
    progress: watch::Sender<u64>,
) -> (u64, MutateRequest) {
    for seq in 1.. {
        let ops = vec![(Seq(seq), mkdir(Ino::ROOT, &format!("{name}-{seq}")))];
        let request = MutateRequest { session, ops };
        match peer.call::<MutateReply>(&request).await {
            Ok(reply) => {
                assert!(matches!(reply.outcomes[..], [OpOutcome::Done(Some(_))]));
                progress.send_replace(seq);
            }
            Err(CallError::Closed) => return (seq - 1, request),
            Err(refused) => panic!("{refused:?}"),
        }
    }
    unreachable!("sequence numbers do not end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_and_a_retry_takes_effect_once() {
    let mut cluster = Cluster::new();
    let mut running = cluster.start().await;
    for round in 0..3 {
        let (mut writers, mut progresses) = (Vec::new(), Vec::new());
        for writer in 0..4 {
            let peer = cluster.admin(&running).await;
            let session = peer.session().await;
            let name = format!("r{round}w{writer}");
            let (progress, acknowledged) = watch::channel(0);
            let writing = tokio::spawn(make_until_broken(peer, session, name.clone(), progress));
            writers.push((name, writing));
            progresses.push(acknowledged);
        }
        for acknowledged in &mut progresses {
            soon("progress", acknowledged.wait_for(|&count| count >= 40)).await.unwrap();
        }
        running.kill().await;
        running = cluster.start().await;
        let admin = cluster.admin(&running).await;
        for (name, writer) in writers {
            let (acknowledged, retry) = soon("writer", writer).await.unwrap();
            assert!(acknowledged >= 40, "{name}: {acknowledged}");
            for seq in 1..=acknowledged {
                let found = lookup(&admin, &format!("{name}-{seq}")).await;
                assert!(matches!(found, LookupResult::Found(_)), "{name}-{seq} is lost");
            }
            let before: StatusReply = admin.call(&StatusRequest).await.unwrap();
            let first: MutateReply = admin.call(&retry).await.unwrap();
            let second: MutateReply = admin.call(&retry).await.unwrap();
            assert!(matches!(first.outcomes[..], [OpOutcome::Done(Some(_))]), "{first:?}");
            assert_eq!(first, second);
            let after: StatusReply = admin.call(&StatusRequest).await.unwrap();
            assert!(after.inodes - before.inodes <= 1);
            let request = SessionRenewRequest { session: retry.session };
            admin.call::<SessionRenewReply>(&request).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_torn_end_of_the_log_is_cut_and_everything_before_it_is_there() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let admin = cluster.admin(&running).await;
    for _ in 0..5 {
        admin.session().await;
    }
    running.kill().await;
    let segment = cluster.path().join("data/log/00000000000000000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let half_a_batch = bytes[4096..4096 + 700].to_vec();
    bytes.extend(half_a_batch);
    std::fs::write(&segment, bytes).unwrap();
    let running = cluster.start().await;
    running.line("cut an incomplete batch").await;
    let status: StatusReply = cluster.admin(&running).await.call(&StatusRequest).await.unwrap();
    assert_eq!(status.sessions, 5);
}
