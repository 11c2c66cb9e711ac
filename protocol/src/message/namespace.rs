//! The file tree: attributes, lookups, listings and changes.
//!
//! Names, link targets and paths are bytes, never text.

use crate::ids::{Fid, GroupId, Ino, MapVersion, Seq, SessionId};
use crate::layout::Layout;
use crate::status::Status;

/// A point in time as POSIX counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970-01-01 UTC.
    pub secs: i64,
    /// Nanoseconds within the second, below 10^9.
    pub nanos: u32,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
}

/// Attributes of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub file_type: FileType,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Names that point to it; for a directory 2 and one for each directory in it.
    pub nlink: u32,
    /// File: bytes. Symlink: length of its target. Directory: entries.
    pub size: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

/// Where a file's bytes are, and under which rules they may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    /// Identity of the content.
    pub fid: Fid,
    /// Chunks, groups and cells.
    pub layout: Layout,
    /// Truncation generation.
    pub trunc_gen: u32,
    /// True while the file only ever grew.
    pub growth_only: bool,
    /// A reader's map must be at least this new before it believes "not found" or "short".
    pub stamp: MapVersion,
    /// Encoded capability; empty until capabilities are enforced.
    pub token: Vec<u8>,
    /// True while bytes beyond the size are still being cut: nobody may write.
    pub truncating: bool,
    /// True while a session has the file open for writing.
    pub writing: bool,
    /// True when the size was found by asking the groups after a writer died.
    pub recovered: bool,
}

/// One inode as a lookup or listing returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its attributes.
    pub attributes: Attributes,
    /// Content of a regular file, when it was asked for.
    pub content: Option<FileContent>,
    /// Target of a symbolic link; else empty.
    pub link: Vec<u8>,
}

/// One path to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathQuery {
    /// Directory to start in.
    pub base: Ino,
    /// Path below it, components separated by `/`; empty for `base` itself.
    pub path: Vec<u8>,
    /// True to follow a symbolic link in the last component.
    pub follow: bool,
    /// True to return where the file's bytes are.
    pub with_content: bool,
}

/// Resolves a batch of paths in one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupRequest {
    /// The session on whose behalf; 0 for none.
    pub session: SessionId,
    /// At most [`crate::limits::LOOKUP_BATCH_MAX`].
    pub queries: Vec<PathQuery>,
}

/// Result of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// It exists.
    Found(Entry),
    /// It does not, or may not be reached.
    Refused(Status),
}

/// Results in the order of the queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupReply {
    /// One for each query from the first on; fewer, but one at least, when more would not fit:
    /// the rest is asked for again.
    pub results: Vec<LookupResult>,
}

/// Asks for one page of a directory, ascending by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadDirRequest {
    /// The session on whose behalf; 0 for none.
    pub session: SessionId,
    /// The directory.
    pub dir: Ino,
    /// Continue after this name; empty from the start.
    pub after: Vec<u8>,
    /// Most entries wanted, 1 to [`crate::limits::READ_DIR_PAGE_MAX`].
    pub limit: u32,
    /// True to return where the files' bytes are.
    pub with_content: bool,
}

/// One name of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// What it points to.
    pub entry: Entry,
}

/// One page of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadDirReply {
    /// Ascending by name.
    pub entries: Vec<DirEntry>,
    /// True when another page follows.
    pub more: bool,
}

/// Applies a batch of changes, each on its own, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutateRequest {
    /// The session; its sequence numbers make retries safe.
    pub session: SessionId,
    /// At most [`crate::limits::MUTATE_OPS_MAX`].
    pub ops: Vec<(Seq, NamespaceOp)>,
}

/// Outcomes in the order of the operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutateReply {
    /// One for each operation.
    pub outcomes: Vec<OpOutcome>,
}

/// Which attributes to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Owning group.
    pub gid: Option<u32>,
    /// Last change of content.
    pub mtime: Option<Time>,
    /// Of a directory: cell size of files that are made in it, as a power of two; directories made
    /// in it get the same.
    pub cell_log2: Option<u8>,
}

