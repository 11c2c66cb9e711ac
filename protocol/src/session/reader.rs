//! Bytes of a connection into frames, without knowing where the bytes come from.

use crate::frame::{FrameError, Header};
use crate::ids::ClusterId;
use crate::limits::HEADER_LEN;

/// Most body bytes that are allocated before the ones already asked for have arrived.
const BODY_STEP: usize = 64 << 10;

/// Header and body of one received frame; its payload follows on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The checked header.
    pub header: Header,
    /// The body, which matches its checksum.
    pub body: Vec<u8>,
}

/// Cuts the bytes of one connection into frames.
///
/// Repeat: read at most `space().len()` bytes into [`FrameReader::space`], tell how many with
/// [`FrameReader::filled`]. When that returns a frame with a payload, read exactly
/// [`FrameReader::payload_left`] bytes straight to where they belong and tell each read with
/// [`FrameReader::payload_taken`]; until then `space` is empty. The reader never holds payload.
///
/// After an error the connection is out of step and must be closed.
///
/// ```
/// use protocol::frame::Header;
/// use protocol::ids::{ClusterId, RequestId};
/// use protocol::message::Kind;
/// use protocol::session::FrameReader;
///
/// let cluster = ClusterId(7);
/// let header = Header { cluster_tag: cluster.tag(), ..Header::new(Kind::Status, RequestId(1)) };
/// let bytes = header.seal(b"body", 0).encode();
/// let mut reader = FrameReader::new(cluster);
/// reader.space()[..64].copy_from_slice(&bytes);
/// assert_eq!(reader.filled(64)?, None);
/// reader.space()[..4].copy_from_slice(b"body");
/// let frame = reader.filled(4)?.expect("complete");
/// assert_eq!(frame.body, b"body");
/// # Ok::<(), protocol::frame::FrameError>(())
/// ```
#[derive(Debug)]
pub struct FrameReader {
    cluster_tag: u32,
    part: Part,
    filled: usize,
    bytes: [u8; HEADER_LEN],
    body: Vec<u8>,
    payload_left: usize,
}

#[derive(Debug)]
enum Part {
    Header,
    Body(Header),
}

impl FrameReader {
    /// Makes a reader at the start of a connection of the given cluster.
    pub fn new(cluster: ClusterId) -> FrameReader {
        FrameReader {
            cluster_tag: cluster.tag(),
            part: Part::Header,
            filled: 0,
            bytes: [0; HEADER_LEN],
            body: Vec::new(),
            payload_left: 0,
        }
    }

    /// Where the next bytes of header or body go; empty while payload is due.
    pub fn space(&mut self) -> &mut [u8] {
        if self.payload_left > 0 {
            return &mut [];
        }
        match &self.part {
            Part::Header => &mut self.bytes[self.filled..],
            Part::Body(header) => {
                // A peer that announces a long body and sends nothing costs one step of memory.
                let len = (header.body_len as usize).min(self.filled + BODY_STEP);
                self.body.resize(len, 0);
                &mut self.body[self.filled..]
            }
        }
    }

    /// Takes note that the first `len` bytes of [`FrameReader::space`] were written.
    ///
    /// # Errors
    /// [`FrameError`]: close the connection, after an error reply where one is possible.
    ///
    /// # Panics
    /// When `len` is more than the space there was.
    pub fn filled(&mut self, len: usize) -> Result<Option<Received>, FrameError> {
        assert!(len <= self.space().len(), "more bytes than space");
        self.filled += len;
        if matches!(self.part, Part::Header) && self.filled == HEADER_LEN {
            let header = Header::decode(&self.bytes)?;
            if header.cluster_tag != self.cluster_tag {
                return Err(FrameError::Cluster(header.cluster_tag));
            }
            self.part = Part::Body(header);
            self.filled = 0;
        }
        match self.part {
            Part::Body(header) if self.filled == header.body_len as usize => {
                self.finish(header).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Payload bytes of the newest frame that have not been read yet.
    pub fn payload_left(&self) -> usize {
        self.payload_left
    }

    /// Takes note that `len` payload bytes were read.
    ///
    /// # Panics
    /// When `len` is more than [`FrameReader::payload_left`].
    pub fn payload_taken(&mut self, len: usize) {
        assert!(len <= self.payload_left, "more bytes than payload");
        self.payload_left -= len;
    }

    /// Says whether the connection may end here.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] inside a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        let between = matches!(self.part, Part::Header) && self.filled == 0;
        if between && self.payload_left == 0 { Ok(()) } else { Err(FrameError::Truncated) }
    }

    fn finish(&mut self, header: Header) -> Result<Received, FrameError> {
        let body = std::mem::take(&mut self.body);
        header.check_body(&body)?;
        self.part = Part::Header;
        self.filled = 0;
        self.payload_left = header.payload_len as usize;
        Ok(Received { header, body })
    }
}
