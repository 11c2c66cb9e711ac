//! What the coordinator tells about itself on its admin port.
//!
//! Owns what is counted of requests and of the log, and the table of all metrics;
//! `docs/metrics.md` lists the same and a test compares them. Everything else is read from the
//! newest view when somebody asks. The port itself is `serve/metrics.rs`.

mod counts;
pub mod table;

pub use counts::{LogCounts, LogFigures, RequestCounts};
pub use table::{METRICS, Source};
