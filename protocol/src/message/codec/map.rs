//! Codec of the cluster map and of what nodes report about their targets.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_address, put_bytes, put_fids, put_items, put_records};
use super::{Out, Record, wire};
use crate::cluster_map::{
    GroupRecord, MapDelta, NodeRecord, NodeState, Plan, TargetRecord, TargetState,
};
use crate::ids::{Epoch, Fid, Generation, GroupId, Lsn, MapVersion, NodeId, ShardId, TargetId};
use crate::limits::{
    DROP_FIDS_MAX, GROUP_EVICTED_MAX, GROUP_MEMBERS_MAX, GROUPS_PER_TARGET_MAX, MAP_RECORDS_MAX,
    REVOCATION_LEN_MAX, REVOCATIONS_MAX, SIGNATURE_LEN_MAX,
};
use crate::message::MessageError;
use crate::message::cluster::{GroupReport, TargetReport};

impl Record for MapDelta {
    type Table<'a> = wire::MapDelta<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::MapDelta<'b>> {
        let nodes = put_records(out, &self.nodes);
        let targets = put_records(out, &self.targets);
        let groups = put_records(out, &self.groups);
        let revocations = put_records(out, &self.revocations);
        let signature = put_bytes(out, &self.signature);
        let removed_nodes = put_items(out, self.removed_nodes.iter().map(|node| node.0));
        let removed_targets = put_items(out, self.removed_targets.iter().map(|target| target.0));
        wire::MapDelta::create(
            out,
            &wire::MapDeltaArgs {
                cluster: Some(&self.cluster.into()),
                from: self.from.0,
                to: self.to.0,
                full: self.full,
                nodes,
                targets,
                groups,
                revocations,
                signature,
                removed_nodes,
                removed_targets,
            },
        )
    }

    fn unpack(table: wire::MapDelta<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(MapDelta {
            cluster: table.cluster().into(),
            from: MapVersion(table.from()),
            to: MapVersion(table.to()),
            full: table.full(),
            nodes: check.records(table.nodes(), MAP_RECORDS_MAX, "nodes")?,
            targets: check.records(table.targets(), MAP_RECORDS_MAX, "targets")?,
            groups: check.records(table.groups(), MAP_RECORDS_MAX, "groups")?,
            revocations: check.records(table.revocations(), REVOCATIONS_MAX, "revocations")?,
            signature: check.bytes(table.signature(), SIGNATURE_LEN_MAX, "signature")?,
            removed_nodes: check.items(
                table.removed_nodes(),
                MAP_RECORDS_MAX,
                "removed_nodes",
                NodeId,
            )?,
            removed_targets: check.items(
                table.removed_targets(),
                MAP_RECORDS_MAX,
                "removed_targets",
                TargetId,
            )?,
        })
    }

    fn size_hint(&self) -> usize {
        512 + self.nodes.len() * 64 + self.targets.len() * 64 + self.groups.len() * 128
    }
}

impl Record for NodeRecord {
    type Table<'a> = wire::NodeRecord<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::NodeRecord<'b>> {
        let address = put_address(out, self.address);
        let state = match self.state {
            NodeState::Up => wire::NodeState::Up,
            NodeState::Down => wire::NodeState::Down,
        };
        let (id, draining) = (self.id.0, self.draining);
        let args = wire::NodeRecordArgs { id, state, address: Some(address), draining };
        wire::NodeRecord::create(out, &args)
    }

    fn unpack(table: wire::NodeRecord<'_>, check: Check) -> Result<Self, MessageError> {
        let state = match table.state() {
            wire::NodeState::Up => NodeState::Up,
            wire::NodeState::Down => NodeState::Down,
            _ => return Err(check.error("state")),
        };
        let address = check.address(table.address())?;
        Ok(NodeRecord { id: NodeId(table.id()), state, address, draining: table.draining() })
    }
}

impl Record for TargetRecord {
    type Table<'a> = wire::TargetRecord<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::TargetRecord<'b>> {
        let state = match self.state {
            TargetState::Up => wire::TargetState::Up,
            TargetState::Down => wire::TargetState::Down,
            TargetState::Fenced => wire::TargetState::Fenced,
            TargetState::Slow => wire::TargetState::Slow,
        };
        wire::TargetRecord::create(
            out,
            &wire::TargetRecordArgs {
                id: self.id.0,
                node: self.node.0,
                shard: self.shard.0,
                device: self.device,
                port: self.port,
                generation: self.generation.0,
                capacity: self.capacity,
                state,
            },
        )
    }

