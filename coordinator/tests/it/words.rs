//! What readers were told is taken back before a file is changed, end to end over TLS.

use std::time::{Duration, Instant};

use protocol::ids::{Fid, Ino, Seq, SessionId};
use protocol::message::Kind;
use protocol::message::namespace::{
    Entry, GrowthClearedNotice, LookupResult, NamespaceOp, OpOutcome, SetAttributes,
    WordsReturnedReply, WordsReturnedRequest,
};

use crate::namespace::{lookup, mutate};
use crate::support::{Cluster, FakeNode, Peer, Running, soon};

/// Three nodes, without which there are no groups to lay files out on.
pub(crate) async fn with_groups(cluster: &Cluster, running: &Running) -> Vec<FakeNode> {
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let mut node = cluster.node(running, number).await;
        node.register().await.unwrap();
        nodes.push(node);
    }
    nodes[0].until("groups", |map| map.groups.len() == 64).await;
    nodes
}

/// Reserves and publishes files without bytes.
pub(crate) async fn publish(writer: &Peer, session: SessionId, names: &[&str]) -> Vec<Entry> {
    let count = u32::try_from(names.len()).unwrap();
    let reserve = NamespaceOp::Reserve { parent: Ino::ROOT, count, expect_len: 100 };
    let outcomes = mutate(writer, session, vec![(Seq(1), reserve)]).await;
    let [OpOutcome::Reserved(entries)] = &outcomes[..] else { panic!("{outcomes:?}") };
    let publish = |(entry, name): (&Entry, &&str)| NamespaceOp::Publish {
        ino: entry.attributes.ino,
        parent: Ino::ROOT,
        name: name.as_bytes().to_vec(),
        size: 0,
        attributes: SetAttributes::default(),
        replace: false,
        growth_only: true,
    };
    let ops = entries.iter().zip(names).map(publish);
    let outcomes = mutate(writer, session, (2..).map(Seq).zip(ops).collect()).await;
    let done = |outcome: OpOutcome| match outcome {
        OpOutcome::Done(Some(entry)) => entry,
        other => panic!("{other:?}"),
    };
    outcomes.into_iter().map(done).collect()
}

fn fid(entry: &Entry) -> Fid {
    entry.content.as_ref().expect("a file").fid
}

#[tokio::test]
async fn a_change_waits_for_the_answers_of_those_who_were_told_and_for_nothing_else() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let _nodes = with_groups(&cluster, &running).await;
    let writer = cluster.admin(&running).await;
    let session = writer.session().await;
    let files = publish(&writer, session, &["a", "b", "c"]).await;
    let open = |seq: u64, file: &Entry| {
        let ino = file.attributes.ino;
        vec![(Seq(seq), NamespaceOp::OpenWrite { ino, mutate: true, shared: false })]
    };
    // A coordinator that has just started does not know who was told what before: this ends when
    // whatever that was has run out.
    mutate(&writer, session, open(10, &files[0])).await;

    let readers = [cluster.admin(&running).await, cluster.admin(&running).await];
    for reader in &readers {
        for name in ["b", "c"] {
            let LookupResult::Found(entry) = lookup(reader, name).await else { panic!("{name}") };
            assert!(entry.content.unwrap().growth_only);
        }
    }
    let began = Instant::now();
    let ops = open(11, &files[1]);
    let mut opening = std::pin::pin!(mutate(&writer, session, ops));
    for reader in &readers {
        let notice = reader.notice::<GrowthClearedNotice>(Kind::GrowthCleared);
        let told = tokio::select! {
            _ = &mut opening => panic!("nobody has given the word back"),
            told = soon("notice", notice) => told,
        };
        assert_eq!(told.expect("the connection is open").fids, [fid(&files[1])]);
        let LookupResult::Found(entry) = lookup(reader, "b").await else { panic!("it is there") };
        assert!(!entry.content.unwrap().growth_only, "before the change is admitted");
        let request = WordsReturnedRequest { fids: vec![fid(&files[1])] };
        reader.call::<WordsReturnedReply>(&request).await.unwrap();
    }
    soon("open", opening).await;
    // Whoever gave everything back is not asked.
    for reader in &readers {
        let request = WordsReturnedRequest { fids: Vec::new() };
        reader.call::<WordsReturnedReply>(&request).await.unwrap();
    }
    soon("open", mutate(&writer, session, open(12, &files[2]))).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
