//! Codec of the commands in the coordinator's log.

use flatbuffers::{UnionWIPOffset, WIPOffset};

use super::fields::{Check, put_address, put_items, put_records, put_text};
use super::{Out, Record, finish, read, wire};
use crate::cluster_map::Plan;
use crate::ids::{Epoch, Generation, GroupId, Lsn, NodeId, SessionId, TargetId};
use crate::limits::{
    GROUP_EVICTED_MAX, GROUP_MEMBERS_MAX, MAP_RECORDS_MAX, MUTATE_OPS_MAX, TARGETS_PER_NODE_MAX,
};
use crate::message::MessageError;
use crate::message::command::{Caller, Command, Stamp};

/// Identifier of a log record, where a frame has its kind.
const IDENTIFIER: &[u8; 4] = b"lcmd";

/// Writes a command and its stamp as the payload of a log record.
pub fn encode_command(stamp: &Stamp, command: &Command) -> Vec<u8> {
    let mut out = Out::with_capacity(256);
    let root = pack(stamp, command, &mut out);
    finish(&mut out, root, IDENTIFIER)
}

/// Reads what [`encode_command`] wrote.
///
/// # Errors
/// [`MessageError::Malformed`] or [`MessageError::Field`]; never panics, whatever the bytes are.
pub fn decode_command(bytes: &[u8]) -> Result<(Stamp, Command), MessageError> {
    read(bytes, IDENTIFIER, true, "Command")
}

impl Record for (Stamp, Command) {
    type Table<'a> = wire::LogRecord<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::LogRecord<'b>> {
        pack(&self.0, &self.1, out)
    }

    fn unpack(table: wire::LogRecord<'_>, check: Check) -> Result<Self, MessageError> {
        let stamp = Stamp { time_ms: table.stamp().time_ms(), nonce: table.stamp().nonce() };
        Ok((stamp, unpack_command(table, check)?))
    }
}

impl Record for Caller {
    type Table<'a> = wire::Caller<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Caller<'b>> {
        let args = wire::CallerArgs { uid: self.uid, gid: self.gid, admin: self.admin };
        wire::Caller::create(out, &args)
    }

    fn unpack(table: wire::Caller<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(Caller { uid: table.uid(), gid: table.gid(), admin: table.admin() })
    }
}

fn pack<'b>(stamp: &Stamp, command: &Command, out: &mut Out<'b>) -> WIPOffset<wire::LogRecord<'b>> {
    let stamp = wire::Stamp::new(stamp.time_ms, stamp.nonce);
    let (command_type, command) = pack_command(command, out);
    let args = wire::LogRecordArgs { stamp: Some(&stamp), command_type, command: Some(command) };
    wire::LogRecord::create(out, &args)
}

type Packed = (wire::Command, WIPOffset<UnionWIPOffset>);