    fn unpack(table: wire::TargetRecord<'_>, check: Check) -> Result<Self, MessageError> {
        let state = match table.state() {
            wire::TargetState::Up => TargetState::Up,
            wire::TargetState::Down => TargetState::Down,
            wire::TargetState::Fenced => TargetState::Fenced,
            wire::TargetState::Slow => TargetState::Slow,
            _ => return Err(check.error("state")),
        };
        Ok(TargetRecord {
            id: TargetId(table.id()),
            node: NodeId(table.node()),
            shard: ShardId(table.shard()),
            device: table.device(),
            port: table.port(),
            generation: Generation(table.generation()),
            capacity: table.capacity(),
            state,
        })
    }
}

impl Record for GroupRecord {
    type Table<'a> = wire::GroupRecord<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::GroupRecord<'b>> {
        let members = self.members.iter().map(|&member| wire::Member::from(member));
        let members = put_items(out, members);
        let evicted = put_items(out, self.evicted.iter().map(|target| target.0));
        let departed = put_items(out, self.departed.iter().map(|target| target.0));
        let plan = self.plan.as_ref().map(|plan| plan.pack(out));
        wire::GroupRecord::create(
            out,
            &wire::GroupRecordArgs {
                id: self.id.0,
                kind: self.kind,
                epoch: self.epoch.0,
                last_writable_epoch: self.last_writable_epoch.0,
                active: self.active,
                down: self.down,
                replicas: self.replicas,
                min_write: self.min_write,
                members,
                evicted,
                mutations: self.mutations,
                departed,
                plan,
            },
        )
    }

    fn unpack(table: wire::GroupRecord<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(GroupRecord {
            id: GroupId(table.id()),
            kind: table.kind(),
            epoch: Epoch(table.epoch()),
            last_writable_epoch: Epoch(table.last_writable_epoch()),
            active: table.active(),
            down: table.down(),
            replicas: table.replicas(),
            min_write: table.min_write(),
            members: check.members(table.members(), GROUP_MEMBERS_MAX)?,
            evicted: check.items(table.evicted(), GROUP_EVICTED_MAX, "evicted", TargetId)?,
            mutations: table.mutations(),
            departed: check.items(table.departed(), GROUP_EVICTED_MAX, "departed", TargetId)?,
            plan: table.plan().map(|plan| Plan::unpack(plan, check)).transpose()?,
        })
    }
}

/// A revocation, which is opaque here.
impl Record for Vec<u8> {
    type Table<'a> = wire::Revocation<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Revocation<'b>> {
        let record = put_bytes(out, self);
        wire::Revocation::create(out, &wire::RevocationArgs { record })
    }

    fn unpack(table: wire::Revocation<'_>, check: Check) -> Result<Self, MessageError> {
        check.bytes(table.record(), REVOCATION_LEN_MAX, "revocations")
    }
}

impl Record for TargetReport {
    type Table<'a> = wire::TargetReport<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::TargetReport<'b>> {
        let groups = self.groups.iter().map(|report| wire::GroupReport::from(report.clone()));
        let groups = put_items(out, groups);
        wire::TargetReport::create(
            out,
            &wire::TargetReportArgs {
                target: self.target.0,
                shard: self.shard.0,
                device: self.device,
                port: self.port,
                generation: self.generation.0,
                recovered_lsn: self.recovered_lsn.0,
                intact: self.intact,
                capacity: self.capacity,
                free: self.free,
                groups,
            },
        )
    }

    fn unpack(table: wire::TargetReport<'_>, check: Check) -> Result<Self, MessageError> {
        let groups = check.items(table.groups(), GROUPS_PER_TARGET_MAX, "groups", |report| {
            GroupReport::from(report)
        })?;
        Ok(TargetReport {
            target: TargetId(table.target()),
            shard: ShardId(table.shard()),
            device: table.device(),
            port: table.port(),
            generation: Generation(table.generation()),
            recovered_lsn: Lsn(table.recovered_lsn()),
            intact: table.intact(),
            capacity: table.capacity(),
            free: table.free(),
            groups,
        })
    }
}

/// A group and dead files in it.
impl Record for (GroupId, Vec<Fid>) {
    type Table<'a> = wire::GroupFiles<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::GroupFiles<'b>> {
        let fids = put_fids(out, &self.1);
        wire::GroupFiles::create(out, &wire::GroupFilesArgs { group: self.0.0, fids })
    }

    fn unpack(table: wire::GroupFiles<'_>, check: Check) -> Result<Self, MessageError> {
        let fids = check.items(table.fids(), DROP_FIDS_MAX, "fids", Fid)?;
        Ok((GroupId(table.group()), fids))
    }
}
