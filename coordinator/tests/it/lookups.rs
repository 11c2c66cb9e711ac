//! Lookups of many paths with one request, end to end over TLS.

use protocol::ids::{Ino, Seq, SessionId};
use protocol::limits::{LINK_LEN_MAX, LOOKUP_BATCH_MAX};
use protocol::message::namespace::{
    LookupReply, LookupRequest, LookupResult, NamespaceOp, PathQuery, SetAttributes,
};
use protocol::status::Status;

use crate::namespace::{lookup, mkdir, mutate};
use crate::support::{CallError, Cluster, Peer};
use crate::words::{publish, with_groups};

fn batch<'a>(paths: impl Iterator<Item = &'a str>) -> LookupRequest {
    let query = |path: &str| PathQuery {
        base: Ino::ROOT,
        path: path.into(),
        follow: true,
        with_content: true,
    };
    LookupRequest { session: SessionId(0), queries: paths.map(query).collect() }
}

async fn results(peer: &Peer, request: &LookupRequest) -> Vec<LookupResult> {
    peer.call::<LookupReply>(request).await.unwrap().results
}

fn set_mode(ino: Ino, mode: u32) -> NamespaceOp {
    let attributes = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
    NamespaceOp::SetAttr { ino, attributes }
}

/// What a reader must be told of a path: an inode with what opening it needs, or a refusal.
fn told(result: &LookupResult) -> Result<(Ino, bool), Status> {
    match result {
        LookupResult::Found(entry) => Ok((entry.attributes.ino, entry.content.is_some())),
        LookupResult::Refused(status) => Err(*status),
    }
}

#[tokio::test]
async fn each_of_a_thousand_paths_has_its_own_outcome() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let _nodes = with_groups(&cluster, &running).await;
    let admin = cluster.admin(&running).await;
    let session = admin.session().await;
    let files = publish(&admin, session, &["a", "secret"]).await;
    let [a, secret] = [files[0].attributes.ino, files[1].attributes.ino];
    let ops = vec![(Seq(10), mkdir(Ino::ROOT, "dir")), (Seq(11), set_mode(secret, 0o600))];
    mutate(&admin, session, ops).await;
    let LookupResult::Found(dir) = lookup(&admin, "dir").await else { panic!("it was made") };
    let expected = [
        ("a", Ok((a, true))),
        ("dir", Ok((dir.attributes.ino, false))),
        ("secret", Err(Status::PermissionDenied)),
        ("none", Err(Status::NotFound)),
        ("a/below", Err(Status::NotDirectory)),
    ];
    let paths = expected.iter().map(|(path, _)| *path).cycle();
    let user = cluster.client(&running, "bob").await;
    let found = results(&user, &batch(paths.clone().take(LOOKUP_BATCH_MAX))).await;
    assert_eq!(found.len(), LOOKUP_BATCH_MAX);
    for (number, result) in found.iter().enumerate() {
        let (path, expected) = expected[number % expected.len()];
        assert_eq!(told(result), expected, "{path}");
    }
    let refused = user.call::<LookupReply>(&batch(paths.take(LOOKUP_BATCH_MAX + 1))).await;
    let text =
        "invalid argument: LookupRequest: field queries is missing or out of range".to_owned();
    assert_eq!(refused, Err(CallError::Refused(Status::Invalid, text)));
    assert_eq!(results(&user, &batch(["none"].into_iter())).await.len(), 1, "it goes on");
}

#[tokio::test]
async fn a_batch_is_answered_from_one_state() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let (writer, reader) = (cluster.admin(&running).await, cluster.admin(&running).await);
    let session = writer.session().await;
    mutate(&writer, session, vec![(Seq(1), mkdir(Ino::ROOT, "x"))]).await;
    let rename = |from: &str, to: &str| NamespaceOp::Rename {
        from_parent: Ino::ROOT,
        from_name: from.into(),
        to_parent: Ino::ROOT,
        to_name: to.into(),
        replace: false,
    };
    let renaming = async {
        for seq in 1..=100 {
            mutate(&writer, session, vec![(Seq(2 * seq), rename("x", "y"))]).await;
            mutate(&writer, session, vec![(Seq(2 * seq + 1), rename("y", "x"))]).await;
        }
    };
    let request = batch(["x", "y"].into_iter().cycle().take(LOOKUP_BATCH_MAX));
    let looking = async {
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let found = results(&reader, &request).await;
            let there = |at: usize| matches!(found[at], LookupResult::Found(_));
            assert!(there(0) != there(1), "it has one name at any time");
            assert!((2..found.len()).all(|at| there(at) == there(at % 2)));
            seen.insert(there(0));
            tokio::task::yield_now().await;
            if seen.len() == 2 {
                return;
            }
        }
    };
    tokio::join!(renaming, looking);
}

#[tokio::test]
async fn results_that_do_not_fit_a_reply_are_left_for_the_next_one() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let admin = cluster.admin(&running).await;
    let session = admin.session().await;
    let link = NamespaceOp::Symlink {
        parent: Ino::ROOT,
        name: b"link".to_vec(),
        target: vec![b'x'; LINK_LEN_MAX],
        attributes: SetAttributes::default(),
        replace: false,
    };
    mutate(&admin, session, vec![(Seq(1), link)]).await;
    let mut request = batch(["link"].into_iter().cycle().take(LOOKUP_BATCH_MAX));
    request.queries.iter_mut().for_each(|query| query.follow = false);
    let mut replies = 0;
    while !request.queries.is_empty() {
        let found = results(&admin, &request).await;
        assert!(!found.is_empty() && found.len() < 250, "{}", found.len());
        assert!(found.iter().all(|result| told(result).is_ok()));
        request.queries.drain(..found.len());
        replies += 1;
    }
    assert!(replies > 4, "{replies}");
}