fn pack_command(command: &Command, out: &mut Out<'_>) -> Packed {
    match command {
        Command::Initialize {
            cluster,
            replicas,
            min_write,
            groups_per_target,
            targets_expected,
            owner,
        } => {
            let args = wire::InitializeArgs {
                cluster: Some(&(*cluster).into()),
                replicas: *replicas,
                min_write: *min_write,
                groups_per_target: *groups_per_target,
                targets_expected: *targets_expected,
                owner: Some(owner.pack(out)),
            };
            (wire::Command::Initialize, wire::Initialize::create(out, &args).as_union_value())
        }
        Command::RegisterNode { node, incarnation, address, targets } => {
            let args = wire::RegisterNodeArgs {
                node: node.0,
                incarnation: *incarnation,
                address: Some(put_address(out, *address)),
                targets: put_records(out, targets),
            };
            (wire::Command::RegisterNode, wire::RegisterNode::create(out, &args).as_union_value())
        }
        Command::SetNodeState { node, up } => {
            let args = wire::SetNodeStateArgs { node: node.0, up: *up };
            (wire::Command::SetNodeState, wire::SetNodeState::create(out, &args).as_union_value())
        }
        Command::FenceTarget { target } => {
            let args = wire::FenceTargetArgs { target: target.0 };
            (wire::Command::FenceTarget, wire::FenceTarget::create(out, &args).as_union_value())
        }
        Command::CreateGroups { count } => {
            let args = wire::CreateGroupsArgs { count: *count };
            (wire::Command::CreateGroups, wire::CreateGroups::create(out, &args).as_union_value())
        }
        Command::ChangeGroup { group, expected_epoch, members, evicted, down, plan } => {
            let members = members.iter().map(|&member| wire::Member::from(member));
            let args = wire::ChangeGroupArgs {
                group: group.0,
                expected_epoch: expected_epoch.0,
                members: put_items(out, members),
                evicted: put_items(out, evicted.iter().map(|target| target.0)),
                down: *down,
                plan: plan.as_ref().map(|plan| plan.pack(out)),
            };
            (wire::Command::ChangeGroup, wire::ChangeGroup::create(out, &args).as_union_value())
        }
        Command::Activated { group, epoch } => {
            let args = wire::ActivatedArgs { group: group.0, epoch: epoch.0 };
            (wire::Command::Activated, wire::Activated::create(out, &args).as_union_value())
        }
        Command::SyncDone { group, epoch, target } => {
            let args = wire::SyncDoneArgs { group: group.0, epoch: epoch.0, target: target.0 };
            (wire::Command::SyncDone, wire::SyncDone::create(out, &args).as_union_value())
        }
        Command::OpenSession { caller, client } => {
            let client = put_text(out, client);
            let args = wire::OpenSessionArgs { caller: Some(caller.pack(out)), client };
            (wire::Command::OpenSession, wire::OpenSession::create(out, &args).as_union_value())
        }
        Command::EndSession { session } => {
            let args = wire::EndSessionArgs { session: session.0 };
            (wire::Command::EndSession, wire::EndSession::create(out, &args).as_union_value())
        }
        Command::Mutate { session, caller, ops } => {
            let ops = put_records(out, ops);
            let caller = Some(caller.pack(out));
            let args = wire::MutateArgs { session: session.0, caller, ops };
            (wire::Command::Mutate, wire::Mutate::create(out, &args).as_union_value())
        }
        Command::DropDone { groups } => {
            let args = wire::DropDoneArgs { groups: put_records(out, groups) };
            (wire::Command::DropDone, wire::DropDone::create(out, &args).as_union_value())
        }
        Command::Digest { applied, digest } => {
            let digest = (*digest).into();
            let args = wire::DigestArgs { applied: *applied, digest: Some(&digest) };
            (wire::Command::Digest, wire::Digest::create(out, &args).as_union_value())
        }
        Command::AllowMutations { group, epoch } => {
            let args = wire::AllowMutationsArgs { group: group.0, epoch: epoch.0 };
            let command = wire::AllowMutations::create(out, &args);
            (wire::Command::AllowMutations, command.as_union_value())
        }
        Command::SetNodeDraining { node, draining } => {
            let args = wire::SetNodeDrainingArgs { node: node.0, draining: *draining };
            let command = wire::SetNodeDraining::create(out, &args);
            (wire::Command::SetNodeDraining, command.as_union_value())
        }
        Command::RemoveNode { node } => {
            let args = wire::RemoveNodeArgs { node: node.0 };
            (wire::Command::RemoveNode, wire::RemoveNode::create(out, &args).as_union_value())
        }
        Command::SetTargetSlow { target, slow } => {
            let args = wire::SetTargetSlowArgs { target: target.0, slow: *slow };
            (wire::Command::SetTargetSlow, wire::SetTargetSlow::create(out, &args).as_union_value())
        }
        Command::SetRebalance { on } => {
            let args = wire::SetRebalanceArgs { on: *on };
            (wire::Command::SetRebalance, wire::SetRebalance::create(out, &args).as_union_value())
        }
        Command::NoteDurable { targets } => {
            let position = |&(target, generation, lsn): &(TargetId, Generation, Lsn)| {
                wire::DurablePosition::new(target.0, generation.0, lsn.0)
            };
            let args =
                wire::NoteDurableArgs { targets: put_items(out, targets.iter().map(position)) };
            (wire::Command::NoteDurable, wire::NoteDurable::create(out, &args).as_union_value())
        }
        Command::FileReports { groups } => {
            let args = wire::FileReportsArgs { groups: put_records(out, groups) };
            (wire::Command::FileReports, wire::FileReports::create(out, &args).as_union_value())
        }
        Command::StartScrub => {
            let command = wire::StartScrub::create(out, &wire::StartScrubArgs {});
            (wire::Command::StartScrub, command.as_union_value())
        }
    }
}

