//! Containers written earlier open, and hold what they held.
//!
//! `tests/golden/` has small containers and what is in them as text. Set [`BLESS`] to write them
//! anew after a deliberate change of the format; a released version's images are never written
//! anew, its format goes on being read.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use node::io::Disk;
use node::io::memory::MemoryDisk;
use node::io::memory::disk::Faults;
use node::limits::CONTAINER_SIZE_MIN;
use node::store::{InstallOp, ReadMode, Recovered, Store, StoreError};
use protocol::checksum::sum64;
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId, Version};

use crate::store_support::*;

/// Set to write the images instead of opening them.
const BLESS: &str = "LANEFS_BLESS";
/// First bytes of an image; the capacity and the pages follow.
const MAGIC: &[u8] = b"lanefs image 1\n";
const IMAGE_LEN_MAX: usize = 64 << 10;
const PAGE: usize = 4096;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Each page that is not zero: its number, the length of what follows, and runs in that.
///
/// A control byte below 128 says how many bytes follow as they are, less one; one above says how
/// often the next byte is repeated, as 257 less the control byte.
fn pack(disk: &MemoryDisk) -> Vec<u8> {
    let mut out = [MAGIC, &disk.capacity().to_le_bytes()].concat();
    for number in 0..disk.capacity() / PAGE as u64 {
        let page = disk.peek(number * PAGE as u64, PAGE);
        if page.iter().any(|byte| *byte != 0) {
            let runs = pack_runs(&page);
            out.extend((number as u32).to_le_bytes());
            out.extend((runs.len() as u32).to_le_bytes());
            out.extend(runs);
        }
    }
    out
}

fn pack_runs(page: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut literal: Vec<u8> = Vec::new();
    let flush = |literal: &mut Vec<u8>, out: &mut Vec<u8>| {
        for part in literal.chunks(128) {
            out.push(part.len() as u8 - 1);
            out.extend(part);
        }
        literal.clear();
    };
    let mut rest = page;
    while let Some(&byte) = rest.first() {
        let run = rest.iter().take(128).take_while(|have| **have == byte).count();
        if run >= 3 {
            flush(&mut literal, &mut out);
            out.extend([(257 - run) as u8, byte]);
        } else {
            literal.extend(&rest[..run]);
        }
        rest = &rest[run..];
    }
    flush(&mut literal, &mut out);
    out
}

fn unpack(image: &[u8]) -> MemoryDisk {
    let rest = image.strip_prefix(MAGIC).unwrap();
    let (capacity, mut rest) = rest.split_at(8);
    let disk = MemoryDisk::new(u64::from_le_bytes(capacity.try_into().unwrap()), 1);
    while let Some((head, after)) = rest.split_at_checked(8) {
        let field = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let (mut runs, after) = after.split_at(field(4) as usize);
        let mut page = Vec::new();
        while let Some((&control, more)) = runs.split_first() {
            let (take, bytes) = match usize::from(control) {
                few if few < 128 => (few + 1, more[..few + 1].to_vec()),
                many => (1, vec![more[0]; 257 - many]),
            };
            page.extend(bytes);
            runs = &more[take..];
        }
        assert_eq!(page.len(), PAGE);
        disk.poke(u64::from(field(0)) * PAGE as u64, &page);
        rest = after;
    }
    disk
}

/// Bytes that pack well and still differ from cell to cell and version to version.
fn bytes(counter: u32, len: usize) -> Vec<u8> {
    (0..len).map(|at| (counter as usize * 31 + at / 4096) as u8 | 1).collect()
}

async fn write(store: &Store<MemoryDisk>, disk: &MemoryDisk, put: Put) {
    let through = put.counter;
    store.write(put.op(disk)).await.unwrap();
    store.commit_through(GROUP, version(through));
}

/// Growth in every cell size, with and without descriptor pages, in one piece and in several.
async fn growth(store: &Store<MemoryDisk>, disk: &MemoryDisk) {
    let mut counter = 0;
    store.adopt(GROUP, Epoch(1)).await.unwrap();
    for (cell_log2, lens) in [(12, [100, 60_000]), (14, [5_000, 200_000]), (16, [70_000, 1])] {
        for len in lens {
            counter += 1;
            let put = Put::new(u64::from(counter), counter, bytes(counter, len));
            write(store, disk, Put { cell_log2, expect_len: 300_000, ..put }).await;
        }
    }
    let more = Put { base: version(4), offset: 200_000, ..Put::new(4, 7, bytes(7, 9_000)) };
    write(store, disk, more).await;
}

