//! What waits for one shard while its queue is full.
//!
//! Waiting things are merged instead of queued: two maps become one full map, two leases the later
//! one. So a shard that stands still costs a bounded amount of memory, and hears the newest state
//! when it goes on.

use std::collections::BTreeMap;

use protocol::cluster_map::{ClusterMap, MapDelta};
use protocol::ids::{Fid, GroupId};
use protocol::message::cluster::TargetOrders;
use protocol::message::heal::GroupOrders;

use crate::io::Nanos;
use crate::limits::DROPS_WAITING_MAX;
use crate::shard::ControlEvent;

/// News for one shard that have not gone into its queue yet.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    map: PendingMap,
    lease: Option<Nanos>,
    drops: BTreeMap<GroupId, Vec<Fid>>,
    orders: Option<TargetOrders>,
    file_orders: BTreeMap<GroupId, GroupOrders>,
    census: BTreeMap<GroupId, Vec<Fid>>,
    shutdown: Shutdown,
}

#[derive(Clone, Debug, Default)]
enum PendingMap {
    #[default]
    None,
    Delta(Box<MapDelta>),
    Full,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shutdown {
    #[default]
    NotAsked,
    Asked,
    Told,
}

impl Outbox {
    /// Adds a change of the map; behind another one it becomes a full map.
    pub fn map(&mut self, delta: &MapDelta) {
        self.map = match self.map {
            PendingMap::None => PendingMap::Delta(Box::new(delta.clone())),
            PendingMap::Delta(_) | PendingMap::Full => PendingMap::Full,
        };
    }

    /// Adds a renewed lease.
    pub fn lease(&mut self, expires: Nanos) {
        self.lease = self.lease.max(Some(expires));
    }

    /// Adds dead files of a group. What exceeds the bound is left out: the coordinator repeats
    /// until it hears that they are gone.
    pub fn drop_files(&mut self, group: GroupId, fids: Vec<Fid>) {
        keep(&mut self.drops, group, fids);
    }

    /// Adds what is wanted of the target; the newest wish replaces the one before.
    pub fn orders(&mut self, orders: TargetOrders) {
        self.orders = Some(orders);
    }

    /// Adds orders about single files of a group; bounded and repeated as dead files are.
    pub fn file_orders(&mut self, orders: GroupOrders) {
        keep(&mut self.file_orders, orders.group, orders);
    }

    /// Adds dead files of chunks that are set aside; the shard asks again for what is left out.
    pub fn census(&mut self, group: GroupId, fids: Vec<Fid>) {
        keep(&mut self.census, group, fids);
    }

    /// Adds the order to end. It is given once and goes before everything else.
    pub fn shutdown(&mut self) {
        if self.shutdown == Shutdown::NotAsked {
            self.shutdown = Shutdown::Asked;
        }
    }

    /// Hands what waits to `send` until that says false because the queue is full.
    pub fn flush(&mut self, map: &ClusterMap, mut send: impl FnMut(ControlEvent) -> bool) {
        // A message is made from what waits, so one that found no room is made again later.
        if self.shutdown == Shutdown::Asked {
            if !send(ControlEvent::Shutdown) {
                return;
            }
            self.shutdown = Shutdown::Told;
        }
        let delta = match &self.map {
            PendingMap::None => None,
            PendingMap::Delta(delta) => Some(MapDelta::clone(delta)),
            PendingMap::Full => Some(map.to_delta()),
        };
        if let Some(delta) = delta {
            if !send(ControlEvent::Map(delta)) {
                return;
            }
            self.map = PendingMap::None;
        }
        if let Some(expires) = self.lease {
            if !send(ControlEvent::Lease { expires }) {
                return;
            }
            self.lease = None;
        }
        if !self.drops.is_empty() {
            let drops = self.drops.iter().map(|(group, fids)| (*group, fids.clone())).collect();
            if !send(ControlEvent::DropFiles(drops)) {
                return;
            }
            self.drops.clear();
        }
        if let Some(orders) = self.orders {
            if !send(ControlEvent::Orders(orders)) {
                return;
            }
            self.orders = None;
        }
        if !self.file_orders.is_empty() {
            let orders = self.file_orders.values().cloned().collect();
            if !send(ControlEvent::FileOrders(orders)) {
                return;
            }
            self.file_orders.clear();
        }
        if !self.census.is_empty() {
            let dead = self.census.iter().map(|(group, fids)| (*group, fids.clone())).collect();
            if send(ControlEvent::Census(dead)) {
                self.census.clear();
            }
        }
    }
}

/// Keeps the newest word about a group, about [`DROPS_WAITING_MAX`] groups at most.
fn keep<T>(waiting: &mut BTreeMap<GroupId, T>, group: GroupId, word: T) {
    if waiting.len() < DROPS_WAITING_MAX || waiting.contains_key(&group) {
        waiting.insert(group, word);
    }
}

#[cfg(test)]
mod tests {
    use protocol::cluster_map::{ClusterMap, MapDelta};
    use protocol::ids::{Fid, GroupId, MapVersion};
    use protocol::message::cluster::TargetOrders;
    use protocol::message::heal::GroupOrders;

