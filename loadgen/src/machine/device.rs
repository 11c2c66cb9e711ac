//! What the device below a folder does, by fio: random reads and writes of the sizes lanefs uses.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cluster::{StepError, file_error};
use crate::fio::{self, Job, Measured};
use crate::sim::rng::SimRng;

/// Size of the file that is read and written.
pub(super) const FILE_BYTES: u64 = 4 << 30;

/// Sizes of one request, each with the depth at which a shard keeps the device busy.
pub(super) const BLOCKS: [(u64, u32); 4] =
    [(4 << 10, 128), (16 << 10, 128), (128 << 10, 16), (1 << 20, 8)];

/// A file of random bytes on the device; removed when dropped.
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Writes the file, so that no later write meets space that was only reserved.
    pub(super) fn make(folder: &Path) -> Result<Scratch, StepError> {
        let scratch =
            Scratch { path: folder.join(format!("lanefs-limits-{}", std::process::id())) };
        fill(&scratch.path, FILE_BYTES)?;
        Ok(scratch)
    }

    /// Requests of one size at random offsets.
    pub(super) fn measure(
        &self,
        (pattern, block, depth): (&str, u64, u32),
        seconds: f64,
        seed: u64,
    ) -> Result<Measured, StepError> {
        let range = (0, FILE_BYTES);
        let seconds = Some(seconds);
        let job = Job { block, depth, range, seconds, seed, ..Job::of(pattern) };
        fio::measure(&self.path, &job)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is named by its process number, in a folder of the caller.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes a file of bytes that do not repeat at any granularity a device could profit from.
pub(crate) fn fill(path: &Path, len: u64) -> Result<(), StepError> {
    let mut file = File::create(path).map_err(file_error(path))?;
    let rng = SimRng::new(len);
    let mut piece = vec![0u8; 1 << 20];
    let mut left = len;
    while left > 0 {
        for word in piece.chunks_exact_mut(8) {
            word.copy_from_slice(&rng.draw().to_le_bytes());
        }
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        file.write_all(&piece[..now]).map_err(file_error(path))?;
        left -= now as u64;
    }
    file.sync_all().map_err(file_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_length_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 1, 100 << 10, (1 << 20) + 1] {
            let path = folder.path().join("file");
            fill(&path, len).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), len);
        }
    }
}
