//! Files: what is written is read back, whatever a minority of replicas and links does.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::cast_possible_truncation, reason = "patterns of bytes and short ranges")]

use client::limits::{
    BUDGET_FLOOR, DOUBT_AFTER_MS, HEDGE_AFTER_MAX_MS, HEDGE_AFTER_MIN_MS, HEDGE_SAMPLES,
    LEAVE_AFTER_MS, PROBE_ATTEMPT_MS, READ_ATTEMPT_MS, RESERVE_FIRST, SILENT_REQUESTS,
    WRITER_MOVES_MAX, WRITER_WINDOW_CHUNKS,
};
use client::plan::LinkFailure;
use client::{Client, Error};
use protocol::ids::{Ino, TargetId};
use protocol::message::Kind;
use protocol::message::namespace::{Entry, SetAttributes};
use protocol::message::operate::UnreachableRequest;
use protocol::status::Status;

use crate::cluster::{Cluster, Fault, GROUP, OTHER, State};
use client::transport::{Peer, PeerId};

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 11)) as u8).collect()
}

fn is_target(peer: &Peer, id: u32) -> bool {
    matches!(peer.id, PeerId::Target { target, .. } if target == TargetId(id))
}

async fn put(client: &Client, name: &str, bytes: &[u8]) -> Result<Entry, Error> {
    let mut writer = client.create(Ino::ROOT, bytes.len() as u64).await?.named(name);
    for piece in bytes.chunks(700_001) {
        writer.write(piece.to_vec()).await?;
    }
    writer.publish(Ino::ROOT, name.as_bytes(), SetAttributes::default(), false).await
}

