//! What happens where this client stops: queues, windows, and times that it waits.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use bytes::Bytes;
use client::limits::{
    ATTEMPT_LOOK_MS, COORDINATOR_ATTEMPT_MS, FAILOVER_PAUSE_MAX_MS, IN_FLIGHT_BYTES_MAX,
    MUTATE_QUEUE_MAX, READ_DIR_PAGE_MAX, REFRESH_JITTER_MS, REFRESH_WAIT_MS, STREAM_HELD_BYTES_MAX,
    STREAM_WINDOW_BYTES, VERIFY_TIMEOUT_MS, WRITE_ATTEMPT_MS, WRITER_CHUNKS_IN_FLIGHT,
};
use client::plan::LinkFailure;
use client::{Client, Error, WriteMode};
use protocol::ids::{ChunkKey, Fid, Ino, TargetId};
use protocol::message::Kind;
use protocol::message::namespace::{Entry, NamespaceOp, SetAttributes};
use protocol::status::Status;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{CHUNK_LEN, Cluster, Fault, GROUP};

/// Until everybody waits for something, and far shorter than anything they wait for.
const INSTANT: Duration = Duration::from_millis(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn chunks(count: usize) -> Bytes {
    Bytes::from(vec![0; count * CHUNK_LEN])
}

fn calls(cluster: &Cluster, kind: Kind) -> usize {
    cluster.state().calls.get(&kind).map_or(0, |count| *count as usize)
}

fn set(cluster: &Cluster, kind: Kind, fault: Fault) {
    cluster.set_script(Box::new(move |_, _, called, _| (called == kind).then_some(fault)));
}

fn mkdir(name: String) -> NamespaceOp {
    let attributes = SetAttributes::default();
    NamespaceOp::Mkdir { parent: Ino::ROOT, name: name.into(), attributes }
}

async fn put(client: &Client, name: &str, bytes: Bytes) -> Result<Entry, Error> {
    let mut writer = client.create(Ino::ROOT, bytes.len() as u64).await?;
    writer.write(bytes).await?;
    writer.publish(Ino::ROOT, name.as_bytes(), SetAttributes::default(), false).await
}

#[tokio::test(start_paused = true)]
async fn a_writer_has_so_many_chunks_in_flight_and_then_its_caller_waits() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let entry = put(&client, "f", chunks(1)).await.unwrap();
    let mut editor = client.open_write(entry.attributes.ino, WriteMode::Change).await.unwrap();
    let mut writer = client.create(Ino::ROOT, u64::MAX).await.unwrap();
    set(&cluster, Kind::Write, Fault::Unheard);
    let before = calls(&cluster, Kind::Write);
    let data = chunks(WRITER_CHUNKS_IN_FLIGHT);
    assert_eq!(timeout(INSTANT, writer.write(data.clone())).await, Ok(Ok(())));
    assert!(timeout(ms(100), writer.write(chunks(1))).await.is_err());
    assert_eq!(calls(&cluster, Kind::Write) - before, WRITER_CHUNKS_IN_FLIGHT);
    let before = calls(&cluster, Kind::Write);
    assert!(
        timeout(ms(100), editor.write_at(0, chunks(2 * WRITER_CHUNKS_IN_FLIGHT))).await.is_err()
    );
    assert_eq!(calls(&cluster, Kind::Write) - before, WRITER_CHUNKS_IN_FLIGHT);
}

#[tokio::test(start_paused = true)]
async fn all_writers_together_keep_to_the_bytes_in_flight() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let most = IN_FLIGHT_BYTES_MAX / CHUNK_LEN;
    let writers = most / WRITER_CHUNKS_IN_FLIGHT + 2;
    let all = writers * WRITER_CHUNKS_IN_FLIGHT;
    let data = chunks(WRITER_CHUNKS_IN_FLIGHT);
    set(&cluster, Kind::Write, Fault::Unheard);
    let mut puts = JoinSet::new();
    for number in 0..writers {
        let (client, data) = (client.clone(), data.clone());
        puts.spawn(async move { put(&client, &format!("f{number}"), data).await });
    }
    sleep(ms(1_000)).await;
    assert_eq!(calls(&cluster, Kind::Write), most, "of {all} chunks");
    // Once those in flight have ended, whatever their end, the others have their turn.
    set(&cluster, Kind::Write, Fault::Status(Status::NoSpace));
    while let Some(done) = puts.join_next().await {
        assert_eq!(done.unwrap().unwrap_err().status(), Some(Status::NoSpace));
    }
    assert!(calls(&cluster, Kind::Write) > 2 * most);
}

