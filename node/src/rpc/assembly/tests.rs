#![expect(clippy::cast_possible_truncation, reason = "tests cut on purpose")]

use std::collections::VecDeque;
use std::io::{self, Read};

use protocol::checksum::sum64;
use protocol::frame::{FrameError, Header};
use protocol::ids::RequestId;
use protocol::limits::{HEADER_LEN, IO_ALIGN};
use protocol::message::Kind;
use protocol::status::Status;

use super::{Assembly, AssemblyError};
use crate::io::NoDisk;
use crate::io::{Buffer, Incoming};

const TAG: u32 = 7;

/// Gives at most `step` bytes a call and then says that more may come.
struct Portions<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Portions<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = self.step.min(out.len()).min(self.bytes.len());
        out[..len].copy_from_slice(&self.bytes[..len]);
        self.bytes = &self.bytes[len..];
        Ok(len)
    }
}

fn frame(kind: Kind, request: u64, body: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut header = Header::new(kind, RequestId(request));
    header.cluster_tag = TAG;
    let header = header.seal(body, payload.len() as u32);
    [&header.encode()[..], body, payload].concat()
}

fn assemble(bytes: &[u8], step: usize) -> Result<Vec<Incoming<NoDisk>>, AssemblyError> {
    let mut frames = VecDeque::new();
    Assembly::new(TAG).fill(&mut Portions { bytes, step }, &NoDisk, &mut frames)?;
    Ok(frames.into())
}

#[test]
fn assembly_takes_any_portions() {
    let payload: Vec<u8> = (0..5000u32).map(|at| at as u8).collect();
    let bytes = [
        frame(Kind::Write, 1, b"body", &payload),
        frame(Kind::Committed, 0, b"", b""),
        frame(Kind::Read, 2, b"another body", b""),
    ]
    .concat();
    for step in [1, 63, 64, 65, 4096, bytes.len()] {
        let frames = assemble(&bytes, step).unwrap();
        let kinds: Vec<Kind> = frames.iter().map(|frame| frame.header.kind).collect();
        assert_eq!(kinds, [Kind::Write, Kind::Committed, Kind::Read]);
        assert_eq!(frames[0].body, b"body");
        let received = frames[0].payload.as_ref().unwrap().bytes();
        assert_eq!(received[..5000], payload[..]);
        let padded = 5000usize.next_multiple_of(IO_ALIGN);
        assert!(received[5000..padded].iter().all(|byte| *byte == 0));
    }
}

#[track_caller]
fn refused(bytes: &[u8], error: &FrameError, answer: Option<Status>) {
    match assemble(bytes, bytes.len()) {
        Err(AssemblyError::Frame(bad)) => {
            assert_eq!(&bad.error, error);
            assert_eq!(bad.answer.map(|header| header.status), answer);
            if let Some(header) = bad.answer {
                assert!(header.response);
                assert_eq!(header.request, RequestId(9));
            }
        }
        other => panic!("{:?}", other.map(|frames| frames.len())),
    }
}

/// Changes a header and makes its checksum right again.
fn patched(mut bytes: Vec<u8>, at: usize, value: &[u8]) -> Vec<u8> {
    bytes[at..at + value.len()].copy_from_slice(value);
    let sum = sum64(&bytes[..56]).to_le_bytes();
    bytes[56..HEADER_LEN].copy_from_slice(&sum);
    bytes
}

#[test]
fn assembly_answers_what_it_can_name() {
    let good = frame(Kind::Read, 9, b"body", b"");
    let length = patched(good.clone(), 8, &(1u32 << 30).to_le_bytes());
    refused(&length, &FrameError::BodyLen(1 << 30), Some(Status::BadFrame));
    let payload = patched(good.clone(), 12, &1u32.to_le_bytes());
    refused(&payload, &FrameError::PayloadLen(1), Some(Status::BadFrame));
    let cluster = patched(good.clone(), 44, &8u32.to_le_bytes());
    refused(&cluster, &FrameError::Cluster(8), Some(Status::BadCluster));
    let mut body = good.clone();
    body[HEADER_LEN] ^= 1;
    refused(&body, &FrameError::BodySum, Some(Status::BadFrame));
    let kind = patched(good.clone(), 6, &0x7777u16.to_le_bytes());
    refused(&kind, &FrameError::Kind(0x7777), None);
    let mut sum = good;
    sum[20] ^= 1;
    refused(&sum, &FrameError::HeaderSum, None);
    refused(&[b'G'; HEADER_LEN], &FrameError::Magic(0x4747_4747), None);
}

#[test]
fn assembly_does_not_answer_answers_and_notices() {
    let notice = frame(Kind::Committed, 0, b"body", b"");
    refused(&patched(notice, 44, &8u32.to_le_bytes()), &FrameError::Cluster(8), None);
    let answer = frame(Kind::Read, 9, b"body", b"");
    let answer = patched(answer, 6, &(Kind::Read.code() | 0x8000).to_le_bytes());
    refused(&patched(answer, 44, &8u32.to_le_bytes()), &FrameError::Cluster(8), None);
}

#[test]
fn assembly_knows_when_it_is_inside_a_frame() {
    let bytes = frame(Kind::Read, 1, b"body", b"");
    for cut in 0..=bytes.len() {
        let mut assembly = Assembly::<NoDisk>::new(TAG);
        let mut frames = VecDeque::new();
        let mut source = Portions { bytes: &bytes[..cut], step: 7 };
        assembly.fill(&mut source, &NoDisk, &mut frames).unwrap();
        assert_eq!(assembly.inside_frame(), cut != 0 && cut != bytes.len(), "cut at {cut}");
    }
}
