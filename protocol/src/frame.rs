//! The wire unit: a fixed 64-byte header, a structured body, raw payload bytes.
//!
//! One header serves requests, responses and notices. Everything is little-endian. The body is a
//! flatbuffer covered by `body_sum`; the payload is covered by the cell sums inside the body and
//! never passes through this module.

use crate::checksum::sum64;
use crate::guard::{self, Guard};
use crate::ids::{Epoch, MapVersion, RequestId};
use crate::limits::{BODY_LEN_MAX, BODY_LEN_MAX_LIST, HEADER_LEN, PAYLOAD_LEN_MAX};
use crate::message::Kind;
use crate::status::Status;

/// First four bytes of every frame: "LNFS".
pub const MAGIC: u32 = u32::from_le_bytes(*b"LNFS");
/// Version of the frame and the messages that this release speaks.
pub const VERSION: u16 = 1;
/// Set in the kind field of a response.
pub const RESPONSE_BIT: u16 = 0x8000;

/// Unit of the header's `credit` field, in bytes.
pub const CREDIT_UNIT: u32 = 64 << 10;

/// The fixed part of a frame, after it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// True in the answer to a request of this kind.
    pub response: bool,
    /// Length of the body, in bytes.
    pub body_len: u32,
    /// Length of the payload, in bytes.
    pub payload_len: u32,
    /// Correlates request and response; 0 in a notice.
    pub request: RequestId,
    /// Epoch of the group the body names; 0 where no group is meant.
    pub epoch: Epoch,
    /// Remaining time of the request, in milliseconds; 0 in responses and notices.
    pub deadline_ms: u32,
    /// Version of the sender's cluster map; 0 when it has none.
    pub map_version: MapVersion,
    /// Outcome; [`Status::Ok`] in requests.
    pub status: Status,
    /// Payload bytes the receiver may send in addition to earlier grants, in units of
    /// [`CREDIT_UNIT`].
    pub credit: u16,
    /// [`crate::ids::ClusterId::tag`] of the sender's cluster.
    pub cluster_tag: u32,
    /// Checksum of the body.
    pub body_sum: u64,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first four bytes are not [`MAGIC`].
    #[error("not a lanefs frame (magic {0:#010x})")]
    Magic(u32),
    /// The peer speaks another version.
    #[error("protocol version {0} is not supported (this release speaks {VERSION})")]
    Version(u16),
    /// The header does not match its checksum.
    #[error("damaged frame header")]
    HeaderSum,
    /// The kind is not known.
    #[error("unknown frame kind {0:#06x}")]
    Kind(u16),
    /// The status is not known.
    #[error("unknown frame status {0:#06x}")]
    Status(u16),
    /// The body is longer than this kind allows.
    #[error("frame body of {0} bytes is over the limit")]
    BodyLen(u32),
    /// The payload is longer than this kind allows.
    #[error("frame payload of {0} bytes is over the limit")]
    PayloadLen(u32),
    /// The frame is of another cluster.
    #[error("frame of another cluster (tag {0:#010x})")]
    Cluster(u32),
    /// The body does not match its checksum.
    #[error("damaged frame body")]
    BodySum,
    /// The tag of a frame outside of TLS is not its peer's.
    #[error("frame is not from the peer of this connection (wrong tag)")]
    Tag,
    /// The stream ended inside a frame.
    #[error("connection ended inside a frame")]
    Truncated,
}

impl FrameError {
    /// The status to answer with, where an answer is still possible.
    pub fn status(self) -> Status {
        match self {
            FrameError::Version(_) => Status::BadVersion,
            FrameError::Kind(_) => Status::Unsupported,
            FrameError::Cluster(_) => Status::BadCluster,
            _ => Status::BadFrame,
        }
    }
}

impl Header {
    /// Makes the header of a request or notice with everything optional left at zero.
    pub fn new(kind: Kind, request: RequestId) -> Header {
        Header {
            kind,
            response: false,
            body_len: 0,
            payload_len: 0,
            request,
            epoch: Epoch(0),
            deadline_ms: 0,
            map_version: MapVersion(0),
            status: Status::Ok,
            credit: 0,
            cluster_tag: 0,
            body_sum: 0,
        }
    }

