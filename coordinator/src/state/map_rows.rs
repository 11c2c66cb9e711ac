//! Nodes, targets and groups as rows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use protocol::cluster_map::{
    ClusterMap, GroupRecord, Member, NodeRecord, NodeState, Plan, PlanReason, Role, TargetRecord,
    TargetState,
};
use protocol::ids::{Epoch, Generation, GroupId, Lsn, MapVersion, NodeId, ShardId, TargetId};

use super::codec::{Reader, Writer, damaged, key};
use super::history::Changed;
use super::ledger::Ledger;
use super::{Settings, State};
use crate::kv::{Kv, KvError, KvRead, Row};
use crate::limits::SCAN_PAGE_ROWS;

/// What the coordinator knows of a node beyond the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeInfo {
    /// Drawn at random when the node's process started.
    pub(super) incarnation: u64,
    /// Targets of its last registration.
    pub(super) targets: BTreeSet<TargetId>,
}

/// What the rows of the map hold.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) map: ClusterMap,
    pub(super) nodes: BTreeMap<NodeId, NodeInfo>,
    pub(super) ledger: Ledger,
    pub(super) durables: BTreeMap<TargetId, (Generation, Lsn)>,
}

/// Reads the whole map.
pub(super) fn load<R: KvRead>(
    view: &R,
    settings: Option<Settings>,
    version: MapVersion,
) -> Result<Loaded, KvError> {
    let cluster = settings.map(|settings| settings.cluster).unwrap_or_default();
    let map = ClusterMap { cluster, version, ..ClusterMap::default() };
    let mut loaded = Loaded { map, ..Loaded::default() };
    for table in [key::nodes(), key::targets(), key::groups(), key::durables(), key::orders_row()] {
        for_each(view, table, |row| loaded.put(row))?;
    }
    Ok(loaded)
}

impl Loaded {
    /// Takes in a row of the map.
    ///
    /// # Errors
    /// [`KvError::Damaged`] when it is not what was written.
    pub(super) fn put(&mut self, row: &Row) -> Result<(), KvError> {
        self.forget(&row.0)?;
        match key::table_of(&row.0) {
            key::NODE => {
                let (record, info) = node_from(row)?;
                self.nodes.insert(record.id, info);
                self.map.nodes.insert(record.id, record);
            }
            key::TARGET => {
                let (record, trust) = target_from(row)?;
                if trust.distrusted {
                    self.ledger.distrusted.insert(record.id);
                }
                if trust.rolled_back {
                    self.ledger.rolled_back.insert(record.id);
                }
                self.map.targets.insert(record.id, record);
            }
            key::GROUP => {
                let (record, whole) = group_from(row)?;
                self.ledger.whole.insert(record.id, whole);
                self.map.groups.insert(record.id, record);
            }
            key::DURABLE => {
                let (target, durable) = durable_from(row)?;
                self.durables.insert(target, durable);
            }
            _ => (self.ledger.rebalance, self.ledger.scrub_pass) = orders_from(row)?,
        }
        Ok(())
    }

    /// Forgets a row of the map.
    ///
    /// # Errors
    /// [`KvError::Damaged`] when its key is not one of the map's.
    pub(super) fn forget(&mut self, key: &[u8]) -> Result<(), KvError> {
        let table = key::table_of(key);
        if key == key::ORDERS {
            (self.ledger.rebalance, self.ledger.scrub_pass) = <(bool, u32)>::default();
            return Ok(());
        }
        let number = key::small_number(key).ok_or_else(|| damaged(key, "short key"))?;
        match table {
            key::NODE => {
                self.nodes.remove(&NodeId(number));
                self.map.nodes.remove(&NodeId(number));
            }
            key::TARGET => {
                self.ledger.distrusted.remove(&TargetId(number));
                self.ledger.rolled_back.remove(&TargetId(number));
                self.map.targets.remove(&TargetId(number));
            }
            key::GROUP => {
                self.ledger.whole.remove(&GroupId(number));
                self.map.groups.remove(&GroupId(number));
            }
            key::DURABLE => {
                self.durables.remove(&TargetId(number));
            }
            _ => return Err(damaged(key, "not of the map")),
        }
        Ok(())
    }
}

/// Calls `visit` for each row of a span, ascending.
pub(super) fn for_each<R: KvRead>(
    view: &R,
    (from, to): key::Span,
    mut visit: impl FnMut(&Row) -> Result<(), KvError>,
) -> Result<(), KvError> {
    let mut next = from;
    loop {
        let rows = view.scan(&next, &to, SCAN_PAGE_ROWS)?;
        rows.iter().try_for_each(&mut visit)?;
        match rows.into_iter().next_back() {
            // The key with a zero byte added is the first one after it.
            Some((mut last, _)) => {
                last.push(0);
                next = last;
            }
            None => return Ok(()),
        }
    }
}

