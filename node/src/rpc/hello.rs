//! The first exchange of a connection: version, features, cluster.
//!
//! Identity is not decided here: it comes from the certificates.

use protocol::frame::{Header, VERSION};
use protocol::ids::{ClusterId, RequestId, TargetId};
use protocol::limits::REQUESTS_IN_FLIGHT_MAX;
use protocol::message::cluster::{ErrorReply, HelloReply, HelloRequest};
use protocol::message::{Kind, Message};
use protocol::status::Status;

use crate::io::{Disk, Incoming, Outgoing, Payload};

/// Feature bits this release has.
const FEATURES: u64 = 0;

/// Why a hello was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first frame was something else, or not readable.
    #[error("first frame is not a hello")]
    NotHello,
    /// No version both speak.
    #[error("peer speaks versions {min} to {max}, this release speaks {VERSION}")]
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
    #[error("peer refused the hello: {status:?}: {text}")]
    Refused {
        /// As the peer answered.
        status: Status,
        /// As the peer explains.
        text: String,
    },
}

/// The hello to send on a connection made from here.
pub fn request<D: Disk>(cluster: ClusterId, target: TargetId) -> Outgoing<D> {
    let hello = HelloRequest {
        version_min: VERSION,
        version_max: VERSION,
        features: FEATURES,
        cluster,
        target,
    };
    seal(Header::new(Kind::Hello, RequestId(1)), cluster, hello.encode())
}

/// Checks the first frame of a connection made by the peer and gives the answer to send.
///
/// The target the peer means is not compared: the shard answers requests for other targets itself,
/// with the right port.
pub fn answer<D: Disk>(
    cluster: ClusterId,
    frame: &Incoming<D>,
) -> (Outgoing<D>, Option<HelloError>) {
    let header = frame.header;
    let verdict = check(cluster, frame);
    let (status, body) = match &verdict {
        Ok(()) => (Status::Ok, accepted().encode()),
        Err(error) => (error.status(), refusal(error).encode()),
    };
    (seal(header.reply(status), cluster, body), verdict.err())
}

/// Checks the peer's answer to our hello.
///
/// # Errors
/// [`HelloError::Refused`] or [`HelloError::NotHello`].
pub fn accept<D: Disk>(frame: &Incoming<D>) -> Result<HelloReply, HelloError> {
    let header = frame.header;
    if header.kind != Kind::Hello || !header.response {
        return Err(HelloError::NotHello);
    }
    if header.status != Status::Ok {
        let text = ErrorReply::decode(&frame.body).map(|reply| reply.text).unwrap_or_default();
        return Err(HelloError::Refused { status: header.status, text });
    }
    HelloReply::decode(&frame.body).map_err(|_| HelloError::NotHello)
}

fn check<D: Disk>(cluster: ClusterId, frame: &Incoming<D>) -> Result<(), HelloError> {
    if frame.header.kind != Kind::Hello || frame.header.response {
        return Err(HelloError::NotHello);
    }
    let hello = HelloRequest::decode(&frame.body).map_err(|_| HelloError::NotHello)?;
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        return Err(HelloError::Version { min: hello.version_min, max: hello.version_max });
    }
    if hello.cluster != cluster {
        return Err(HelloError::Cluster(hello.cluster));
    }
    Ok(())
}

fn accepted() -> HelloReply {
    let requests_in_flight = u32::try_from(REQUESTS_IN_FLIGHT_MAX).unwrap_or(u32::MAX);
    HelloReply { version: VERSION, features: FEATURES, requests_in_flight }
}

fn refusal(error: &HelloError) -> ErrorReply {
    ErrorReply { text: error.to_string(), ..ErrorReply::default() }
}

fn seal<D: Disk>(mut header: Header, cluster: ClusterId, body: Vec<u8>) -> Outgoing<D> {
    header.cluster_tag = cluster.tag();
    Outgoing { header: header.seal(&body, 0), body, payload: Payload::empty() }
}

impl HelloError {
    fn status(&self) -> Status {
        match self {
            HelloError::Version { .. } => Status::BadVersion,
            HelloError::Cluster(_) => Status::BadCluster,
            HelloError::NotHello | HelloError::Refused { .. } => Status::BadFrame,
        }
    }
}
