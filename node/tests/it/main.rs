//! Tests of the data node over real sockets, files, executors and processes.

mod certificates;
mod fixture;
mod handshake;
mod link;
mod mesh;