impl<K: Kv> State<K> {
    /// Writes the rows of everything that the current command changed in the map.
    pub(super) fn store_changed(&mut self) {
        for part in &self.changed {
            let (key, row) = match part {
                Changed::Node(id) => {
                    let info = self.nodes.get(id).cloned().unwrap_or_default();
                    let record = self.map.nodes.get(id);
                    (key::node(*id), record.map(|record| node_row(record, &info)))
                }
                Changed::Target(id) => {
                    let trust = Trust {
                        distrusted: self.ledger.distrusted.contains(id),
                        rolled_back: self.ledger.rolled_back.contains(id),
                    };
                    let record = self.map.targets.get(id);
                    (key::target(*id), record.map(|record| target_row(record, trust)))
                }
                Changed::Group(id) => {
                    let whole = self.ledger.whole.get(id).map(Vec::as_slice).unwrap_or_default();
                    let record = self.map.groups.get(id);
                    (key::group(*id), record.map(|record| group_row(record, whole)))
                }
                Changed::Orders => (key::ORDERS.to_vec(), Some(orders_row(&self.ledger))),
            };
            match row {
                Some((key, value)) => self.kv.put(key, value),
                None => self.kv.delete(key),
            }
            if let Changed::Target(id) = part
                && !self.map.targets.contains_key(id)
            {
                self.kv.delete(key::durable(*id));
            }
        }
    }

    /// Writes what a target reported as durable.
    pub(super) fn store_durable(&mut self, target: TargetId, generation: Generation, lsn: Lsn) {
        let key = key::durable(target);
        let mut row = Writer::new();
        row.u32(generation.0).u64(lsn.0);
        let value = row.seal(&key);
        self.kv.put(key, value);
    }
}

fn node_row(record: &NodeRecord, info: &NodeInfo) -> Row {
    let key = key::node(record.id);
    let mut row = Writer::new();
    row.u8(match record.state {
        NodeState::Up => 1,
        NodeState::Down => 2,
    });
    row.u8(u8::from(record.draining));
    match record.address {
        IpAddr::V4(address) => row.u8(4).u128(u128::from(u32::from(address))),
        IpAddr::V6(address) => row.u8(6).u128(u128::from(address)),
    };
    row.u64(info.incarnation).u16(u16::try_from(info.targets.len()).unwrap_or(u16::MAX));
    for target in &info.targets {
        row.u32(target.0);
    }
    let value = row.seal(&key);
    (key, value)
}

fn node_from((key, value): &Row) -> Result<(NodeRecord, NodeInfo), KvError> {
    let mut row = Reader::open(key, value)?;
    let id = NodeId(key::small_number(key).ok_or_else(|| row.bad("short key"))?);
    let state = match row.u8()? {
        1 => NodeState::Up,
        2 => NodeState::Down,
        _ => return Err(row.bad("unknown node state")),
    };
    let draining = row.u8()? != 0;
    let (family, bits) = (row.u8()?, row.u128()?);
    let address = match (family, u32::try_from(bits)) {
        (4, Ok(bits)) => IpAddr::V4(Ipv4Addr::from(bits)),
        (6, _) => IpAddr::V6(Ipv6Addr::from(bits)),
        _ => return Err(row.bad("unknown address")),
    };
    let (incarnation, count) = (row.u64()?, row.u16()?);
    let targets = (0..count).map(|_| row.u32().map(TargetId)).collect::<Result<_, _>>()?;
    row.end()?;
    Ok((NodeRecord { id, state, address, draining }, NodeInfo { incarnation, targets }))
}

/// Whether a target is believed.
#[derive(Clone, Copy)]
struct Trust {
    distrusted: bool,
    rolled_back: bool,
}

fn orders_row(ledger: &Ledger) -> Row {
    let mut row = Writer::new();
    row.u8(u8::from(ledger.rebalance)).u32(ledger.scrub_pass);
    (key::ORDERS.to_vec(), row.seal(key::ORDERS))
}

/// What operators want: whether data is being spread, and the scrub pass.
fn orders_from((key, value): &Row) -> Result<(bool, u32), KvError> {
    let mut row = Reader::open(key, value)?;
    let orders = (row.u8()? != 0, row.u32()?);
    row.end()?;
    Ok(orders)
}

fn durable_from((key, value): &Row) -> Result<(TargetId, (Generation, Lsn)), KvError> {
    let mut row = Reader::open(key, value)?;
    let target = TargetId(key::small_number(key).ok_or_else(|| row.bad("short key"))?);
    let durable = (Generation(row.u32()?), Lsn(row.u64()?));
    row.end()?;
    Ok((target, durable))
}

fn target_row(record: &TargetRecord, trust: Trust) -> Row {
    let key = key::target(record.id);
    let mut row = Writer::new();
    row.u32(record.node.0).u16(record.shard.0).u16(record.device).u16(record.port);
    row.u32(record.generation.0).u64(record.capacity);
    row.u8(match record.state {
        TargetState::Up => 1,
        TargetState::Down => 2,
        TargetState::Fenced => 3,
        TargetState::Slow => 4,
    });
    row.u8(u8::from(trust.distrusted) | u8::from(trust.rolled_back) << 1);
    let value = row.seal(&key);
    (key, value)
}

