//! How much one core can send over TCP: answers from memory by non-blocking `sendmsg`, the limit a
//! server is held against.
//!
//! The peer asks with frames of 16 bytes and keeps a fixed number outstanding on each connection; an
//! answer is a header of 16 bytes and the payload. Sender and receiver have a core each.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::cluster::{StepError, now, thread_cpu_seconds};

/// Bytes of a request, and of the header of an answer.
const FRAME: usize = 16;
/// Send buffer of a socket: more does not stay in the core's cache.
const SEND_BUFFER: usize = 256 << 10;
/// What the payload is taken from, so that it is not always the same cache lines.
const ARENA: usize = 16 << 20;
/// Most answers of one call.
pub const GATHER_MAX: usize = 16;
/// Bytes beyond which no further answer is added to a call.
const GATHER_BYTES: usize = 256 << 10;
/// Bytes for one connection before the next has its turn.
const TURN_BYTES: usize = 1 << 20;
/// Longest silence of the other side.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Payload of an answer, in bytes.
    pub answer: usize,
    /// Connections.
    pub connections: usize,
    /// Requests outstanding on each.
    pub depth: usize,
    /// Answers of one call at most, 1 to [`GATHER_MAX`].
    pub gather: usize,
}

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Payload bytes.
    pub bytes: f64,
    /// Answers.
    pub answers: f64,
    /// Wall time, in seconds.
    pub seconds: f64,
    /// CPU time of the sender, in seconds.
    pub cpu_seconds: f64,
}

/// Sends for a while.
///
/// # Errors
/// [`StepError::Different`] when a socket fails or the other side falls silent.
pub fn measure(shape: Shape, time: Duration) -> Result<Sent, StepError> {
    let failed = |error: std::io::Error| StepError::Different(format!("loopback: {error}"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            pin(1);
            let peers = (0..shape.connections).map(|_| TcpStream::connect(address));
            receive(peers.collect::<Result<Vec<_>, _>>()?, shape, time)
        });
        let sender = scope.spawn(move || {
            pin(0);
            let accepted = (0..shape.connections).map(|_| Ok(listener.accept()?.0));
            serve(accepted.collect::<Result<Vec<_>, std::io::Error>>()?, shape)
        });
        let ended = |_| StepError::Different("loopback: a thread panicked".to_owned());
        let (answers, seconds) = receiver.join().map_err(ended)?.map_err(failed)?;
        let cpu_seconds = sender.join().map_err(ended)?.map_err(failed)?;
        let bytes = answers * shape.answer as f64;
        Ok(Sent { bytes, answers, seconds, cpu_seconds })
    })
}

/// Binds this thread to a core; without one of that number it stays free.
fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    // A machine with one core, or a process that may not choose: the figure holds what it cost.
    let _ = sched_setaffinity(None, &cores);
}

/// One connection of the sender.
struct Served {
    stream: TcpStream,
    /// Request bytes that were not answered yet.
    asked: usize,
    /// Bytes of the answer under way that were sent.
    sent: usize,
    at: usize,
    open: bool,
}

/// Answers until every peer is gone; the CPU seconds that took.
fn serve(streams: Vec<TcpStream>, shape: Shape) -> std::io::Result<f64> {
    let arena = vec![9u8; ARENA + shape.answer];
    let mut served = Vec::with_capacity(streams.len());
    for stream in streams {
        prepare(&stream)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
        served.push(Served { stream, asked: 0, sent: 0, at: 0, open: true });
    }
    let before = thread_cpu_seconds();
    while served.iter().any(|one| one.open) {
        let mut moved = false;
        for one in served.iter_mut().filter(|one| one.open) {
            moved |= one.hear()?;
            moved |= one.answer(&shape, &arena)?;
        }
        if !moved {
            let busy =
                |one: &Served| if one.asked >= FRAME { PollFlags::OUT } else { PollFlags::IN };
            wait(served.iter().filter(|one| one.open).map(|one| (&one.stream, busy(one))))?;
        }
    }
    Ok(thread_cpu_seconds() - before)
}

