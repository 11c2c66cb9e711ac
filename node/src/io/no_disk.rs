//! The disk of an executor that has none: only memory for payloads.

use crate::io::{Buffer, Disk, DiskError};
use protocol::limits::IO_ALIGN;
use std::rc::Rc;

/// A container of no bytes, for connections whose frames never reach a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDisk;

/// Ordinary memory; its start has no alignment, because no device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainBuffer(Vec<u8>);

impl Buffer for PlainBuffer {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Disk for NoDisk {
    type Buffer = PlainBuffer;
    type Read = Rc<[u8]>;

    fn capacity(&self) -> u64 {
        0
    }

    fn allocate(&self, len: usize) -> PlainBuffer {
        PlainBuffer(vec![0; len.next_multiple_of(IO_ALIGN)])
    }

    async fn read(&self, _offset: u64, _len: usize) -> Result<Rc<[u8]>, DiskError> {
        Err(DiskError::Closed)
    }

    async fn write(&self, _: u64, _: Rc<PlainBuffer>, _: usize) -> Result<(), DiskError> {
        Err(DiskError::Closed)
    }

    async fn flush(&self) -> Result<(), DiskError> {
        Err(DiskError::Closed)
    }
}
