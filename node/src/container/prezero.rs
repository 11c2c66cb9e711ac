//! A container written with zeros before its first use.
//!
//! Room that is only reserved has to be converted by the file system when it is first written: each
//! flush then waits for its journal, and for whoever else writes to it. Who wants the first pass over
//! a container to be as fast as all later ones writes it once. Only speed depends on it.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use protocol::limits::IO_ALIGN;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Bytes of one transfer.
const STEP: usize = 4 << 20;

/// What is written; aligned as direct transfers ask for.
#[repr(align(4096))]
struct Zeros([u8; STEP]);

static ZEROS: Zeros = Zeros([0; STEP]);
const _: () = assert!(align_of::<Zeros>() >= IO_ALIGN && STEP.is_multiple_of(IO_ALIGN));

/// Writes `size` bytes of zeros to the file at `path`, past the page cache. Not flushed here.
///
/// # Errors
/// As the system words it.
pub(super) fn fill(path: &Path, size: u64) -> Result<(), Errno> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(|_| Errno::INVAL)?;
    let file = OpenOptions::new().write(true).custom_flags(direct).open(path).map_err(errno)?;
    tracing::info!(path = %path.display(), size, "container is being written with zeros");
    let mut at = 0;
    while at < size {
        let left = usize::try_from(size - at).unwrap_or(STEP).min(STEP);
        file.write_all_at(&ZEROS.0[..left], at).map_err(errno)?;
        at += left as u64;
    }
    Ok(())
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
