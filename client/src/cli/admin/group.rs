//! `admin group list`: what every placement group is, and what is being done to it.

use std::collections::BTreeMap;

use protocol::cluster_map::{GroupRecord, PlanReason, Role};
use protocol::ids::GroupId;
use protocol::message::operate::PlanStatus;
use serde_json::{Value, json};

use crate::Client;
use crate::cli::cluster::group_word;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::units::human_size;

pub(super) async fn list(client: &Client, as_json: bool) -> Result<(), Failure> {
    let plans = plans(client).await?;
    let map = client.refresh_map().await?;
    let groups = map.groups.values().map(|group| (group, plans.get(&group.id)));
    let text = if as_json {
        let groups: Vec<Value> = groups.map(|(group, plan)| document(group, plan)).collect();
        format!("{}\n", json!({ "map_version": map.version.0, "groups": groups }))
    } else {
        groups.map(|(group, plan)| line(group, plan)).collect()
    };
    print(&text).map_err(Failure::output)
}

/// What is going on in the groups in which something does.
async fn plans(client: &Client) -> Result<BTreeMap<GroupId, PlanStatus>, Failure> {
    let mut plans = BTreeMap::new();
    let mut after = GroupId(0);
    loop {
        let page = client.plans(after).await?;
        let last = page.plans.last().map(|status| status.group);
        plans.extend(page.plans.into_iter().map(|status| (status.group, status)));
        match last.filter(|last| page.more && *last > after) {
            Some(last) => after = last,
            None => return Ok(plans),
        }
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Backup => "backup",
        Role::Syncing => "syncing",
    }
}

fn reason_word(reason: PlanReason) -> &'static str {
    match reason {
        PlanReason::Heal => "heal",
        PlanReason::Drain => "drain",
        PlanReason::Rebalance => "rebalance",
        PlanReason::Slow => "slow",
    }
}

fn document(group: &GroupRecord, going_on: Option<&PlanStatus>) -> Value {
    let members: Vec<Value> = group
        .members
        .iter()
        .map(|member| {
            json!({
                "target": member.target.0,
                "generation": member.generation.0,
                "role": role_word(member.role),
            })
        })
        .collect();
    let plan = group.plan.map(|plan| {
        json!({
            "reason": reason_word(plan.reason),
            "add": plan.add.0,
            "leave": (plan.leave.0 != 0).then_some(plan.leave.0),
            "since_ms": plan.since_ms,
        })
    });
    let copying = going_on.filter(|status| status.syncing.0 != 0).map(|status| {
        json!({
            "target": status.syncing.0,
            "bytes_left": status.bytes_left,
            "bytes_done": status.bytes_done,
        })
    });
    json!({
        "id": group.id.0,
        "state": group_word(group),
        "epoch": group.epoch.0,
        "last_writable_epoch": group.last_writable_epoch.0,
        "active": group.active,
        "mutations": group.mutations,
        "members": members,
        "evicted": group.evicted.iter().map(|target| target.0).collect::<Vec<_>>(),
        "plan": plan,
        "copying": copying,
    })
}

fn line(group: &GroupRecord, going_on: Option<&PlanStatus>) -> String {
    let members: Vec<String> = group
        .members
        .iter()
        .map(|member| format!("{} {}", member.target, role_word(member.role)))
        .collect();
    let (state, members) = (group_word(group), members.join(", "));
    let mut text = format!("group {} epoch {} {state}: {members}", group.id, group.epoch);
    if let Some(plan) = group.plan {
        let reason = reason_word(plan.reason);
        text.push_str(&format!("; {reason}: {} joins", plan.add));
        if plan.leave.0 != 0 {
            text.push_str(&format!(", {} leaves", plan.leave));
        }
    }
    if let Some(status) = going_on.filter(|status| status.syncing.0 != 0) {
        let (left, done) = (human_size(status.bytes_left), human_size(status.bytes_done));
        text.push_str(&format!("; {left} to copy to {}, {done} copied", status.syncing));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use protocol::cluster_map::{Member, Plan};
    use protocol::ids::{Epoch, Generation, TargetId};

    use super::*;

    fn group() -> GroupRecord {
        let member =
            |target, role| Member { target: TargetId(target), generation: Generation(1), role };
        GroupRecord {
            id: GroupId(7),
            epoch: Epoch(4),
            active: true,
            replicas: 3,
            min_write: 2,
            members: vec![
                member(101, Role::Primary),
                member(201, Role::Backup),
                member(301, Role::Syncing),
            ],
            evicted: vec![TargetId(401)],
            plan: Some(Plan {
                reason: PlanReason::Drain,
                add: TargetId(301),
                leave: TargetId(201),
                since_ms: 5,
            }),
            ..GroupRecord::default()
        }
    }

    fn copying() -> PlanStatus {
        PlanStatus {
            group: GroupId(7),
            plan: None,
            syncing: TargetId(301),
            bytes_left: 1 << 20,
            bytes_done: 0,
        }
    }

    #[test]
    fn a_group_says_its_epoch_members_roles_and_plan() {
        let document = document(&group(), Some(&copying()));
        assert_eq!(document["epoch"], 4);
        assert_eq!(document["state"], "degraded");
        assert_eq!(document["members"][2]["role"], "syncing");
        assert_eq!(document["plan"]["reason"], "drain");
        assert_eq!(document["plan"]["leave"], 201);
        assert_eq!(document["copying"]["bytes_left"], 1 << 20);
        let heal = GroupRecord { plan: None, ..group() };
        assert!(super::document(&heal, None)["plan"].is_null());
    }

    #[test]
    fn a_line_says_who_joins_and_who_leaves() {
        let line = line(&group(), Some(&copying()));
        assert!(line.contains("epoch 4 degraded: 101 primary, 201 backup, 301 syncing"), "{line}");
        assert!(line.contains("drain: 301 joins, 201 leaves"), "{line}");
        assert!(line.contains("to copy to 301"), "{line}");
    }
}
