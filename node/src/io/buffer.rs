//! Payload bytes on their way between network and device, without copies.

use std::rc::Rc;

use smallvec::{SmallVec, smallvec};

use super::{Buffer, Disk};

/// A payload as a list of pieces, each a range of memory that someone else also may hold.
pub struct Payload<D: Disk> {
    /// Nearly every payload is one piece.
    pieces: SmallVec<[Piece<D>; 1]>,
}

/// One contiguous range of shared memory.
pub enum Piece<D: Disk> {
    /// Part of a buffer that was received or filled here.
    Buffer {
        /// The memory.
        buffer: Rc<D::Buffer>,
        /// First byte.
        start: usize,
        /// Length in bytes.
        len: usize,
    },
    /// Part of what a device read returned.
    Read {
        /// The memory.
        read: D::Read,
        /// First byte.
        start: usize,
        /// Length in bytes.
        len: usize,
    },
    /// Zeros: a hole.
    Zeros {
        /// Length in bytes.
        len: usize,
    },
}

/// Longest run of zeros that [`Piece::chunks`] yields at a time.
const ZEROS: [u8; 4096] = [0; 4096];

impl<D: Disk> Payload<D> {
    /// No payload.
    pub fn empty() -> Payload<D> {
        Payload { pieces: SmallVec::new() }
    }

    /// The first `len` bytes of a buffer.
    pub fn from_buffer(buffer: Rc<D::Buffer>, len: usize) -> Payload<D> {
        Payload { pieces: smallvec![Piece::Buffer { buffer, start: 0, len }] }
    }

    /// Adds a piece at the end; one of length 0 is left out.
    pub fn push(&mut self, piece: Piece<D>) {
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> &[Piece<D>] {
        &self.pieces
    }

    /// Sum of the pieces' lengths, in bytes.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// True when there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Every contiguous run of bytes, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().flat_map(Piece::chunks)
    }

    /// Copies the bytes out: for tests and for rare paths that say so.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.pieces.iter().map(Piece::len).sum());
        self.chunks().for_each(|run| bytes.extend_from_slice(run));
        bytes
    }
}

impl<D: Disk> Clone for Payload<D> {
    fn clone(&self) -> Self {
        Payload { pieces: self.pieces.clone() }
    }
}

impl<D: Disk> Piece<D> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Piece::Buffer { len, .. } | Piece::Read { len, .. } | Piece::Zeros { len } => *len,
        }
    }

    /// True when there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes as contiguous runs, in order; only zeros take more than one.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let (whole, zeros) = match self {
            Piece::Buffer { buffer, start, len } => (&buffer.bytes()[*start..start + len], 0),
            Piece::Read { read, start, len } => (&read[*start..start + len], 0),
            Piece::Zeros { len } => (&ZEROS[..0], *len),
        };
        let runs =
            (0..zeros).step_by(ZEROS.len()).map(move |at| &ZEROS[..ZEROS.len().min(zeros - at)]);
        std::iter::once(whole).filter(|run| !run.is_empty()).chain(runs)
    }
}

impl<D: Disk> Clone for Piece<D> {
    fn clone(&self) -> Self {
        match self {
            Piece::Buffer { buffer, start, len } => {
                Piece::Buffer { buffer: Rc::clone(buffer), start: *start, len: *len }
            }
            Piece::Read { read, start, len } => {
                Piece::Read { read: read.clone(), start: *start, len: *len }
            }
            Piece::Zeros { len } => Piece::Zeros { len: *len },
        }
    }
}
