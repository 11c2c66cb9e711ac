//! Integration tests of the client library, over a cluster that lives in memory.
//!
//! Time is paused: deadlines and pauses pass as soon as everyone waits, so no test sleeps.

mod cluster;
mod files;
mod namespace;
