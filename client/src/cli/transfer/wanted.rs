//! What a `get` is asked for, and where each source goes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::cli::path::source_name;
use crate::cli::place::{Destination, Place, PlaceError, Source, place};

/// What the command line asks for.
pub(super) struct Wanted {
    pub(super) sources: Vec<OsString>,
    pub(super) destination: PathBuf,
    kind: Destination,
    as_folder: bool,
    pub(super) recursive: bool,
}

impl Wanted {
    pub(super) fn new(sources: Vec<OsString>, destination: PathBuf, recursive: bool) -> Wanted {
        let kind = match fs::metadata(&destination) {
            Ok(metadata) if metadata.is_dir() => Destination::Directory,
            Ok(_) => Destination::File,
            Err(_) => Destination::Missing,
        };
        let as_folder = destination.as_os_str().as_bytes().ends_with(b"/");
        Wanted { sources, destination, kind, as_folder, recursive }
    }

    /// Where a source goes, and whether it is there already.
    pub(super) fn place(
        &self,
        source: &OsString,
        is_folder: bool,
    ) -> Result<(PathBuf, bool), PlaceError> {
        let name = source_name(source.as_bytes());
        let source = Source { name, is_folder, one_of_many: self.sources.len() > 1 };
        Ok(match place(source, self.kind, self.as_folder)? {
            Place::Into(name) => (self.destination.join(OsStr::from_bytes(name)), false),
            Place::As => (self.destination.clone(), self.kind == Destination::Directory),
        })
    }
}
