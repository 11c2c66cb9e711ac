//! `df`.

use protocol::cluster_map::ClusterMap;
use protocol::message::cluster::StatusReply;
use serde_json::json;

use crate::Client;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::units::human_size;

/// Capacity and use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Space {
    /// Of all targets together.
    raw_capacity: u64,
    /// Free on the targets that report.
    raw_free: u64,
    /// Replicas of each chunk.
    replicas: u64,
}

/// Shows capacity and use.
pub(crate) async fn df(client: &Client, as_json: bool) -> Result<(), Failure> {
    let (reply, map) = (client.status().await?, client.refresh_map().await?);
    let space = Space::of(&map, &reply);
    let text = if as_json {
        let document = json!({
            "capacity": space.capacity(),
            "used": space.used(),
            "free": space.free(),
            "replicas": space.replicas,
            "raw_capacity": space.raw_capacity,
            "raw_free": space.raw_free,
            "file_bytes": reply.file_bytes,
            "inodes": reply.inodes,
        });
        format!("{document}\n")
    } else {
        space.table(&reply)
    };
    print(&text).map_err(Failure::output)
}

impl Space {
    fn of(map: &ClusterMap, reply: &StatusReply) -> Space {
        let replicas = map.groups.values().map(|group| u64::from(group.replicas)).max();
        Space {
            raw_capacity: map.targets.values().map(|target| target.capacity).sum(),
            raw_free: reply.targets.iter().map(|target| target.free).sum(),
            replicas: replicas.unwrap_or(1).max(1),
        }
    }

    fn capacity(self) -> u64 {
        self.raw_capacity / self.replicas
    }

    fn free(self) -> u64 {
        self.raw_free.min(self.raw_capacity) / self.replicas
    }

    fn used(self) -> u64 {
        self.capacity() - self.free()
    }

    fn table(self, reply: &StatusReply) -> String {
        let percent = self.used().saturating_mul(100).checked_div(self.capacity()).unwrap_or(0);
        format!(
            "{:>10} {:>10} {:>10} {:>5} {:>10} {:>8}\n{:>10} {:>10} {:>10} {:>4}% {:>10} {:>8}\n",
            "Size",
            "Used",
            "Avail",
            "Use%",
            "Inodes",
            "Replicas",
            human_size(self.capacity()),
            human_size(self.used()),
            human_size(self.free()),
            percent,
            reply.inodes,
            self.replicas
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_see_what_replication_leaves() {
        let space = Space { raw_capacity: 300, raw_free: 240, replicas: 3 };
        assert_eq!((space.capacity(), space.used(), space.free()), (100, 20, 80));
        let odd = Space { raw_capacity: 0, raw_free: 7, replicas: 1 };
        assert_eq!((odd.capacity(), odd.used(), odd.free()), (0, 0, 0));
    }
}
