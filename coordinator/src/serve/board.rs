//! What the control loop found out last, for those who answer requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::ids::TargetId;
use protocol::message::cluster::TargetOrders;

use crate::planner::Outlook;

/// The newest outlook and orders.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    outlook: Arc<Outlook>,
    orders: BTreeMap<TargetId, TargetOrders>,
}

impl Board {
    /// Replaces what is known.
    pub fn publish(&self, outlook: Outlook, orders: BTreeMap<TargetId, TargetOrders>) {
        *self.lock() = Inner { outlook: Arc::new(outlook), orders };
    }

    /// The newest outlook.
    pub fn outlook(&self) -> Arc<Outlook> {
        Arc::clone(&self.lock().outlook)
    }

    /// What is wanted of these targets.
    pub fn orders(&self, targets: impl IntoIterator<Item = TargetId>) -> Vec<TargetOrders> {
        let inner = self.lock();
        targets.into_iter().filter_map(|target| inner.orders.get(&target).copied()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