/// Reads the union by its tag; one that this release does not know is refused.
fn unpack_command(table: wire::LogRecord<'_>, check: Check) -> Result<Command, MessageError> {
    if let Some(command) = table.command_as_initialize() {
        return initialize(command, check);
    }
    if let Some(command) = table.command_as_register_node() {
        return Ok(Command::RegisterNode {
            node: NodeId(command.node()),
            incarnation: command.incarnation(),
            address: check.address(command.address())?,
            targets: check.records(command.targets(), TARGETS_PER_NODE_MAX, "targets")?,
        });
    }
    if let Some(command) = table.command_as_set_node_state() {
        return Ok(Command::SetNodeState { node: NodeId(command.node()), up: command.up() });
    }
    if let Some(command) = table.command_as_fence_target() {
        return Ok(Command::FenceTarget { target: TargetId(command.target()) });
    }
    if let Some(command) = table.command_as_create_groups() {
        return Ok(Command::CreateGroups { count: command.count() });
    }
    if let Some(command) = table.command_as_change_group() {
        return change_group(command, check);
    }
    if let Some(command) = table.command_as_activated() {
        let (group, epoch) = (GroupId(command.group()), Epoch(command.epoch()));
        return Ok(Command::Activated { group, epoch });
    }
    if let Some(command) = table.command_as_sync_done() {
        let (group, epoch) = (GroupId(command.group()), Epoch(command.epoch()));
        return Ok(Command::SyncDone { group, epoch, target: TargetId(command.target()) });
    }
    if let Some(command) = table.command_as_open_session() {
        let caller = Caller::unpack(command.caller(), check)?;
        return Ok(Command::OpenSession {
            caller,
            client: check.text(command.client(), "client")?,
        });
    }
    if let Some(command) = table.command_as_end_session() {
        return Ok(Command::EndSession { session: SessionId(command.session()) });
    }
    if let Some(command) = table.command_as_mutate() {
        return Ok(Command::Mutate {
            session: SessionId(command.session()),
            caller: Caller::unpack(command.caller(), check)?,
            ops: check.records(command.ops(), MUTATE_OPS_MAX, "ops")?,
        });
    }
    if let Some(command) = table.command_as_drop_done() {
        let groups = check.records(command.groups(), MAP_RECORDS_MAX, "groups")?;
        return Ok(Command::DropDone { groups });
    }
    if let Some(command) = table.command_as_digest() {
        let (applied, digest) = (command.applied(), command.digest().into());
        return Ok(Command::Digest { applied, digest });
    }
    unpack_upkeep(table, check)
}

fn unpack_upkeep(table: wire::LogRecord<'_>, check: Check) -> Result<Command, MessageError> {
    if let Some(command) = table.command_as_allow_mutations() {
        let (group, epoch) = (GroupId(command.group()), Epoch(command.epoch()));
        return Ok(Command::AllowMutations { group, epoch });
    }
    if let Some(command) = table.command_as_set_node_draining() {
        let (node, draining) = (NodeId(command.node()), command.draining());
        return Ok(Command::SetNodeDraining { node, draining });
    }
    if let Some(command) = table.command_as_remove_node() {
        return Ok(Command::RemoveNode { node: NodeId(command.node()) });
    }
    if let Some(command) = table.command_as_set_target_slow() {
        let (target, slow) = (TargetId(command.target()), command.slow());
        return Ok(Command::SetTargetSlow { target, slow });
    }
    if table.command_as_start_scrub().is_some() {
        return Ok(Command::StartScrub);
    }
    if let Some(command) = table.command_as_set_rebalance() {
        return Ok(Command::SetRebalance { on: command.on() });
    }
    if let Some(command) = table.command_as_note_durable() {
        let position = |position: &wire::DurablePosition| {
            let generation = Generation(position.generation());
            (TargetId(position.target()), generation, Lsn(position.lsn()))
        };
        let targets = check.items(command.targets(), MAP_RECORDS_MAX, "targets", position)?;
        return Ok(Command::NoteDurable { targets });
    }
    let command = check.some(table.command_as_file_reports(), "command")?;
    let groups = check.records(command.groups(), MAP_RECORDS_MAX, "groups")?;
    Ok(Command::FileReports { groups })
}

fn initialize(command: wire::Initialize<'_>, check: Check) -> Result<Command, MessageError> {
    let (replicas, min_write) = (command.replicas(), command.min_write());
    check.that((1..=GROUP_MEMBERS_MAX).contains(&usize::from(replicas)), "replicas")?;
    check.that((1..=replicas).contains(&min_write), "min_write")?;
    Ok(Command::Initialize {
        cluster: command.cluster().into(),
        replicas,
        min_write,
        groups_per_target: command.groups_per_target(),
        targets_expected: command.targets_expected(),
        owner: Caller::unpack(command.owner(), check)?,
    })
}

fn change_group(command: wire::ChangeGroup<'_>, check: Check) -> Result<Command, MessageError> {
    Ok(Command::ChangeGroup {
        group: GroupId(command.group()),
        expected_epoch: Epoch(command.expected_epoch()),
        members: check.members(command.members(), GROUP_MEMBERS_MAX)?,
        evicted: check.items(command.evicted(), GROUP_EVICTED_MAX, "evicted", TargetId)?,
        down: command.down(),
        plan: command.plan().map(|plan| Plan::unpack(plan, check)).transpose()?,
    })
}
