//! Files written in place, and readers who were told that a file only grows.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::cast_possible_truncation, reason = "patterns of bytes and short ranges")]

use std::time::Duration;

use bytes::Bytes;
use client::limits::{
    SETTLE_LOOK_MS, SETTLE_WAIT_MS, WORD_ASK_AGAIN_MS, WORD_ASK_MS, WORD_FRESH_MS, WORD_HOLDS_MS,
};
use client::plan::LinkFailure;
use client::transport::PeerId;
use client::{Client, Error, WriteMode};
use protocol::ids::Ino;
use protocol::message::Kind;
use protocol::message::namespace::{Entry, GrowthClearedNotice, SetAttributes};
use protocol::status::Status;

use crate::cluster::{Cluster, Fault};

async fn put(client: &Client, name: &str, bytes: &[u8]) -> Entry {
    let mut writer = client.create(Ino::ROOT, bytes.len() as u64).await.unwrap();
    writer.write(bytes.to_vec()).await.unwrap();
    writer.publish(Ino::ROOT, name.as_bytes(), SetAttributes::default(), false).await.unwrap()
}

async fn cat(client: &Client, name: &str) -> Bytes {
    let entry = client.lookup(name.as_bytes(), true).await.unwrap();
    client.reader(&entry).unwrap().read_at(0, 1 << 24).await.unwrap()
}

fn content(len: u32) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn bytes_are_changed_where_they_are_and_added_at_the_end() {
    let client = Cluster::healthy().client();
    let mut bytes = content(5_000_000);
    let entry = put(&client, "f", &bytes).await;
    let mut editor = client.open_write(entry.attributes.ino, WriteMode::Change).await.unwrap();
    // Inside a cell, over the end of a chunk, over the end of the file, and after a hole.
    for (offset, len) in [(5, 3), (4_194_000, 600), (4_999_999, 10), (5_100_000, 1)] {
        let piece = vec![7; len];
        editor.write_at(offset, piece.clone()).await.unwrap();
        let (start, end) = (offset as usize, offset as usize + len);
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(&piece);
    }
    let closed = editor.close().await.unwrap();
    assert_eq!(closed.attributes.size, bytes.len() as u64);
    assert!(!closed.content.unwrap().recovered);
    assert!(cat(&client, "f").await == bytes);
}

#[tokio::test(start_paused = true)]
async fn what_a_chunk_has_is_read_also_where_it_ends_before_a_hole() {
    let client = Cluster::healthy().client();
    let mut bytes = content(30_000);
    let entry = put(&client, "f", &bytes).await;
    let mut editor = client.open_write(entry.attributes.ino, WriteMode::Change).await.unwrap();
    editor.write_at(3_000_000, vec![7; 5]).await.unwrap();
    editor.close().await.unwrap();
    bytes.resize(3_000_000, 0);
    bytes.extend([7; 5]);
    assert!(cat(&client, "f").await == bytes);
}

#[tokio::test(start_paused = true)]
async fn appends_go_on_in_the_cell_where_the_file_ended() {
    let client = Cluster::healthy().client();
    let mut bytes = content(16_389);
    let entry = put(&client, "f", &bytes).await;
    let mut editor = client.open_write(entry.attributes.ino, WriteMode::Append).await.unwrap();
    for len in [1, 16_000, 20_000, 5_000_000] {
        editor.append(vec![9; len]).await.unwrap();
        bytes.extend(std::iter::repeat_n(9, len));
    }
    let wrong = editor.write_at(0, vec![1]).await.unwrap_err();
    assert!(matches!(wrong, Error::Usage { .. }), "{wrong}");
    editor.sync().await.unwrap();
    assert!(cat(&client, "f").await == bytes);
    assert!(editor.close().await.unwrap().content.unwrap().growth_only);
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_fails_the_handle_every_time_and_the_file_is_measured() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let entry = put(&client, "f", &content(100)).await;
    let mut editor = client.open_write(entry.attributes.ino, WriteMode::Change).await.unwrap();
    cluster.set_script(Box::new(|_, _, kind, _| {
        (kind == Kind::Write).then_some(Fault::Status(Status::NoSpace))
    }));
    let first = editor.write_at(0, vec![1; 10]).await.unwrap_err();
    cluster.set_script(Box::new(|_, _, _, _| None));
    assert_eq!(first.status(), Some(Status::NoSpace));
    assert_eq!(editor.write_at(0, vec![1; 10]).await.unwrap_err().status(), first.status());
    assert_eq!(editor.sync().await.unwrap_err().status(), first.status());
    assert_eq!(editor.close().await.unwrap_err().status(), first.status());
    let after = client.lookup(b"f", true).await.unwrap();
    assert!(after.content.unwrap().recovered, "closed as unclean");
}

