//! Load, models, checkers and the simulator: everything that puts lanefs under test from outside.

pub mod bars;
pub mod bench;
pub mod cluster;
pub mod demo;
pub mod dice;
pub mod faults;
pub mod fio;
pub mod limits;
pub mod load;
pub mod machine;
pub mod mutants;
pub mod search;
pub mod sim;
pub mod stats;
