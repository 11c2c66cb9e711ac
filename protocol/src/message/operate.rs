//! What an operator asks of the cluster, and what clients report about it.

use crate::cluster_map::Plan;
use crate::ids::{GroupId, NodeId, TargetId};

/// An operator's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminOp {
    /// Moves everything off a node, then keeps it empty.
    Drain(NodeId),
    /// Takes back a drain.
    Undrain(NodeId),
    /// Forgets a node whose targets are in no group.
    Remove(NodeId),
    /// Spreads the data evenly over the targets; `false` stops doing so.
    Rebalance(bool),
    /// Has every target read and check everything it holds.
    Scrub,
}

/// Asks the coordinator to carry out an operator's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminRequest {
    /// The order.
    pub op: AdminOp,
}

/// The order is durable; what it starts goes on by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminReply {
    /// For people: what was started, or that there was nothing to do.
    pub text: String,
    /// Bytes that have to move for it.
    pub bytes_left: u64,
    /// Expected seconds until it is done; `None` when nobody knows yet.
    pub eta_s: Option<u64>,
}

/// Asks for one page of the groups that have a plan or a syncing member, ascending by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlansRequest {
    /// Continue after this group; 0 from the start.
    pub after: GroupId,
}

/// What is going on in one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanStatus {
    /// The group.
    pub group: GroupId,
    /// The plan, when there is one; a returning member needs none.
    pub plan: Option<Plan>,
    /// The member that is being brought up to date; 0 when none is.
    pub syncing: TargetId,
    /// Bytes that still have to be copied to it.
    pub bytes_left: u64,
    /// Bytes that were copied to it.
    pub bytes_done: u64,
}

/// One page of plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlansReply {
    /// Ascending by group.
    pub plans: Vec<PlanStatus>,
    /// True when another page follows.
    pub more: bool,
}

/// A client cannot reach the primary of a group, but can reach others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreachableRequest {
    /// The group.
    pub group: GroupId,
    /// The target that does not answer.
    pub target: TargetId,
}

/// Noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreachableReply;
