//! Frames that wait to be sent, bounded in number and in bytes.
//!
//! The writing side takes slices of one [`crate::limits::SEAL_SLICE`] at most, out of as many
//! frames as fit, without joining them: a batch of small answers becomes one system call, a large
//! payload is sealed while it is still in the cache.

use std::collections::VecDeque;
use std::io::IoSlice;

use protocol::limits::HEADER_LEN;
use protocol::session::{FrameMac, TAG_LEN};

use crate::io::{Disk, Outgoing, Payload};
use crate::limits::{SEND_QUEUE_BYTES_MAX, SEND_QUEUE_MAX, SEND_RUNS_MAX};

/// The send queue of one connection.
pub struct SendQueue<D: Disk> {
    frames: VecDeque<Waiting<D>>,
    bytes: usize,
    /// Outside of TLS: the tags of what is sent from here.
    mac: Option<FrameMac>,
}

struct Waiting<D: Disk> {
    header: [u8; HEADER_LEN],
    body: Vec<u8>,
    payload: Payload<D>,
    len: usize,
    sent: usize,
}

/// The queue has no room for the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl<D: Disk> Default for SendQueue<D> {
    fn default() -> SendQueue<D> {
        SendQueue { frames: VecDeque::new(), bytes: 0, mac: None }
    }
}

impl<D: Disk> SendQueue<D> {
    /// Gives every frame a tag from now on. The queue must be empty: what waits has none.
    pub fn authenticate(&mut self, mac: FrameMac) {
        debug_assert!(self.is_empty(), "TLS ends between two frames");
        self.mac = Some(mac);
    }

    /// Adds a frame at the end.
    ///
    /// # Errors
    /// [`QueueFull`] leaves the queue as it was.
    pub fn push(&mut self, frame: Outgoing<D>) -> Result<(), QueueFull> {
        let Outgoing { header, mut body, payload } = frame;
        debug_assert_eq!(header.payload_len as usize, payload.len(), "the frame is sealed");
        let tag = if self.mac.is_some() { TAG_LEN } else { 0 };
        let len = HEADER_LEN + body.len() + tag + payload.len();
        if self.frames.len() >= SEND_QUEUE_MAX || self.bytes + len > SEND_QUEUE_BYTES_MAX {
            return Err(QueueFull);
        }
        let header = header.encode();
        if let Some(mac) = &mut self.mac {
            let tag = mac.tag(&header, &body);
            body.extend_from_slice(&tag);
        }
        self.bytes += len;
        self.frames.push_back(Waiting { header, body, payload, len, sent: 0 });
        Ok(())
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The next bytes, `limit` at most in [`SEND_RUNS_MAX`] runs at most, that lie where they are.
    pub fn next_runs(&self, limit: usize) -> Vec<IoSlice<'_>> {
        // Header, body and one piece of each frame: enough but for scattered payloads.
        let mut runs = Vec::with_capacity((3 * self.frames.len()).min(SEND_RUNS_MAX));
        let mut room = limit;
        for frame in &self.frames {
            room -= frame.runs(room, &mut runs);
            if room == 0 || runs.len() == SEND_RUNS_MAX {
                break;
            }
        }
        runs
    }

    /// Forgets the next `len` bytes: they are sealed or sent.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn advance(&mut self, len: usize) {
        self.bytes -= len;
        let mut left = len;
        while let Some(frame) = self.frames.front_mut() {
            let step = left.min(frame.len - frame.sent);
            frame.sent += step;
            left -= step;
            if frame.sent < frame.len {
                break;
            }
            self.frames.pop_front();
        }
        assert_eq!(left, 0, "more was sealed than was queued");
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }
}

impl<D: Disk> Waiting<D> {
    /// Appends what is not sent yet, as far as there is room, and says how many bytes that is.
    fn runs<'a>(&'a self, limit: usize, out: &mut Vec<IoSlice<'a>>) -> usize {
        let (start, end) = (self.sent, self.len.min(self.sent.saturating_add(limit)));
        let mut at = 0;
        let runs = [&self.header[..], &self.body[..]].into_iter().chain(self.payload.chunks());
        for run in runs {
            let (from, to) = (start.max(at), end.min(at + run.len()));
            if from < to {
                out.push(IoSlice::new(&run[from - at..to - at]));
            }
            at += run.len();
            if at >= end || out.len() == SEND_RUNS_MAX {
                break;
            }
        }
        end.min(at) - start
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use protocol::frame::Header;
    use protocol::ids::RequestId;
    use protocol::limits::PAYLOAD_LEN_MAX;
    use protocol::message::Kind;
    use protocol::session::{FrameMacs, TAG_LEN};

