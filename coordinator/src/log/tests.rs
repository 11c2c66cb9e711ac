use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use protocol::ids::{ClusterId, CoordinatorId};

use super::*;
use crate::limits::{LOG_BATCH_LEN_MAX, LOG_BATCH_RECORDS_MAX, LOG_PAGE, LOG_SEGMENT_LEN_MAX};

const CLUSTER: ClusterId = ClusterId(7);
const PAGE: u64 = LOG_PAGE as u64;

fn entry(index: u64, len: usize) -> Entry {
    let byte = u8::try_from(index % 251).unwrap();
    Entry { id: LogId { term: 1, index }, payload: Payload::Command(vec![byte; len]) }
}

fn open(dir: &Path) -> Result<FileLog, LogError> {
    FileLog::open(dir, CLUSTER).map(|(log, _)| log)
}

fn entries(log: &FileLog, from: u64) -> Vec<Entry> {
    let mut found = Vec::new();
    log.read_from::<LogError>(from, &mut |entry| {
        found.push(entry);
        Ok(())
    })
    .unwrap();
    found
}

fn only_segment(dir: &Path) -> PathBuf {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(paths.len(), 1, "{paths:?}");
    paths.pop().unwrap()
}

/// Three batches of one, three and one pages; returns where each ends.
fn three_batches(dir: &Path) -> Vec<u64> {
    let mut log = open(dir).unwrap();
    let mut ends = vec![PAGE];
    for (index, len) in [(1, 100), (2, 9000), (3, 50)] {
        log.append(&[entry(index, len)]).unwrap();
        ends.push(fs::metadata(only_segment(dir)).unwrap().len());
    }
    ends
}

#[test]
fn entries_and_votes_survive_reopening_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let vote = Vote { term: 1, voted_for: CoordinatorId(1), committed: true };
    {
        let (mut log, _) = FileLog::open_with(dir.path(), CLUSTER, 3 * PAGE).unwrap();
        log.save_vote(vote).unwrap();
        for index in 1..=20 {
            log.append(&[entry(index, 10)]).unwrap();
        }
        assert!(log.segments() > 5);
    }
    let mut log = open(dir.path()).unwrap();
    assert_eq!(log.vote(), vote);
    assert_eq!(log.last(), LogId { term: 1, index: 20 });
    assert_eq!(entries(&log, 1), (1..=20).map(|index| entry(index, 10)).collect::<Vec<_>>());
    assert_eq!(entries(&log, 20), [entry(20, 10)]);
    assert_eq!(entries(&log, 21), []);
    log.append(&[entry(21, 10), entry(22, 0)]).unwrap();
    assert_eq!(entries(&open(dir.path()).unwrap(), 21), [entry(21, 10), entry(22, 0)]);
}

#[test]
fn a_segment_that_has_reached_its_length_is_followed_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00000000000000000001.log");
    let mut log = open(dir.path()).unwrap();
    let mut before = 0;
    while log.segments() == 1 {
        before = fs::metadata(&path).unwrap().len();
        log.append(&[entry(log.last().index + 1, 3 << 20)]).unwrap();
    }
    let first = fs::metadata(&path).unwrap().len();
    assert_eq!(first, before, "the batch that found it full went to the next one");
    let batch = LOG_BATCH_LEN_MAX as u64;
    assert!((LOG_SEGMENT_LEN_MAX..LOG_SEGMENT_LEN_MAX + batch).contains(&first), "{first} bytes");
    let last = log.last().index;
    let log = open(dir.path()).unwrap();
    assert_eq!((log.segments(), entries(&log, last)), (2, vec![entry(last, 3 << 20)]));
}

#[test]
fn a_log_cut_anywhere_keeps_every_whole_batch_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let ends = three_batches(dir.path());
    let path = only_segment(dir.path());
    let image = fs::read(&path).unwrap();
    for len in (PAGE..image.len() as u64).step_by(512) {
        fs::write(&path, &image[..usize::try_from(len).unwrap()]).unwrap();
        let (mut log, recovered) = FileLog::open(dir.path(), CLUSTER).unwrap();
        let whole = ends.iter().filter(|&&end| end <= len).count() as u64 - 1;
        assert_eq!(log.last().index, whole, "cut at {len}");
        assert_eq!(recovered.cut, len - ends[usize::try_from(whole).unwrap()], "cut at {len}");
        log.append(&[entry(whole + 1, 77)]).unwrap();
        let again = open(dir.path()).unwrap();
        assert_eq!(entries(&again, whole + 1), [entry(whole + 1, 77)], "cut at {len}");
    }
}

#[test]
fn a_log_cut_at_any_byte_of_its_last_batches_is_torn_there() {
    let dir = tempfile::tempdir().unwrap();
    let ends = three_batches(dir.path());
    let image = fs::read(only_segment(dir.path())).unwrap();
    let start = recovery::start_of(&format::decode_segment_header(&image).unwrap());
    for len in usize::try_from(ends[1]).unwrap()..image.len() {
        let scanned = recovery::scan::<LogError>(CLUSTER, &image[..len], start, &mut |_| Ok(()));
        let whole = *ends.iter().rfind(|&&end| end <= len as u64).unwrap();
        let expected = match usize::try_from(whole).unwrap() {
            offset if offset == len => recovery::End::Clean,
            offset => recovery::End::Torn { offset },
        };
        assert_eq!(scanned.unwrap().1, expected, "cut at {len}");
    }
}

