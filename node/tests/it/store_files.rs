//! The store on a real file, inside an executor.

use std::rc::Rc;

use futures_lite::future::or;
use node::io::glommio::disk::GlommioDisk;
use node::store::Store;

use crate::fixture;
use crate::store_basic::basic_workload;
use crate::store_support::*;

#[test]
fn a_file_on_disk_serves_the_basic_workload_and_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t101.lane");
    std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    fixture::run(move || async move {
        let disk = Rc::new(GlommioDisk::open(&path, SIZE).await.unwrap());
        assert!(Store::is_blank(&*disk).await.unwrap());
        Store::format(&*disk, &options()).await.unwrap();
        assert!(!Store::is_blank(&*disk).await.unwrap());
        let mut hashes = Vec::new();
        for round in 1..4 {
            let (store, recovered) = Store::open(Rc::clone(&disk), &options()).await.unwrap();
            assert_eq!((recovered.generation.0, recovered.intact), (round, true));
            let run = async {
                Rc::clone(&store).run().await;
                std::future::pending().await
            };
            let body = async {
                let (entries, _) = store.inventory(GROUP, None, 100);
                assert_eq!(entries, hashes);
                for entry in entries {
                    let verified = store.verify(GROUP, entry.key).await.unwrap();
                    assert!(verified.bad_cells.is_empty());
                }
                if round < 3 {
                    basic_workload(&*store, &*disk, [12, 16][round as usize - 1]).await;
                }
                // The second round ends like a killed process: without close.
                if round != 2 {
                    store.close().await.unwrap();
                }
                store.inventory(GROUP, None, 100).0
            };
            hashes = or(run, body).await;
        }
        disk.close().await.unwrap();
    });
}
