//! Moves files and trees between a local file system and lanefs.
//!
//! One engine for both directions: directories are walked while files are in flight, small files
//! many at a time, large ones as streams with bounded memory. Invariant: a file is either there
//! with all its bytes and attributes or not there at all; directories get their attributes last,
//! because filling them changes their times and may need more permissions than they end with.

mod cat;
mod get;
mod get_large;
mod get_small;
mod local;
mod put;
mod put_file;
mod remote;
mod wanted;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use cat::cat;
pub(crate) use get::get;
pub(crate) use put::put;
pub(crate) use remote::{
    Found, RemoteDestination, RemotePlace, expect, expect_directory, find, find_in, refused,
};

use super::limits::{LARGE_FILES_IN_FLIGHT, SMALL_BYTES_IN_FLIGHT, SMALL_FILE_BYTES};

/// Memory that files in flight may hold.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Memory {
    pub(crate) fn new() -> Memory {
        Memory {
            small: Arc::new(Semaphore::new(SMALL_BYTES_IN_FLIGHT)),
            large: Arc::new(Semaphore::new(LARGE_FILES_IN_FLIGHT)),
        }
    }

    /// Waits for room for a file of this length; the room is given back when the permit is dropped.
    pub(crate) async fn room(&self, length: u64) -> Option<OwnedSemaphorePermit> {
        let permit = if length <= SMALL_FILE_BYTES {
            let bytes = u32::try_from(length.max(1)).unwrap_or(u32::MAX);
            self.small.clone().acquire_many_owned(bytes).await
        } else {
            self.large.clone().acquire_owned().await
        };
        // The semaphores are never closed.
        permit.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_files_wait_for_each_other_and_not_for_small_ones() {
        let memory = Memory::new();
        let mut held = Vec::new();
        for _ in 0..LARGE_FILES_IN_FLIGHT {
            held.push(memory.room(1 << 30).await.unwrap());
        }
        let mut next = ready(memory.room(1 << 30));
        assert!(next.is_none());
        assert!(memory.room(0).await.is_some());
        held.pop();
        next = ready(memory.room(1 << 30));
        assert!(next.is_some());
    }

    #[tokio::test]
    async fn small_files_wait_when_their_bytes_are_taken() {
        let memory = Memory::new();
        let mut held = Vec::new();
        for _ in 0..SMALL_BYTES_IN_FLIGHT as u64 / SMALL_FILE_BYTES {
            held.push(memory.room(SMALL_FILE_BYTES).await.unwrap());
        }
        assert!(ready(memory.room(1)).is_none());
        held.pop();
        assert!(ready(memory.room(1)).is_some());
    }

    /// The result of a future that is ready at once.
    fn ready<T>(future: impl Future<Output = Option<T>>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => None,
        }
    }
}
