//! The checkers: each names the invariant it guards.

use std::collections::BTreeSet;
use std::rc::Rc;

use node::shard::effect::{ReadTask, Task};
use node::shard::event::{Event, ReplyTo};
use node::store::StoreError;
use protocol::cluster_map::Role;
use protocol::ids::{ChunkKey, TargetId};
use protocol::message::chunk::WriteReply;

use super::clients::LEASED;
use super::cluster::{CLIENT, Cluster, SCRIPT};
use super::coordinator::GROUP;
use super::fake_store::Bytes;

impl Cluster {
    /// Every replica holds the same versions and bytes; nothing acknowledged is missing.
    pub(super) fn check_equal(&self) {
        let mut contents = self.stores.values().map(|store| {
            let newest = store.chunks.iter().filter_map(|(key, held)| Some((key, held.last()?)));
            let facts = newest.map(|(key, held)| (*key, held.version, Rc::clone(&held.bytes)));
            facts.collect::<Vec<_>>()
        });
        let first = contents.next().unwrap_or_default();
        for other in contents {
            assert_eq!(first, other, "replicas are equal");
        }
        for client in &self.clients {
            for (target, store) in &self.stores {
                client.check(store.newest(GROUP, client.key).map(|held| &held.bytes), *target);
            }
        }
    }

    /// Every member the record names as serving holds what was acknowledged.
    pub(super) fn check_acknowledged(&self) {
        let record = self.coordinator.record();
        for member in record.serving() {
            for client in &self.clients {
                let store = &self.stores[&member.target];
                client
                    .check(store.newest(GROUP, client.key).map(|held| &held.bytes), member.target);
            }
        }
    }

    /// I2: a version names one content. Every durable version passes here.
    pub(super) fn apply(
        &mut self,
        target: TargetId,
        task: &Task<Bytes>,
    ) -> Result<Option<node::store::Durable>, StoreError> {
        if let Task::Install(write, _) = task {
            *self.installs.entry((target, write.key)).or_default() += 1;
        }
        let store = self.stores.get_mut(&target).ok_or(StoreError::Fenced)?;
        let result = store.apply(task);
        if let (Ok(_), Task::Write(write) | Task::Install(write, _)) = (&result, task) {
            let held = store.newest(GROUP, write.key).map(|held| Rc::clone(&held.bytes));
            let bytes = held.unwrap_or_default();
            let known = self
                .contents
                .entry((write.key, write.version))
                .or_insert_with(|| Rc::clone(&bytes));
            assert_eq!(*known, bytes, "I2: {} names one content", write.version);
        }
        result
    }

    /// I1: acknowledged means durable on every serving member of the epoch.
    pub(super) fn check_durable(&self, primary: TargetId, client: usize, reply: &WriteReply) {
        let member = &self.procs[&primary].state.groups[&GROUP];
        let key = self.clients[client].key;
        for entry in member.record.serving() {
            let have = self.stores[&entry.target].newest(GROUP, key).map(|held| held.version);
            assert!(
                have >= Some(reply.version),
                "I1: {} acknowledged but {} has {have:?}",
                reply.version,
                entry.target
            );
        }
    }

    /// Carries a read out at once and checks what it shows.
    pub(super) fn serve_read(&mut self, target: TargetId, to: ReplyTo, read: &ReadTask) {
        self.tell(target, 1, Event::Served { bytes: read.len });
        let held = self.stores[&target].read(GROUP, read.key, read.newest).cloned();
        let end = (read.offset + read.len) as usize;
        let Some(held) = held.filter(|held| held.bytes.len() >= end) else {
            panic!("a read of {} is covered", read.key)
        };
        let other = read.exact.is_some_and(|exact| exact != held.version);
        if other && self.stores[&target].newest(GROUP, read.key).is_some_and(|it| it.mutated) {
            return;
        }
        self.reads += 1;
        let shown = &held.bytes[read.offset as usize..end];
        let index = (to.conn.0 - CLIENT) as usize;
        if index == SCRIPT {
            self.shown.push((to.request.0, Ok(shown.to_vec())));
            return;
        }
        let client = &mut self.clients[index];
        if to.request.0 == LEASED {
            client.observe(shown, target);
        } else {
            assert!(client.may_show(shown), "{target} shows bytes nobody wrote to {}", read.key);
            self.check_read(read.key, end);
        }
    }

    /// What was read once is on every serving member, so it cannot disappear.
    pub(super) fn check_read(&mut self, key: ChunkKey, end: usize) {
        for member in self.coordinator.record().serving() {
            let len = self.stores[&member.target].len(GROUP, key);
            assert!(len >= end, "a read showed {end} bytes, {} has {len}", member.target);
        }
    }

    /// I9: in an epoch that is not writable, pendings of serving members stay as they are.
    pub(super) fn check_frozen(&mut self, target: TargetId) {
        let Some(member) = self.procs[&target].state.groups.get(&GROUP) else { return };
        let record = &member.record;
        let serves = matches!(member.role, Some(Role::Primary | Role::Backup));
        let adopted = self.stores[&target].adopted(GROUP);
        if !serves || record.writable() || adopted != record.epoch || member.storing > 0 {
            return;
        }
        use node::group::ChunkIndex;
        let epoch = record.epoch;
        let pendings = self.stores[&target].pendings(GROUP);
        self.frozen_seen += u64::from(!pendings.is_empty());
        let first = self.frozen.entry((target, epoch)).or_insert_with(|| pendings.clone());
        // What is damaged and nobody else has goes.
        let damaged: BTreeSet<_> = self.stores[&target]
            .damages(GROUP)
            .into_iter()
            .map(|damage| (damage.key, damage.version))
            .collect();
        first.retain(|pending| !damaged.contains(&(pending.key, pending.version)));
        if member.is_primary() {
            // It may take over what it lost.
            let kept = first.iter().all(|pending| pendings.contains(pending));
            assert!(kept, "I9: pendings of {target} are frozen in epoch {epoch}");
            return;
        }
        // A backup may learn of an older commit, but it drops nothing and gets nothing new.
        assert!(pendings.iter().all(|pending| first.contains(pending)), "I9: nothing new");
        for pending in first {
            let newest = self.stores[&target].newest(GROUP, pending.key).map(|held| held.version);
            assert!(newest >= Some(pending.version), "I9: {target} dropped a frozen pending");
        }
    }
}