#[tokio::test(start_paused = true)]
async fn a_truncation_returns_when_the_groups_have_cut_the_file() {
    let client = Cluster::healthy().client();
    let entry = put(&client, "f", &content(50_000)).await;
    let cut = client.truncate(entry.attributes.ino, 10).await.unwrap();
    assert_eq!(cut.attributes.size, 10);
    assert!(!cut.content.unwrap().truncating);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_never_cut_is_waited_for_only_so_long() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let entry = put(&client, "f", &content(50_000)).await;
    cluster.state().never_cut = true;
    let start = tokio::time::Instant::now();
    let error = client.truncate(entry.attributes.ino, 10).await.unwrap_err();
    assert!(matches!(error, Error::Deadline { waited_ms: SETTLE_WAIT_MS, .. }), "{error}");
    let most = Duration::from_millis(SETTLE_WAIT_MS + 2 * SETTLE_LOOK_MS);
    assert!(start.elapsed() <= most);
}

#[tokio::test(start_paused = true)]
async fn readers_do_not_notice_that_no_coordinator_answers() {
    for fault in [Fault::Link(LinkFailure::Refused), Fault::Silent] {
        let cluster = Cluster::healthy();
        let client = cluster.client();
        let entry = put(&client, "f", &content(100)).await;
        let reader = client.reader(&entry).unwrap();
        cluster.set_script(Box::new(move |_, peer, _, _| {
            matches!(peer.id, PeerId::Coordinator(_)).then_some(fault)
        }));
        let began = tokio::time::Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            let start = tokio::time::Instant::now();
            reader.read_at(0, 100).await.unwrap();
            assert_eq!(start.elapsed(), Duration::ZERO, "after {:?}, {fault:?}", began.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let asked = cluster.state().calls[&Kind::Lookup];
        assert!((20..=60).contains(&asked), "{asked} questions");
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_to_a_file_waits_a_moment_for_a_silent_coordinator() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let entry = put(&client, "f", &content(100)).await;
    let reader = client.reader(&entry).unwrap();
    cluster.set_script(Box::new(|_, _, kind, _| (kind == Kind::Lookup).then_some(Fault::Silent)));
    tokio::time::sleep(Duration::from_millis(WORD_FRESH_MS)).await;
    for most in [WORD_ASK_MS, 0] {
        let start = tokio::time::Instant::now();
        reader.read_at(0, 100).await.unwrap();
        assert!(start.elapsed() <= Duration::from_millis(most), "{:?}", start.elapsed());
    }
    tokio::time::sleep(Duration::from_millis(WORD_HOLDS_MS)).await;
    let start = tokio::time::Instant::now();
    reader.read_at(0, 100).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(WORD_ASK_MS), "it is asked for again");
}

#[tokio::test(start_paused = true)]
async fn a_reader_asks_again_before_its_word_runs_out() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let entry = put(&client, "f", &content(100)).await;
    let reader = client.reader(&entry).unwrap();
    let lookups = || cluster.state().calls.get(&Kind::Lookup).copied().unwrap_or(0);
    reader.read_at(0, 100).await.unwrap();
    assert_eq!(lookups(), 0, "a fresh word is relied on");
    tokio::time::sleep(Duration::from_millis(WORD_FRESH_MS)).await;
    let (one, two) = tokio::join!(reader.read_at(0, 50), reader.read_at(50, 50));
    one.unwrap();
    two.unwrap();
    assert_eq!(lookups(), 1, "one of them asks");
    // While nobody can be let in, the old word holds; the coordinator is asked now and then.
    cluster.set_script(Box::new(|_, _, kind, _| {
        (kind == Kind::Lookup).then_some(Fault::Link(LinkFailure::Refused))
    }));
    tokio::time::sleep(Duration::from_millis(WORD_FRESH_MS)).await;
    let start = tokio::time::Instant::now();
    reader.read_at(0, 100).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO, "a coordinator that is gone is not waited for");
    let asked = lookups();
    reader.read_at(0, 100).await.unwrap();
    assert_eq!(lookups(), asked, "within {WORD_ASK_AGAIN_MS} ms");
}

#[tokio::test(start_paused = true)]
async fn a_word_that_is_taken_back_is_relied_on_no_more() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let fid = put(&client, "f", &content(100)).await.content.unwrap().fid;
    let entry = client.lookup(b"f", true).await.unwrap();
    let reader = client.reader(&entry).unwrap();
    reader.read_at(0, 100).await.unwrap();
    cluster.tell(&GrowthClearedNotice { fids: vec![fid] }, Kind::GrowthCleared).await;
    // The answer comes on its own; nothing is waited for but that.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(cluster.state().returned, [[fid]]);
    reader.read_at(0, 100).await.unwrap();
    assert_eq!(cluster.state().grown_reads, [true, false], "no read may come after the answer");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_gives_every_word_back() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    put(&client, "f", &content(100)).await;
    client.close().await.unwrap();
    assert!(cluster.state().returned.is_empty(), "it was told nothing");
    let client = cluster.client();
    let entry = client.lookup(b"f", true).await.unwrap();
    let reader = client.reader(&entry).unwrap();
    client.close().await.unwrap();
    assert_eq!(cluster.state().returned, vec![Vec::new()]);
    reader.read_at(0, 100).await.unwrap();
    assert_eq!(cluster.state().grown_reads, [false]);
}