fn target_from((key, value): &Row) -> Result<(TargetRecord, Trust), KvError> {
    let mut row = Reader::open(key, value)?;
    let id = TargetId(key::small_number(key).ok_or_else(|| row.bad("short key"))?);
    let record = TargetRecord {
        id,
        node: NodeId(row.u32()?),
        shard: ShardId(row.u16()?),
        device: row.u16()?,
        port: row.u16()?,
        generation: Generation(row.u32()?),
        capacity: row.u64()?,
        state: match row.u8()? {
            1 => TargetState::Up,
            2 => TargetState::Down,
            3 => TargetState::Fenced,
            4 => TargetState::Slow,
            _ => return Err(row.bad("unknown target state")),
        },
    };
    let flags = row.u8()?;
    row.end()?;
    Ok((record, Trust { distrusted: flags & 1 != 0, rolled_back: flags & 2 != 0 }))
}

fn group_row(record: &GroupRecord, whole: &[TargetId]) -> Row {
    let key = key::group(record.id);
    let mut row = Writer::new();
    row.u8(record.kind).u32(record.epoch.0).u32(record.last_writable_epoch.0);
    row.u8(u8::from(record.active)).u8(u8::from(record.down));
    row.u8(record.replicas).u8(record.min_write);
    row.u8(u8::try_from(record.members.len()).unwrap_or(u8::MAX));
    for member in &record.members {
        row.u32(member.target.0).u32(member.generation.0).u8(match member.role {
            Role::Primary => 1,
            Role::Backup => 2,
            Role::Syncing => 3,
        });
    }
    row.u8(u8::try_from(record.evicted.len()).unwrap_or(u8::MAX));
    for target in &record.evicted {
        row.u32(target.0);
    }
    row.u8(u8::from(record.mutations));
    row.u8(u8::try_from(record.departed.len()).unwrap_or(u8::MAX));
    for target in &record.departed {
        row.u32(target.0);
    }
    row.u8(u8::from(record.plan.is_some()));
    if let Some(plan) = &record.plan {
        row.u8(match plan.reason {
            PlanReason::Heal => 1,
            PlanReason::Drain => 2,
            PlanReason::Rebalance => 3,
            PlanReason::Slow => 4,
        });
        row.u32(plan.add.0).u32(plan.leave.0).u64(plan.since_ms);
    }
    row.u8(u8::try_from(whole.len()).unwrap_or(u8::MAX));
    for target in whole {
        row.u32(target.0);
    }
    let value = row.seal(&key);
    (key, value)
}

fn group_from((key, value): &Row) -> Result<(GroupRecord, Vec<TargetId>), KvError> {
    let mut row = Reader::open(key, value)?;
    let id = GroupId(key::small_number(key).ok_or_else(|| row.bad("short key"))?);
    let (kind, epoch, last_writable_epoch) = (row.u8()?, Epoch(row.u32()?), Epoch(row.u32()?));
    let (active, down) = (row.u8()? != 0, row.u8()? != 0);
    let (replicas, min_write, count) = (row.u8()?, row.u8()?, row.u8()?);
    let members = (0..count).map(|_| member_from(&mut row)).collect::<Result<_, _>>()?;
    let count = row.u8()?;
    let evicted = (0..count).map(|_| row.u32().map(TargetId)).collect::<Result<_, _>>()?;
    let (mutations, count) = (row.u8()? != 0, row.u8()?);
    let departed = (0..count).map(|_| row.u32().map(TargetId)).collect::<Result<_, _>>()?;
    let plan = if row.u8()? != 0 { Some(plan_from(&mut row)?) } else { None };
    let count = row.u8()?;
    let whole = (0..count).map(|_| row.u32().map(TargetId)).collect::<Result<_, _>>()?;
    row.end()?;
    let record = GroupRecord {
        id,
        kind,
        epoch,
        last_writable_epoch,
        active,
        down,
        replicas,
        min_write,
        members,
        evicted,
        mutations,
        departed,
        plan,
    };
    Ok((record, whole))
}

fn plan_from(row: &mut Reader<'_>) -> Result<Plan, KvError> {
    let reason = match row.u8()? {
        1 => PlanReason::Heal,
        2 => PlanReason::Drain,
        3 => PlanReason::Rebalance,
        4 => PlanReason::Slow,
        _ => return Err(row.bad("unknown plan")),
    };
    let (add, leave) = (TargetId(row.u32()?), TargetId(row.u32()?));
    Ok(Plan { reason, add, leave, since_ms: row.u64()? })
}

fn member_from(row: &mut Reader<'_>) -> Result<Member, KvError> {
    let (target, generation) = (TargetId(row.u32()?), Generation(row.u32()?));
    let role = match row.u8()? {
        1 => Role::Primary,
        2 => Role::Backup,
        3 => Role::Syncing,
        _ => return Err(row.bad("unknown role")),
    };
    Ok(Member { target, generation, role })
}
