//! Names: batches, order, exactly-once, sessions.

use client::plan::LinkFailure;
use client::{Client, Error};
use protocol::ids::Ino;
use protocol::limits::PATH_LEN_MAX;
use protocol::message::Kind;
use protocol::message::namespace::{Entry, LookupResult, NamespaceOp, PathQuery, SetAttributes};
use protocol::status::Status;

use crate::cluster::{Cluster, Fault};

fn mkdir(name: &str) -> NamespaceOp {
    let attributes = SetAttributes::default();
    NamespaceOp::Mkdir { parent: Ino::ROOT, name: name.into(), attributes }
}

fn unlink(name: &str) -> NamespaceOp {
    NamespaceOp::Unlink { parent: Ino::ROOT, name: name.into() }
}

async fn change(client: &Client, op: NamespaceOp) -> Result<Option<Entry>, Error> {
    client.mutate(op).await
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_was_lost_takes_effect_once() {
    let cluster = Cluster::new(Box::new(|_, _, kind, number| {
        (kind == Kind::Mutate && number == 0).then_some(Fault::LoseAnswer)
    }));
    change(&cluster.client(), mkdir("a")).await.expect("the repetition finds the first outcome");
    assert_eq!(cluster.state().batches, [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_operation_and_the_next_one_works() {
    let client = Cluster::healthy().client();
    change(&client, mkdir("a")).await.unwrap();
    let error = change(&client, mkdir("a")).await.unwrap_err();
    assert_eq!(error.status(), Some(Status::Exists));
    assert_eq!(error.to_string(), "mkdir a in 1: file exists");
    change(&client, unlink("a")).await.unwrap();
    change(&client, mkdir("a")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn operations_asked_for_at_once_travel_together() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let mut changes = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let client = client.clone();
        changes.spawn(async move { change(&client, mkdir(&format!("d{number}"))).await });
    }
    while let Some(done) = changes.join_next().await {
        done.unwrap().unwrap();
    }
    let state = cluster.state();
    assert_eq!(state.files.len(), 1_000);
    assert_eq!(state.batches.iter().sum::<usize>(), 1_000);
    assert!(state.batches.len() <= 20, "{:?}", state.batches);
    assert!(state.batches.iter().all(|count| *count <= client::limits::MUTATE_BATCH_MAX));
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_is_away_for_a_while_is_waited_for() {
    let cluster = Cluster::new(Box::new(|_, _, _, _| Some(Fault::Link(LinkFailure::Refused))));
    let client = cluster.client();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { change(&client, mkdir("a")).await }
    });
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    cluster.set_script(Box::new(|_, _, _, _| None));
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_stays_away_is_an_error_that_says_where() {
    let cluster = Cluster::new(Box::new(|_, _, _, _| Some(Fault::Link(LinkFailure::Refused))));
    let error = cluster.client().lookup(b"/a", true).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("lookup: gave up after 30000 ms"), "{text}");
    assert!(text.contains("connection refused by coordinator 127.0.0.1:7400"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_ended_session_fails_what_was_under_way_and_a_new_one_is_opened() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    change(&client, mkdir("a")).await.unwrap();
    cluster.state().open_sessions.clear();
    let error = change(&client, mkdir("b")).await.unwrap_err();
    assert_eq!(error.status(), Some(Status::SessionEnded));
    change(&client, mkdir("b")).await.unwrap();
    assert_eq!(cluster.state().calls[&Kind::SessionOpen], 2);
}

#[tokio::test(start_paused = true)]
async fn an_open_session_is_renewed_and_closing_ends_it() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    change(&client, mkdir("a")).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(61)).await;
    assert_eq!(cluster.state().calls[&Kind::SessionRenew], 6);
    client.close().await.unwrap();
    assert!(cluster.state().open_sessions.is_empty());
    tokio::time::sleep(std::time::Duration::from_secs(61)).await;
    assert_eq!(cluster.state().calls[&Kind::SessionRenew], 6);
}

#[tokio::test(start_paused = true)]
async fn results_of_many_lookups_keep_the_order_of_the_queries() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    change(&client, mkdir("d7")).await.unwrap();
    let query = |number| PathQuery {
        base: Ino::ROOT,
        path: format!("/d{number}").into_bytes(),
        follow: true,
        with_content: false,
    };
    let results = client.lookup_many((0..1_200).map(query).collect()).await.unwrap();
    assert_eq!(results.len(), 1_200);
    let found = |result: &LookupResult| matches!(result, LookupResult::Found(_));
    assert_eq!(results.iter().position(found), Some(7));
    assert_eq!(results.iter().filter(|result| found(result)).count(), 1);
    assert_eq!(cluster.state().calls[&Kind::Lookup], 2);
}

/// A lookup of one path that is there among so many, and of paths that no coordinator would take.
async fn look_for(client: &Client, there: usize, count: usize) -> Result<Vec<LookupResult>, Error> {
    let path = |number: usize| match number {
        _ if number == there => b"d".to_vec(),
        1 => vec![b'x'; PATH_LEN_MAX + 1],
        _ if number == count - 1 => b"nul\0".to_vec(),
        _ => b"none".to_vec(),
    };
    let query = |number| PathQuery {
        base: Ino::ROOT,
        path: path(number),
        follow: true,
        with_content: false,
    };
    client.lookup_many((0..count).map(query).collect()).await
}

#[tokio::test(start_paused = true)]
async fn what_a_reply_has_no_room_for_is_asked_for_again() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    change(&client, mkdir("d")).await.unwrap();
    cluster.state().results_max = Some(300);
    let results = look_for(&client, 700, 1_000).await.unwrap();
    assert_eq!((results.len(), cluster.state().calls[&Kind::Lookup]), (1_000, 4));
    let found = |result: &LookupResult| matches!(result, LookupResult::Found(_));
    assert_eq!(results.iter().position(found), Some(700));
    cluster.state().results_max = Some(0);
    let error = look_for(&client, 700, 1_000).await.unwrap_err();
    assert!(error.to_string().contains("0 results for 998 queries"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_cannot_be_does_not_fail_the_others() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    change(&client, mkdir("d")).await.unwrap();
    let results = look_for(&client, 2, 4).await.unwrap();
    let [missing, long, found, nul] = &results[..] else { panic!("{}", results.len()) };
    assert_eq!(*missing, LookupResult::Refused(Status::NotFound));
    assert_eq!(*long, LookupResult::Refused(Status::NameTooLong));
    assert!(matches!(found, LookupResult::Found(_)));
    assert_eq!(*nul, LookupResult::Refused(Status::Invalid));
}