/// One change of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceOp {
    /// Makes a directory.
    Mkdir {
        /// Directory that gets the name.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
        /// Attributes of the new directory.
        attributes: SetAttributes,
    },
    /// Allocates unlinked, empty files that belong to the session until they are published.
    Reserve {
        /// Directory whose layout defaults apply.
        parent: Ino,
        /// How many, 1 to [`crate::limits::RESERVE_MAX`].
        count: u32,
        /// Bytes each is expected to hold; decides how wide it is laid out.
        expect_len: u64,
    },
    /// Gives an unlinked file of the session its size, attributes and name, atomically.
    Publish {
        /// The file.
        ino: Ino,
        /// Directory that gets the name.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
        /// Length of the content, already durable.
        size: u64,
        /// Its attributes.
        attributes: SetAttributes,
        /// True to replace a file of that name; a directory is never replaced.
        replace: bool,
        /// False when an operation of unknown outcome was abandoned.
        growth_only: bool,
    },
    /// Gives back unlinked files of the session.
    Abandon {
        /// The files.
        inos: Vec<Ino>,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Directory that gets the name.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
        /// What it points to.
        target: Vec<u8>,
        /// Attributes of the link.
        attributes: SetAttributes,
        /// True to replace a file or link of that name.
        replace: bool,
    },
    /// Adds a name to a file.
    Link {
        /// The file.
        ino: Ino,
        /// Directory that gets the name.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// Moves a name, replacing what the target name points to when types allow.
    Rename {
        /// Directory that has the name.
        from_parent: Ino,
        /// The name.
        from_name: Vec<u8>,
        /// Directory that gets it.
        to_parent: Ino,
        /// The new name.
        to_name: Vec<u8>,
        /// False to refuse an existing target name.
        replace: bool,
    },
    /// Removes the name of a file or link.
    Unlink {
        /// Directory that has the name.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// Removes an empty directory.
    Rmdir {
        /// Directory that has the name.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// Sets attributes.
    SetAttr {
        /// The inode.
        ino: Ino,
        /// What to set.
        attributes: SetAttributes,
    },
    /// Raises a file's size to `end` when the truncation generation still holds.
    SetSize {
        /// The file.
        ino: Ino,
        /// First byte after the content that is durable.
        end: u64,
        /// Truncation generation of the writer.
        trunc_gen: u32,
    },
    /// Opens a file for writing in place.
    OpenWrite {
        /// The file.
        ino: Ino,
        /// True to change existing bytes; false to append only.
        mutate: bool,
        /// True to share the file with other writers.
        shared: bool,
    },
    /// Ends writing in place and raises the size to `size`.
    CloseWrite {
        /// The file.
        ino: Ino,
        /// First byte after the content that is durable.
        size: u64,
        /// Truncation generation of the writer.
        trunc_gen: u32,
        /// False when an operation of unknown outcome was abandoned.
        clean: bool,
    },
    /// Sets a file's length; to zero it gives the file a new, empty content.
    Truncate {
        /// The file.
        ino: Ino,
        /// The new length.
        len: u64,
    },
    /// Appends a segment on other groups, so that writing goes on there.
    ExtendLayout {
        /// The file.
        ino: Ino,
        /// First chunk of the segment: the first one that nobody wrote.
        first_chunk: u32,
        /// Group that cannot be written.
        avoid: GroupId,
    },
    /// Raises the size by `len` and gives the range before it to the caller.
    ReserveAppend {
        /// The file.
        ino: Ino,
        /// Bytes wanted.
        len: u64,
    },
}

/// Outcome of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpOutcome {
    /// Done; the inode it made or changed, where there is one.
    Done(Option<Entry>),
    /// Done; the unlinked files.
    Reserved(Vec<Entry>),
    /// Refused; nothing changed.
    Refused(Status),
}

/// Tells a client which contents it was told to have only grown may be changed from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowthClearedNotice {
    /// The contents, at most [`crate::limits::WORDS_MAX`].
    pub fids: Vec<Fid>,
}

/// A client relies no more on what it was told over this connection about contents that only grew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordsReturnedRequest {
    /// The contents, at most [`crate::limits::WORDS_MAX`]; none for all it was told of.
    pub fids: Vec<Fid>,
}

/// Noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordsReturnedReply;
