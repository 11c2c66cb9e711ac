//! Codec of an operator's orders and of what clients report.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_records, put_text};
use super::{Out, Record, empty_record, wire};
use crate::cluster_map::{Plan, PlanReason};
use crate::ids::{GroupId, NodeId, TargetId};
use crate::limits::PLANS_PAGE_MAX;
use crate::message::MessageError;
use crate::message::operate::{
    AdminOp, AdminReply, AdminRequest, PlanStatus, PlansReply, PlansRequest, UnreachableReply,
    UnreachableRequest,
};

empty_record! {
    UnreachableReply, UnreachableReplyArgs;
}

impl Record for Plan {
    type Table<'a> = wire::Plan<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Plan<'b>> {
        let reason = match self.reason {
            PlanReason::Heal => wire::PlanReason::Heal,
            PlanReason::Drain => wire::PlanReason::Drain,
            PlanReason::Rebalance => wire::PlanReason::Rebalance,
            PlanReason::Slow => wire::PlanReason::Slow,
        };
        let (add, leave, since_ms) = (self.add.0, self.leave.0, self.since_ms);
        wire::Plan::create(out, &wire::PlanArgs { reason, add, leave, since_ms })
    }

    fn unpack(table: wire::Plan<'_>, check: Check) -> Result<Self, MessageError> {
        let reason = match table.reason() {
            wire::PlanReason::Heal => PlanReason::Heal,
            wire::PlanReason::Drain => PlanReason::Drain,
            wire::PlanReason::Rebalance => PlanReason::Rebalance,
            wire::PlanReason::Slow => PlanReason::Slow,
            _ => return Err(check.error("reason")),
        };
        Ok(Plan {
            reason,
            add: TargetId(table.add()),
            leave: TargetId(table.leave()),
            since_ms: table.since_ms(),
        })
    }
}

impl Record for AdminRequest {
    type Table<'a> = wire::AdminRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::AdminRequest<'b>> {
        let (verb, node) = match self.op {
            AdminOp::Drain(node) => (wire::AdminVerb::Drain, node),
            AdminOp::Undrain(node) => (wire::AdminVerb::Undrain, node),
            AdminOp::Remove(node) => (wire::AdminVerb::Remove, node),
            AdminOp::Rebalance(true) => (wire::AdminVerb::Rebalance, NodeId(0)),
            AdminOp::Rebalance(false) => (wire::AdminVerb::StopRebalance, NodeId(0)),
            AdminOp::Scrub => (wire::AdminVerb::Scrub, NodeId(0)),
        };
        wire::AdminRequest::create(out, &wire::AdminRequestArgs { verb, node: node.0 })
    }

    fn unpack(table: wire::AdminRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let node = NodeId(table.node());
        let op = match table.verb() {
            wire::AdminVerb::Drain => AdminOp::Drain(node),
            wire::AdminVerb::Undrain => AdminOp::Undrain(node),
            wire::AdminVerb::Remove => AdminOp::Remove(node),
            wire::AdminVerb::Rebalance => AdminOp::Rebalance(true),
            wire::AdminVerb::StopRebalance => AdminOp::Rebalance(false),
            wire::AdminVerb::Scrub => AdminOp::Scrub,
            _ => return Err(check.error("verb")),
        };
        Ok(AdminRequest { op })
    }
}

impl Record for AdminReply {
    type Table<'a> = wire::AdminReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::AdminReply<'b>> {
        let text = put_text(out, &self.text);
        let args = wire::AdminReplyArgs { text, bytes_left: self.bytes_left, eta_s: self.eta_s };
        wire::AdminReply::create(out, &args)
    }

    fn unpack(table: wire::AdminReply<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(AdminReply {
            text: check.text(table.text(), "text")?,
            bytes_left: table.bytes_left(),
            eta_s: table.eta_s(),
        })
    }
}

impl Record for PlansRequest {
    type Table<'a> = wire::PlansRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::PlansRequest<'b>> {
        wire::PlansRequest::create(out, &wire::PlansRequestArgs { after: self.after.0 })
    }

    fn unpack(table: wire::PlansRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(PlansRequest { after: GroupId(table.after()) })
    }
}

impl Record for PlanStatus {
    type Table<'a> = wire::PlanStatus<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::PlanStatus<'b>> {
        let plan = self.plan.as_ref().map(|plan| plan.pack(out));
        wire::PlanStatus::create(
            out,
            &wire::PlanStatusArgs {
                group: self.group.0,
                plan,
                syncing: self.syncing.0,
                bytes_left: self.bytes_left,
                bytes_done: self.bytes_done,
            },
        )
    }

    fn unpack(table: wire::PlanStatus<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(PlanStatus {
            group: GroupId(table.group()),
            plan: table.plan().map(|plan| Plan::unpack(plan, check)).transpose()?,
            syncing: TargetId(table.syncing()),
            bytes_left: table.bytes_left(),
            bytes_done: table.bytes_done(),
        })
    }
}

impl Record for PlansReply {
    type Table<'a> = wire::PlansReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::PlansReply<'b>> {
        let plans = put_records(out, &self.plans);
        wire::PlansReply::create(out, &wire::PlansReplyArgs { plans, more: self.more })
    }

    fn unpack(table: wire::PlansReply<'_>, check: Check) -> Result<Self, MessageError> {
        let plans = check.records(table.plans(), PLANS_PAGE_MAX, "plans")?;
        Ok(PlansReply { plans, more: table.more() })
    }
}

impl Record for UnreachableRequest {
    type Table<'a> = wire::UnreachableRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::UnreachableRequest<'b>> {
        let args = wire::UnreachableRequestArgs { group: self.group.0, target: self.target.0 };
        wire::UnreachableRequest::create(out, &args)
    }

    fn unpack(table: wire::UnreachableRequest<'_>, _: Check) -> Result<Self, MessageError> {
        let (group, target) = (GroupId(table.group()), TargetId(table.target()));
        Ok(UnreachableRequest { group, target })
    }
}
