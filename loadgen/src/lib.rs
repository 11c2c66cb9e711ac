//! Load, models, checkers and the simulator: everything that puts lanefs under test from outside.

pub mod bars;
pub mod cluster;
pub mod demo;
pub mod faults;
pub mod mutants;
pub mod search;
pub mod sim;
