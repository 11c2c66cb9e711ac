//! Files: writing a new one, reading and changing a published one.
//!
//! A file is written to an inode without a name and gets its name, size and attributes in one
//! step, so nobody ever sees half of it.

mod editor;
mod many;
mod reader;
mod reserve;
mod room;
mod stream;
mod whole;
mod window;
mod word;
mod writer;

pub use editor::{FileEditor, WriteMode};
pub use many::{ReadMany, ReadManyOptions, WholeFile};
pub use reader::FileReader;
pub use stream::ReadStream;
pub use whole::FileBytes;
pub use writer::FileWriter;

pub(crate) use reserve::Reservations;
pub(crate) use whole::WholeFiles;
