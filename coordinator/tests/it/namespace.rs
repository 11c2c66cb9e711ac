//! The namespace end to end over TLS.

use protocol::ids::{Ino, Seq, SessionId};
use protocol::message::cluster::{
    SessionCloseReply, SessionCloseRequest, SessionRenewReply, SessionRenewRequest, StatusReply,
    StatusRequest,
};
use protocol::message::namespace::{
    Entry, LookupReply, LookupRequest, LookupResult, MutateReply, MutateRequest, NamespaceOp,
    OpOutcome, PathQuery, ReadDirReply, ReadDirRequest, SetAttributes,
};
use protocol::status::Status;

use crate::support::{Cluster, Peer};

pub(crate) fn mkdir(parent: Ino, name: &str) -> NamespaceOp {
    let attributes = SetAttributes { mode: Some(0o755), ..SetAttributes::default() };
    NamespaceOp::Mkdir { parent, name: name.into(), attributes }
}

pub(crate) async fn mutate(
    peer: &Peer,
    session: SessionId,
    ops: Vec<(Seq, NamespaceOp)>,
) -> Vec<OpOutcome> {
    let reply: MutateReply = peer.call(&MutateRequest { session, ops }).await.unwrap();
    reply.outcomes
}

pub(crate) async fn lookup(peer: &Peer, path: &str) -> LookupResult {
    let query = PathQuery { base: Ino::ROOT, path: path.into(), follow: true, with_content: true };
    let request = LookupRequest { session: SessionId(0), queries: vec![query] };
    let mut reply: LookupReply = peer.call(&request).await.unwrap();
    reply.results.remove(0)
}

fn found(result: LookupResult) -> Entry {
    match result {
        LookupResult::Found(entry) => entry,
        LookupResult::Refused(status) => panic!("{status}"),
    }
}

#[tokio::test]
async fn files_are_reserved_published_listed_renamed_and_removed() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let mut node = cluster.node(&running, number).await;
        node.register().await.unwrap();
        nodes.push(node);
    }
    nodes[0].until("groups", |map| map.groups.len() == 64).await;
    let admin = cluster.admin(&running).await;
    let session = admin.session().await;
    let outcomes = mutate(&admin, session, vec![(Seq(1), mkdir(Ino::ROOT, "dir"))]).await;
    let dir = match &outcomes[..] {
        [OpOutcome::Done(Some(entry))] => entry.attributes.ino,
        other => panic!("{other:?}"),
    };
    let reserve = NamespaceOp::Reserve { parent: dir, count: 3, expect_len: 100 };
    let reserved = match &mutate(&admin, session, vec![(Seq(2), reserve)]).await[..] {
        [OpOutcome::Reserved(entries)] => entries.clone(),
        other => panic!("{other:?}"),
    };
    let publish = |seq: u64, name: &str| {
        let ino = reserved[usize::try_from(seq).unwrap() - 3].attributes.ino;
        let op = NamespaceOp::Publish {
            ino,
            parent: dir,
            name: name.into(),
            size: 1000 + seq,
            attributes: SetAttributes::default(),
            replace: true,
            growth_only: true,
        };
        (Seq(seq), op)
    };
    let ops = vec![publish(3, "a"), publish(4, "b"), publish(5, "a")];
    let outcomes = mutate(&admin, session, ops.clone()).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, OpOutcome::Done(Some(_)))));
    assert_eq!(mutate(&admin, session, ops).await, outcomes, "a retry has the same outcomes");
    assert_eq!(found(lookup(&admin, "dir/a").await).attributes.size, 1005);
    let rename = NamespaceOp::Rename {
        from_parent: dir,
        from_name: "b".into(),
        to_parent: Ino::ROOT,
        to_name: "c".into(),
        replace: false,
    };
    mutate(&admin, session, vec![(Seq(6), rename)]).await;
    let page =
        ReadDirRequest { session, dir: Ino::ROOT, after: vec![], limit: 10, with_content: false };
    let listing: ReadDirReply = admin.call(&page).await.unwrap();
    let names: Vec<_> = listing.entries.iter().map(|entry| entry.name.clone()).collect();
    assert_eq!(names, [b"c".to_vec(), b"dir".to_vec()]);
    let unlink = NamespaceOp::Unlink { parent: Ino::ROOT, name: "c".into() };
    mutate(&admin, session, vec![(Seq(7), unlink)]).await;
    assert_eq!(lookup(&admin, "c").await, LookupResult::Refused(Status::NotFound));
    let status: StatusReply = admin.call(&StatusRequest).await.unwrap();
    assert_eq!((status.inodes, status.file_bytes, status.sessions), (3, 1005, 1));
    assert_eq!((status.coordinators.len(), status.coordinators[0].leader), (1, true));
    assert_eq!(status.coordinators[0].address, running.address.to_string());
    assert_eq!(status.dead_files, 2, "the replaced file and the removed one");
}

