//! Where a source ends up: the rules of cp, mv and ln. Pure.

/// What the destination is, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nothing has that name.
    Missing,
    /// A file, or anything else that is not a directory.
    File,
    /// A directory.
    Directory,
}

/// Where one source goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// Under this name in the destination directory.
    Into(&'a [u8]),
    /// Under the destination's own name; a directory merges into one that is there.
    As,
}

/// Why a source has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The destination must be a directory and is not.
    #[error("not a directory")]
    NotDirectory,
    /// The destination is written as a directory and does not exist.
    #[error("no such directory")]
    NoDirectory,
    /// A directory cannot take the place of a file.
    #[error("is a file and cannot be replaced by a directory")]
    FileInTheWay,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its name; `None` when it stands for a folder's content.
    pub name: Option<&'a [u8]>,
    /// True when it is a directory.
    pub is_folder: bool,
    /// True when it is not the only one.
    pub one_of_many: bool,
}

/// Decides where a source goes; `as_folder` when the destination ends in a slash.
///
/// # Errors
/// [`PlaceError`], to be shown with the destination's path.
pub fn place<'a>(
    source: Source<'a>,
    destination: Destination,
    as_folder: bool,
) -> Result<Place<'a>, PlaceError> {
    match (destination, source.name) {
        (Destination::Directory, Some(name)) => Ok(Place::Into(name)),
        (Destination::Directory, None) => Ok(Place::As),
        _ if source.one_of_many => Err(PlaceError::NotDirectory),
        (Destination::Missing, _) if as_folder && !source.is_folder => Err(PlaceError::NoDirectory),
        (Destination::Missing, _) => Ok(Place::As),
        (Destination::File, _) if as_folder => Err(PlaceError::NotDirectory),
        (Destination::File, _) if source.is_folder => Err(PlaceError::FileInTheWay),
        (Destination::File, _) => Ok(Place::As),
    }
}
