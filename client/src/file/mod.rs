//! Files: writing a new one, reading a published one.
//!
//! A file is written to an inode without a name and gets its name, size and attributes in one
//! step, so nobody ever sees half of it.

mod reader;
mod reserve;
mod stream;
mod writer;

pub use reader::FileReader;
pub use stream::ReadStream;
pub use writer::FileWriter;

pub(crate) use reserve::Reservations;