/// Every other kind of record, on top of growth.
async fn changes(store: &Store<MemoryDisk>, disk: &MemoryDisk) {
    let change = |fid: u64, base: u32, counter: u32, offset: u32, len: usize| Put {
        base: version(base),
        offset,
        mutation: true,
        ..Put::new(fid, counter, bytes(counter, len))
    };
    write(store, disk, change(4, 7, 8, 16_000, 20_000)).await;
    let cut = Put { base: version(8), ..Put::truncate(4, 9, 120_000) };
    write(store, disk, cut).await;
    // A hole between the end and the write.
    write(store, disk, change(3, 3, 10, 100_000, 3_000)).await;
    store.adopt(GROUP, Epoch(2)).await.unwrap();
    store.adopt(GroupId(9), Epoch(5)).await.unwrap();
    store.quarantine(GROUP, &[key(1), key(5), key(6)], 1_800_000_000).await.unwrap();
    store.release_quarantined(GROUP, &[Fid(5)], 2_000_000_000).await.unwrap();
    store.drop_fids(GROUP, &[Fid(6)]).await.unwrap();
    let write = Put { trunc_gen: 4, ..Put::new(20, 11, bytes(11, 50_000)) }.op(disk);
    let whole = InstallOp { ops: vec![write.op], mutated: true, committed: true, write };
    store.install(whole).await.unwrap();
    // Three pending versions, of which one is discarded and one is not trusted.
    for (fid, base, counter) in [(3, 10, 12), (20, 11, 13), (4, 9, 14)] {
        let put = Put { cell_log2: 14, ..change(fid, base, counter, 10, 10) };
        store.write(put.op(disk)).await.unwrap();
    }
    store.discard(GROUP, &[(key(20), version(13))]).await.unwrap();
    store.mark_suspect(GROUP, key(4), version(14));
    let op = crate::store_repair::repair_op(disk, 20, 11, 1, &bytes(11, 50_000)[16_384..32_768]);
    store.repair(op).await.unwrap();
    store.adopt(GROUP, Epoch(2)).await.unwrap();
}

fn fresh_image() -> MemoryDisk {
    formatted(CONTAINER_SIZE_MIN, 80)
}

/// Opens, works, and ends with or without a clean shutdown.
fn work(disk: &MemoryDisk, close: bool, body: impl AsyncFnOnce(&Store<MemoryDisk>, &MemoryDisk)) {
    let (store, _) = open(disk);
    with_store(&store, async {
        body(&store, disk).await;
        if close {
            store.close().await.unwrap();
        }
    });
}

/// Name and container of each image.
fn images() -> Vec<(&'static str, MemoryDisk)> {
    let empty = fresh_image();
    let closed = fresh_image();
    work(&closed, true, growth);
    // Everything is in the journal.
    let journal = fresh_image();
    work(&journal, false, growth);
    work(&journal, false, changes);
    // Everything is in a checkpoint.
    let checkpoint = fresh_image();
    work(&checkpoint, true, growth);
    work(&checkpoint, true, changes);
    let fenced = fresh_image();
    work(&fenced, true, growth);
    work(&fenced, false, async |store, disk| {
        disk.set_faults(Faults { flush_error: 1, ..Faults::default() });
        assert_eq!(store.adopt(GROUP, Epoch(9)).await, Err(StoreError::Fenced));
        assert_eq!(store.close().await, Err(StoreError::Fenced));
    });
    // Its journal has rotted, and the process that found it ended before it could say so.
    let damaged = fresh_image();
    work(&damaged, false, growth);
    damaged.rot((4 << 20) + 4096 + 100, 1);
    assert!(!open(&damaged).1.intact);
    let all = [
        ("empty", empty),
        ("closed", closed),
        ("journal", journal),
        ("checkpoint", checkpoint),
        ("fenced", fenced),
        ("damaged", damaged),
    ];
    all.into_iter().map(|(name, disk)| (name, disk.crash(0))).collect()
}

