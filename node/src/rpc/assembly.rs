//! Bytes in any portions become checked frames.
//!
//! The payload goes from the source straight into memory the device can write from: that is the
//! only copy of it on its way in.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::rc::Rc;

use protocol::frame::{FrameError, Header, RESPONSE_BIT};
use protocol::limits::{HEADER_LEN, IO_ALIGN};
use protocol::message::Kind;

use crate::io::{Buffer, Disk, Incoming};

/// Puts frames together.
pub struct Assembly<D: Disk> {
    stage: Stage<D>,
    cluster_tag: u32,
}

enum Stage<D: Disk> {
    Header { bytes: [u8; HEADER_LEN], have: usize },
    Body { header: Header, body: Vec<u8>, have: usize },
    Payload { header: Header, body: Vec<u8>, buffer: D::Buffer, have: usize },
}

/// What the peer sent is not a frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct BadFrame {
    /// What is wrong with it.
    pub error: FrameError,
    /// The header to answer with, when enough of the request was understood.
    pub answer: Option<Header>,
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
        Assembly { stage: Stage::start(), cluster_tag }
    }

    /// True when part of a frame has arrived and the rest has not.
    pub fn inside_frame(&self) -> bool {
        !matches!(self.stage, Stage::Header { have: 0, .. })
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
            while self.stage.is_full() {
                self.advance(disk, frames)?;
            }
            let payload = matches!(self.stage, Stage::Payload { .. });
            match self.stage.take(source) {
                Ok(0) => return Ok(Filled { ended: true, ..filled }),
                Ok(taken) => {
                    filled.bytes += taken;
                    filled.payload += if payload { taken } else { 0 };
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(filled),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Turns a full stage into the next one, or into a frame.
    fn advance(
        &mut self,
        disk: &D,
        frames: &mut VecDeque<Incoming<D>>,
    ) -> Result<(), AssemblyError> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::start()) {
            Stage::Header { bytes, .. } => {
                let header = self.check_header(&bytes)?;
                Stage::Body { header, body: vec![0; header.body_len as usize], have: 0 }
            }
            Stage::Body { header, body, .. } => {
                header.check_body(&body).map_err(|error| BadFrame::after(&header, error))?;
                match header.payload_len as usize {
                    0 => {
                        frames.push_back(Incoming { header, body, payload: None });
                        Stage::start()
                    }
                    len => Stage::Payload { header, body, buffer: disk.allocate(len), have: 0 },
                }
            }
            Stage::Payload { header, body, mut buffer, .. } => {
                let len = header.payload_len as usize;
                buffer.bytes_mut()[len..len.next_multiple_of(IO_ALIGN)].fill(0);
                frames.push_back(Incoming { header, body, payload: Some(Rc::new(buffer)) });
                Stage::start()
            }
        };
        Ok(())
    }

    fn check_header(&self, bytes: &[u8; HEADER_LEN]) -> Result<Header, BadFrame> {
        let header = Header::decode(bytes)
            .map_err(|error| BadFrame { error, answer: answer_to(bytes, error) })?;
        if header.cluster_tag != self.cluster_tag {
            return Err(BadFrame::after(&header, FrameError::Cluster(header.cluster_tag)));
        }
        Ok(header)
    }
}

impl<D: Disk> Stage<D> {
    fn start() -> Stage<D> {
        Stage::Header { bytes: [0; HEADER_LEN], have: 0 }
    }

    fn is_full(&self) -> bool {
        match self {
            Stage::Header { have, .. } => *have == HEADER_LEN,
            Stage::Body { body, have, .. } => *have == body.len(),
            Stage::Payload { header, have, .. } => *have == header.payload_len as usize,
        }
    }

    fn take(&mut self, source: &mut dyn Read) -> io::Result<usize> {
        let (room, have) = match self {
            Stage::Header { bytes, have } => (&mut bytes[..], have),
            Stage::Body { body, have, .. } => (&mut body[..], have),
            Stage::Payload { header, buffer, have, .. } => {
                (&mut buffer.bytes_mut()[..header.payload_len as usize], have)
            }
        };
        let taken = source.read(&mut room[*have..])?;
        *have += taken;
        Ok(taken)
    }
}

impl BadFrame {
    fn after(header: &Header, error: FrameError) -> BadFrame {
        let wants_answer = !header.response && header.request.0 != 0;
        BadFrame { error, answer: wants_answer.then(|| header.reply(error.status())) }
    }
}

/// The answer to a request whose header is intact and still not acceptable.
///
/// Magic, version and checksum must be right, else nothing in the header means anything; and the
/// kind must be known, because the answer repeats it.
fn answer_to(bytes: &[u8; HEADER_LEN], error: FrameError) -> Option<Header> {
    if matches!(error, FrameError::Magic(_) | FrameError::Version(_) | FrameError::HeaderSum) {
        return None;
    }
    let code = u16::from_le_bytes([bytes[6], bytes[7]]);
    let kind = Kind::from_code(code)?;
    let mut request = [0; 8];
    request.copy_from_slice(&bytes[16..24]);
    let request = protocol::ids::RequestId(u64::from_le_bytes(request));
    debug_assert_eq!(code & RESPONSE_BIT, 0, "a kind has no response bit");
    (request.0 != 0).then(|| Header::new(kind, request).reply(error.status()))
}

#[cfg(test)]
mod tests;
