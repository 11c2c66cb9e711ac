//! The container as a file: found, locked, created with all its room.
//!
//! Owns existence, size and exclusive use. What is inside belongs to [`crate::store`].
//! Runs before the executors start, because allocation and locking are blocking calls.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::limits::IO_ALIGN;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use crate::config::Size;

mod prezero;

/// Why a container cannot be used: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Neither opened nor created.
    #[error("container {path}: cannot be opened: {cause}", path = path.display())]
    Open {
        /// The container.
        path: PathBuf,
        /// As the system words it.
        cause: io::Error,
    },
    /// This user may not read and write it.
    #[error(
        "container {path}: permission denied for user {uid}: give the file or its folder to the \
         user the node runs as",
        path = path.display()
    )]
    Permission {
        /// The container.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
    /// Another process has it.
    #[error(
        "container {path}: locked by another process: stop the other node or use another path",
        path = path.display()
    )]
    Locked {
        /// The container.
        path: PathBuf,
    },
    /// The file system has no room for it.
    #[error(
        "container {path}: no space for {size}: free some, or set a smaller size for this shard",
        path = path.display()
    )]
    NoSpace {
        /// The container.
        path: PathBuf,
        /// Size that was asked for.
        size: Size,
    },
    /// Its room could not be reserved.
    #[error("container {path}: cannot reserve {size}: {cause}", path = path.display())]
    Reserve {
        /// The container.
        path: PathBuf,
        /// Size that was asked for.
        size: Size,
        /// As the system words it.
        cause: io::Error,
    },
}

/// A container that this process alone may use, for as long as this value lives.
#[derive(Debug)]
pub struct Container {
    path: PathBuf,
    /// Holds the lock; never read or written through.
    _lock: File,
    size: u64,
    fresh: bool,
    working: PathBuf,
}

impl Container {
    /// Opens and locks the container; when there is none, creates one of `size` bytes under a name
    /// of its own, which [`Container::publish`] makes final. So a node that dies while it formats
    /// leaves no container that looks like a damaged one.
    ///
    /// # Shape
    /// An existing file or device keeps the size it has; it is rounded down to the I/O alignment.
    /// Whether a new one is written with zeros (`prezero`) changes speed only.
    ///
    /// # Errors
    /// [`ContainerError`]; a file that could not be given its room is removed again.
    pub fn open(path: &Path, size: u64, prezero: bool) -> Result<Container, ContainerError> {
        let opening = |cause| ContainerError::opening(path, cause);
        let (file, fresh) = match open(path, false) {
            Ok(file) => (file, false),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                (open(&working_path(path), true).map_err(opening)?, true)
            }
            Err(cause) => return Err(opening(cause)),
        };
        lock(path, &file)?;
        let working = if fresh { working_path(path) } else { path.to_path_buf() };
        let size = if fresh {
            reserve(&working, &file, size, prezero)?;
            size
        } else {
            length(&file).map_err(opening)?
        };
        let size = size - size % IO_ALIGN as u64;
        Ok(Container { path: path.to_path_buf(), _lock: file, size, fresh, working })
    }

    /// Gives a container that was just formatted its final name.
    ///
    /// # Durability
    /// The name is on the medium when this returns.
    ///
    /// # Errors
    /// [`ContainerError::Open`].
    pub fn publish(&mut self) -> Result<(), ContainerError> {
        let failed = |cause| ContainerError::Open { path: self.path.clone(), cause };
        std::fs::rename(&self.working, &self.path).map_err(failed)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or_else(|| Path::new("."))).map_err(failed)?;
        folder.sync_all().map_err(failed)?;
        self.working = self.path.clone();
        self.fresh = false;
        Ok(())
    }

    /// Its final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is now.
    pub fn working_path(&self) -> &Path {
        &self.working
    }

    /// Its size in bytes, a multiple of the I/O alignment.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// True when it was just created and must be formatted.
    pub fn fresh(&self) -> bool {
        self.fresh
    }

    /// Removes a container that was just created and could not be formatted.
    pub fn discard(self) {
        if self.fresh {
            remove(&self.working);
        }
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(path)
}

