//! Load, models, checkers and the simulator: everything that puts lanefs under test from outside.

pub mod sim;
