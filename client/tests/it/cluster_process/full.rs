//! Targets without room: refused in one line, harmless to what is stored, over once there is room.

use std::fs;
use std::time::{Duration, Instant};

use super::{Cluster, tree};

/// Size of each target: the smallest that `dev up` makes.
const TARGET_SIZE: &str = "64MiB";
/// Bytes of a file that fits once beside the small one, and not twice.
const BIG: usize = 32 << 20;
/// Bytes of a file that no target of this size holds.
const HUGE: usize = 96 << 20;
/// Longest wait until the room of a removed or refused file can be used again.
const FREED_WITHIN: Duration = Duration::from_secs(30);

impl Cluster {
    /// Puts a file that must be refused because the targets are full.
    fn refused_as_full(&self, file: &str, path: &str) {
        let line = self.refused(&["put", file, path], 1);
        assert!(line.contains("no space left") && line.contains(path), "{line}");
        assert_eq!(self.json(&["status"])["state"], "healthy", "{line}{}", self.logs());
    }

    /// Puts a file as soon as there is room for it.
    #[expect(clippy::disallowed_methods, reason = "the cluster frees in real time")]
    fn put_once_freed(&self, file: &str, path: &str) {
        let until = Instant::now() + FREED_WITHIN;
        loop {
            let output = self.run(&["put", file, path]);
            if output.status.success() {
                return;
            }
            let line = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(line.contains("no space left"), "{line}{}", self.logs());
            assert!(Instant::now() < until, "{line}{}{}", self.ok(&["df"]), self.logs());
        }
    }
}

#[test]
fn full_targets_refuse_in_one_line_and_take_files_again_once_room_is_made() {
    let cluster = Cluster::sized(TARGET_SIZE, &["--nodes", "3"]);
    let (kept, big) = (tree::noise((5 << 20) + 77), tree::noise(BIG));
    for (name, content) in [("kept", &kept), ("big", &big), ("huge", &tree::noise(HUGE))] {
        fs::write(cluster.path(name), content).expect("writable");
    }
    cluster.ok(&["put", "kept", "/kept"]);
    cluster.refused_as_full("huge", "/huge");
    cluster.intact("/kept", &kept);

    // What the refused file took comes back by itself, what is stored only by its removal.
    cluster.put_once_freed("big", "/big");
    cluster.refused_as_full("big", "/more");
    cluster.intact("/kept", &kept);
    cluster.intact("/big", &big);
    assert_eq!(cluster.ok(&["ls", "/"]), "big\nkept\n");

    cluster.ok(&["rm", "/big"]);
    cluster.put_once_freed("big", "/again");
    cluster.intact("/again", &big);
    cluster.intact("/kept", &kept);
    let checked = cluster.healed();
    assert_eq!(checked["replicas_verified"].as_u64(), checked["chunks"].as_u64().map(|n| 3 * n));
    assert_eq!(cluster.json(&["status"])["state"], "healthy");
}