#[test]
fn a_flipped_bit_in_the_last_batch_is_cut_and_anywhere_before_it_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let ends = three_batches(dir.path());
    let path = only_segment(dir.path());
    let image = fs::read(&path).unwrap();
    for at in (0..image.len()).step_by(61) {
        let mut damaged = image.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).unwrap();
        let result = open(dir.path());
        if at as u64 >= ends[2] {
            assert_eq!(result.unwrap().last().index, 2, "byte {at}");
            continue;
        }
        let batch = ends.iter().rev().find(|&&end| end <= at as u64).copied().unwrap_or(0);
        match result {
            Err(LogError::Corrupt { offset, .. }) => assert_eq!(offset, batch, "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
        assert_eq!(fs::read(&path).unwrap(), damaged, "a refused log is left as it is");
    }
}

#[test]
fn a_batch_torn_in_its_middle_page_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = {
        let mut log = open(dir.path()).unwrap();
        log.append(&[entry(1, 10)]).unwrap();
        log.append(&[entry(2, 20_000)]).unwrap();
        only_segment(dir.path())
    };
    let mut image = fs::read(&path).unwrap();
    let hole = 3 * LOG_PAGE;
    image[hole..hole + 512].fill(0);
    fs::write(&path, image).unwrap();
    assert_eq!(open(dir.path()).unwrap().last().index, 1);
}

#[test]
fn damage_at_the_end_of_an_older_segment_refuses_to_start() {
    for keep in [2 * PAGE, 2 * PAGE + 100] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = FileLog::open_with(dir.path(), CLUSTER, 3 * PAGE).unwrap();
        for index in 1..=4 {
            log.append(&[entry(index, 10)]).unwrap();
        }
        let first = dir.path().join("00000000000000000001.log");
        OpenOptions::new().write(true).open(first).unwrap().set_len(keep).unwrap();
        assert!(matches!(open(dir.path()), Err(LogError::Corrupt { .. })), "{keep}");
    }
}

#[test]
fn a_missing_or_renamed_segment_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = FileLog::open_with(dir.path(), CLUSTER, 2 * PAGE).unwrap();
    for index in 1..=4 {
        log.append(&[entry(index, 10)]).unwrap();
    }
    let second = dir.path().join("00000000000000000002.log");
    let elsewhere = dir.path().join("00000000000000000009.log");
    fs::rename(&second, &elsewhere).unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("00000000000000000003.log") && error.contains("missing"), "{error}");
}

#[test]
fn a_log_of_another_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    three_batches(dir.path());
    let error = FileLog::open(dir.path(), ClusterId(8)).unwrap_err();
    assert!(matches!(error, LogError::WrongCluster { found: CLUSTER, .. }), "{error}");
}

#[test]
fn a_segment_that_was_being_made_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    three_batches(dir.path());
    fs::write(dir.path().join("00000000000000000002.new"), b"half").unwrap();
    assert_eq!(open(dir.path()).unwrap().last().index, 3);
    only_segment(dir.path());
}

#[test]
fn purging_keeps_the_entries_from_the_bound_on_and_the_vote() {
    let dir = tempfile::tempdir().unwrap();
    let vote = Vote { term: 1, voted_for: CoordinatorId(3), committed: true };
    {
        let (mut log, _) = FileLog::open_with(dir.path(), CLUSTER, 2 * PAGE).unwrap();
        log.save_vote(vote).unwrap();
        for index in 1..=9 {
            log.append(&[entry(index, 10)]).unwrap();
        }
        log.purge(7).unwrap();
        assert_eq!(entries(&log, 7).len(), 3);
    }
    let mut log = open(dir.path()).unwrap();
    assert_eq!(log.vote(), vote);
    assert_eq!(entries(&log, 7), [entry(7, 10), entry(8, 10), entry(9, 10)]);
    let gap = log.read_from::<LogError>(1, &mut |_| Ok(()));
    assert!(matches!(gap, Err(LogError::Gap { first: 7, wanted: 1, .. })), "{gap:?}");
    log.purge(u64::MAX).unwrap();
    assert_eq!((log.segments(), log.last().index), (1, 9));
}

#[test]
fn a_batch_over_a_limit_or_out_of_order_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let many: Vec<_> =
        (1..=LOG_BATCH_RECORDS_MAX as u64 + 1).map(|index| entry(index, 0)).collect();
    let cases: [&[Entry]; 4] = [&[], &many, &[entry(1, LOG_BATCH_LEN_MAX)], &[entry(2, 1)]];
    for batch in cases {
        let result = log.append(batch);
        assert!(matches!(result, Err(LogError::Batch(_))), "{} entries", batch.len());
    }
    assert_eq!(fs::metadata(only_segment(dir.path())).unwrap().len(), PAGE);
    log.append(&many[..LOG_BATCH_RECORDS_MAX]).unwrap();
    let old = Vote { term: 0, ..Vote::default() };
    log.save_vote(Vote { term: 5, ..Vote::default() }).unwrap();
    assert!(matches!(log.save_vote(old), Err(LogError::Batch(_))));
}

#[test]
fn after_a_failed_write_nothing_more_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let path = only_segment(dir.path());
    let writable = log.replace_file(fs::File::open(&path).unwrap());
    assert!(matches!(log.append(&[entry(1, 10)]), Err(LogError::Io { action: "write", .. })));
    log.replace_file(writable);
    assert!(matches!(log.append(&[entry(1, 10)]), Err(LogError::Fenced)));
    assert_eq!(open(dir.path()).unwrap().last().index, 0);
}
