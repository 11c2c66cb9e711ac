//! Watches a run from outside: every frame, every change of the map, every fault.
//!
//! Two uses: the fence checker, whose broken promises are panics (`fence`), and the marks of the
//! situations that a run met (`scene`). Knows nothing of what production code thinks; it sees
//! what is sent, what is durable and who is alive.

mod fence;
mod flight;
mod scene;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use protocol::frame::Header;
use protocol::ids::{NodeId, RequestId};
use protocol::message::Kind;
use protocol::message::chunk::{CommittedNotice, ReadRequest, ReplicateRequest, WriteRequest};
use protocol::message::open;
use protocol::status::Status;

use super::cluster::{Stores, process_of};
use super::coordinator::COORDINATOR;
use super::executor::{Executor, ProcessId};
use super::mark::Marks;
use fence::Fence;
use flight::Flights;
use scene::Scene;

/// Everything that is known of a run from outside.
pub struct Watch {
    executor: Executor,
    stores: Stores,
    nodes: Cell<u32>,
    marks: RefCell<Marks>,
    flights: RefCell<Flights>,
    fence: RefCell<Fence>,
    scene: RefCell<Scene>,
    coordinator_up: Cell<bool>,
}

/// A frame between two processes.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Who sends it.
    pub from: ProcessId,
    /// Who gets it, if it arrives.
    pub to: ProcessId,
    /// The connection; both of its ends have the same number.
    pub connection: u64,
    /// Header of the frame.
    pub header: &'a Header,
    /// Body of the frame.
    pub body: &'a [u8],
}

impl Watch {
    /// Watches a cluster that is about to start.
    pub fn new(executor: &Executor, stores: &Stores, nodes: u32) -> Rc<Watch> {
        Rc::new(Watch {
            executor: executor.clone(),
            stores: Rc::clone(stores),
            nodes: Cell::new(nodes),
            marks: RefCell::default(),
            flights: RefCell::default(),
            fence: RefCell::default(),
            scene: RefCell::default(),
            coordinator_up: Cell::new(true),
        })
    }

    /// One more node is there.
    pub fn on_new_node(&self) {
        self.nodes.set(self.nodes.get() + 1);
    }

    /// The situations that were met so far.
    pub fn marks(&self) -> Marks {
        self.marks.borrow().clone()
    }

    /// Lets leased answers pass that come too late, so that it shows what another checker sees.
    pub fn let_late_answers_pass(&self) {
        self.fence.borrow_mut().late_answers_pass = true;
    }

    /// Counts a situation.
    pub fn hit(&self, name: &str) {
        self.marks.borrow_mut().hit(name);
        self.executor.log(|| format!("mark {name}"));
    }

    /// Looks at a frame as it leaves.
    ///
    /// # Panics
    /// When it breaks a promise of the fence.
    pub fn on_frame(&self, seen: &Seen<'_>) {
        self.log(seen);
        let header = seen.header;
        match (header.kind, header.response) {
            (Kind::Write, false) => {
                if let Ok(request) = open::<WriteRequest>(header, seen.body) {
                    self.flights.borrow_mut().on_write(seen, &request);
                }
            }
            (Kind::Write, true) => self.flights.borrow_mut().on_write_answer(seen),
            (Kind::Replicate, false) => {
                if let Ok(request) = open::<ReplicateRequest>(header, seen.body) {
                    self.on_replicate(seen, &request);
                }
            }
            (Kind::Replicate, true) => self.on_prepared(seen),
            (Kind::Committed, false) => {
                if let Ok(notice) = open::<CommittedNotice>(header, seen.body) {
                    self.flights.borrow_mut().on_committed(&notice);
                }
            }
            (Kind::Read, true) => self.on_read_answer(seen),
            (Kind::Read, false) => {
                if let Ok(request) = open::<ReadRequest>(header, seen.body) {
                    self.fence.borrow_mut().on_read(self.executor.now(), seen, &request);
                }
            }
            _ => {}
        }
        if header.response && header.status != Status::Ok {
            self.on_refusal(header.kind, header.status);
        }
    }

