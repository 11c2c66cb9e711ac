//! Which processes cannot reach which others at the moment.
//!
//! A cut holds back what is sent; nothing is lost by it, as with a connection that repeats its
//! segments. Each direction of a pair is cut by itself, and cuts of several causes add up. A way
//! can also be slow: then everything takes longer on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::executor::ProcessId;

/// The cuts between all processes.
#[derive(Default)]
pub struct Cuts {
    ways: RefCell<BTreeMap<(ProcessId, ProcessId), u32>>,
    slow: RefCell<BTreeMap<(ProcessId, ProcessId), Duration>>,
}

impl Cuts {
    /// Cuts the way from one process to another.
    pub fn cut(&self, from: ProcessId, to: ProcessId) {
        *self.ways.borrow_mut().entry((from, to)).or_insert(0) += 1;
    }

    /// Takes one cut of this way back.
    pub fn join(&self, from: ProcessId, to: ProcessId) {
        let mut ways = self.ways.borrow_mut();
        let Some(count) = ways.get_mut(&(from, to)) else { return };
        *count -= 1;
        if *count == 0 {
            ways.remove(&(from, to));
        }
    }

    /// Makes everything take longer on a way; no time makes it fast again.
    pub fn slow_down(&self, from: ProcessId, to: ProcessId, longest: Duration) {
        if longest.is_zero() {
            self.slow.borrow_mut().remove(&(from, to));
        } else {
            self.slow.borrow_mut().insert((from, to), longest);
        }
    }

    /// Longest time that a way takes on top of its own.
    pub fn slowness(&self, from: ProcessId, to: ProcessId) -> Duration {
        self.slow.borrow().get(&(from, to)).copied().unwrap_or_default()
    }

    /// True while nothing gets from one process to the other.
    pub fn severs(&self, from: ProcessId, to: ProcessId) -> bool {
        self.ways.borrow().contains_key(&(from, to))
    }

    /// True while no connection can be made between the two.
    pub fn parts(&self, one: ProcessId, other: ProcessId) -> bool {
        self.severs(one, other) || self.severs(other, one)
    }
}