/// Everything a target tells about itself, as lines.
fn contents(disk: &MemoryDisk) -> String {
    let mut out = String::new();
    let (store, recovered) = open(disk);
    let Recovered { generation, lsn, intact, chunks, suspects, previous_fence } = recovered;
    let fence = previous_fence.unwrap_or_default();
    writeln!(out, "generation {generation} lsn {lsn} intact {intact} fence {fence:?}").unwrap();
    let free = store.free();
    writeln!(out, "chunks {chunks} suspects of the end {suspects} free {free}").unwrap();
    for (group, info) in store.groups() {
        let (digest, through) = (store.digest(group), info.committed_through);
        let (of, hash, allocated) = (digest.chunks, digest.hash, store.allocated(group));
        writeln!(out, "group {group} epoch {} through {through}", info.epoch).unwrap();
        writeln!(out, "  committed {of} digest {hash:032x} allocated {allocated}").unwrap();
        for pending in store.pendings(group) {
            writeln!(out, "  pending {} {}", pending.key, pending.version).unwrap();
        }
        for (key, version) in store.suspects(group) {
            writeln!(out, "  suspect {key} {version}").unwrap();
        }
        for fid in 1..=30 {
            chunk(&store, group, key(fid), &mut out);
        }
    }
    for aside in store.quarantined(None, 100).0 {
        writeln!(out, "aside {} since {} bytes {}", aside.key, aside.since_s, aside.bytes).unwrap();
    }
    assert!(store.space_equals_index());
    out
}

fn chunk(store: &std::rc::Rc<Store<MemoryDisk>>, group: GroupId, key: ChunkKey, out: &mut String) {
    let Some(info) = store.info(group, key) else { return };
    let (sizes, truncations) = ((info.cell_log2, info.chunk_log2), info.trunc_gen);
    writeln!(
        out,
        "  chunk {key} newest {} len {} sizes {sizes:?} truncations {truncations} mutated {}",
        info.version, info.chunk_len, info.mutated
    )
    .unwrap();
    for (op, version, len) in &info.ops {
        writeln!(out, "    op {}.{} {version} {len}", op.session, op.seq).unwrap();
    }
    let mut read = |newest: bool, version: Version, len: u32| {
        let mode = ReadMode { newest, verify: true, suspect: true };
        let read = with_store(store, store.read(group, key, 0, len, mode));
        let sum = read.map(|out| sum64(&out.payload.to_vec()));
        writeln!(out, "    {version} {len} bytes, sum {sum:016x?}").unwrap();
    };
    read(true, info.version, info.chunk_len);
    if let Some((version, len)) = info.committed {
        read(false, version, len);
    }
}

/// The words of each line, without the figures of space: where things are put is no matter of the
/// format.
fn without_space(text: &str) -> Vec<Vec<&str>> {
    let is_figure = |before: &str| matches!(before, "free" | "allocated" | "bytes");
    let kept = |line| {
        let before = std::iter::once("").chain(str::split(line, ' '));
        before.zip(str::split(line, ' ')).filter(|it| !is_figure(it.0)).map(|it| it.1).collect()
    };
    text.lines().map(kept).collect()
}

#[test]
fn every_image_opens_and_holds_what_it_held() {
    let bless = std::env::var_os(BLESS).is_some();
    for (name, disk) in images() {
        let (image, text) = (path(&format!("{name}.image")), path(&format!("{name}.txt")));
        if bless {
            fs::write(&image, pack(&disk)).unwrap();
            fs::write(&text, contents(&unpack(&pack(&disk)))).unwrap();
        }
        let packed = fs::read(&image).unwrap();
        assert!(packed.len() <= IMAGE_LEN_MAX, "{name} has {} bytes", packed.len());
        let expected = fs::read_to_string(&text).unwrap();
        assert_eq!(contents(&unpack(&packed)), expected, "{name}: see {BLESS}");
        // What is written today reads the same, whether or not its bytes are the same.
        assert_eq!(without_space(&contents(&disk)), without_space(&expected), "{name}");
    }
}

#[test]
fn an_image_unpacks_to_the_container_it_was_packed_from() {
    let disk = fresh_image();
    work(&disk, false, growth);
    let again = unpack(&pack(&disk));
    assert_eq!(again.capacity(), disk.capacity());
    for page in 0..disk.capacity() / PAGE as u64 {
        let at = page * PAGE as u64;
        assert_eq!(again.peek(at, PAGE), disk.peek(at, PAGE), "page {page}");
    }
}
