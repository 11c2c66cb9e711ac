//! Every bound of one command.

/// Files in flight while storing: each holds one reader and one unpublished file. More than the
/// operations of one namespace batch, so that a batch fills while the last one is committed.
pub(crate) const PUT_FILES_IN_FLIGHT: usize = 96;
/// Large files and links in flight while fetching; see [`LARGE_FILES_IN_FLIGHT`].
pub(crate) const GET_FILES_IN_FLIGHT: usize = 32;
/// Small files that are being written to local disks: each holds its bytes and one temporary file,
/// beside what the library reads ahead.
pub(crate) const FILES_PLACED_AT_ONCE: usize = 64;
/// Sources of a command line that are looked up with one request.
pub(crate) const SOURCES_AT_ONCE: usize = crate::limits::LOOKUP_BATCH_MAX;
/// Names in flight while removing, and directories whose attributes are being set.
pub(crate) const CHANGES_IN_FLIGHT: usize = 128;
/// Files in flight while verifying.
pub(crate) const VERIFY_FILES_IN_FLIGHT: usize = 16;
/// Chunks of one file in flight while verifying: each target reads one chunk for each.
pub(crate) const VERIFY_CHUNKS_IN_FLIGHT: usize = 4;
/// Directories that are being listed at once.
pub(crate) const DIRECTORIES_IN_FLIGHT: usize = 16;
/// Directories that were found and not listed yet, one path each. A tree with more at one moment
/// is refused with a line, instead of filling memory with names.
pub(crate) const DIRECTORIES_WAITING_MAX: usize = 1 << 22;
/// Files that were found and wait for their turn, across all listings.
pub(crate) const JOBS_WAITING: usize = 512;
/// Entries of a local directory that are read at once.
pub(crate) const LOCAL_PAGE: usize = 256;
/// Files up to this length are read and written as a whole, in bytes: one read request.
pub(crate) const SMALL_FILE_BYTES: u64 = 1 << 20;
/// Content of small files in memory while storing, in bytes. Holders: a file between its first read
/// and its publication; [`PUT_FILES_IN_FLIGHT`] files of [`SMALL_FILE_BYTES`] fit.
pub(crate) const SMALL_BYTES_IN_FLIGHT: usize = 96 << 20;
/// Larger files in flight: each holds [`PIECES_IN_FLIGHT`] pieces and the library's window.
pub(crate) const LARGE_FILES_IN_FLIGHT: usize = 4;
/// Pieces between the thread that reads or writes a local file and the network, per file.
pub(crate) const PIECES_IN_FLIGHT: usize = 4;
/// Length of a piece read from a local file, in bytes: one default chunk, so that the library
/// sends it without gathering.
pub(crate) const PIECE_BYTES: u64 = 4 << 20;
/// Links of the whole map that `status` asks about at once.
pub(crate) const STATS_IN_FLIGHT: usize = 64;

const _: () =
    assert!(PUT_FILES_IN_FLIGHT as u64 * SMALL_FILE_BYTES <= SMALL_BYTES_IN_FLIGHT as u64);
const _: () = assert!(SMALL_FILE_BYTES <= protocol::limits::READ_LEN_MAX as u64);
const _: () = assert!(SMALL_FILE_BYTES <= crate::limits::READ_MANY_FILE_BYTES_MAX);
const _: () = assert!(PIECE_BYTES == 1 << protocol::limits::CHUNK_LOG2_DEFAULT);
