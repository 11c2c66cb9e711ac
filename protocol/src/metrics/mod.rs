//! What a process tells about itself to whoever watches it: figures, their text form, and the
//! request that asks for them.
//!
//! Owns the forms alone; which figures there are is a table in each process, and `docs/metrics.md`
//! lists them. Pure: no sockets, no clock.
//!
//! - [`durations`]: how long many things took, in little space.
//! - [`table`]: one metric, and the table that an exposition is made from.
//! - [`text`]: OpenMetrics 1.0.
//! - [`http`]: the one request that an admin port answers.

pub mod durations;
pub mod http;
pub mod table;
pub mod text;

pub use durations::Durations;
pub use table::{Definition, Form, Metric, Sample, Stability, Value};
pub use text::expose;
