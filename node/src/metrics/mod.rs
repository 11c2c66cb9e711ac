//! What the node tells about itself on its admin port.
//!
//! Owns the newest figures of every shard, which come over the mesh once a second, and the table of
//! all metrics; `docs/metrics.md` lists the same and a test compares them. Pure: the port itself is
//! [`crate::io::glommio::admin`]. Runs on the control executor, so no scrape takes a shard's time.

mod figures;
pub mod table;

pub use figures::{Figures, ShardFigures, Source};
pub use table::METRICS;
