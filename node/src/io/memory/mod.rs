//! The seams in memory, for tests and the simulator.

pub mod disk;

pub use disk::MemoryDisk;