#[tokio::test(start_paused = true)]
async fn a_stream_asks_for_its_window_and_for_more_as_it_is_taken() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let window = STREAM_WINDOW_BYTES / CHUNK_LEN;
    let entry = put(&client, "f", chunks(4 * window)).await.unwrap();
    let reader = client.reader(&entry).unwrap();
    let asked = || calls(&cluster, Kind::Read);
    set(&cluster, Kind::Read, Fault::Unheard);
    let mut silent = reader.stream(0, reader.size());
    assert!(timeout(INSTANT, silent.next()).await.is_err());
    assert_eq!(asked(), window, "in flight");
    drop(silent);
    cluster.set_script(Box::new(|_, _, _, _| None));
    let before = asked();
    let mut stream = reader.stream(0, reader.size());
    for taken in 0..=window {
        assert_eq!(stream.next().await.unwrap().unwrap().len(), CHUNK_LEN);
        sleep(INSTANT).await;
        let ahead = asked() - before - taken;
        assert!((window..=2 * window).contains(&ahead), "{ahead} after {taken}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_is_late_does_not_keep_a_stream_from_asking_for_others() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let count = 4 * STREAM_WINDOW_BYTES / CHUNK_LEN;
    let entry = put(&client, "f", chunks(count)).await.unwrap();
    let reader = client.reader(&entry).unwrap();
    cluster.set_script(Box::new(|_, _, kind, number| {
        (kind == Kind::Read && number == 0).then_some(Fault::Unheard)
    }));
    let mut stream = reader.stream(0, reader.size());
    let mut taken = 0;
    // Until the piece is asked of another replica.
    while let Ok(piece) = timeout(INSTANT, stream.next()).await {
        piece.unwrap().unwrap();
        taken += 1;
    }
    assert_eq!(calls(&cluster, Kind::Read) - taken, STREAM_HELD_BYTES_MAX / CHUNK_LEN);
    while let Some(piece) = stream.next().await {
        piece.unwrap();
        taken += 1;
    }
    assert_eq!(taken, count);
}

/// Operations that wait for a batch under way, and whether a writer dropped then gives its inode
/// back at once or leaves that to the end of the session.
async fn drop_behind(waiting: usize) -> bool {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let writer = client.create(Ino::ROOT, 5).await.unwrap();
    let reserved = cluster.state().unlinked.len();
    set(&cluster, Kind::Mutate, Fault::Unheard);
    let mut changes = JoinSet::new();
    let mut change = |number: usize| {
        let client = client.clone();
        changes.spawn(async move { client.mutate(mkdir(format!("d{number}"))).await });
    };
    change(0);
    sleep(INSTANT).await;
    (1..=waiting).for_each(&mut change);
    sleep(INSTANT).await;
    drop(writer);
    cluster.set_script(Box::new(|_, _, _, _| None));
    while let Some(done) = changes.join_next().await {
        done.unwrap().unwrap();
    }
    sleep(INSTANT).await;
    assert_eq!(cluster.state().files.len(), 1 + waiting, "whoever waits has a turn");
    cluster.state().unlinked.len() < reserved
}

#[tokio::test(start_paused = true)]
async fn changes_wait_for_a_place_in_the_queue_and_what_nobody_waits_for_is_left_out() {
    assert!(drop_behind(MUTATE_QUEUE_MAX - 1).await);
    assert!(!drop_behind(MUTATE_QUEUE_MAX).await);
    assert!(!drop_behind(MUTATE_QUEUE_MAX + 1).await);
}

#[tokio::test(start_paused = true)]
async fn a_long_directory_is_read_page_by_page() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let page = READ_DIR_PAGE_MAX as usize;
    for (names, pages) in [(page, 1), (page + 1, 2), (2 * page, 2)] {
        let have = cluster.state().files.len();
        let name = |number| format!("d{number:05}");
        for number in have..names {
            client.mutate(mkdir(name(number))).await.unwrap();
        }
        let before = calls(&cluster, Kind::ReadDir);
        let entries = client.read_dir(Ino::ROOT, false).await.unwrap();
        assert_eq!(calls(&cluster, Kind::ReadDir) - before, pages);
        let found = entries.into_iter().map(|entry| entry.name);
        assert!(found.eq((0..names).map(|number| name(number).into_bytes())));
    }
    assert_eq!(cluster.state().page_max, page);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_nobody_answers_is_sent_again_after_its_time() {
    let cluster = Cluster::new(Box::new(|_, _, kind, number| {
        (kind == Kind::Write && number == 0).then_some(Fault::Silent)
    }));
    let begun = Instant::now();
    put(&cluster.client(), "f", Bytes::from_static(b"bytes")).await.unwrap();
    let most = ms(WRITE_ATTEMPT_MS + REFRESH_JITTER_MS + FAILOVER_PAUSE_MAX_MS + ATTEMPT_LOOK_MS);
    assert!((ms(WRITE_ATTEMPT_MS)..=most).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(calls(&cluster, Kind::Write), 2);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_does_not_answer_is_asked_again_after_its_time() {
    let cluster = Cluster::new(Box::new(|_, _, kind, number| {
        (kind == Kind::Lookup && number == 0).then_some(Fault::Unheard)
    }));
    let begun = Instant::now();
    let error = cluster.client().lookup(b"/a", true).await.unwrap_err();
    assert_eq!(error.status(), Some(Status::NotFound));
    let most = ms(COORDINATOR_ATTEMPT_MS + FAILOVER_PAUSE_MAX_MS + 1);
    assert!(
        (ms(COORDINATOR_ATTEMPT_MS)..=most).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(calls(&cluster, Kind::Lookup), 2);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_does_not_answer_a_question_is_an_error_after_a_while() {
    let cluster = Cluster::new(Box::new(|_, _, kind, _| {
        matches!(kind, Kind::ShardStats | Kind::Verify).then_some(Fault::Unheard)
    }));
    let client = cluster.client();
    let waited = |error: &Error| match error {
        Error::Deadline { waited_ms, attempts: 1, .. } => *waited_ms,
        other => panic!("{other}"),
    };
    let begun = Instant::now();
    assert_eq!(waited(&client.shard_stats(TargetId(1)).await.unwrap_err()), VERIFY_TIMEOUT_MS);
    assert_eq!(begun.elapsed(), ms(VERIFY_TIMEOUT_MS));
    let begun = Instant::now();
    let key = ChunkKey { fid: Fid(1), index: 0 };
    let checks = client.verify_chunk(GROUP, key).await.unwrap();
    assert_eq!(begun.elapsed(), ms(VERIFY_TIMEOUT_MS), "all three at once");
    let times: Vec<_> =
        checks.iter().map(|check| waited(check.result.as_ref().unwrap_err())).collect();
    assert_eq!(times, [VERIFY_TIMEOUT_MS; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_plan_goes_on_with_the_map_it_has_when_no_newer_one_comes() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    client.map().await.unwrap();
    cluster.set_script(Box::new(|_, _, kind, number| match (kind, number) {
        (Kind::Write, 0) => Some(Fault::Link(LinkFailure::Broken)),
        (Kind::MapFetch, _) => Some(Fault::Unheard),
        _ => None,
    }));
    let begun = Instant::now();
    put(&client, "f", Bytes::from_static(b"bytes")).await.unwrap();
    let most = ms(REFRESH_WAIT_MS + REFRESH_JITTER_MS + FAILOVER_PAUSE_MAX_MS + 2);
    assert!((ms(REFRESH_WAIT_MS)..=most).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(calls(&cluster, Kind::Write), 2);
}
