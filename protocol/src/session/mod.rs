//! One connection, without I/O: frames, the hello, requests in flight.
//!
//! Owns everything the two ends of a connection must agree on beyond single messages. Knows no
//! socket and no clock: bytes come in through [`FrameReader`], frames through
//! [`Session::on_frame`], and time as an argument. Invariant: nothing but a hello is accepted
//! before the hello is done. Start at [`Session`].

mod outstanding;
mod reader;

#[cfg(test)]
mod tests;

pub use outstanding::{Credit, Full, Outstanding};
pub use reader::{FrameReader, Received};

use std::collections::BTreeSet;

use crate::frame::{Header, VERSION};
use crate::ids::{ClusterId, RequestId, TargetId};
use crate::limits::REQUESTS_IN_FLIGHT_MAX;
use crate::message::cluster::{HelloReply, HelloRequest};
use crate::message::{
    Context, Kind, Message, MessageError, error_frame, open, reply_frame, request_frame,
};
use crate::status::Status;

/// Oldest protocol version this release speaks.
pub const VERSION_MIN: u16 = VERSION;
/// Feature bit: the sender counts payload and sends none beyond what was granted.
pub const FEATURE_CREDIT: u64 = 1;
/// Feature bits this release has; a later one raises it.
pub const FEATURES: u64 = 0;

/// One end of a connection; `T` is what the sender of a request remembers about it.
///
/// - Commands: [`Session::connect`] and [`Session::accept`] start one, [`Session::request`] makes
///   a request, [`Session::answered`] frees the place of a peer's request.
/// - Events in: [`Session::on_frame`] for each received frame, [`Session::expire`] when time
///   passes, [`Session::end`] when the connection ends.
#[derive(Debug)]
pub struct Session<T> {
    cluster: ClusterId,
    features: u64,
    phase: Phase,
    outstanding: Outstanding<T>,
    serving: BTreeSet<RequestId>,
    credit: Credit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The peer must begin.
    AwaitHello,
    /// The hello was sent; only its answer may come.
    AwaitHelloReply,
    /// Everything may come.
    Open,
    /// An error ended the session; nothing may come.
    Closed,
}

/// What a received frame means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// The peer's hello is accepted: send this answer.
    Greeted {
        /// What the peer said.
        hello: HelloRequest,
        /// The answer: header and body.
        reply: (Header, Vec<u8>),
    },
    /// The own hello was accepted: requests may be sent.
    Opened(HelloReply),
    /// A request to serve; call [`Session::answered`] when its response was sent.
    Request,
    /// A notice.
    Notice,
    /// The answer to a request of this side.
    Response(T),
    /// The answer to a request that had expired: skip it and its payload.
    Late,
}

/// How the peer broke the rules; the connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Something else came before the hello was done.
    #[error("expected a hello first, got {0:?}")]
    NoHello(Kind),
    /// A second hello came.
    #[error("second hello on one connection")]
    SecondHello,
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
    /// The peer belongs to another cluster.
    #[error("peer belongs to cluster {0}")]
    Cluster(ClusterId),
    /// A response to nothing that was asked.
    #[error("response to {kind:?} {request}, which is not in flight")]
    Unmatched {
        /// Its kind.
        kind: Kind,
        /// The id it carries.
        request: RequestId,
    },
    /// The peer has more requests in flight than it may, or two with one id.
    #[error("request {0} is one too many in flight, or its id is taken")]
    TooMany(RequestId),
    /// A response to a notice, or a notice with a request's id.
    #[error("{0:?} has no such direction")]
    Direction(Kind),
    /// A frame came after the session was closed.
    #[error("frame after the session was closed")]
    Closed,
    /// The hello itself is not acceptable.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl SessionError {
    /// The status to answer with before closing.
    pub fn status(&self) -> Status {
        match self {
            SessionError::Version { .. } => Status::BadVersion,
            SessionError::Cluster(_) => Status::BadCluster,
            SessionError::Message(error) => error.status(),
            _ => Status::BadFrame,
        }
    }

    /// The answer to send before closing, when the peer asked something.
    pub fn reply(&self, header: &Header) -> Option<(Header, Vec<u8>)> {
        let asks = !header.response && !header.kind.is_notice();
        asks.then(|| error_frame(header, self.status(), &self.to_string()))
    }
}

impl<T> Session<T> {
    /// Starts the end that opened the connection; the frame is its hello, to be sent first.
    pub fn connect(cluster: ClusterId, target: TargetId) -> (Session<T>, (Header, Vec<u8>)) {
        let hello = HelloRequest {
            version_min: VERSION_MIN,
            version_max: VERSION,
            features: FEATURES,
            cluster,
            target,
        };
        let body = hello.encode();
        let tagged =
            Header { cluster_tag: cluster.tag(), ..Header::new(Kind::Hello, RequestId(0)) };
        (Session::new(cluster, Phase::AwaitHelloReply), (tagged.seal(&body, 0), body))
    }

    /// Starts the end that accepted the connection.
    pub fn accept(cluster: ClusterId) -> Session<T> {
        Session::new(cluster, Phase::AwaitHello)
    }

    /// Takes one received frame.
    ///
    /// # Errors
    /// [`SessionError`]: send [`SessionError::reply`] if there is one, then close.
    pub fn on_frame(&mut self, header: &Header, body: &[u8]) -> Result<Event<T>, SessionError> {
        let event = match self.phase {
            Phase::AwaitHello => self.on_hello(header, body),
            Phase::AwaitHelloReply => self.on_hello_reply(header, body),
            Phase::Open => self.on_open(header),
            Phase::Closed => Err(SessionError::Closed),
        };
        if event.is_err() {
            self.phase = Phase::Closed;
        }
        event
    }

