//! A small file system in an image, mounted where only this harness and its children see it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::cluster::{StepError, file_error, run};

/// Bytes written at once while the file system is filled.
const FILLER_PIECE: usize = 64 << 10;

/// A mounted image; the mount ends with the last process of the harness, however that ends.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// Gives this thread, and whatever it starts, a view of mounts of its own.
    ///
    /// # Errors
    /// [`StepError`] when this user may not.
    pub fn hide_mounts() -> Result<(), StepError> {
        // SAFETY: only the mount namespace, and with it root and working folder, of the calling
        // thread change; nothing that other threads rely on is involved.
        let moved = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
        moved.map_err(|errno| StepError::Start {
            program: "a mount namespace (needs root)".to_owned(),
            source: errno.into(),
        })?;
        run(Command::new("mount").args(["--make-rprivate", "/"])).map(drop)
    }

    /// Makes an ext4 file system of `bytes` in `image` and mounts it on `mount`.
    ///
    /// # Errors
    /// [`StepError`] names the command or file that failed.
    pub fn make(image: &Path, mount: &Path, bytes: u64) -> Result<SmallDisk, StepError> {
        let file = File::create(image).map_err(file_error(image))?;
        file.set_len(bytes).map_err(file_error(image))?;
        fs::create_dir_all(mount).map_err(file_error(mount))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(mount))?;
        Ok(SmallDisk { mount: mount.to_owned() })
    }

    /// Writes until there is no room left; the bytes that fitted.
    ///
    /// # Errors
    /// [`StepError`] for any other reason to stop.
    pub fn fill(&self) -> Result<u64, StepError> {
        let path = self.filler();
        let mut file = File::create(&path).map_err(file_error(&path))?;
        let piece = vec![0xa5; FILLER_PIECE];
        let mut written = 0;
        loop {
            match file.write(&piece) {
                Ok(count) => written += count as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(file_error(&path)(error)),
            }
        }
        match file.sync_all() {
            Err(error) if error.kind() != ErrorKind::StorageFull => Err(file_error(&path)(error)),
            _ => Ok(written),
        }
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// [`StepError`] when the filler cannot be removed.
    pub fn clear(&self) -> Result<(), StepError> {
        let path = self.filler();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(file_error(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Ends the mount; the loop device goes with it.
    ///
    /// # Errors
    /// [`StepError`] when something still uses it.
    pub fn unmount(self) -> Result<(), StepError> {
        run(Command::new("umount").arg(&self.mount)).map(drop)
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}
