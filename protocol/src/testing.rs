//! Two connected sessions over byte queues, for tests.
//!
//! Owns no time and no randomness of its own: the clock is an argument and fragmentation comes from
//! a seed, so a failing run repeats.

use std::collections::VecDeque;

use crate::frame::{FrameError, Header};
use crate::ids::{ClusterId, TargetId};
use crate::message::{Context, Message};
use crate::session::{Event, FrameReader, RequestError, Session, SessionError};

/// Most bytes one end's queue holds; a sender that exceeds it is a failing test.
const QUEUE_LEN_MAX: usize = 64 << 20;

/// Which end of a [`Pair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that opened the connection.
    Client,
    /// The end that accepted it.
    Server,
}

/// A frame as one end saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: Vec<u8>,
    /// Its payload.
    pub payload: Vec<u8>,
    /// What it meant to the session.
    pub event: Event<u32>,
}

/// Why one end closed the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The bytes were not frames.
    Frame(FrameError),
    /// The frames broke the rules.
    Session(SessionError),
}

/// One end of a [`Pair`].
#[derive(Debug)]
pub struct End {
    /// Its session.
    pub session: Session<u32>,
    /// Frames it has received, oldest first; the test takes them out.
    pub seen: VecDeque<Seen>,
    /// Why it closed the connection, if it did.
    pub closed: Option<Closed>,
    reader: FrameReader,
    queue: VecDeque<u8>,
    partial: Option<Seen>,
}

/// Two sessions and the bytes on their way between them.
#[derive(Debug)]
pub struct Pair {
    /// The end that opened the connection.
    pub client: End,
    /// The end that accepted it.
    pub server: End,
    random: u64,
}

impl Pair {
    /// Connects two ends; the hello is on its way. Bytes arrive in pieces that `seed` decides.
    pub fn new(client: ClusterId, server: ClusterId, seed: u64) -> Pair {
        let (session, hello) = Session::connect(client, TargetId(0));
        let mut pair = Pair {
            client: End::new(session, client),
            server: End::new(Session::accept(server), server),
            random: seed,
        };
        pair.send(Side::Client, &hello, &[]);
        pair
    }

    /// Puts a frame on its way, from the given side.
    ///
    /// # Panics
    /// When the queue is full.
    pub fn send(&mut self, from: Side, frame: &(Header, Vec<u8>), payload: &[u8]) {
        let mut bytes = frame.0.encode().to_vec();
        bytes.extend_from_slice(&frame.1);
        bytes.extend_from_slice(payload);
        self.send_bytes(from, &bytes);
    }

    /// Puts raw bytes on their way, from the given side.
    ///
    /// # Panics
    /// When the queue is full.
    pub fn send_bytes(&mut self, from: Side, bytes: &[u8]) {
        let queue = match from {
            Side::Client => &mut self.server.queue,
            Side::Server => &mut self.client.queue,
        };
        assert!(queue.len() + bytes.len() <= QUEUE_LEN_MAX, "queue is full");
        queue.extend(bytes);
    }

    /// Loses everything that is on its way.
    pub fn lose_all(&mut self) {
        self.client.queue.clear();
        self.server.queue.clear();
    }

    /// Sends a request of the client, with `remember` as what it remembers.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub fn request<M: Message>(
        &mut self,
        message: &M,
        payload: &[u8],
        now_ms: u64,
        remember: u32,
    ) -> Result<Header, RequestError> {
        let context = Context::default();
        let session = &mut self.client.session;
        let frame = session.request(message, context, now_ms, 1000, remember)?;
        self.send(Side::Client, &frame, payload);
        Ok(frame.0)
    }

    /// Moves bytes both ways until nothing is on its way; answers a hello by itself.
    pub fn settle(&mut self) {
        while !self.client.queue.is_empty() || !self.server.queue.is_empty() {
            let len = self.piece();
            let replies = self.server.receive(len);
            replies.iter().for_each(|reply| self.send(Side::Server, reply, &[]));
            let len = self.piece();
            let replies = self.client.receive(len);
            replies.iter().for_each(|reply| self.send(Side::Client, reply, &[]));
        }
    }

    /// Length of the next piece: mostly a few bytes, sometimes very many.
    fn piece(&mut self) -> usize {
        // xorshift64*: enough to vary the cuts.
        self.random = (self.random | 1) ^ (self.random << 13);
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let bits = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let len = if bits & 3 == 0 { 1 << 16 } else { 1 + (bits >> 2) % 97 };
        usize::try_from(len).unwrap_or(1)
    }
}

impl End {
    fn new(session: Session<u32>, cluster: ClusterId) -> End {
        End {
            session,
            seen: VecDeque::new(),
            closed: None,
            reader: FrameReader::new(cluster),
            queue: VecDeque::new(),
            partial: None,
        }
    }

    /// Takes at most `len` bytes from the queue and returns the frames to send in answer.
    fn receive(&mut self, len: usize) -> Vec<(Header, Vec<u8>)> {
        let mut replies = Vec::new();
        let mut piece: Vec<u8> = self.queue.drain(..len.min(self.queue.len())).collect();
        while !piece.is_empty() && self.closed.is_none() {
            self.closed = self.step(&mut piece, &mut replies).err();
        }
        replies
    }

    fn step(
        &mut self,
        piece: &mut Vec<u8>,
        replies: &mut Vec<(Header, Vec<u8>)>,
    ) -> Result<(), Closed> {
        if let Some(seen) = &mut self.partial {
            let len = self.reader.payload_left().min(piece.len());
            seen.payload.extend(piece.drain(..len));
            self.reader.payload_taken(len);
        } else {
            let space = self.reader.space();
            let len = space.len().min(piece.len());
            space[..len].copy_from_slice(&piece[..len]);
            piece.drain(..len);
            let received = self.reader.filled(len).map_err(Closed::Frame)?;
            let Some(frame) = received else { return Ok(()) };
            let event = self.session.on_frame(&frame.header, &frame.body).map_err(|error| {
                replies.extend(error.reply(&frame.header));
                Closed::Session(error)
            })?;
            if let Event::Greeted { reply, .. } = &event {
                replies.push(reply.clone());
            }
            let (header, body) = (frame.header, frame.body);
            self.partial = Some(Seen { header, body, payload: Vec::new(), event });
        }
        if self.reader.payload_left() == 0 {
            self.seen.extend(self.partial.take());
        }
        Ok(())
    }

    /// Says whether the connection may end here.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] inside a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        self.reader.end()
    }
}
