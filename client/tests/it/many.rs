//! Many whole files at once: every one its own result, few requests, bounded memory.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use client::limits::{
    LOOKUP_BATCH_MAX, READ_MANY_AHEAD, READ_MANY_BYTES_MAX, READ_MANY_FILE_BYTES_MAX,
    READ_MANY_FILES_MAX, WORD_FRESH_MS,
};
use client::{Client, Error, FileBytes, ReadMany, ReadManyOptions, WholeFile};
use protocol::ids::Ino;
use protocol::limits::PATH_LEN_MAX;
use protocol::message::Kind;
use protocol::message::namespace::{Entry, FileType, GrowthClearedNotice, SetAttributes};
use protocol::status::Status;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{CHUNK_LEN, Cluster, Fault};

/// Until everybody waits for something.
const INSTANT: Duration = Duration::from_millis(1);
const IN_ORDER: ReadManyOptions = ReadManyOptions { in_order: true, follow: true };
const AS_THEY_COME: ReadManyOptions = ReadManyOptions { in_order: false, follow: true };

fn name(number: usize) -> Vec<u8> {
    format!("f{number:05}").into_bytes()
}

/// Bytes that tell files apart.
fn content(number: usize, len: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

async fn put(client: &Client, number: usize, len: usize) -> Result<Entry, Error> {
    let mut writer = client.create(Ino::ROOT, len as u64).await?;
    writer.write(content(number, len)).await?;
    writer.publish(Ino::ROOT, &name(number), SetAttributes::default(), false).await
}

/// A cluster with so many files of this length.
async fn filled(count: usize, len: usize) -> (Cluster, Client) {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let mut puts = JoinSet::new();
    for number in 0..count {
        let client = client.clone();
        puts.spawn(async move { put(&client, number, len).await });
    }
    puts.join_all().await.into_iter().for_each(|put| drop(put.unwrap()));
    (cluster, client)
}

fn calls(cluster: &Cluster, kind: Kind) -> usize {
    cluster.state().calls.get(&kind).map_or(0, |count| *count as usize)
}

/// The rest of the files, with their bytes, in the order in which they come.
async fn all(mut many: ReadMany) -> Vec<(u64, Result<Vec<u8>, Error>)> {
    let mut files = Vec::new();
    while let Some(file) = many.next().await {
        files.push((file.index, file.result.map(whole)));
    }
    files
}

fn whole(bytes: FileBytes) -> Vec<u8> {
    match bytes {
        FileBytes::Whole(bytes) => bytes.to_vec(),
        FileBytes::Long(reader) => panic!("{} bytes are many", reader.size()),
    }
}

#[tokio::test(start_paused = true)]
async fn every_file_comes_once_and_a_thousand_are_looked_up_with_one_request() {
    let count = 2 * LOOKUP_BATCH_MAX;
    let (cluster, client) = filled(count, 100).await;
    for options in [IN_ORDER, AS_THEY_COME] {
        let before = calls(&cluster, Kind::Lookup);
        let mut many = client.read_many((0..count).map(name), options);
        let mut seen = vec![false; count];
        let mut last = None;
        while let Some(WholeFile { index, path, result }) = many.next().await {
            let number = usize::try_from(index).unwrap();
            assert!(!std::mem::replace(&mut seen[number], true));
            assert_eq!((path, whole(result.unwrap())), (name(number), content(number, 100)));
            assert!(!options.in_order || last < Some(index), "{index} after {last:?}");
            last = Some(index);
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(calls(&cluster, Kind::Lookup) - before, 2);
    }
    assert_eq!(calls(&cluster, Kind::Read), 2 * count);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_in_flight_or_in_memory_than_the_window_holds() {
    for (len, window) in [(1, READ_MANY_FILES_MAX), (CHUNK_LEN, READ_MANY_BYTES_MAX / CHUNK_LEN)] {
        let (cluster, client) = filled(window + 9, len).await;
        cluster
            .set_script(Box::new(|_, _, kind, _| (kind == Kind::Read).then_some(Fault::Unheard)));
        let mut silent = client.read_many((0..window + 9).map(name), AS_THEY_COME);
        assert!(timeout(INSTANT, silent.next()).await.is_err());
        assert_eq!(calls(&cluster, Kind::Read), window, "in flight");
        drop(silent);
        cluster.set_script(Box::new(|_, _, _, _| None));
        let before = calls(&cluster, Kind::Read);
        let mut many = client.read_many((0..window + 9).map(name), IN_ORDER);
        for taken in 0..9 {
            assert_eq!(many.next().await.unwrap().index, taken as u64);
            sleep(INSTANT).await;
            assert_eq!(calls(&cluster, Kind::Read) - before, window + taken, "not taken yet");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lookups_run_ahead_of_the_reads_and_no_further() {
    let (cluster, client) = filled(1, 1).await;
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = taken.clone();
    let paths = std::iter::repeat_with(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        name(0)
    });
    let mut many = client.read_many(paths, AS_THEY_COME);
    for _ in 0..READ_MANY_FILES_MAX {
        many.next().await.unwrap().result.map(whole).unwrap();
        sleep(INSTANT).await;
    }
    let most = READ_MANY_AHEAD + 2 * LOOKUP_BATCH_MAX + 2 * READ_MANY_FILES_MAX;
    let taken = taken.load(std::sync::atomic::Ordering::Relaxed);
    assert!((2 * LOOKUP_BATCH_MAX..=most).contains(&taken), "{taken}");
    assert_eq!(calls(&cluster, Kind::Lookup), taken / LOOKUP_BATCH_MAX);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_one_file_stops_no_other() {
    let (cluster, client) = filled(20, 100).await;
    let long = usize::try_from(READ_MANY_FILE_BYTES_MAX).unwrap() + 1;
    put(&client, 20, long - 1).await.unwrap();
    put(&client, 21, long).await.unwrap();
    put(&client, 22, 0).await.unwrap();
    {
        let mut state = cluster.state();
        let directory = state.files.get_mut(&name(3)).unwrap();
        directory.attributes.file_type = FileType::Directory;
        directory.content = None;
        let lost = state.files[&name(4)].content.as_ref().unwrap().fid;
        state.chunks.retain(|(_, key), _| key.fid != lost);
    }
    let mut paths: Vec<_> = (0..23).map(name).collect();
    paths[1] = b"missing".to_vec();
    paths[2] = vec![b'x'; PATH_LEN_MAX + 1];
    let mut many = client.read_many(paths.clone(), IN_ORDER);
    for (number, path) in paths.into_iter().enumerate() {
        let file = many.next().await.unwrap();
        assert_eq!((file.index, &file.path), (number as u64, &path));
        match (number, file.result) {
            (1, Err(error)) => assert_eq!(error.to_string(), "missing: no such file or directory"),
            (2, Err(error)) => assert_eq!(error.status(), Some(Status::NameTooLong)),
            (3, Err(error)) => assert_eq!(error.status(), Some(Status::IsDirectory)),
            (4, Err(Error::Unreadable { what, .. })) => assert_eq!(what, "read f00004 chunk 0"),
            (20, Ok(bytes)) => assert_eq!(whole(bytes), content(20, long - 1)),
            (21, Ok(FileBytes::Long(reader))) => assert_eq!(reader.size(), long as u64),
            (22, Ok(bytes)) => assert_eq!(whole(bytes), b""),
            (_, Ok(bytes)) => assert_eq!(whole(bytes), content(number, 100)),
            (_, Err(error)) => panic!("{number}: {error}"),
        }
    }
    assert!(many.next().await.is_none());
    assert_eq!(calls(&cluster, Kind::Lookup), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_file_holds_up_only_those_who_want_order() {
    let (cluster, client) = filled(10, 100).await;
    let mut orders = Vec::new();
    for options in [IN_ORDER, AS_THEY_COME] {
        let before = calls(&cluster, Kind::Read);
        cluster.set_script(Box::new(move |_, _, kind, number| {
            (kind == Kind::Read && number as usize == before).then_some(Fault::Late(3))
        }));
        let begun = Instant::now();
        let mut many = client.read_many((0..10).map(name), options);
        let mut order = Vec::new();
        while let Some(file) = many.next().await {
            order.push((file.index, begun.elapsed() >= Duration::from_millis(3)));
            file.result.map(whole).unwrap();
        }
        orders.push(order);
    }
    let [in_order, as_they_come] = &orders[..] else { unreachable!() };
    assert!(in_order.iter().map(|(index, _)| *index).eq(0..10));
    let late = |order: &[(u64, bool)]| order.iter().filter(|(_, late)| *late).count();
    assert!(late(in_order) > 1 && late(as_they_come) == 1, "{orders:?}");
}

#[tokio::test(start_paused = true)]
async fn a_file_goes_the_way_of_a_single_read_when_something_fails() {
    let (cluster, client) = filled(50, 100).await;
    let mut damaged = 0;
    cluster.set_script(Box::new(move |_, _, kind, _| {
        damaged += usize::from(kind == Kind::Read);
        match (kind, damaged) {
            (Kind::Read, 1) => Some(Fault::Corrupt),
            (Kind::Read, 2) => Some(Fault::Unheard),
            (Kind::Read, 3) => Some(Fault::Status(Status::Busy)),
            _ => None,
        }
    }));
    let files = all(client.read_many((0..50).map(name), AS_THEY_COME)).await;
    for (index, result) in files {
        let number = usize::try_from(index).unwrap();
        assert!(result.unwrap() == content(number, 100), "{number}");
    }
    assert_eq!(calls(&cluster, Kind::Read), 53, "each of the three was asked for again");
    assert_eq!(cluster.state().reported.len(), 1, "the damage was reported");
}

#[tokio::test(start_paused = true)]
async fn what_was_said_of_a_file_is_relied_on_as_long_as_in_single_reads() {
    let (beyond, count) = (10, READ_MANY_FILES_MAX + 10);
    let (cluster, client) = filled(count, 100).await;
    let last = cluster.state().files[&name(count - 1)].content.as_ref().unwrap().fid;
    let mut many = client.read_many((0..count).map(name), AS_THEY_COME);
    many.next().await.unwrap().result.map(whole).unwrap();
    cluster.tell(&GrowthClearedNotice { fids: vec![last] }, Kind::GrowthCleared).await;
    sleep(Duration::from_millis(WORD_FRESH_MS)).await;
    let files = all(many).await;
    assert!(files.iter().all(|(_, result)| result.is_ok()));
    let state = cluster.state();
    assert_eq!(state.grown_reads.iter().filter(|grown| !**grown).count(), 1);
    // One word was taken back; those of the others beyond the window had run out.
    assert_eq!(state.calls[&Kind::Lookup], 1 + beyond - 1);
}

#[tokio::test(start_paused = true)]
async fn a_word_counts_from_when_it_was_asked_for() {
    let (cluster, client) = filled(3, 100).await;
    cluster.set_script(Box::new(|_, _, kind, number| {
        (kind == Kind::Lookup && number == 0).then_some(Fault::Late(WORD_FRESH_MS / 2))
    }));
    let files = all(client.read_many((0..3).map(name), AS_THEY_COME)).await;
    assert!(files.len() == 3 && files.iter().all(|(_, result)| result.is_ok()));
    sleep(INSTANT).await;
    assert_eq!(calls(&cluster, Kind::Lookup), 1 + 3, "each is asked for again on the side");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_loses_no_file() {
    let (cluster, client) = filled(600, 100).await;
    cluster.set_script(Box::new(|_, _, kind, number| match kind {
        Kind::Read | Kind::Lookup => Some(Fault::Late(u64::from(number % 7))),
        _ => None,
    }));
    let mut many = client.read_many((0..600).map(name), AS_THEY_COME);
    let (mut seen, mut given_up) = (Vec::new(), 0);
    loop {
        match timeout(INSTANT, many.next()).await {
            Ok(Some(file)) => seen.push(file.index),
            Ok(None) => break,
            Err(_) => given_up += 1,
        }
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..600));
    assert!(given_up > 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_coordinator_every_path_says_so() {
    let (cluster, client) = filled(1, 1).await;
    cluster.set_script(Box::new(|_, _, kind, _| {
        (kind == Kind::Lookup).then_some(Fault::Status(Status::Internal))
    }));
    let files = all(client.read_many([name(0), name(1)], IN_ORDER)).await;
    for (index, result) in files {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(&format!("f0000{index}: ")), "{error}");
    }
}
