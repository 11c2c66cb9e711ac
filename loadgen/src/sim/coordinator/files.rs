//! Files: what readers are told, and what the primaries of their groups have to do.

use std::collections::BTreeMap;
use std::time::Duration;

use coordinator::file_orders;
use coordinator::serve::words::Holder;
use coordinator::state::read;
use node::io::Nanos;
use node::shard::ControlEvent;
use protocol::ids::{Fid, Ino, NodeId, SessionId};
use protocol::message::command::Caller;
use protocol::message::heal::GroupOrders;
use protocol::message::namespace::{Entry, PathQuery};

use super::SimCoordinator;

/// What each node was told last, and when.
pub(super) type Ordered = BTreeMap<NodeId, (Nanos, Vec<GroupOrders>)>;

/// Orders are repeated after this time.
const REPEAT: Duration = Duration::from_secs(1);
/// Orders looked at in one go.
const SCAN_MAX: usize = 1000;

impl SimCoordinator {
    /// What a session is told about a file; `None` when it is gone.
    pub fn look_up(&self, session: SessionId, ino: Ino) -> Option<Entry> {
        let inner = self.inner.borrow();
        let caller = Caller { uid: 0, gid: 0, admin: true };
        let query = PathQuery { base: ino, path: Vec::new(), follow: false, with_content: true };
        let snapshot = match inner.state.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => panic!("a table in memory cannot fail: {error}"),
        };
        let mut entry = read::lookup(&snapshot, &caller, &query).ok()?;
        let told = std::iter::once(&mut entry);
        inner.words.note(holder(session), self.executor.now(), told);
        Some(entry)
    }

    /// When nobody but the session relies any more on a file having only grown.
    pub fn words_run_out(&self, fid: Fid, session: SessionId) -> Nanos {
        self.inner.borrow().words.run_out(fid, holder(session))
    }

    /// Tells the nodes of primaries which files to cut or to measure.
    pub(super) fn order_files(&self) {
        let now = self.executor.now();
        let inner = &mut *self.inner.borrow_mut();
        let orders = match inner.state.file_orders(SCAN_MAX) {
            Ok(orders) => orders,
            Err(error) => panic!("a table in memory cannot fail: {error}"),
        };
        let words = &inner.words;
        let free = |fid, session| words.run_out(fid, holder(session)) <= now;
        for (node, groups) in file_orders::by_node(inner.state.map(), &orders, free) {
            let Some(control) = inner.controls.get(&node) else { continue };
            let told = inner.ordered.get(&node);
            if told.is_none_or(|(at, told)| now.since(*at) >= REPEAT || *told != groups) {
                control.deliver(ControlEvent::FileOrders(groups.clone()));
                inner.ordered.insert(node, (now, groups));
            }
        }
    }
}

/// Sessions of simulated clients have one connection each.
fn holder(session: SessionId) -> Holder {
    Holder { connection: session.0, session }
}
