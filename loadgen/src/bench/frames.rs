//! What is said to a data node: reads of one file's chunks at random offsets, verified on arrival.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::checksum::first_bad_cell;
use protocol::frame::Header;
use protocol::ids::{ChunkKey, Epoch, GroupId, Handle, RequestId};
use protocol::message::chunk::{ReadReply, ReadRequest};
use protocol::message::{Kind, Message};
use protocol::session::{FrameMac, FrameReader};
use protocol::status::Status;

use super::pull::Speech;
use crate::dice::Dice;

/// One file on one shard, and how it is read.
#[derive(Debug)]
pub(super) struct Reads {
    /// Its chunks: group, epoch of the group, key, length in bytes.
    pub(super) chunks: Vec<(GroupId, Epoch, ChunkKey, u32)>,
    /// Truncation generation of the file.
    pub(super) trunc_gen: u32,
    /// Bytes of one read: a power of two, not above the chunk size.
    pub(super) block: u32,
    /// The node is asked to verify before it sends.
    pub(super) verify: bool,
    /// What arrives is verified here.
    pub(super) check: bool,
}

/// The speech of one connection.
pub(super) struct Frames {
    reads: Arc<Reads>,
    cluster_tag: u32,
    dice: Dice,
    reader: FrameReader,
    /// Outside of TLS: the tags of what is sent.
    mac: Option<FrameMac>,
    next: u64,
    waiting: BTreeMap<u64, ChunkKey>,
    /// The answer whose payload is arriving: its message, its chunk, and what has come.
    arriving: Option<(ReadReply, ChunkKey)>,
    payload: Vec<u8>,
    have: usize,
    answers: u64,
}

impl Frames {
    /// Starts after the hello.
    pub(super) fn new(
        reads: Arc<Reads>,
        reader: FrameReader,
        mac: Option<FrameMac>,
        (cluster_tag, seed): (u32, u64),
    ) -> Frames {
        Frames {
            reads,
            cluster_tag,
            dice: Dice::new(seed),
            reader,
            mac,
            next: 2,
            waiting: BTreeMap::new(),
            arriving: None,
            payload: Vec::new(),
            have: 0,
            answers: 0,
        }
    }

    fn advance(&mut self, len: usize) -> Result<(), String> {
        self.reader.filled(len).map_err(|bad| bad.to_string())?;
        let Some(frame) = self.reader.take().map_err(|bad| bad.to_string())? else {
            return Ok(());
        };
        if frame.header.status != Status::Ok {
            return Err(format!("a read failed: {}", frame.header.status));
        }
        let key =
            self.waiting.remove(&frame.header.request.0).ok_or("an answer nobody waits for")?;
        let reply = ReadReply::decode(&frame.body).map_err(|error| error.to_string())?;
        if self.reader.payload_left() < self.reads.block as usize {
            return Err(format!("{} bytes of payload", self.reader.payload_left()));
        }
        self.payload.resize(self.reader.payload_left(), 0);
        self.have = 0;
        self.arriving = Some((reply, key));
        Ok(())
    }

    fn verify(&mut self) -> Result<(), String> {
        let Some((reply, key)) = self.arriving.take() else { return Ok(()) };
        self.answers += 1;
        if !self.reads.check {
            return Ok(());
        }
        match first_bad_cell(key, reply.first_cell, reply.cell_log2, &self.payload, &reply.sums) {
            None => Ok(()),
            Some(cell) => Err(format!("cell {cell} does not verify")),
        }
    }
}

impl Speech for Frames {
    fn ask(&mut self, out: &mut Vec<u8>) {
        let Reads { chunks, trunc_gen, block, verify, .. } = &*self.reads;
        // There is at least one: a file without any on this shard is refused before.
        let Some(&(group, epoch, key, len)) = self.dice.one_of(chunks) else { return };
        let places = u64::from(len / block);
        let offset = u32::try_from(self.dice.below(places)).unwrap_or(0) * block;
        let request = ReadRequest {
            group,
            key,
            offset,
            len: *block,
            expect_len: len,
            trunc_gen: *trunc_gen,
            handle: Handle(0),
            growth_only: true,
            verify: *verify,
        };
        let body = request.encode();
        let id = RequestId(self.next);
        self.next += 1;
        self.waiting.insert(id.0, key);
        let header = Header {
            epoch,
            deadline_ms: 10_000,
            cluster_tag: self.cluster_tag,
            ..Header::new(Kind::Read, id)
        };
        let header = header.seal(&body, 0).encode();
        out.extend_from_slice(&header);
        out.extend_from_slice(&body);
        if let Some(mac) = &mut self.mac {
            out.extend_from_slice(&mac.tag(&header, &body));
        }
    }

    fn hear(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let payload = self.arriving.is_some();
            let space = if payload { self.space() } else { self.reader.space() };
            let len = space.len().min(bytes.len());
            space[..len].copy_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            if payload { self.filled(len)? } else { self.advance(len)? }
        }
        Ok(())
    }

    fn space(&mut self) -> &mut [u8] {
        match self.arriving {
            Some(_) => &mut self.payload[self.have..],
            None => &mut [],
        }
    }

    fn filled(&mut self, len: usize) -> Result<(), String> {
        self.reader.payload_taken(len);
        self.have += len;
        if self.have == self.payload.len() { self.verify() } else { Ok(()) }
    }

    fn answers(&self) -> u64 {
        self.answers
    }
}
