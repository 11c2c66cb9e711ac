//! One authenticated connection: `receive` reads and opens, one task seals and writes.
//!
//! Nothing is read while nobody calls `receive`, so a slow shard slows its peers instead of
//! filling its memory. No borrow is held across an `await`: both directions run inside `poll`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use protocol::frame::FrameError;
use protocol::ids::ClusterId;
use protocol::limits::REQUESTS_IN_FLIGHT_MAX;
use protocol::message::cluster::ErrorReply;
use protocol::status::Status;

use super::clock::BootClock;
use super::net::Scratch;
use super::take_turn;
use super::tls::{Received, Tags, Wire, WireError};
use crate::io::{Clock, Disk, Incoming, Link, NetError, Outgoing, Payload, PeerIdentity};
use crate::limits::{
    BYTES_PER_TURN, COPY_PAUSE_MAX_MS, HANDSHAKE_BYTES_MAX, SEAL_SLICE, SEND_BYTES_PER_TURN,
    SEND_SLICE,
};
use crate::rpc::assembly::{Assembly, AssemblyError};
use crate::rpc::pace::{Pace, TooSlow};
use crate::rpc::queue::SendQueue;

/// A connection over TLS, or one that left TLS after the hello.
pub struct GlommioLink<D: Disk> {
    core: Rc<Core<D>>,
    peer: PeerIdentity,
}

/// What both directions of a connection share.
pub(super) struct Core<D: Disk> {
    address: SocketAddr,
    cluster_tag: u32,
    wire: RefCell<Wire>,
    scratch: Scratch,
    disk: Rc<D>,
    assembly: RefCell<Assembly<D>>,
    ready: RefCell<VecDeque<Incoming<D>>>,
    queue: RefCell<SendQueue<D>>,
    pace: Cell<Pace>,
    /// Bytes per second to send at most; 0 for no limit.
    rate: Cell<u64>,
    state: Cell<State>,
    failure: RefCell<Option<NetError>>,
    in_flight: Cell<usize>,
    received_this_turn: Cell<usize>,
    handshake_bytes: Cell<usize>,
    /// The connection leaves TLS when what is queued has left.
    leaves_tls: Cell<bool>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Frames go both ways.
    Open,
    /// Closed here: what is queued still leaves, nothing is received.
    Closing,
    /// The socket is cut.
    Cut,
}

/// What the writing side did.
enum Wrote {
    /// So many bytes of frames were sealed, or sent as they are.
    Passed(usize),
    /// All is sent and the connection is closed.
    Finished,
}

impl<D: Disk> Core<D> {
    pub(super) fn new(
        (wire, address): (Wire, SocketAddr),
        cluster: ClusterId,
        disk: Rc<D>,
        scratch: Scratch,
    ) -> Rc<Core<D>> {
        Rc::new(Core {
            address,
            cluster_tag: cluster.tag(),
            wire: RefCell::new(wire),
            scratch,
            disk,
            assembly: RefCell::new(Assembly::new(cluster.tag())),
            ready: RefCell::default(),
            queue: RefCell::default(),
            pace: Cell::default(),
            rate: Cell::new(0),
            state: Cell::new(State::Open),
            failure: RefCell::default(),
            in_flight: Cell::new(0),
            received_this_turn: Cell::new(0),
            handshake_bytes: Cell::new(0),
            leaves_tls: Cell::new(false),
            reader: Cell::default(),
            writer: Cell::default(),
        })
    }

    /// Runs the TLS handshake to its end.
    pub(super) async fn handshake(&self) -> Result<(), NetError> {
        poll_fn(|context| self.poll_handshake(context)).await
    }