    fn on_replicate(&self, seen: &Seen<'_>, request: &ReplicateRequest) {
        let start = self.scene.borrow().start_of(seen.from);
        self.fence.borrow_mut().on_replicate(seen, request, start);
        self.flights.borrow_mut().on_replicate(seen, request);
    }

    fn on_prepared(&self, seen: &Seen<'_>) {
        let epoch_here = |group| {
            let stores = self.stores.borrow();
            let store = stores.get(&node_of(seen.from)?)?;
            let groups = store.groups();
            groups.iter().find(|(known, _)| *known == group).map(|(_, info)| info.epoch)
        };
        self.fence.borrow_mut().on_prepared(seen, epoch_here);
        self.flights.borrow_mut().on_prepared(seen);
    }

    fn on_read_answer(&self, seen: &Seen<'_>) {
        let leased = self.fence.borrow_mut().on_read_answer(seen, &self.scene.borrow());
        if seen.header.status != Status::Ok {
            return;
        }
        if leased {
            self.hit("leased read");
        } else if !self.coordinator_up.get() {
            self.hit("F20 read without coordinator");
        }
    }

    fn on_refusal(&self, kind: Kind, status: Status) {
        if let Some(class) = status.class() {
            self.marks.borrow_mut().hit(&format!("class {class:?}"));
        }
        match (kind, status) {
            (Kind::Replicate | Kind::Adopt, Status::StaleEpoch) => self.hit("F3 newer epoch"),
            (Kind::Read, Status::Corrupt) => self.hit("read finds damage"),
            _ => {}
        }
    }

    fn log(&self, seen: &Seen<'_>) {
        self.executor.log(|| {
            let header = seen.header;
            let answer = if header.response { "answer" } else { "" };
            let Header { kind, request, epoch, status, .. } = header;
            let what = match (kind, header.response) {
                (Kind::Replicate, false) => open::<ReplicateRequest>(header, seen.body)
                    .map(|it| format!("{} {} {} {:?}", it.group, it.key, it.version, it.mode))
                    .unwrap_or_default(),
                (Kind::Committed, _) => open::<CommittedNotice>(header, seen.body)
                    .map(|it| format!("{} {}", it.group, it.through))
                    .unwrap_or_default(),
                (Kind::Write, false) => open::<WriteRequest>(header, seen.body)
                    .map(|it| format!("{} {} {:?} at {}", it.group, it.key, it.op, it.offset))
                    .unwrap_or_default(),
                (Kind::Read, false) => open::<ReadRequest>(header, seen.body)
                    .map(|it| format!("{} {} {}+{}", it.group, it.key, it.offset, it.len))
                    .unwrap_or_default(),
                (Kind::Discard, false) => {
                    open::<protocol::message::chunk::DiscardRequest>(header, seen.body)
                        .map(|it| format!("{} {:?}", it.group, it.items))
                        .unwrap_or_default()
                }
                (Kind::Fetch, false) => {
                    open::<protocol::message::heal::FetchRequest>(header, seen.body)
                        .map(|it| {
                            format!(
                                "{} {} {} {}+{}",
                                it.group, it.key, it.version, it.first_cell, it.cells
                            )
                        })
                        .unwrap_or_default()
                }
                (Kind::Adopt, false) => {
                    open::<protocol::message::chunk::AdoptRequest>(header, seen.body)
                        .map(|it| format!("{}", it.group))
                        .unwrap_or_default()
                }
                _ => String::new(),
            };
            format!(
                "{} > {} {kind:?} {answer} {request} epoch {epoch} {status:?} {what}",
                seen.from.0, seen.to.0
            )
        });
    }
}

/// Processes up to here are nodes.
const NODES_MAX: u32 = 99;

/// The request a frame belongs to: its connection and its number there.
type Exchange = (u64, RequestId);

fn exchange(seen: &Seen<'_>) -> Exchange {
    (seen.connection, seen.header.request)
}

/// The node of a process, if it is one's.
fn node_of(process: ProcessId) -> Option<NodeId> {
    let node = NodeId(process.0);
    (process != COORDINATOR && process_of(node) == process && node.0 <= NODES_MAX).then_some(node)
}
