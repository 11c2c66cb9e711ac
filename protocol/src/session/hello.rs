//! The first exchange of a connection: version, features, cluster.
//!
//! Identity is not decided here: it comes from the certificates.

use crate::frame::{Header, VERSION};
use crate::ids::{ClusterId, RequestId, TargetId};
use crate::limits::REQUESTS_IN_FLIGHT_MAX;
use crate::message::cluster::{ErrorReply, HelloReply, HelloRequest};
use crate::message::{Kind, Message, MessageError, error_frame, open, reply_frame};
use crate::status::Status;

/// Oldest protocol version this release speaks.
pub const VERSION_MIN: u16 = VERSION;
/// The connection leaves TLS after the hello, and every frame carries a tag: see
/// [`FrameMac`](super::FrameMac). Bit 0 is kept for credit.
pub const FEATURE_CLEAR: u64 = 1 << 1;
/// Feature bits this release has; a later one raises it.
pub const FEATURES: u64 = FEATURE_CLEAR;

/// Why two processes do not talk to each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Something else came.
    #[error("expected a hello first, got {0:?}")]
    NotHello(Kind),
    /// The two sides have no protocol version in common.
    #[error(
        "peer speaks protocol versions {min} to {max}, this release {VERSION_MIN} to {VERSION}"
    )]
    Version {
        /// Oldest of the peer.
        min: u16,
        /// Newest of the peer.
        max: u16,
    },
    /// The peer means another cluster.
    #[error("peer belongs to cluster {0}")]
    Cluster(ClusterId),
    /// The peer refused ours.
    #[error("peer refused the hello: {status}: {text}")]
    Refused {
        /// As the peer answered.
        status: Status,
        /// As the peer explains.
        text: String,
    },
    /// The message itself cannot be read.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// What the side that opened the connection says first; `features` are those it wants.
pub fn offer(cluster: ClusterId, target: TargetId, features: u64) -> HelloRequest {
    HelloRequest {
        version_min: VERSION_MIN,
        version_max: VERSION,
        features: features & FEATURES,
        cluster,
        target,
    }
}

/// The same as a frame: request 1 of its connection.
pub fn request(cluster: ClusterId, target: TargetId, features: u64) -> (Header, Vec<u8>) {
    let body = offer(cluster, target, features).encode();
    let header = Header { cluster_tag: cluster.tag(), ..Header::new(Kind::Hello, RequestId(1)) };
    (header.seal(&body, 0), body)
}

/// Checks the first frame of a connection that a peer opened and says what to agree on.
///
/// The target the peer means is not compared: a shard answers requests for other targets itself,
/// with the right port. Of the features that the peer wants it gets those in `allowed`.
///
/// # Errors
/// [`HelloError`]: send [`answer`], then close.
pub fn check(
    cluster: ClusterId,
    allowed: u64,
    header: &Header,
    body: &[u8],
) -> Result<HelloReply, HelloError> {
    if header.kind != Kind::Hello || header.response {
        return Err(HelloError::NotHello(header.kind));
    }
    let hello: HelloRequest = open(header, body)?;
    if hello.version_max < VERSION_MIN || hello.version_min > VERSION {
        return Err(HelloError::Version { min: hello.version_min, max: hello.version_max });
    }
    if hello.cluster != cluster {
        return Err(HelloError::Cluster(hello.cluster));
    }
    Ok(HelloReply {
        version: hello.version_max.min(VERSION),
        features: hello.features & allowed & FEATURES,
        requests_in_flight: u32::try_from(REQUESTS_IN_FLIGHT_MAX).unwrap_or(u32::MAX),
    })
}

/// Makes the answer to the first frame; none when that was no request.
pub fn answer(
    header: &Header,
    verdict: &Result<HelloReply, HelloError>,
) -> Option<(Header, Vec<u8>)> {
    let asks = !header.response && !header.kind.is_notice();
    asks.then(|| match verdict {
        Ok(reply) => reply_frame(header, reply),
        Err(error) => error_frame(header, error.status(), &error.to_string()),
    })
}

/// Checks the peer's answer to our hello.
///
/// # Errors
/// [`HelloError`]: close the connection.
pub fn accept(header: &Header, body: &[u8]) -> Result<HelloReply, HelloError> {
    if header.kind != Kind::Hello || !header.response {
        return Err(HelloError::NotHello(header.kind));
    }
    accept_body(header.status, body)
}

/// As [`accept`], for an answer that was matched with the hello already.
///
/// # Errors
/// As [`accept`].
pub fn accept_body(status: Status, body: &[u8]) -> Result<HelloReply, HelloError> {
    if status != Status::Ok {
        let text = ErrorReply::decode(body).map(|reply| reply.text).unwrap_or_default();
        return Err(HelloError::Refused { status, text });
    }
    let reply = HelloReply::decode(body)?;
    if !(VERSION_MIN..=VERSION).contains(&reply.version) {
        return Err(HelloError::Version { min: reply.version, max: reply.version });
    }
    Ok(reply)
}

impl HelloError {
    /// The status to answer with before closing.
    fn status(&self) -> Status {
        match self {
            HelloError::Version { .. } => Status::BadVersion,
            HelloError::Cluster(_) => Status::BadCluster,
            HelloError::Message(error) => error.status(),
            HelloError::NotHello(_) | HelloError::Refused { .. } => Status::BadFrame,
        }
    }
}
