//! Everything two lanefs processes must agree on, and nothing else.
//!
//! Owns ids, limits, checksums, the frame, the messages, placement and layout arithmetic, and TLS
//! settings. Knows nothing of sockets, clocks or runtimes, and of files only the certificates that
//! [`tls`] loads and configurations: every function here is synchronous and takes time and randomness as arguments.
//! Start reading at [`frame`], then [`message`].

pub mod allocator;
pub mod checksum;
pub mod cluster_map;
pub mod config_file;
pub mod cpu;
pub mod frame;
pub mod guard;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod log_budget;
pub mod message;
pub mod metrics;
pub mod session;
pub mod status;
pub mod time;
pub mod tls;
pub mod version;