    /// Makes the header of the answer to `self`.
    pub fn reply(&self, status: Status) -> Header {
        Header {
            response: true,
            status,
            epoch: self.epoch,
            cluster_tag: self.cluster_tag,
            ..Header::new(self.kind, self.request)
        }
    }

    /// Fills in length and checksum of the body.
    ///
    /// # Panics
    /// When the body is longer than a `u32` can say, which [`crate::message`] cannot produce.
    #[expect(clippy::expect_used, reason = "bodies are bounded by BODY_LEN_MAX_LIST")]
    pub fn seal(mut self, body: &[u8], payload_len: u32) -> Header {
        self.body_len = u32::try_from(body.len()).expect("body fits the frame");
        self.body_sum = sum64(body);
        self.payload_len = payload_len;
        self
    }

    /// Writes the header in wire form.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let kind = self.kind.code() | if self.response { RESPONSE_BIT } else { 0 };
        let mut out = [0u8; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&kind.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_len.to_le_bytes());
        out[16..24].copy_from_slice(&self.request.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[28..32].copy_from_slice(&self.deadline_ms.to_le_bytes());
        out[32..40].copy_from_slice(&self.map_version.0.to_le_bytes());
        out[40..42].copy_from_slice(&self.status.code().to_le_bytes());
        out[42..44].copy_from_slice(&self.credit.to_le_bytes());
        out[44..48].copy_from_slice(&self.cluster_tag.to_le_bytes());
        out[48..56].copy_from_slice(&self.body_sum.to_le_bytes());
        let sum = sum64(&out[..56]);
        out[56..64].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// Each [`FrameError`] but [`FrameError::Cluster`], [`FrameError::BodySum`],
    /// [`FrameError::Tag`] and [`FrameError::Truncated`]. The magic is checked first, so plain text on the port is named as
    /// what it is.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let magic = read_u32(bytes, 0);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let version = read_u16(bytes, 4);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if sum64(&bytes[..56]) != read_u64(bytes, 56) {
            return Err(FrameError::HeaderSum);
        }
        let code = read_u16(bytes, 6);
        let kind = Kind::from_code(code & !RESPONSE_BIT).ok_or(FrameError::Kind(code))?;
        let status = read_u16(bytes, 40);
        let header = Header {
            kind,
            response: code & RESPONSE_BIT != 0,
            body_len: read_u32(bytes, 8),
            payload_len: read_u32(bytes, 12),
            request: RequestId(read_u64(bytes, 16)),
            epoch: Epoch(read_u32(bytes, 24)),
            deadline_ms: read_u32(bytes, 28),
            map_version: MapVersion(read_u64(bytes, 32)),
            status: Status::from_code(status).ok_or(FrameError::Status(status))?,
            credit: read_u16(bytes, 42),
            cluster_tag: read_u32(bytes, 44),
            body_sum: read_u64(bytes, 48),
        };
        header.check_lengths()?;
        Ok(header)
    }

    /// Compares a body with the checksum in the header.
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        let sound = sum64(body) == self.body_sum || !guard::holds(Guard::BodyHash);
        if body.len() == self.body_len as usize && sound {
            Ok(())
        } else {
            Err(FrameError::BodySum)
        }
    }

    fn check_lengths(&self) -> Result<(), FrameError> {
        let body_max = if self.kind.has_long_body() { BODY_LEN_MAX_LIST } else { BODY_LEN_MAX };
        if self.body_len as usize > body_max {
            return Err(FrameError::BodyLen(self.body_len));
        }
        let payload_max = if self.kind.has_payload(self.response) { PAYLOAD_LEN_MAX } else { 0 };
        if self.payload_len as usize > payload_max {
            return Err(FrameError::PayloadLen(self.payload_len));
        }
        Ok(())
    }
}

fn read_u16(bytes: &[u8; HEADER_LEN], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn read_u32(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn read_u64(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from(read_u32(bytes, at)) | (u64::from(read_u32(bytes, at + 4)) << 32)
}