fn working_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn lock(path: &Path, file: &File) -> Result<(), ContainerError> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        Errno::WOULDBLOCK => ContainerError::Locked { path: path.to_path_buf() },
        other => ContainerError::Open { path: path.to_path_buf(), cause: other.into() },
    })
}

/// Length of a file or a block device, in bytes.
fn length(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        return rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(Into::into);
    }
    Ok(metadata.len())
}

fn reserve(path: &Path, file: &File, size: u64, prezero: bool) -> Result<(), ContainerError> {
    // What an earlier, unfinished format left behind is dropped first. The first page is written,
    // because the runtime reads it to learn whether the device can be polled: a page that was only
    // reserved is answered by the file system, and every later transfer would go the wrong way.
    let emptied = rustix::fs::ftruncate(file, 0);
    let reserved = emptied
        .and_then(|()| fallocate(file, FallocateFlags::empty(), 0, size))
        .and_then(|()| rustix::io::pwrite(file, &[0; IO_ALIGN], 0).map(|_| ()))
        .and_then(|()| if prezero { prezero::fill(path, size) } else { Ok(()) })
        .and_then(|()| rustix::fs::fdatasync(file));
    reserved.map_err(|errno| {
        remove(path);
        let path = path.to_path_buf();
        match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
                ContainerError::NoSpace { path, size: Size(size) }
            }
            other => ContainerError::Reserve { path, size: Size(size), cause: other.into() },
        }
    })
}

fn remove(path: &Path) {
    if let Err(cause) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %cause, "unfinished container not removed");
    }
}

impl ContainerError {
    fn opening(path: &Path, cause: io::Error) -> ContainerError {
        let path = path.to_path_buf();
        match cause.kind() {
            io::ErrorKind::PermissionDenied => {
                ContainerError::Permission { path, uid: rustix::process::geteuid().as_raw() }
            }
            _ => ContainerError::Open { path, cause },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Container, ContainerError};

    const SIZE: u64 = 1 << 20;

    #[test]
    fn container_is_created_once_with_its_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.lane");
        let unfinished = Container::open(&path, SIZE, false).unwrap();
        assert!(unfinished.fresh());
        drop(unfinished);
        let mut container = Container::open(&path, SIZE, false).unwrap();
        assert!(container.fresh(), "what was not formatted is created again");
        assert!(!path.exists());
        container.publish().unwrap();
        drop(container);
        let again = Container::open(&path, 2 * SIZE, false).unwrap();
        assert!(!again.fresh());
        assert_eq!(again.size(), SIZE, "an existing container keeps its size");
    }

    #[test]
    fn container_is_written_in_full_when_it_is_asked_for() {
        let written = |prezero| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("t.lane");
            let size = 9 * SIZE / 2;
            let container = Container::open(&path, size, prezero).unwrap();
            let file = std::fs::File::open(container.working_path()).unwrap();
            assert_eq!(container.size(), size);
            // What is only reserved counts as a hole for who looks for data, until it is read.
            let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap();
            let bytes = std::fs::read(container.working_path()).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0));
            hole
        };
        assert_eq!(written(true), 9 * SIZE / 2);
        assert!(written(false) < SIZE);
    }

    #[test]
    fn container_is_used_by_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.lane");
        let _first = Container::open(&path, SIZE, false).unwrap();
        let second = Container::open(&path, SIZE, false);
        assert!(matches!(second, Err(ContainerError::Locked { .. })));
    }

    #[test]
    fn container_without_room_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.lane");
        let refused = Container::open(&path, 1 << 60, false);
        assert!(
            matches!(refused, Err(ContainerError::NoSpace { .. } | ContainerError::Reserve { .. })),
            "{refused:?}"
        );
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
