//! Proposer rounds against a log in memory.
