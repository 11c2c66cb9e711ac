//! One connection: many requests in flight, answers in any order.
//!
//! A writer task sends frames from a bounded queue; a reader task takes frames apart and wakes
//! whoever waits for that request id. When either fails, every waiting call ends with
//! [`LinkFailure::Broken`] and the connection takes no more.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use protocol::frame::{FrameError, Header};
use protocol::ids::{ClusterId, RequestId};
use protocol::limits::{HEADER_LEN, REQUESTS_IN_FLIGHT_MAX};
use protocol::message::cluster::HelloReply;
use protocol::session::{BadFrame, FrameMac, FrameMacs, FrameReader, Received};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::limits::SEND_QUEUE_MAX;
use crate::plan::LinkFailure;
use crate::transport::tls::tls_error;
use crate::transport::{Answer, Call, CallError, Notice};

/// Number of the first request after the hello.
const FIRST_REQUEST: u64 = 2;

/// A connection that is open or was.
pub(super) struct Connection {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Outgoing>,
    reader: JoinHandle<()>,
}

struct Shared {
    cluster: ClusterId,
    next_request: AtomicU64,
    /// Requests that may be in flight; shrunk to what the server allows by its hello.
    in_flight: Semaphore,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    calls: BTreeMap<u64, oneshot::Sender<Result<Answer, CallError>>>,
    /// Why the connection ended, once it has.
    ended: Option<CallError>,
}

struct Outgoing {
    request: u64,
    head: Vec<u8>,
    payload: Bytes,
}

/// Takes a waiting call out of the table when its caller goes away.
struct Entry<'a> {
    shared: &'a Shared,
    request: u64,
}

impl Connection {
    /// Starts the two tasks of a connection on an established stream.
    pub(super) fn start<S>(
        stream: S,
        cluster: ClusterId,
        macs: Option<FrameMacs>,
        notices: Option<mpsc::Sender<Notice>>,
    ) -> Connection
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared {
            cluster,
            next_request: AtomicU64::new(FIRST_REQUEST),
            in_flight: Semaphore::new(REQUESTS_IN_FLIGHT_MAX),
            waiting: Mutex::new(Waiting { calls: BTreeMap::new(), ended: None }),
        });
        let (input, output) = tokio::io::split(stream);
        let (queue, outgoing) = mpsc::channel(SEND_QUEUE_MAX);
        let (sends, receives) = match macs {
            Some(FrameMacs { of_client, of_server }) => (Some(of_client), Some(of_server)),
            None => (None, None),
        };
        let mut frames = FrameReader::new(cluster.tag());
        if let Some(mac) = receives {
            frames.authenticate(mac);
        }
        tokio::spawn(write_frames(output, outgoing, sends, Arc::clone(&shared)));
        let reader = tokio::spawn(read_frames(input, frames, Arc::clone(&shared), notices));
        Connection { shared, queue, reader }
    }

    /// Keeps to the number of requests that the server allows.
    pub(super) fn on_hello(&self, reply: &HelloReply) {
        let allowed = usize::try_from(reply.requests_in_flight).unwrap_or(usize::MAX).max(1);
        self.shared.in_flight.forget_permits(REQUESTS_IN_FLIGHT_MAX.saturating_sub(allowed));
    }

    /// False once the connection has ended.
    pub(super) fn is_open(&self) -> bool {
        self.shared.waiting().ended.is_none()
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Cancel safety
    /// The request may have been sent; its answer is dropped.
    pub(super) async fn call(&self, call: Call) -> Result<Answer, CallError> {
        within(call.timeout, self.exchange(call)).await
    }

    async fn exchange(&self, call: Call) -> Result<Answer, CallError> {
        let closed = || self.shared.why_ended();
        let _permit = self.shared.in_flight.acquire().await.map_err(|_| closed())?;
        let request = self.shared.next_request.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let _entry = self.shared.wait_for(request, sender)?;
        let head = frame_head(&call, request, self.shared.cluster);
        let outgoing = Outgoing { request, head, payload: call.payload };
        if self.queue.send(outgoing).await.is_err() {
            return Err(closed());
        }
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The writer ends when its queue closes and says goodbye; the reader has nobody to wake.
        self.reader.abort();
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_ended(&self) -> CallError {
        let closed = || CallError::link(LinkFailure::Broken, "connection closed");
        self.waiting().ended.clone().unwrap_or_else(closed)
    }

    fn wait_for(
        &self,
        request: u64,
        sender: oneshot::Sender<Result<Answer, CallError>>,
    ) -> Result<Entry<'_>, CallError> {
        let mut waiting = self.waiting();
        if let Some(error) = &waiting.ended {
            return Err(error.clone());
        }
        waiting.calls.insert(request, sender);
        drop(waiting);
        Ok(Entry { shared: self, request })
    }

    /// Ends the connection: everyone who waits is told why.
    fn end(&self, error: &CallError) {
        let mut waiting = self.waiting();
        if waiting.ended.is_none() {
            waiting.ended = Some(error.clone());
        }
        let calls = std::mem::take(&mut waiting.calls);
        drop(waiting);
        for sender in calls.into_values() {
            // A caller that has gone away needs no answer.
            let _ = sender.send(Err(error.clone()));
        }
        self.in_flight.close();
    }

    fn answer(&self, request: RequestId, answer: Answer) {
        let sender = self.waiting().calls.remove(&request.0);
        if let Some(sender) = sender {
            // A caller that has gone away needs no answer.
            let _ = sender.send(Ok(answer));
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.shared.waiting().calls.remove(&self.request);
    }
}

/// Bounds the time of a call.
pub(super) async fn within<T>(
    time: Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(time, call).await {
        Ok(result) => result,
        Err(_) => Err(CallError::link(LinkFailure::TimedOut, "no answer in time")),
    }
}

fn frame_head(call: &Call, request: u64, cluster: ClusterId) -> Vec<u8> {
    let payload_len = u32::try_from(call.payload.len()).unwrap_or(u32::MAX);
    let header = Header {
        epoch: call.epoch,
        map_version: call.map_version,
        deadline_ms: u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX).max(1),
        cluster_tag: cluster.tag(),
        ..Header::new(call.kind, RequestId(request))
    };
    let mut head = Vec::with_capacity(HEADER_LEN + call.body.len());
    head.extend_from_slice(&header.seal(&call.body, payload_len).encode());
    head.extend_from_slice(&call.body);
    head
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut output: W,
    mut queue: mpsc::Receiver<Outgoing>,
    mut mac: Option<FrameMac>,
    shared: Arc<Shared>,
) {
    while let Some(mut outgoing) = queue.recv().await {
        // Whoever gave up while this waited in the queue does not want it sent.
        if !shared.waiting().calls.contains_key(&outgoing.request) {
            continue;
        }
        if let Some(mac) = &mut mac
            && let Some((header, body)) = outgoing.head.split_first_chunk()
        {
            let tag = mac.tag(header, body);
            outgoing.head.extend_from_slice(&tag);
        }
        if let Err(error) = write_frame(&mut output, outgoing, queue.is_empty()).await {
            shared.end(&tls_error(&error));
            return;
        }
    }
    if let Err(error) = output.shutdown().await {
        tracing::debug!(%error, "connection closed without goodbye");
    }
}

