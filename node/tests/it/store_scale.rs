//! Many chunks: checkpoints on the way, and how long opening takes.

use crate::store_support::*;

#[test]
#[expect(clippy::disallowed_methods, reason = "the time is shown, nothing depends on it")]
fn many_chunks_open_again_and_the_time_is_told() {
    let disk = formatted(3 << 30, 20);
    let (store, _) = open(&disk);
    let count: u64 = std::env::var("LANEFS_CHUNKS").map_or(2000, |count| count.parse().unwrap());
    with_store(&store, async {
        for fid in 0..count {
            let put = Put { cell_log2: 12, ..Put::new(fid, fid as u32 + 1, vec![7; 100]) };
            store.write(put.op(&disk)).await.unwrap();
            store.commit_through(GROUP, version(fid as u32 + 1));
        }
        store.close().await.unwrap();
    });
    let started = std::time::Instant::now();
    let (again, recovered) = open(&disk);
    println!("{count} chunks opened in {:?}", started.elapsed());
    assert_eq!((recovered.chunks, recovered.intact), (count, true));
    assert_eq!(again.free(), store.free());
}