    /// The certificates the peer presented.
    pub(super) fn certificates<T>(
        &self,
        read: impl FnOnce(&[rustls::pki_types::CertificateDer<'static>]) -> T,
    ) -> T {
        let wire = self.wire.borrow();
        read(wire.tls().and_then(|tls| tls.peer_certificates()).unwrap_or_default())
    }

    /// Makes the link of a connection whose peer is known, and starts its writing side.
    pub(super) fn into_link(self: Rc<Self>, peer: PeerIdentity) -> Rc<GlommioLink<D>> {
        glommio::spawn_local(write_frames(Rc::clone(&self))).detach();
        Rc::new(GlommioLink { core: self, peer })
    }

    fn poll_handshake(&self, context: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        loop {
            let (_, flushed) = self.wire.borrow_mut().poll_flush(context);
            match flushed {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
                Poll::Pending => return Poll::Pending,
            }
            if !self.wire.borrow().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match self.poll_fill(context) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
    }

    /// Receives once and puts every complete frame into `ready`.
    fn poll_fill(&self, context: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        let room = match self.wire.borrow().is_handshaking() {
            true => HANDSHAKE_BYTES_MAX - self.handshake_bytes.get(),
            false => usize::MAX,
        };
        if room == 0 {
            return Poll::Ready(Err(NetError::Untrusted("handshake is too long".to_owned())));
        }
        match self.poll_open(context, room) {
            Poll::Ready(Ok(Received::Bytes(bytes))) => {
                self.note_received(bytes);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(Received::End)) => Poll::Ready(self.ended()),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.refuse(error, context))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_open(
        &self,
        context: &mut Context<'_>,
        room: usize,
    ) -> Poll<Result<Received, WireError<AssemblyError>>> {
        let mut scratch = self.scratch.borrow_mut();
        let room = room.min(scratch.len());
        let mut ready = self.ready.borrow_mut();
        let mut assembly = self.assembly.borrow_mut();
        self.wire.borrow_mut().poll_receive(context, &mut scratch[..room], &mut |source| {
            assembly.fill(source, &*self.disk, &mut ready).map(|_| ())
        })
    }

    fn note_received(&self, bytes: usize) {
        let wire = self.wire.borrow();
        if wire.is_handshaking() {
            self.handshake_bytes.set(self.handshake_bytes.get() + bytes);
        }
        self.received_this_turn.set(self.received_this_turn.get() + bytes);
        let mut pace = self.pace.get();
        let frames = self.ready.borrow().len();
        pace.received(BootClock.now(), bytes, frames, self.assembly.borrow().inside_frame());
        self.pace.set(pace);
        if wire.wants_write() {
            wake(&self.writer);
        }
    }

    /// What the end of the stream means: frames that came with it are still given out.
    fn ended(&self) -> Result<(), NetError> {
        if !self.ready.borrow().is_empty() {
            Ok(())
        } else if self.assembly.borrow().inside_frame() {
            Err(FrameError::Truncated.into())
        } else {
            Err(NetError::Closed)
        }
    }

    /// Says what was wrong, tells the peer where that is possible, and closes.
    fn refuse(&self, error: WireError<AssemblyError>, context: &mut Context<'_>) -> NetError {
        match error {
            WireError::Taker(AssemblyError::Frame(bad)) => {
                if let Some(header) = bad.answer {
                    self.answer_error(header, bad.error.to_string());
                }
                self.close();
                NetError::Frame(bad.error)
            }
            WireError::Taker(AssemblyError::Source(error)) | WireError::Socket(error) => {
                self.cut();
                broken(error)
            }
            WireError::Tls(error) => {
                // The alert is a courtesy: whether it left changes nothing here.
                let _ = self.wire.borrow_mut().poll_flush(context);
                self.cut();
                NetError::Untrusted(error.to_string())
            }
        }
    }

    fn answer_error(&self, header: protocol::frame::Header, text: String) {
        let body = ErrorReply { text, ..ErrorReply::default() }.encode();
        let mut header = header.seal(&body, 0);
        header.cluster_tag = self.cluster_tag;
        let full =
            self.queue.borrow_mut().push(Outgoing { header, body, payload: Payload::empty() });
        if full.is_err() {
            self.cut();
        }
        wake(&self.writer);
    }

    /// The next frame; `None` when other tasks should have a turn first.
    fn poll_frame(&self, context: &mut Context<'_>) -> Poll<Result<Option<Incoming<D>>, NetError>> {
        loop {
            if self.state.get() != State::Open {
                let failure = self.failure.borrow().clone();
                return Poll::Ready(Err(failure.unwrap_or(NetError::Closed)));
            }
            let frame = self.ready.borrow_mut().pop_front();
            if let Some(frame) = frame {
                match self.admit(frame) {
                    Some(frame) => return Poll::Ready(Ok(Some(frame))),
                    None => continue,
                }
            }
            if self.received_this_turn.get() >= BYTES_PER_TURN {
                self.received_this_turn.set(0);
                return Poll::Ready(Ok(None));
            }
            match self.poll_fill(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    // What failed first is the reason; the end of the stream may follow from it.
                    let error = self.failure.borrow_mut().get_or_insert(error).clone();
                    self.close();
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.received_this_turn.set(0);
                    self.reader.set(Some(context.waker().clone()));
                    return Poll::Pending;
                }
            }
        }
    }

    /// Counts a request in; one too many is answered with `Busy` and dropped.
    fn admit(&self, frame: Incoming<D>) -> Option<Incoming<D>> {
        if frame.header.response || frame.header.request.0 == 0 {
            return Some(frame);
        }
        if self.in_flight.get() >= REQUESTS_IN_FLIGHT_MAX {
            let text = format!("more than {REQUESTS_IN_FLIGHT_MAX} requests in flight");
            self.answer_error(frame.header.reply(Status::Busy), text);
            return None;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        Some(frame)
    }

    fn send(&self, mut frame: Outgoing<D>) -> Result<(), NetError> {
        if self.state.get() != State::Open {
            return Err(NetError::Closed);
        }
        frame.header.cluster_tag = self.cluster_tag;
        let response = frame.header.response;
        self.queue.borrow_mut().push(frame).map_err(|_| NetError::Full)?;
        if response {
            self.in_flight.set(self.in_flight.get().saturating_sub(1));
        }
        wake(&self.writer);
        Ok(())
    }

    fn poll_write(&self, context: &mut Context<'_>) -> Poll<Result<Wrote, NetError>> {
        if self.state.get() == State::Cut {
            return Poll::Ready(Ok(Wrote::Finished));
        }
        self.writer.set(Some(context.waker().clone()));
        let mut wire = self.wire.borrow_mut();
        if wire.is_clear() {
            return self.poll_send(context, &mut wire);
        }
        let (flushed, outcome) = wire.poll_flush(context);
        let mut queue = self.queue.borrow_mut();
        self.note_sent(flushed, outcome.is_pending() || !queue.is_empty());
        match outcome {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
            Poll::Pending => return Poll::Pending,
        }
        if queue.is_empty() {
            if self.leaves_tls.take()
                && let Err(error) = self.change_to_tags(&mut wire, &mut queue)
            {
                return Poll::Ready(Err(error));
            }
            return self.nothing_to_write();
        }
        let sealed = wire.seal(&queue.next_runs(SEAL_SLICE));
        if let Ok(len) = sealed {
            queue.advance(len);
        }
        Poll::Ready(sealed.map(Wrote::Passed).map_err(broken))
    }

    /// The same outside of TLS: the queue goes to the socket as it lies.
    fn poll_send(
        &self,
        context: &mut Context<'_>,
        wire: &mut Wire,
    ) -> Poll<Result<Wrote, NetError>> {
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            self.note_sent(0, false);
            return self.nothing_to_write();
        }
        match wire.poll_send(context, &queue.next_runs(SEND_SLICE)) {
            Poll::Ready(Ok(len)) => {
                queue.advance(len);
                self.note_sent(len, !queue.is_empty());
                Poll::Ready(Ok(Wrote::Passed(len)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(error))),
            Poll::Pending => {
                self.note_sent(0, true);
                Poll::Pending
            }
        }
    }

    fn nothing_to_write(&self) -> Poll<Result<Wrote, NetError>> {
        match self.state.get() {
            State::Open => Poll::Pending,
            State::Closing | State::Cut => Poll::Ready(Ok(Wrote::Finished)),
        }
    }

    /// Leaves TLS at once: the peer has said its last word in it, and so has this side.
    fn change_to_tags(&self, wire: &mut Wire, queue: &mut SendQueue<D>) -> Result<(), NetError> {
        let Tags { sends, receives } = wire.leave_tls().map_err(broken)?;
        queue.authenticate(sends);
        self.assembly.borrow_mut().authenticate(receives);
        Ok(())
    }

    fn note_sent(&self, flushed: usize, more: bool) {
        let mut pace = self.pace.get();
        if flushed > 0 || !more {
            pace.sent(BootClock.now(), more);
        } else {
            pace.waiting(BootClock.now());
        }
        self.pace.set(pace);
    }

    /// Ends the connection after what is queued has left.
    fn close(&self) {
        if self.state.get() == State::Open {
            self.state.set(State::Closing);
            let mut pace = self.pace.get();
            pace.closed(BootClock.now());
            self.pace.set(pace);
            self.ready.borrow_mut().clear();
        }
        wake(&self.reader);
        wake(&self.writer);
    }

    /// Ends the connection at once.
    pub(super) fn cut(&self) {
        if self.state.replace(State::Cut) != State::Cut
            && let Ok(wire) = self.wire.try_borrow()
        {
            wire.cut();
        }
        wake(&self.reader);
        wake(&self.writer);
    }

    /// Bytes to send before others have a turn; what is spread over time goes in the shorter steps.
    fn bytes_per_turn(&self) -> usize {
        if self.rate.get() == 0 { SEND_BYTES_PER_TURN } else { BYTES_PER_TURN }
    }

    /// True when the payload of this connection is not encrypted.
    pub(super) fn is_clear(&self) -> bool {
        self.wire.borrow().is_clear()
    }

    /// Gives up a peer that is too slow, and says whether the connection still lives.
    pub(super) fn sweep(&self) -> bool {
        let Some(verdict) = self.pace.get().verdict(BootClock.now()) else {
            return self.state.get() != State::Cut;
        };
        if verdict != TooSlow::Lingers {
            tracing::warn!(peer = %self.address, reason = %verdict, "connection given up");
            self.failure.borrow_mut().get_or_insert(NetError::Broken(verdict.to_string()));
        }
        self.cut();
        false
    }
}

/// The writing side of a connection.
async fn write_frames<D: Disk>(core: Rc<Core<D>>) {
    let mut this_turn = 0;
    loop {
        match poll_fn(|context| core.poll_write(context)).await {
            Ok(Wrote::Passed(bytes)) => this_turn += bytes,
            Ok(Wrote::Finished) => break,
            Err(error) => {
                core.failure.borrow_mut().get_or_insert(error);
                break;
            }
        }
        if this_turn >= core.bytes_per_turn() {
            pause(core.rate.get(), this_turn).await;
            this_turn = 0;
        }
    }
    if core.state.get() == State::Closing {
        core.wire.borrow_mut().seal_end();
        poll_fn(|context| {
            // Whether the peer hears the end changes nothing here: the socket is cut next.
            let _ = core.wire.borrow_mut().poll_flush(context);
            Poll::Ready(())
        })
        .await;
    }
    core.cut();
    core.queue.borrow_mut().clear();
}

/// Lets others have a turn, for as long as the rate asks for after so many bytes.
async fn pause(rate: u64, bytes: usize) {
    match pause_after(rate, bytes) {
        Duration::ZERO => take_turn().await,
        pause => glommio::timer::sleep(pause).await,
    }
}

fn pause_after(rate: u64, bytes: usize) -> Duration {
    let micros = (bytes as u64).saturating_mul(1_000_000).checked_div(rate).unwrap_or(0);
    Duration::from_micros(micros).min(Duration::from_millis(COPY_PAUSE_MAX_MS))
}

fn wake(slot: &Cell<Option<Waker>>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

fn broken(error: impl std::fmt::Display) -> NetError {
    NetError::Broken(error.to_string())
}

impl<D: Disk> GlommioLink<D> {
    /// Where the peer is.
    pub fn address(&self) -> SocketAddr {
        self.core.address
    }

    /// Leaves TLS when what was sent so far is on its way; for the side that accepted.
    pub(super) fn leave_tls_when_sent(&self) {
        self.core.leaves_tls.set(true);
        wake(&self.core.writer);
    }

    /// Leaves TLS now; for the side that connected, when the peer has agreed.
    ///
    /// # Errors
    /// [`NetError::Broken`] when something still waits to be sent.
    pub(super) fn leave_tls(&self) -> Result<(), NetError> {
        let (mut wire, mut queue) = (self.core.wire.borrow_mut(), self.core.queue.borrow_mut());
        self.core.change_to_tags(&mut wire, &mut queue)
    }
}

impl<D: Disk> Link<D> for GlommioLink<D> {
    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn is_clear(&self) -> bool {
        self.core.is_clear()
    }

    fn spread(&self, bytes_per_s: u64) {
        self.core.rate.set(bytes_per_s);
    }

    fn send(&self, frame: Outgoing<D>) -> Result<(), NetError> {
        self.core.send(frame)
    }

    async fn receive(&self) -> Result<Incoming<D>, NetError> {
        loop {
            match poll_fn(|context| self.core.poll_frame(context)).await? {
                Some(frame) => return Ok(frame),
                None => take_turn().await,
            }
        }
    }

    fn close(&self) {
        self.core.close();
    }
}

impl<D: Disk> Drop for GlommioLink<D> {
    fn drop(&mut self) {
        self.core.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_asks_for_pauses_and_never_for_long_ones() {
        assert_eq!(pause_after(0, BYTES_PER_TURN), Duration::ZERO, "no limit");
        let rate = BYTES_PER_TURN as u64 * 1000;
        assert_eq!(pause_after(rate, BYTES_PER_TURN), Duration::from_millis(1));
        assert_eq!(pause_after(rate, 2 * BYTES_PER_TURN), Duration::from_millis(2));
        let longest = Duration::from_millis(COPY_PAUSE_MAX_MS);
        assert_eq!(pause_after(1, BYTES_PER_TURN), longest);
        assert_eq!(pause_after(1, usize::MAX), longest);
    }
}
