//! What a running store remembers about the state of its device.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::bad::WriteErrors;
use super::damage_list::DamageList;
use super::entry::Name;
use super::state::ChunkState;
use crate::io::Nanos;

/// Known damage and failures, all in memory: an open target starts with none.
#[derive(Default)]
pub(super) struct Upkeep {
    pub(super) damages: RefCell<DamageList>,
    pub(super) write_errors: RefCell<WriteErrors>,
    /// The time as it was told last.
    pub(super) now: Cell<Nanos>,
    /// While opening: versions as they were before repairs of the journal's end, oldest first.
    pub(super) before_repairs: RefCell<Vec<(Name, Rc<ChunkState>)>>,
    /// First unit of the arena that the check of space has not come to.
    pub(super) audited: Cell<u64>,
}
