//! What connections reach, over a log in memory and a table in a folder of the test's own.

use std::path::Path;
use std::sync::Arc;

use protocol::ids::{ClusterId, CoordinatorId};
use protocol::message::command::{Caller, Command};
use tokio::sync::mpsc;

use super::{About, Patience, Sessions, Shared};
use crate::control::Tuning;
use crate::kv::Redb;
use crate::log::MemoryLog;
use crate::propose::{self, Identity, Running};
use crate::state::State;
use crate::timers::Event;

/// The user every test acts as.
pub(crate) const ADMIN: Caller = Caller { uid: 0, gid: 0, admin: true };

/// A coordinator without connections; whoever takes the other end of `control` decides.
pub(crate) fn shared(dir: &Path, control: mpsc::Sender<Event>) -> (Arc<Shared>, Running) {
    let (coordinator, cluster) = (CoordinatorId(1), ClusterId(7));
    let initialize = Command::Initialize {
        cluster,
        replicas: 3,
        min_write: 2,
        groups_per_target: 4,
        targets_expected: 3,
        owner: ADMIN,
    };
    let state = State::open(Redb::open(&dir.join("state.redb"), 4 << 20).unwrap()).unwrap();
    let sessions = Arc::new(Sessions::default());
    let identity = Identity { coordinator, initialize };
    let watch = Box::new(Arc::clone(&sessions));
    let (proposer, running) = propose::start(MemoryLog::new(), state, &identity, watch).unwrap();
    let about = About {
        coordinator,
        cluster,
        address: "127.0.0.1:0".into(),
        users: Default::default(),
        tuning: Tuning::default(),
        patience: Patience::default(),
    };
    (Arc::new(Shared::new(about, proposer, sessions, control)), running)
}