async fn write_frame<W: AsyncWrite + Unpin>(
    output: &mut W,
    outgoing: Outgoing,
    last: bool,
) -> io::Result<()> {
    // One system call for both where the stream takes several runs.
    output.write_all_buf(&mut Bytes::from(outgoing.head).chain(outgoing.payload)).await?;
    if last { output.flush().await } else { Ok(()) }
}

async fn read_frames<R: AsyncRead + Unpin>(
    mut input: R,
    mut frames: FrameReader,
    shared: Arc<Shared>,
    notices: Option<mpsc::Sender<Notice>>,
) {
    loop {
        match read_frame(&mut input, &mut frames).await {
            Ok(Frame::Answer(request, answer)) => shared.answer(request, answer),
            Ok(Frame::Notice(notice)) => {
                let kind = notice.kind;
                let taken = notices.as_ref().is_some_and(|queue| queue.try_send(notice).is_ok());
                tracing::debug!(?kind, taken, "notice");
            }
            Err(error) => {
                shared.end(&error);
                return;
            }
        }
    }
}

/// Reads one frame to its end, no byte further.
pub(super) async fn read_frame<R: AsyncRead + Unpin>(
    input: &mut R,
    frames: &mut FrameReader,
) -> Result<Frame, CallError> {
    let Received { header, body } = loop {
        let len = input.read(frames.space()).await.map_err(|error| tls_error(&error))?;
        if len == 0 {
            return Err(ended(frames));
        }
        frames.filled(len).map_err(frame_error)?;
        if let Some(received) = frames.take().map_err(frame_error)? {
            break received;
        }
    };
    let payload = read_bytes(input, frames).await?;
    if !header.response {
        return Ok(Frame::Notice(Notice { kind: header.kind, body }));
    }
    let answer = Answer {
        status: header.status,
        map_version: header.map_version,
        body,
        payload: payload.freeze(),
    };
    Ok(Frame::Answer(header.request, answer))
}

/// What comes in.
pub(super) enum Frame {
    Answer(RequestId, Answer),
    Notice(Notice),
}

/// Reads the payload of the newest frame into memory that is not cleared first.
async fn read_bytes<R: AsyncRead + Unpin>(
    input: &mut R,
    frames: &mut FrameReader,
) -> Result<BytesMut, CallError> {
    let len = frames.payload_left();
    let mut bytes = BytesMut::with_capacity(len);
    let mut rest = input.take(len as u64);
    while bytes.len() < len {
        let count = rest.read_buf(&mut bytes).await.map_err(|error| tls_error(&error))?;
        if count == 0 {
            return Err(ended(frames));
        }
        frames.payload_taken(count);
    }
    Ok(bytes)
}

fn frame_error(bad: BadFrame) -> CallError {
    CallError::Rejected { detail: bad.to_string() }
}

/// The server closed the connection, perhaps inside a frame.
fn ended(frames: &FrameReader) -> CallError {
    let truncated = FrameError::Truncated.to_string();
    let detail = if frames.inside_frame() { truncated } else { "closed by the server".into() };
    CallError::link(LinkFailure::Broken, detail)
}

#[cfg(test)]
mod tests;