    use super::Outbox;
    use crate::io::Nanos;
    use crate::limits::DROPS_WAITING_MAX;
    use crate::shard::ControlEvent;

    fn delta(from: u64, to: u64) -> MapDelta {
        MapDelta { from: MapVersion(from), to: MapVersion(to), ..MapDelta::default() }
    }

    fn flush(outbox: &mut Outbox, room: usize) -> Vec<ControlEvent> {
        let map = ClusterMap { version: MapVersion(9), ..ClusterMap::default() };
        let mut sent = Vec::new();
        outbox.flush(&map, |event| {
            if sent.len() == room {
                return false;
            }
            sent.push(event);
            true
        });
        sent
    }

    #[test]
    fn outbox_sends_each_thing_once() {
        let mut outbox = Outbox::default();
        outbox.map(&delta(1, 2));
        outbox.lease(Nanos(5));
        outbox.drop_files(GroupId(1), vec![Fid(1)]);
        let orders = TargetOrders { scrub_pass: 3, ..TargetOrders::default() };
        outbox.orders(TargetOrders::default());
        outbox.orders(orders);
        let files = GroupOrders { group: GroupId(2), trims: Vec::new(), measures: Vec::new() };
        outbox.file_orders(files.clone());
        outbox.census(GroupId(3), vec![Fid(9)]);
        outbox.shutdown();
        let sent = flush(&mut outbox, 9);
        assert_eq!(
            sent,
            [
                ControlEvent::Shutdown,
                ControlEvent::Map(delta(1, 2)),
                ControlEvent::Lease { expires: Nanos(5) },
                ControlEvent::DropFiles(vec![(GroupId(1), vec![Fid(1)])]),
                ControlEvent::Orders(orders),
                ControlEvent::FileOrders(vec![files]),
                ControlEvent::Census(vec![(GroupId(3), vec![Fid(9)])]),
            ]
        );
        outbox.shutdown();
        assert_eq!(flush(&mut outbox, 9), []);
    }

    #[test]
    fn outbox_merges_what_a_full_queue_gives_back() {
        let mut outbox = Outbox::default();
        for round in 1..100 {
            outbox.map(&delta(round, round + 1));
            outbox.lease(Nanos(1000 - round));
            assert_eq!(flush(&mut outbox, 0), []);
        }
        let sent = flush(&mut outbox, 1);
        assert!(matches!(&sent[..], [ControlEvent::Map(map)] if map.full), "{sent:?}");
        assert_eq!(flush(&mut outbox, 1), [ControlEvent::Lease { expires: Nanos(999) }]);
    }

    #[test]
    fn outbox_bounds_dead_files() {
        let mut outbox = Outbox::default();
        for group in 0..=DROPS_WAITING_MAX {
            let group = GroupId(u32::try_from(group).unwrap());
            outbox.drop_files(group, vec![Fid(1)]);
            outbox.file_orders(GroupOrders { group, trims: Vec::new(), measures: Vec::new() });
            outbox.census(group, vec![Fid(1)]);
        }
        assert_eq!(outbox.drops.len(), DROPS_WAITING_MAX);
        assert_eq!(outbox.file_orders.len(), DROPS_WAITING_MAX);
        assert_eq!(outbox.census.len(), DROPS_WAITING_MAX);
    }
}
