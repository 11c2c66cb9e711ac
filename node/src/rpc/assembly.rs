//! Bytes in any portions become checked frames.
//!
//! The payload goes from the source straight into memory the device can write from: that is the
//! only copy of it on its way in.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::rc::Rc;

use protocol::limits::IO_ALIGN;
use protocol::session::{BadFrame, FrameMac, FrameReader, Received};

use crate::io::{Buffer, Disk, Incoming};

/// Puts frames together: [`FrameReader`] for header and body, a device buffer for the payload.
pub struct Assembly<D: Disk> {
    reader: FrameReader,
    partial: Option<Partial<D>>,
}

/// A frame whose payload is arriving.
struct Partial<D: Disk> {
    frame: Received,
    buffer: D::Buffer,
    have: usize,
}

/// Why the source gave no more.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The peer broke the protocol.
    #[error(transparent)]
    Frame(#[from] BadFrame),
    /// The source failed.
    #[error(transparent)]
    Source(#[from] io::Error),
}

/// What one call to [`Assembly::fill`] took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Bytes taken from the source.
    pub bytes: usize,
    /// Bytes of payload among them.
    pub payload: usize,
    /// True when the source has ended.
    pub ended: bool,
}

impl<D: Disk> Assembly<D> {
    /// Starts at the beginning of a frame; frames must carry this cluster tag.
    pub fn new(cluster_tag: u32) -> Assembly<D> {
        Assembly { reader: FrameReader::new(cluster_tag), partial: None }
    }

    /// True when part of a frame has arrived and the rest has not.
    pub fn inside_frame(&self) -> bool {
        self.reader.inside_frame()
    }

    /// Demands from now on that every frame carries its peer's tag.
    ///
    /// # Panics
    /// Inside of a frame.
    pub fn authenticate(&mut self, mac: FrameMac) {
        self.reader.authenticate(mac);
    }

    /// Takes what the source has and appends every frame that is complete to `frames`.
    ///
    /// # Errors
    /// [`AssemblyError`]; nothing more can be read from the connection after one.
    pub fn fill(
        &mut self,
        source: &mut dyn Read,
        disk: &D,
        frames: &mut VecDeque<Incoming<D>>,
    ) -> Result<Filled, AssemblyError> {
        let mut filled = Filled::default();
        loop {
            let payload = self.partial.is_some();
            match source.read(self.space()) {
                Ok(0) => return Ok(Filled { ended: true, ..filled }),
                Ok(taken) => {
                    filled.bytes += taken;
                    filled.payload += if payload { taken } else { 0 };
                    frames.extend(self.advance(taken, disk)?);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(filled),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where the next bytes go; never empty, because a complete frame is taken at once.
    fn space(&mut self) -> &mut [u8] {
        match &mut self.partial {
            Some(Partial { frame, buffer, have }) => {
                &mut buffer.bytes_mut()[*have..frame.header.payload_len as usize]
            }
            None => self.reader.space(),
        }
    }

    /// Takes note of bytes that arrived, and gives the frame that they complete.
    fn advance(&mut self, taken: usize, disk: &D) -> Result<Option<Incoming<D>>, BadFrame> {
        if let Some(partial) = &mut self.partial {
            partial.have += taken;
            self.reader.payload_taken(taken);
        } else {
            self.reader.filled(taken)?;
            let Some(frame) = self.reader.take()? else { return Ok(None) };
            if frame.header.payload_len == 0 {
                let Received { header, body } = frame;
                return Ok(Some(Incoming { header, body, payload: None }));
            }
            let buffer = disk.allocate(frame.header.payload_len as usize);
            self.partial = Some(Partial { frame, buffer, have: 0 });
        }
        let complete = self.reader.payload_left() == 0;
        Ok(self.partial.take_if(|_| complete).map(Partial::finish))
    }
}

impl<D: Disk> Partial<D> {
    /// The frame, with zeros from the end of its payload to the end of the last sector.
    fn finish(self) -> Incoming<D> {
        let Partial { frame: Received { header, body }, mut buffer, have } = self;
        buffer.bytes_mut()[have..have.next_multiple_of(IO_ALIGN)].fill(0);
        Incoming { header, body, payload: Some(Rc::new(buffer)) }
    }
}

#[cfg(test)]
mod tests;
