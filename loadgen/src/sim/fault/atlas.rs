//! Where damage may strike, so that a run that must heal can.
//!
//! A group acknowledges only what `min_write` members hold. So bytes that were told to be durable
//! may be lost or wrong on `min_write - 1` nodes, the victims of the run, and every cell keeps a
//! good copy. Faults that are noticed, and those that lose only what was never told, may strike
//! anywhere.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use protocol::ids::NodeId;

use crate::sim::disk::Damage;
use crate::sim::profile::Mode;
use crate::sim::rng::SimRng;

/// Nodes that may hold less, or other, than they were told to keep.
pub type Damaged = Rc<RefCell<BTreeSet<NodeId>>>;

/// Which nodes may be damaged, and which were.
#[derive(Clone, Debug)]
pub struct Atlas {
    mode: Mode,
    victims: BTreeSet<NodeId>,
    damaged: Damaged,
}

impl Atlas {
    /// Draws the victims.
    pub fn new(mode: Mode, nodes: &[NodeId], min_write: u8, rng: &SimRng) -> Atlas {
        let mut left = nodes.to_vec();
        let mut victims = BTreeSet::new();
        let count = match mode {
            Mode::Liveness => usize::from(min_write.saturating_sub(1)),
            Mode::Unrestricted => nodes.len(),
        };
        while victims.len() < count && !left.is_empty() {
            let turn = usize::try_from(rng.below(left.len() as u64)).unwrap_or(0);
            victims.insert(left.swap_remove(turn));
        }
        Atlas { mode, victims, damaged: Damaged::default() }
    }

    /// What faults may do.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Takes note of damage to a node, or says that it is not allowed.
    pub fn allow(&mut self, node: NodeId, damage: Damage) -> bool {
        if !damage.is_silent() {
            return true;
        }
        let allowed = self.victims.contains(&node);
        if allowed {
            self.damaged.borrow_mut().insert(node);
        }
        allowed
    }

    /// Takes note that a node's disk went back in time, or says that it is not allowed.
    ///
    /// What the coordinator has not noted durably when it restarts, it cannot miss: where a run must
    /// heal, a disk goes back only to what is older than the note, so that it is `noticed`.
    pub fn allow_roll_back(&mut self, node: NodeId, noticed: bool) -> bool {
        let bears = noticed || self.mode == Mode::Unrestricted;
        let allowed = self.victims.contains(&node) && bears;
        if allowed {
            self.damaged.borrow_mut().insert(node);
        }
        allowed
    }

    /// Takes note of a node that joined: where anything may break, it may too.
    pub fn on_new(&mut self, node: NodeId) {
        if self.mode == Mode::Unrestricted {
            self.victims.insert(node);
        }
    }

    /// One of the nodes that may be damaged, and is among these.
    pub fn victim_among(&self, nodes: &[NodeId], rng: &SimRng) -> Option<NodeId> {
        let open: Vec<NodeId> =
            nodes.iter().copied().filter(|node| self.victims.contains(node)).collect();
        let turn = usize::try_from(rng.below(open.len().max(1) as u64)).unwrap_or(0);
        open.get(turn).copied()
    }

    /// Nodes that were damaged so far, kept up to date.
    pub fn damaged(&self) -> Damaged {
        Rc::clone(&self.damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_of_a_run_that_must_heal_keeps_a_good_copy() {
        let nodes: Vec<_> = (1..=5).map(NodeId).collect();
        for seed in 0..50 {
            let mut atlas = Atlas::new(Mode::Liveness, &nodes, 2, &SimRng::new(seed));
            for node in &nodes {
                atlas.allow(*node, Damage::Rot);
                assert!(!atlas.allow_roll_back(*node, false), "nobody would notice");
                atlas.allow_roll_back(*node, true);
                assert!(atlas.allow(*node, Damage::FlushError), "noticed faults may strike");
            }
            assert_eq!(atlas.damaged().borrow().len(), 1);
        }
    }

    #[test]
    fn without_restriction_every_node_may_be_damaged() {
        let nodes: Vec<_> = (1..=4).map(NodeId).collect();
        let mut atlas = Atlas::new(Mode::Unrestricted, &nodes, 2, &SimRng::new(1));
        assert!(nodes.iter().all(|node| atlas.allow(*node, Damage::LostWrite)));
        assert!(nodes.iter().all(|node| atlas.allow_roll_back(*node, false)));
    }
}
