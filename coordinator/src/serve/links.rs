//! The connection over which each registered node is told things.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::ids::{Fid, GroupId, NodeId};
use protocol::message::heal::GroupOrders;
use tokio::sync::mpsc;

/// What the control loop wants a node to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeOrder {
    /// Files that are dead in groups whose primary the node holds.
    DropFiles(Vec<(GroupId, Vec<Fid>)>),
    /// Files to cut or measure in groups whose primary the node holds.
    FileOrders(Vec<GroupOrders>),
}

/// One node's connection.
#[derive(Clone, Debug)]
pub struct Link {
    /// Number of the connection, so that an old one does not end a newer one.
    pub connection: u64,
    /// As the node registered.
    pub incarnation: u64,
    /// To the task that writes notices; one waits at most.
    pub orders: mpsc::Sender<NodeOrder>,
}

/// Connections of all registered nodes: at most one each.
#[derive(Debug, Default)]
pub struct Links {
    nodes: Mutex<BTreeMap<NodeId, Link>>,
}

impl Links {
    /// Makes a connection the node's one.
    pub fn attach(&self, node: NodeId, link: Link) {
        self.lock().insert(node, link);
    }

    /// Takes note that a connection ended; false when the node has a newer one.
    pub fn detach(&self, node: NodeId, connection: u64) -> bool {
        let mut nodes = self.lock();
        let current = nodes.get(&node).is_some_and(|link| link.connection == connection);
        if current {
            nodes.remove(&node);
        }
        current
    }

    /// Incarnation under which the node's connection registered.
    pub fn incarnation(&self, node: NodeId) -> Option<u64> {
        self.lock().get(&node).map(|link| link.incarnation)
    }

    /// Hands over an order; false when the node has no connection or an order still waits.
    pub fn order(&self, node: NodeId, order: NodeOrder) -> bool {
        self.lock().get(&node).is_some_and(|link| link.orders.try_send(order).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Link>> {
        // Nothing panics while it holds the lock, and a map is whole between two statements.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
