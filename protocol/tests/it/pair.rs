//! Two ends of a connection without a network: a seeded wire cuts the bytes where it likes.

use std::collections::{BTreeMap, VecDeque};

use protocol::checksum::cell_sums;
use protocol::frame::Header;
use protocol::ids::{ChunkKey, ClusterId, Fid, GroupId, Handle, RequestId, TargetId, Version};
use protocol::message::chunk::{ReadReply, ReadRequest};
use protocol::message::{Context, open, reply_frame, request_frame};
use protocol::session::hello::{self, HelloError};
use protocol::session::{BadFrame, FrameReader, Received};

const CLUSTER: ClusterId = ClusterId(0xabcd);
const KEY: ChunkKey = ChunkKey { fid: Fid(5), index: 0 };
const CELL_LOG2: u8 = 14;

/// A received frame with its payload.
type Arrived = (Received, Vec<u8>);

/// One end: what it sends goes to `out`, what it received comes from `arrived`.
struct End {
    reader: FrameReader,
    payload: Option<Arrived>,
    out: VecDeque<u8>,
    arrived: VecDeque<Arrived>,
}

/// Both ends and the wire between them.
struct Pair {
    client: End,
    server: End,
    seed: u64,
}

impl End {
    fn new(cluster: ClusterId) -> End {
        End {
            reader: FrameReader::new(cluster.tag()),
            payload: None,
            out: VecDeque::new(),
            arrived: VecDeque::new(),
        }
    }

    fn send(&mut self, (header, body): (Header, Vec<u8>), payload: &[u8]) {
        self.out.extend(header.encode());
        self.out.extend(body);
        self.out.extend(payload);
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), BadFrame> {
        while !bytes.is_empty() {
            let due = self.reader.payload_left();
            let room = if due > 0 { due } else { self.reader.space().len() };
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            bytes = rest;
            if due > 0 {
                self.reader.payload_taken(piece.len());
                self.payload.as_mut().expect("a frame with payload came").1.extend(piece);
            } else {
                self.reader.space()[..piece.len()].copy_from_slice(piece);
                self.reader.filled(piece.len())?;
                if let Some(frame) = self.reader.take()? {
                    self.payload = Some((frame, Vec::new()));
                }
            }
            if self.reader.payload_left() == 0 {
                self.arrived.extend(self.payload.take());
            }
        }
        Ok(())
    }
}

impl Pair {
    fn new(client: ClusterId, server: ClusterId, seed: u64) -> Pair {
        Pair { client: End::new(client), server: End::new(server), seed }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.seed >> 33).unwrap() % below.max(1)
    }

    /// Carries bytes both ways in pieces of the wire's choosing until both are quiet.
    fn carry(&mut self) -> Result<(), BadFrame> {
        while !self.client.out.is_empty() || !self.server.out.is_empty() {
            let (len, to_server) = (1 + self.draw(9000), self.draw(2) == 0);
            let (from, to) = match to_server {
                true => (&mut self.client, &mut self.server),
                false => (&mut self.server, &mut self.client),
            };
            let piece: Vec<u8> = from.out.drain(..len.min(from.out.len())).collect();
            to.feed(&piece)?;
        }
        Ok(())
    }

    /// The first exchange; what the client makes of the answer.
    fn greet(&mut self, server: ClusterId, client: ClusterId) -> Result<(), HelloError> {
        self.client.send(hello::request(client, TargetId(101), 0), &[]);
        self.carry().expect("hello arrives");
        let (first, _) = self.server.arrived.pop_front().expect("the hello");
        let verdict = hello::check(server, 0, &first.header, &first.body);
        let answer = hello::answer(&first.header, &verdict).expect("a hello is answered");
        self.server.send(answer, &[]);
        self.carry().expect("answer arrives");
        let (answer, _) = self.client.arrived.pop_front().expect("the answer");
        hello::accept(&answer.header, &answer.body).map(|_| ())
    }
}

fn question(number: u64) -> ReadRequest {
    ReadRequest {
        group: GroupId(1),
        key: KEY,
        offset: u32::try_from(number).unwrap() << CELL_LOG2,
        len: 1 + u32::try_from(number * 997 % 40_000).unwrap(),
        expect_len: 0,
        trunc_gen: 0,
        handle: Handle(0),
        growth_only: true,
        verify: false,
    }
}

fn content(request: &ReadRequest) -> Vec<u8> {
    (0..request.len).map(|at| (at ^ request.offset).to_le_bytes()[0]).collect()
}

fn reply(request: &ReadRequest, payload: &[u8]) -> ReadReply {
    let first_cell = request.offset >> CELL_LOG2;
    ReadReply {
        version: Version::ZERO,
        chunk_len: request.offset + request.len,
        cell_log2: CELL_LOG2,
        first_cell,
        sums: cell_sums(KEY, first_cell, CELL_LOG2, payload),
        aux: Vec::new(),
    }
}

#[test]
fn requests_in_flight_are_answered_in_any_order_over_any_wire() {
    for seed in 0..40 {
        let mut pair = Pair::new(CLUSTER, CLUSTER, seed);
        assert_eq!(pair.greet(CLUSTER, CLUSTER), Ok(()));
        let context = Context { cluster_tag: CLUSTER.tag(), ..Context::default() };
        let mut asked = BTreeMap::new();
        for number in 2..20 {
            let request = question(number);
            let frame = request_frame(RequestId(number), &request, context, 1000).unwrap();
            pair.client.send(frame, &[]);
            asked.insert(RequestId(number), request);
        }
        pair.carry().unwrap();
        while !pair.server.arrived.is_empty() {
            let turn = pair.draw(pair.server.arrived.len());
            let (frame, _) = pair.server.arrived.remove(turn).unwrap();
            let request: ReadRequest = open(&frame.header, &frame.body).unwrap();
            let payload = content(&request);
            let (mut header, body) = reply_frame(&frame.header, &reply(&request, &payload));
            header = header.seal(&body, request.len);
            pair.server.send((header, body), &payload);
        }
        pair.carry().unwrap();
        for (frame, payload) in std::mem::take(&mut pair.client.arrived) {
            let request = asked.remove(&frame.header.request).expect("asked once");
            let answer: ReadReply = open(&frame.header, &frame.body).unwrap();
            assert_eq!(answer, reply(&request, &payload));
            assert_eq!(payload, content(&request));
        }
        assert!(asked.is_empty(), "everything was answered");
        assert!(!pair.client.reader.inside_frame() && !pair.server.reader.inside_frame());
    }
}

#[test]
fn ends_of_two_clusters_part_at_the_first_frame() {
    let other = ClusterId(0xef01);
    let mut pair = Pair::new(other, CLUSTER, 1);
    pair.client.send(hello::request(other, TargetId(101), 0), &[]);
    assert!(pair.carry().is_err(), "the frame itself names another cluster");
    // The same tag does not make the same cluster.
    let mut pair = Pair::new(CLUSTER, CLUSTER, 2);
    let refused = pair.greet(CLUSTER, same_tag(CLUSTER));
    assert!(matches!(refused, Err(HelloError::Refused { .. })), "{refused:?}");
}

/// Another cluster whose 32-bit tag is the same.
fn same_tag(cluster: ClusterId) -> ClusterId {
    let twin = ClusterId(cluster.0 ^ (1 << 64) ^ 1);
    assert_eq!(twin.tag(), cluster.tag());
    twin
}