#[tokio::test]
async fn a_read_that_starts_after_an_answer_sees_the_change() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let writer = cluster.admin(&running).await;
    let reader = cluster.admin(&running).await;
    let session = writer.session().await;
    for seq in 1..=200 {
        let name = format!("d{seq}");
        mutate(&writer, session, vec![(Seq(seq), mkdir(Ino::ROOT, &name))]).await;
        assert!(matches!(lookup(&reader, &name).await, LookupResult::Found(_)), "{name}");
    }
}

#[tokio::test]
async fn a_session_outlives_its_connection_and_ends_when_it_is_closed() {
    let mut cluster = Cluster::new();
    let running = cluster.start().await;
    let first = cluster.admin(&running).await;
    let session = first.session().await;
    drop(first);
    let second = cluster.admin(&running).await;
    mutate(&second, session, vec![(Seq(1), mkdir(Ino::ROOT, "d"))]).await;
    let renew = SessionRenewRequest { session };
    second.call::<SessionRenewReply>(&renew).await.unwrap();
    let other = cluster.client(&running, "mallory").await;
    let refused = other.call::<SessionRenewReply>(&renew).await.unwrap_err();
    assert_eq!(refused.status(), Some(Status::PermissionDenied));
    let close = SessionCloseRequest { session };
    second.call::<SessionCloseReply>(&close).await.unwrap();
    second.call::<SessionCloseReply>(&close).await.unwrap();
    let ended = second.call::<SessionRenewReply>(&renew).await.unwrap_err();
    assert_eq!(ended.status(), Some(Status::SessionEnded));
    let mutation = MutateRequest { session, ops: vec![(Seq(2), mkdir(Ino::ROOT, "e"))] };
    let ended = second.call::<MutateReply>(&mutation).await.unwrap_err();
    assert_eq!(ended.status(), Some(Status::SessionEnded));
}

#[tokio::test]
async fn a_user_is_who_the_configuration_says() {
    let table = "[[user]]\nname = \"alice\"\nuid = 1000\ngid = 100\n";
    let mut cluster = Cluster::new().with(table);
    let running = cluster.start().await;
    for (name, uid, gid) in [("alice", 1000, 100), ("bob", 65534, 65534)] {
        let opened = cluster.client(&running, name).await.open_session().await;
        assert_eq!((opened.uid, opened.gid, opened.admin), (uid, gid, false), "{name}");
    }
    let opened = cluster.admin(&running).await.open_session().await;
    assert_eq!((opened.uid, opened.gid, opened.admin), (0, 0, true));
    let alice = cluster.client(&running, "alice").await;
    let session = alice.session().await;
    let outcomes = mutate(&alice, session, vec![(Seq(1), mkdir(Ino::ROOT, "x"))]).await;
    assert_eq!(outcomes, [OpOutcome::Refused(Status::PermissionDenied)]);
}