async fn cat(client: &Client, name: &str) -> Result<Vec<u8>, Error> {
    let entry = client.lookup(name.as_bytes(), true).await?;
    let reader = client.reader(&entry)?.named(name);
    let mut stream = reader.stream(0, reader.size());
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await.transpose()? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

#[tokio::test(start_paused = true)]
async fn files_of_every_size_come_back_as_they_went() {
    let client = Cluster::healthy().client();
    for len in [0, 1, 16_384, 16_385, 1 << 20, (1 << 20) + 1, 5_000_000] {
        let name = format!("f{len}");
        let bytes = content(len);
        assert_eq!(put(&client, &name, &bytes).await.unwrap().attributes.size, len as u64);
        assert!(cat(&client, &name).await.unwrap() == bytes, "{len} bytes differ");
    }
}

#[tokio::test(start_paused = true)]
async fn any_range_is_cut_out_exactly() {
    let client = Cluster::healthy().client();
    let bytes = content(3_000_000);
    let entry = put(&client, "f", &bytes).await.unwrap();
    let reader = client.reader(&entry).unwrap();
    for (at, len) in [(0, 1), (16_383, 2), (1 << 20, 1), ((1 << 20) - 1, 2), (123, 2_500_000)] {
        let got = reader.read_at(at, len).await.unwrap();
        assert!(got == bytes[at as usize..at as usize + len], "{len} bytes at {at} differ");
    }
    assert_eq!(reader.read_at(2_999_990, 100).await.unwrap().len(), 10);
    assert_eq!(reader.read_at(3_000_000, 100).await.unwrap().len(), 0);
    assert_eq!(reader.read_at(u64::MAX, 100).await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_dies_in_the_middle_is_replaced_and_each_write_takes_effect_once() {
    let mut lost = 0;
    let cluster = Cluster::new(Box::new(move |state, peer, kind, number| {
        if kind == Kind::Write && number == 2 {
            return Some(Fault::LoseAnswer);
        }
        if kind == Kind::Write && number > 2 && is_target(peer, 1) {
            lost += 1;
            if lost == 5 {
                state.evict(TargetId(1));
            }
            return Some(Fault::Link(LinkFailure::Refused));
        }
        None
    }));
    let client = cluster.client();
    let bytes = content(6_000_000);
    put(&client, "f", &bytes).await.unwrap();
    assert!(cat(&client, "f").await.unwrap() == bytes);
    let state = cluster.state();
    assert_eq!(state.applied.len(), 6, "one operation a chunk");
    assert!(state.applied.values().all(|count| *count == 1), "{:?}", state.applied);
    let repeated = state.writes.iter().filter(|(_, attempt)| *attempt > 0);
    assert!(repeated.count() >= 1, "the lost answer was asked for again");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_repeated_with_the_same_operation_id() {
    let cluster = Cluster::new(Box::new(|_, _, kind, number| {
        (kind == Kind::Write && number == 0).then_some(Fault::LoseAnswer)
    }));
    put(&cluster.client(), "f", b"bytes").await.unwrap();
    let state = cluster.state();
    let [(first, 0), (second, 1)] = state.writes[..] else { panic!("{:?}", state.writes) };
    assert_eq!(first, second);
    assert_eq!(state.applied[&first], 1);
}

#[tokio::test(start_paused = true)]
async fn a_stale_map_is_refreshed_and_the_write_goes_on() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    put(&client, "before", b"1").await.unwrap();
    cluster.state().evict(TargetId(1));
    put(&client, "after", b"2").await.unwrap();
    assert_eq!(client.map().await.unwrap().version, cluster.state().map.version);
}

#[tokio::test(start_paused = true)]
async fn corrupt_cells_of_one_replica_are_read_elsewhere() {
    for bad in 1..=3 {
        let cluster = Cluster::healthy();
        let client = cluster.client();
        let bytes = content(4_000_000);
        put(&client, "f", &bytes).await.unwrap();
        cluster.set_script(Box::new(move |_, peer, kind, _| {
            (kind == Kind::Read && is_target(peer, bad)).then_some(Fault::Corrupt)
        }));
        assert!(cat(&client, "f").await.unwrap() == bytes, "replica {bad} was believed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_is_whole_where_each_cell_is_good_on_some_replica() {
    for damage_known in [false, true] {
        let cluster = Cluster::healthy();
        let client = cluster.client();
        let bytes = content(1 << 20);
        put(&client, "f", &bytes).await.unwrap();
        let cells = [vec![0, 7, 63], vec![1, 7, 62], vec![2, 62, 63]];
        cluster.state().damage_known = damage_known;
        cluster.state().damaged = (1..).map(TargetId).zip(cells).collect();
        assert!(cat(&client, "f").await.unwrap() == bytes, "known: {damage_known}");
        cluster.state().damaged.insert(TargetId(3), vec![7]);
        let error = cat(&client, "f").await.unwrap_err();
        assert!(matches!(error, Error::Unreadable { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_that_one_replica_has_is_asked_for_once() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    put(&client, "f", &content(3 << 20)).await.unwrap();
    cat(&client, "f").await.unwrap();
    assert_eq!(cluster.state().calls[&Kind::Read], 3);
}

#[tokio::test(start_paused = true)]
async fn damage_that_a_reader_found_is_reported_to_the_member_that_has_it() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let bytes = content(100_000);
    put(&client, "f", &bytes).await.unwrap();
    cluster.set_script(Box::new(move |_, peer, kind, _| {
        (kind == Kind::Read && is_target(peer, 2)).then_some(Fault::Corrupt)
    }));
    for _ in 0..10 {
        assert!(cat(&client, "f").await.unwrap() == bytes);
    }
    // The reports are on their way when the reads end.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    let state = cluster.state();
    let [(target, report)] = &state.reported[..] else { panic!("{:?}", state.reported) };
    assert_eq!((*target, &report.cells[..]), (TargetId(2), &[0][..]));
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_only_this_client_does_not_reach_is_reported_and_left() {
    let cluster = Cluster::new(Box::new(|state, peer, kind, _| {
        if kind == Kind::Unreachable {
            state.evict(TargetId(1));
        }
        is_target(peer, 1).then_some(Fault::Silent)
    }));
    let started = tokio::time::Instant::now();
    put(&cluster.client(), "f", b"bytes").await.unwrap();
    assert!(started.elapsed().as_millis() < 2_000, "{:?}", started.elapsed());
    let state = cluster.state();
    assert_eq!(state.unreachable, [UnreachableRequest { group: GROUP, target: TargetId(1) }]);
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_only_slow_is_reported_to_nobody() {
    let cluster = Cluster::new(Box::new(|_, peer, kind, number| {
        (kind == Kind::Write && number == 0 && is_target(peer, 1)).then_some(Fault::Silent)
    }));
    put(&cluster.client(), "f", b"bytes").await.unwrap();
    let state = cluster.state();
    assert!(state.calls[&Kind::ShardStats] > 0, "it was asked whether it is there");
    assert_eq!(state.unreachable, []);
}

#[tokio::test(start_paused = true)]
async fn one_read_after_the_other_leaves_a_silent_replica_soon() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let bytes = content(4_000_000);
    let entry = put(&client, "f", &bytes).await.unwrap();
    cluster.set_script(Box::new(|_, peer, _, _| is_target(peer, 3).then_some(Fault::Silent)));
    let reader = client.reader(&entry).unwrap();
    let started = tokio::time::Instant::now();
    for number in 0..400 {
        let at = number % 4 * (1 << 20);
        let before = tokio::time::Instant::now();
        assert!(reader.read_at(at, 10).await.unwrap() == bytes[at as usize..at as usize + 10]);
        let took = before.elapsed().as_millis();
        assert!(took <= u128::from(HEDGE_AFTER_MAX_MS), "read {number} took {took} ms");
    }
    let most = u128::from((SILENT_REQUESTS as u64 + 1) * HEDGE_AFTER_MAX_MS);
    assert!(started.elapsed().as_millis() <= most, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_read_is_hedged_when_its_time_has_come_not_at_the_next_look() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let entry = put(&client, "f", &content(4_000_000)).await.unwrap();
    let reader = client.reader(&entry).unwrap();
    let read = async |number: usize| {
        let before = tokio::time::Instant::now();
        reader.read_at(number as u64 % 4 * (1 << 20), 10).await.unwrap();
        u64::try_from(before.elapsed().as_millis()).unwrap()
    };
    // Until what every target usually takes is known.
    for number in 0..10 * HEDGE_SAMPLES {
        read(number).await;
    }
    cluster.set_script(Box::new(|_, peer, _, _| is_target(peer, 3).then_some(Fault::Silent)));
    let mut slowest = 0;
    for number in 0..100 {
        slowest = slowest.max(read(number).await);
    }
    let expected = HEDGE_AFTER_MIN_MS..=HEDGE_AFTER_MIN_MS + 1;
    assert!(expected.contains(&slowest), "{slowest} ms");
}

/// With real time: a paused clock never shows a timer that is set again whenever it is looked at.
#[tokio::test]
async fn a_single_read_is_hedged_long_before_it_runs_out() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let entry = put(&client, "f", &content(4_000_000)).await.unwrap();
    let reader = client.reader(&entry).unwrap();
    for silent in 1..=3 {
        cluster.set_script(Box::new(move |_, peer, kind, _| {
            (kind == Kind::Read && is_target(peer, silent)).then_some(Fault::Silent)
        }));
        let patience = std::time::Duration::from_millis(READ_ATTEMPT_MS / 2);
        tokio::time::timeout(patience, reader.read_at(0, 10)).await.expect("hedged").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn when_every_replica_is_bad_the_error_names_file_chunk_and_replicas() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    put(&client, "precious", &content(2_000_000)).await.unwrap();
    cluster.set_script(Box::new(|_, _, kind, _| (kind == Kind::Read).then_some(Fault::Corrupt)));
    let error = cat(&client, "precious").await.unwrap_err();
    let text = error.to_string();
    for expected in ["read precious chunk 0", "target 1: ", "target 2: ", "target 3: ", "verify"] {
        assert!(text.contains(expected), "{text}");
    }
    const EIO: i32 = 5;
    assert_eq!(error.raw_os_error(), EIO);
}

#[tokio::test(start_paused = true)]
async fn reads_go_on_without_a_node_and_without_a_coordinator() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let bytes = content(4_000_000);
    let entry = put(&client, "f", &bytes).await.unwrap();
    cluster.set_script(Box::new(|_, peer, _, _| {
        let gone = is_target(peer, 2) || matches!(peer.id, PeerId::Coordinator(_));
        gone.then_some(Fault::Link(LinkFailure::Refused))
    }));
    let started = tokio::time::Instant::now();
    let reader = client.reader(&entry).unwrap();
    assert!(reader.read_at(0, bytes.len()).await.unwrap() == bytes);
    assert!(started.elapsed().as_millis() < 50, "fail-over took {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_costs_one_timeout_and_is_then_avoided() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let bytes = content(8_000_000);
    let entry = put(&client, "f", &bytes).await.unwrap();
    cluster.set_script(Box::new(|_, peer, kind, _| {
        (kind == Kind::Read && is_target(peer, 3)).then_some(Fault::Silent)
    }));
    let reader = client.reader(&entry).unwrap();
    let started = tokio::time::Instant::now();
    assert!(reader.read_at(0, bytes.len()).await.unwrap() == bytes);
    assert!(started.elapsed().as_millis() < 3_000, "{:?}", started.elapsed());
    let again = tokio::time::Instant::now();
    assert!(reader.read_at(0, bytes.len()).await.unwrap() == bytes);
    assert!(again.elapsed().as_millis() < 600, "{:?}", again.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_costs_a_hedge_and_no_timeout() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let bytes = content(8_000_000);
    let entry = put(&client, "f", &bytes).await.unwrap();
    cluster.set_script(Box::new(|_, peer, kind, _| {
        (kind == Kind::Read && is_target(peer, 3)).then_some(Fault::Silent)
    }));
    let reader = client.reader(&entry).unwrap();
    let started = tokio::time::Instant::now();
    assert!(reader.read_at(0, bytes.len()).await.unwrap() == bytes);
    let most = u128::from(2 * HEDGE_AFTER_MAX_MS);
    assert!(started.elapsed().as_millis() <= most, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_busy_storm_is_bounded_and_ends_at_the_deadline() {
    let cluster = Cluster::new(Box::new(|_, _, kind, _| {
        (kind == Kind::Write).then_some(Fault::Status(Status::Busy))
    }));
    let client = cluster.client();
    let error = put(&client, "f", b"bytes").await.unwrap_err();
    let Error::Deadline { waited_ms, last, .. } = &error else { panic!("{error}") };
    assert_eq!(*waited_ms, 30_000);
    assert!(last.contains("busy"), "{last}");
    // Three windows of ten seconds have passed, each with its own floor.
    let most = 1 + 4 * u32::try_from(BUDGET_FLOOR).unwrap();
    assert!(cluster.state().calls[&Kind::Write] <= most);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_cannot_be_written_ends_at_the_deadline_and_nothing_is_published() {
    let cluster = Cluster::new(Box::new(|_, _, kind, _| {
        (kind == Kind::Write).then_some(Fault::Status(Status::NotWritable))
    }));
    let client = cluster.client();
    let error = put(&client, "f", b"bytes").await.unwrap_err();
    assert!(error.to_string().contains("write f chunk 0"), "{error}");
    assert!(error.to_string().contains("too few members"), "{error}");
    assert!(cluster.state().files.is_empty());
}

/// Puts a file of which the first group takes no more writes after three; how long that took.
async fn put_over_a_lost_group(cluster: &Cluster) -> std::time::Duration {
    let client = cluster.client();
    let bytes = content(12_000_000);
    let started = tokio::time::Instant::now();
    let entry = put(&client, "f", &bytes).await.unwrap();
    let took = started.elapsed();
    let segments = entry.content.unwrap().layout.segments;
    let groups: Vec<_> = segments.iter().map(|segment| &segment.groups[..]).collect();
    assert_eq!(groups, [&[GROUP][..], &[OTHER][..]]);
    assert!(segments[1].first_chunk > 0, "what is durable stays where it is");
    assert!(cat(&client, "f").await.unwrap() == bytes);
    took
}

#[tokio::test(start_paused = true)]
async fn a_file_goes_on_elsewhere_when_its_group_has_too_few_members() {
    let cluster = Cluster::new(Box::new(|state, _, kind, number| {
        if kind == Kind::Write && number == 3 {
            state.evict(TargetId(2));
            state.evict(TargetId(3));
        }
        None
    }));
    let took = put_over_a_lost_group(&cluster).await;
    assert!(took.as_millis() < 1_000, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_file_goes_on_elsewhere_when_nobody_takes_over_for_a_dead_primary() {
    for fault in [Fault::Link(LinkFailure::Refused), Fault::Silent] {
        let cluster = Cluster::new(Box::new(move |_, peer, kind, number| {
            let lost = kind != Kind::Write || number >= 3;
            (lost && is_target(peer, 1)).then_some(fault)
        }));
        let took = put_over_a_lost_group(&cluster).await;
        let most = LEAVE_AFTER_MS + DOUBT_AFTER_MS + PROBE_ATTEMPT_MS;
        assert!(took.as_millis() < u128::from(most), "{took:?}");
    }
}

/// Every group keeps its primary alone.
fn lose_all_backups(state: &mut State) {
    [2, 3, 5, 6].into_iter().for_each(|target| state.evict(TargetId(target)));
}

#[tokio::test(start_paused = true)]
async fn a_map_of_before_the_groups_came_back_moves_no_file() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let healthy = cluster.state().map.clone();
    lose_all_backups(&mut cluster.state());
    client.refresh_map().await.unwrap();
    // Meanwhile they came back, and nobody tells the client.
    {
        let mut state = cluster.state();
        let version = state.map.version.0 + 1;
        state.map = healthy;
        state.map.version.0 = version;
    }
    put(&client, "f", b"bytes").await.unwrap();
    assert_eq!(cluster.state().moves, 0);
}

#[tokio::test(start_paused = true)]
async fn a_file_moves_only_so_often_before_it_waits_for_its_groups() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    lose_all_backups(&mut cluster.state());
    cluster.set_script(Box::new(|_, _, kind, _| {
        (kind == Kind::Write).then_some(Fault::Status(Status::NotWritable))
    }));
    let error = put(&client, "f", b"bytes").await.unwrap_err();
    assert!(error.to_string().contains("too few members"), "{error}");
    assert_eq!(cluster.state().moves, WRITER_MOVES_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_slow_group_is_waited_for() {
    let cluster = Cluster::new(Box::new(|_, _, kind, number| {
        (kind == Kind::Write && number == 1).then_some(Fault::Late(5_000))
    }));
    let client = cluster.client();
    let bytes = content(12_000_000);
    let entry = put(&client, "f", &bytes).await.unwrap();
    assert_eq!(entry.content.unwrap().layout.segments.len(), 1);
    assert!(cat(&client, "f").await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_writer_holds_no_more_than_its_window() {
    let cluster = Cluster::new(Box::new(|_, _, kind, number| {
        (kind == Kind::Write && number == 0).then_some(Fault::Late(5_000))
    }));
    let client = cluster.client();
    let mut writer = client.create(Ino::ROOT, u64::MAX).await.unwrap();
    let started = tokio::time::Instant::now();
    for _ in 0..=WRITER_WINDOW_CHUNKS {
        assert!(started.elapsed().as_millis() < 5_000, "the window is not full yet");
        writer.write(vec![7; 1 << 20]).await.unwrap();
    }
    assert!(started.elapsed().as_millis() >= 5_000, "a full window waits for its first chunk");
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_fails_the_file_for_good() {
    let cluster = Cluster::new(Box::new(|_, _, kind, number| {
        (kind == Kind::Write && number == 0).then_some(Fault::Status(Status::NoSpace))
    }));
    let client = cluster.client();
    let mut writer = client.create(Ino::ROOT, 5_000_000).await.unwrap();
    let mut results = Vec::new();
    for piece in content(12_000_000).chunks(1 << 20) {
        results.push(writer.write(piece.to_vec()).await);
    }
    assert!(results.iter().any(Result::is_err), "the writer learns of it while it writes");
    let published = writer.publish(Ino::ROOT, b"f", SetAttributes::default(), false).await;
    assert_eq!(published.unwrap_err().status(), Some(Status::NoSpace));
    assert!(cluster.state().files.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_writer_gives_its_inode_back() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let mut writer = client.create(Ino::ROOT, 5).await.unwrap();
    writer.write(&b"bytes"[..]).await.unwrap();
    drop(writer);
    // Operations of one client take effect in order, so this one comes after the abandonment.
    put(&client, "f", b"").await.unwrap();
    assert_eq!(cluster.state().unlinked.len(), RESERVE_FIRST as usize - 2);
}

#[tokio::test(start_paused = true)]
async fn small_files_share_reservations_and_batches() {
    let cluster = Cluster::healthy();
    let client = cluster.client();
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..500 {
        let client = client.clone();
        puts.spawn(async move { put(&client, &format!("f{number}"), b"small").await });
    }
    while let Some(done) = puts.join_next().await {
        done.unwrap().unwrap();
    }
    let state = cluster.state();
    assert_eq!(state.files.len(), 500);
    assert!(state.batches.len() < 60, "{} frames for 500 files", state.batches.len());
    assert_eq!(state.calls[&Kind::SessionOpen], 1);
}
