//! Seeded randomness: one seed owns every choice of a run.

use std::cell::Cell;
use std::rc::Rc;

/// A small generator whose clones share one sequence.
#[derive(Clone, Debug)]
pub struct SimRng {
    state: Rc<Cell<u64>>,
}

impl SimRng {
    /// Starts the sequence of a seed.
    pub fn new(seed: u64) -> SimRng {
        SimRng { state: Rc::new(Cell::new(seed)) }
    }

    /// Starts an independent sequence, chosen by this one.
    pub fn fork(&self) -> SimRng {
        SimRng::new(self.draw())
    }

    /// 64 random bits (SplitMix64).
    pub fn draw(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// A number in `low..high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }
}

impl node::io::Rng for SimRng {
    fn next(&self) -> u64 {
        self.draw()
    }
}
