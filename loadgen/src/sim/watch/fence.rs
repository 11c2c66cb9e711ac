//! The fence, checked from outside.
//!
//! - A member that holds a newer epoch durably accepts nothing under an older one.
//! - One process alone replicates as the primary of an epoch, and it started before the epoch.
//! - A version names one content.
//! - A leased answer goes only to a request that arrived before the node's lease ended.

use std::collections::BTreeMap;

use node::io::Nanos;
use protocol::checksum::sum64;
use protocol::ids::{ChunkKey, Epoch, GroupId, Version};
use protocol::message::chunk::{ReadRequest, ReplicateMode, ReplicateRequest};
use protocol::status::Status;

use super::scene::Scene;
use super::{Exchange, Seen, exchange, node_of};
use crate::sim::executor::ProcessId;

/// What frames have said so far.
#[derive(Default)]
pub(super) struct Fence {
    /// Who replicates in each epoch: process and which of its starts.
    primaries: BTreeMap<(GroupId, Epoch), (ProcessId, u64)>,
    /// Digest of each version's bytes.
    contents: BTreeMap<(GroupId, ChunkKey, Version), u64>,
    /// Requests to store that are not answered.
    asked: BTreeMap<Exchange, (GroupId, Epoch)>,
    /// Leased reads that are not answered, and when they were sent.
    reads: BTreeMap<Exchange, (Nanos, ReadRequest)>,
    /// Leased answers that come too late are for another checker to find.
    pub(super) late_answers_pass: bool,
}

impl Fence {
    pub(super) fn on_replicate(
        &mut self,
        seen: &Seen<'_>,
        request: &ReplicateRequest,
        start: Option<u64>,
    ) {
        let epoch = seen.header.epoch;
        let sender = (seen.from, start.unwrap_or(0));
        let known = *self.primaries.entry((request.group, epoch)).or_insert(sender);
        assert!(
            known == sender,
            "an epoch has one primary: {} epoch {epoch}: {known:?} and {sender:?}",
            request.group
        );
        self.asked.insert(exchange(seen), (request.group, epoch));
        if request.mode != ReplicateMode::Write {
            return;
        }
        let mut bytes = Vec::with_capacity(8 * request.sums.len() + 16);
        bytes.extend(request.offset.to_le_bytes());
        bytes.extend(request.len.to_le_bytes());
        for sum in &request.sums {
            bytes.extend(sum.0.to_le_bytes());
        }
        let content = sum64(&bytes);
        let name = (request.group, request.key, request.version);
        let known = *self.contents.entry(name).or_insert(content);
        assert!(known == content, "a version names one content: {name:?}");
    }

    /// `epoch_here` tells the newest epoch that is durable on the sender.
    pub(super) fn on_prepared(
        &mut self,
        seen: &Seen<'_>,
        epoch_here: impl Fn(GroupId) -> Option<Epoch>,
    ) {
        let Some((group, epoch)) = self.asked.remove(&exchange(seen)) else { return };
        if seen.header.status != Status::Ok {
            return;
        }
        let here = epoch_here(group);
        assert!(
            here.is_none_or(|here| here <= epoch),
            "nothing is accepted under an older epoch: {group} epoch {epoch}, process {} holds \
             {here:?}",
            seen.from.0
        );
    }

    pub(super) fn on_read(&mut self, now: Nanos, seen: &Seen<'_>, request: &ReadRequest) {
        if !request.growth_only {
            self.reads.insert(exchange(seen), (now, request.clone()));
        }
    }

    /// True for the answer to a leased read.
    pub(super) fn on_read_answer(&mut self, seen: &Seen<'_>, scene: &Scene) -> bool {
        let Some((sent, request)) = self.reads.remove(&exchange(seen)) else { return false };
        if seen.header.status != Status::Ok {
            return true;
        }
        let replaced = node_of(seen.from)
            .and_then(|node| scene.mutated_without(request.group, node))
            .filter(|since| *since < sent);
        assert!(
            replaced.is_none() || self.late_answers_pass,
            "no leased answer after the lease ended: {} {} by process {}, mutations without it \
             since {replaced:?}",
            request.group,
            request.key,
            seen.from.0
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use protocol::checksum::CellSum;
    use protocol::frame::Header;
    use protocol::ids::{Fid, OpId, TargetId};
    use protocol::message::chunk::WriteClass;
    use protocol::message::{Context, request_frame};

    use super::*;

    fn request(sum: u64) -> ReplicateRequest {
        ReplicateRequest {
            group: GroupId(1),
            primary: TargetId(101),
            key: ChunkKey { fid: Fid(7), index: 0 },
            mode: ReplicateMode::Write,
            version: Version { epoch: Epoch(3), counter: 9 },
            base: Version::ZERO,
            op: OpId::default(),
            class: WriteClass::Growth,
            offset: 0,
            len: 10,
            chunk_len: 10,
            expect_len: 10,
            trunc_gen: 0,
            cell_log2: 14,
            chunk_log2: 22,
            sums: vec![CellSum(sum)],
            aux: Vec::new(),
            ops: Vec::new(),
            mutated: false,
            committed_through: Version::ZERO,
        }
    }

    fn frame(sum: u64, number: u64) -> (Header, Vec<u8>) {
        let context = Context { epoch: Epoch(3), ..Context::default() };
        let number = protocol::ids::RequestId(number);
        request_frame(number, &request(sum), context, 0).unwrap()
    }

    /// Sends a version from a start of process 1 to process 2.
    fn send(fence: &mut Fence, sum: u64, number: u64, start: u64) {
        let (header, body) = frame(sum, number);
        let (from, to) = (ProcessId(1), ProcessId(2));
        let seen = Seen { from, to, connection: 5, header: &header, body: &body };
        fence.on_replicate(&seen, &request(sum), Some(start));
    }

    fn answer(fence: &mut Fence, number: u64, durable: u32) {
        let (mut header, body) = frame(1, number);
        header.response = true;
        let (from, to) = (ProcessId(2), ProcessId(1));
        let seen = Seen { from, to, connection: 5, header: &header, body: &body };
        fence.on_prepared(&seen, |_| Some(Epoch(durable)));
    }

    #[test]
    fn what_keeps_to_the_fence_passes() {
        let mut fence = Fence::default();
        send(&mut fence, 1, 1, 4);
        send(&mut fence, 1, 2, 4);
        answer(&mut fence, 1, 3);
        answer(&mut fence, 2, 3);
        answer(&mut fence, 2, 9);
    }

    #[test]
    #[should_panic(expected = "an epoch has one primary")]
    fn a_primary_that_restarted_within_its_epoch_is_found() {
        let mut fence = Fence::default();
        send(&mut fence, 1, 1, 4);
        send(&mut fence, 1, 2, 5);
    }

    #[test]
    #[should_panic(expected = "a version names one content")]
    fn a_version_that_is_used_twice_is_found() {
        let mut fence = Fence::default();
        send(&mut fence, 1, 1, 4);
        send(&mut fence, 2, 2, 4);
    }

    #[test]
    #[should_panic(expected = "nothing is accepted under an older epoch")]
    fn a_member_that_accepts_after_adoption_is_found() {
        let mut fence = Fence::default();
        send(&mut fence, 1, 1, 4);
        answer(&mut fence, 1, 4);
    }
}