    use super::{QueueFull, SendQueue};
    use crate::io::NoDisk;
    use crate::io::{Buffer, Disk, Outgoing, Payload, Piece};
    use crate::limits::{SEND_QUEUE_BYTES_MAX, SEND_QUEUE_MAX, SEND_RUNS_MAX};

    fn frame(body: &[u8], payload: Payload<NoDisk>) -> Outgoing<NoDisk> {
        let len = u32::try_from(payload.len()).unwrap();
        let header = Header::new(Kind::Read, RequestId(1)).seal(body, len);
        Outgoing { header, body: body.to_vec(), payload }
    }

    fn payload(len: usize) -> Payload<NoDisk> {
        let mut buffer = NoDisk.allocate(len);
        for (at, byte) in buffer.bytes_mut().iter_mut().enumerate() {
            *byte = u8::try_from(at % 251).unwrap();
        }
        let mut payload = Payload::from_buffer(Rc::new(buffer), len / 2);
        payload.push(Piece::Zeros { len: len - len / 2 });
        payload
    }

    #[test]
    fn queue_gives_every_byte_once_in_order_at_any_limit() {
        let expected = [
            &frame(b"one", payload(9000)).header.encode()[..],
            b"one",
            &payload(9000).to_vec(),
            &frame(b"", payload(0)).header.encode()[..],
            &frame(b"three", payload(1)).header.encode()[..],
            b"three",
            &payload(1).to_vec(),
        ]
        .concat();
        for limit in [1, 63, 64, 100, 4096, 100_000] {
            let mut queue = SendQueue::default();
            queue.push(frame(b"one", payload(9000))).unwrap();
            queue.push(frame(b"", payload(0))).unwrap();
            queue.push(frame(b"three", payload(1))).unwrap();
            let mut out = Vec::new();
            while !queue.is_empty() {
                let runs = queue.next_runs(limit);
                let len = runs.iter().map(|run| run.len()).sum();
                assert!((1..=limit).contains(&len));
                runs.iter().for_each(|run| out.extend_from_slice(run));
                queue.advance(len);
            }
            assert_eq!(out, expected, "limit {limit}");
            assert_eq!(queue.bytes, 0);
        }
    }

    #[test]
    fn one_system_call_is_never_given_more_runs_than_it_takes() {
        let mut queue = SendQueue::default();
        let mut expected = 0;
        for _ in 0..SEND_QUEUE_MAX {
            let frame = frame(b"body", payload(9000));
            expected += 64 + 4 + frame.payload.len();
            queue.push(frame).unwrap();
        }
        let mut seen = 0;
        while !queue.is_empty() {
            let runs = queue.next_runs(usize::MAX);
            assert!((1..=SEND_RUNS_MAX).contains(&runs.len()));
            let len = runs.iter().map(|run| run.len()).sum();
            seen += len;
            queue.advance(len);
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn outside_of_tls_every_frame_carries_its_tag_behind_the_body() {
        let macs = || FrameMacs::derive(|_, _| Ok::<_, ()>([5; 16])).unwrap();
        let (mut queue, mut peer) = (SendQueue::default(), macs().of_server);
        queue.authenticate(macs().of_server);
        for body in [&b"one"[..], b"two"] {
            queue.push(frame(body, payload(9))).unwrap();
            let sent: Vec<u8> =
                queue.next_runs(usize::MAX).iter().flat_map(|run| run.to_vec()).collect();
            let (header, rest) = sent.split_first_chunk().unwrap();
            assert_eq!(rest.len(), 3 + TAG_LEN + 9);
            assert_eq!(peer.check(header, &rest[..3], &rest[3..3 + TAG_LEN]), Ok(()));
            queue.advance(sent.len());
        }
    }

    #[test]
    fn queue_is_bounded_in_frames() {
        let mut queue = SendQueue::default();
        for _ in 0..SEND_QUEUE_MAX {
            queue.push(frame(b"", Payload::empty())).unwrap();
        }
        assert_eq!(queue.push(frame(b"", Payload::empty())), Err(QueueFull));
    }

    #[test]
    fn queue_is_bounded_in_bytes() {
        let mut queue = SendQueue::default();
        let mut pushed = 0;
        let zeros = || {
            let mut payload = Payload::empty();
            payload.push(Piece::Zeros { len: PAYLOAD_LEN_MAX });
            payload
        };
        while queue.push(frame(b"", zeros())).is_ok() {
            pushed += 1;
        }
        assert_eq!(pushed, SEND_QUEUE_BYTES_MAX / (PAYLOAD_LEN_MAX + 64));
        queue.clear();
        assert_eq!(queue.push(frame(b"", zeros())), Ok(()));
    }
}