impl Served {
    fn hear(&mut self) -> std::io::Result<bool> {
        let mut requests = [0u8; 4096];
        match self.stream.read(&mut requests) {
            Ok(0) => self.open = false,
            Ok(count) => self.asked += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            // The peer has what it wanted, and leaves the rest.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.open = false,
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Sends what is asked until the socket is full or it is another's turn.
    fn answer(&mut self, shape: &Shape, arena: &[u8]) -> std::io::Result<bool> {
        let payload = shape.answer;
        let whole = FRAME + payload;
        let mut turn = 0;
        while self.open && self.asked >= FRAME && turn < TURN_BYTES {
            let header = [0u8; FRAME];
            let room = (GATHER_BYTES / whole).clamp(1, shape.gather.clamp(1, GATHER_MAX));
            let count = (self.asked / FRAME).min(room);
            let body = &arena[self.at..self.at + payload];
            let pairs = [[&header[..], body]; GATHER_MAX];
            let mut slices = [IoSlice::new(&[]); 2 * GATHER_MAX];
            let mut skip = self.sent;
            for (slice, part) in slices.iter_mut().zip(pairs.iter().take(count).flatten()) {
                let cut = skip.min(part.len());
                *slice = IoSlice::new(&part[cut..]);
                skip -= cut;
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let mut nothing = SendAncillaryBuffer::default();
            match sendmsg(&self.stream, &slices[..2 * count], &mut nothing, flags) {
                Ok(bytes) => {
                    self.sent += bytes;
                    turn += bytes;
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => self.open = false,
                Err(error) => return Err(error.into()),
            }
            let done = self.sent / whole;
            self.asked -= done * FRAME;
            self.sent %= whole;
            if done > 0 {
                self.at = (self.at + payload.next_multiple_of(4096)) % ARENA;
            }
        }
        Ok(turn > 0)
    }
}

/// Asks for so long; the answers that came whole and the seconds from the first request on.
fn receive(
    mut streams: Vec<TcpStream>,
    shape: Shape,
    time: Duration,
) -> std::io::Result<(f64, f64)> {
    let mut got = vec![0usize; streams.len()];
    let mut scratch = vec![0u8; 1 << 20];
    let whole = FRAME + shape.answer;
    for stream in &mut streams {
        prepare(stream)?;
        stream.write_all(&vec![0u8; FRAME * shape.depth])?;
    }
    let begun = now();
    while begun.elapsed() < time {
        let mut moved = false;
        for (stream, got) in streams.iter_mut().zip(&mut got) {
            let count = match stream.read(&mut scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            let done = (*got + count) / whole - *got / whole;
            *got += count;
            // So few bytes always fit: a request is sent for each answer that was taken out.
            stream.write_all(&vec![0u8; FRAME * done])?;
            moved = true;
        }
        if !moved {
            wait(streams.iter().map(|stream| (stream, PollFlags::IN)))?;
        }
    }
    let answers: usize = got.iter().map(|got| got / whole).sum();
    Ok((answers as f64, begun.elapsed().as_secs_f64()))
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)
}

fn wait<'a>(sides: impl Iterator<Item = (&'a TcpStream, PollFlags)>) -> std::io::Result<()> {
    let mut awaited: Vec<PollFd<'_>> =
        sides.map(|(stream, flags)| PollFd::from_borrowed_fd(stream.as_fd(), flags)).collect();
    match poll(&mut awaited, Some(&PATIENCE))? {
        0 if !awaited.is_empty() => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_arrive_whole_on_every_connection() {
        for (answer, connections, depth) in [(4096, 4, 32), (1 << 20, 1, 4), (1, 2, 1)] {
            let shape = Shape { answer, connections, depth, gather: 1 + depth / 8 };
            let sent = measure(shape, Duration::from_millis(200)).unwrap();
            assert!(sent.answers >= 10.0, "{shape:?}: {sent:?}");
            assert!(sent.cpu_seconds > 0.0 && sent.cpu_seconds < 2.0, "{sent:?}");
        }
    }
}
