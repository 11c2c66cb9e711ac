//! Bytes of a connection into frames, without knowing where the bytes come from.

use crate::frame::{FrameError, Header, RESPONSE_BIT};
use crate::ids::RequestId;
use crate::limits::HEADER_LEN;
use crate::message::Kind;
use crate::message::cluster::ErrorReply;
use crate::session::mac::{FrameMac, TAG_LEN};

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

/// What came is not a frame; the connection is out of step and must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct BadFrame {
    /// What is wrong.
    pub error: FrameError,
    /// The header to answer with, when enough of a request was understood.
    pub answer: Option<Header>,
}

/// Cuts the bytes of one connection into frames.
///
/// Repeat: read at most `space().len()` bytes into [`FrameReader::space`], tell how many with
/// [`FrameReader::filled`], and ask [`FrameReader::take`] for a complete frame. When that has a
/// payload, read exactly [`FrameReader::payload_left`] bytes straight to where they belong and tell
/// each read with [`FrameReader::payload_taken`]; until then `space` is empty. The reader never
/// holds payload. Between header and body, [`FrameReader::header`] says what is coming.
///
/// ```
/// use protocol::frame::Header;
/// use protocol::ids::{ClusterId, RequestId};
/// use protocol::message::Kind;
/// use protocol::session::FrameReader;
///
/// let tag = ClusterId(7).tag();
/// let header = Header { cluster_tag: tag, ..Header::new(Kind::Status, RequestId(1)) };
/// let bytes = header.seal(b"body", 0).encode();
/// let mut reader = FrameReader::new(tag);
/// reader.space()[..64].copy_from_slice(&bytes);
/// reader.filled(64)?;
/// assert_eq!(reader.take()?, None);
/// reader.space()[..4].copy_from_slice(b"body");
/// reader.filled(4)?;
/// let frame = reader.take()?.expect("complete");
/// assert_eq!(frame.body, b"body");
/// # Ok::<(), protocol::session::BadFrame>(())
/// ```
#[derive(Debug)]
pub struct FrameReader {
    cluster_tag: u32,
    /// Outside of TLS: the tags of the peer's frames.
    mac: Option<FrameMac>,
    header: Option<Header>,
    filled: usize,
    bytes: [u8; HEADER_LEN],
    body: Vec<u8>,
    payload_left: usize,
}

impl FrameReader {
    /// Makes a reader at the start of a frame; frames must carry this cluster tag.
    pub fn new(cluster_tag: u32) -> FrameReader {
        FrameReader {
            cluster_tag,
            mac: None,
            header: None,
            filled: 0,
            bytes: [0; HEADER_LEN],
            body: Vec::new(),
            payload_left: 0,
        }
    }

    /// Demands from now on that every frame carries its peer's tag.
    ///
    /// # Panics
    /// Inside of a frame.
    pub fn authenticate(&mut self, mac: FrameMac) {
        assert!(!self.inside_frame(), "TLS ends between two frames");
        self.mac = Some(mac);
    }

    /// Where the next bytes of header or body go; empty while a frame or its payload is due.
    pub fn space(&mut self) -> &mut [u8] {
        if self.payload_left > 0 {
            return &mut [];
        }
        match &self.header {
            None => &mut self.bytes[self.filled..],
            Some(header) => {
                // A peer that announces a long body and sends nothing costs one step of memory.
                let len = self.due(header).min(self.filled + BODY_STEP);
                self.body.resize(len, 0);
                &mut self.body[self.filled..]
            }
        }
    }

    /// Takes note that the first `len` bytes of [`FrameReader::space`] were written.
    ///
    /// # Errors
    /// [`BadFrame`]: the header is not acceptable.
    ///
    /// # Panics
    /// When `len` is more than the space there was.
    pub fn filled(&mut self, len: usize) -> Result<(), BadFrame> {
        assert!(len <= self.space().len(), "more bytes than space");
        self.filled += len;
        if self.header.is_none() && self.filled == HEADER_LEN {
            self.header = Some(self.check_header()?);
            self.filled = 0;
        }
        Ok(())
    }

    /// The checked header of the frame whose body is arriving.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Takes the frame whose header and body are complete.
    ///
    /// # Errors
    /// [`BadFrame`]: the body is damaged.
    pub fn take(&mut self) -> Result<Option<Received>, BadFrame> {
        let complete = |header: &Header| self.filled == self.due(header);
        let Some(header) = self.header.filter(complete) else { return Ok(None) };
        let mut body = std::mem::take(&mut self.body);
        if let Some(mac) = &mut self.mac {
            let (text, tag) = body.split_at(header.body_len as usize);
            let sound = mac.check(&self.bytes, text, tag);
            sound.map_err(|error| BadFrame { error, answer: None })?;
            body.truncate(header.body_len as usize);
        }
        header.check_body(&body).map_err(|error| self.after(&header, error))?;
        self.header = None;
        self.filled = 0;
        self.payload_left = header.payload_len as usize;
        Ok(Some(Received { header, body }))
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

    /// True when part of a frame has arrived and the rest has not; a connection that ends there is
    /// [`FrameError::Truncated`].
    pub fn inside_frame(&self) -> bool {
        self.header.is_some() || self.filled > 0 || self.payload_left > 0
    }

    /// Bytes between the header and the payload.
    fn due(&self, header: &Header) -> usize {
        header.body_len as usize + if self.mac.is_some() { TAG_LEN } else { 0 }
    }

    fn check_header(&self) -> Result<Header, BadFrame> {
        let header = Header::decode(&self.bytes)
            .map_err(|error| BadFrame { error, answer: self.answer_to(error) })?;
        if header.cluster_tag != self.cluster_tag {
            return Err(self.after(&header, FrameError::Cluster(header.cluster_tag)));
        }
        Ok(header)
    }

    /// An error in a frame whose header is understood.
    fn after(&self, header: &Header, error: FrameError) -> BadFrame {
        let wants_answer = !header.response && header.request.0 != 0;
        BadFrame { error, answer: wants_answer.then(|| self.answer(header, error)) }
    }

    /// The answer to a request whose header is intact and still not acceptable.
    ///
    /// Magic, version and checksum must be right, else nothing in the header means anything; and
    /// the kind must be known, because the answer repeats it.
    fn answer_to(&self, error: FrameError) -> Option<Header> {
        if matches!(error, FrameError::Magic(_) | FrameError::Version(_) | FrameError::HeaderSum) {
            return None;
        }
        let code = u16::from_le_bytes([self.bytes[6], self.bytes[7]]);
        let kind = Kind::from_code(code)?;
        let mut request = [0; 8];
        request.copy_from_slice(&self.bytes[16..24]);
        let request = RequestId(u64::from_le_bytes(request));
        debug_assert_eq!(code & RESPONSE_BIT, 0, "a kind has no response bit");
        (request.0 != 0).then(|| self.answer(&Header::new(kind, request), error))
    }

    fn answer(&self, request: &Header, error: FrameError) -> Header {
        Header { cluster_tag: self.cluster_tag, ..request.reply(error.status()) }
    }
}

impl BadFrame {
    /// The answer to send before the connection is closed, when somebody waits for one.
    pub fn reply(&self) -> Option<(Header, Vec<u8>)> {
        let text = ErrorReply::new(self.error.status(), self.error.to_string());
        let body = text.encode();
        self.answer.map(|header| (header.seal(&body, 0), body))
    }
}