    /// Makes a request and takes note of it.
    ///
    /// # Errors
    /// - [`RequestError::NotOpen`]: the hello is not done.
    /// - [`RequestError::Full`]: wait for an answer.
    /// - [`RequestError::NoCredit`]: wait for a grant.
    /// - [`RequestError::Message`]: it does not fit a frame.
    pub fn request<M: Message>(
        &mut self,
        message: &M,
        mut context: Context,
        now_ms: u64,
        deadline_ms: u32,
        remember: T,
    ) -> Result<(Header, Vec<u8>), RequestError> {
        if self.phase != Phase::Open {
            return Err(RequestError::NotOpen);
        }
        context.cluster_tag = self.cluster.tag();
        // Made first, so that a message that does not fit takes no place.
        let (mut header, body) = request_frame(RequestId(0), message, context, deadline_ms)?;
        self.outstanding.room()?;
        if !self.credit.take(header.payload_len) {
            return Err(RequestError::NoCredit);
        }
        let deadline = now_ms.saturating_add(deadline_ms.into());
        header.request = self.outstanding.start(M::KIND, deadline, remember)?;
        Ok((header, body))
    }

    /// Takes note that a peer's request was answered.
    pub fn answered(&mut self, request: RequestId) {
        self.serving.remove(&request);
    }

    /// Gives back what was remembered of every request whose deadline has passed.
    pub fn expire(&mut self, now_ms: u64) -> Vec<(RequestId, T)> {
        self.outstanding.expire(now_ms)
    }

    /// Ends the session and gives back what was remembered of every request in flight.
    pub fn end(&mut self) -> Vec<(RequestId, T)> {
        self.phase = Phase::Closed;
        self.outstanding.drain()
    }

    /// True once requests may be sent.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Feature bits both sides have.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The requests of this side.
    pub fn outstanding(&self) -> &Outstanding<T> {
        &self.outstanding
    }

    /// Requests of the peer that were not answered yet.
    pub fn serving(&self) -> usize {
        self.serving.len()
    }

    fn new(cluster: ClusterId, phase: Phase) -> Session<T> {
        Session {
            cluster,
            features: 0,
            phase,
            outstanding: Outstanding::default(),
            serving: BTreeSet::new(),
            credit: Credit::UNLIMITED,
        }
    }

    fn on_hello(&mut self, header: &Header, body: &[u8]) -> Result<Event<T>, SessionError> {
        if header.kind != Kind::Hello || header.response {
            return Err(SessionError::NoHello(header.kind));
        }
        let hello: HelloRequest = open(header, body)?;
        if hello.cluster != self.cluster {
            return Err(SessionError::Cluster(hello.cluster));
        }
        if hello.version_max < VERSION_MIN || hello.version_min > VERSION {
            return Err(SessionError::Version { min: hello.version_min, max: hello.version_max });
        }
        let reply = HelloReply {
            version: hello.version_max.min(VERSION),
            features: hello.features & FEATURES,
            requests_in_flight: u32::try_from(REQUESTS_IN_FLIGHT_MAX).unwrap_or(u32::MAX),
        };
        self.open(reply.features);
        Ok(Event::Greeted { hello, reply: reply_frame(header, &reply) })
    }

    fn on_hello_reply(&mut self, header: &Header, body: &[u8]) -> Result<Event<T>, SessionError> {
        if header.kind != Kind::Hello || !header.response {
            return Err(SessionError::NoHello(header.kind));
        }
        let reply: HelloReply = open(header, body)?;
        if !(VERSION_MIN..=VERSION).contains(&reply.version) {
            return Err(SessionError::Version { min: reply.version, max: reply.version });
        }
        self.outstanding.limit(reply.requests_in_flight);
        self.open(reply.features & FEATURES);
        self.credit.grant(header);
        Ok(Event::Opened(reply))
    }

    fn on_open(&mut self, header: &Header) -> Result<Event<T>, SessionError> {
        if header.kind == Kind::Hello {
            return Err(SessionError::SecondHello);
        }
        self.credit.grant(header);
        match (header.kind.is_notice(), header.response) {
            (true, false) if header.request == RequestId(0) => Ok(Event::Notice),
            (true, _) => Err(SessionError::Direction(header.kind)),
            (false, true) => Ok(match self.outstanding.complete(header)? {
                Some(remembered) => Event::Response(remembered),
                None => Event::Late,
            }),
            (false, false) => {
                let full = self.serving.len() >= REQUESTS_IN_FLIGHT_MAX;
                if full || !self.serving.insert(header.request) {
                    return Err(SessionError::TooMany(header.request));
                }
                Ok(Event::Request)
            }
        }
    }

    fn open(&mut self, features: u64) {
        self.phase = Phase::Open;
        self.features = features;
        if features & FEATURE_CREDIT != 0 {
            self.credit = Credit::NONE;
        }
    }
}

/// Why a request cannot be sent now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The hello is not done, or the session is closed.
    #[error("connection is not open")]
    NotOpen,
    /// As many requests are in flight as the peer allows.
    #[error(transparent)]
    Full(#[from] Full),
    /// The peer has not granted enough payload.
    #[error("peer has granted no more payload")]
    NoCredit,
    /// The message does not fit a frame.
    #[error(transparent)]
    Message(#[from] MessageError),
}
