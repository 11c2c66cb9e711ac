//! Takes answers from a server as fast as they come: one thread, a few connections, on each of them
//! a fixed number of requests outstanding.
//!
//! Deliberately little: what it costs is paid on the other core, and a server that is asked by a slow
//! peer looks worse than it is.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustls::ClientConnection;

use crate::cluster::{StepError, now};

/// Bytes taken from a socket at a time when answers are short.
const SCRATCH: usize = 256 << 10;
/// The same when they are long: what of a payload comes along is copied once more.
const HEADS: usize = 16 << 10;
/// From this length on a payload is received where it belongs.
const LONG: usize = 64 << 10;
/// Longest silence of a server.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What is said on a connection.
pub(super) trait Speech {
    /// Appends the next request.
    fn ask(&mut self, out: &mut Vec<u8>);

    /// Takes bytes that came, in order.
    ///
    /// # Errors
    /// What is wrong with them, in one line.
    fn hear(&mut self, bytes: &[u8]) -> Result<(), String>;

    /// Where the next bytes belong, when all of them belong to one payload; else empty.
    fn space(&mut self) -> &mut [u8];

    /// Takes note that so many bytes were put into [`Speech::space`].
    ///
    /// # Errors
    /// As [`Speech::hear`].
    fn filled(&mut self, len: usize) -> Result<(), String>;

    /// Answers that came whole, since the beginning.
    fn answers(&self) -> u64;
}

/// One connection.
pub(super) struct Line {
    stream: TcpStream,
    tls: Option<ClientConnection>,
    speech: Box<dyn Speech>,
    /// Requests that the socket did not take yet.
    out: Vec<u8>,
    asked: u64,
}

/// What came in a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulled {
    /// Answers.
    pub(super) answers: f64,
    /// From the first request to the last answer, in seconds.
    pub(super) seconds: f64,
}

/// Keeps `depth` requests outstanding on every line for so long, then waits for the last answers.
///
/// # Errors
/// [`StepError::Different`] when a server says something else than what was asked, or nothing.
pub(super) fn pull(lines: &mut [Line], depth: usize, time: Duration) -> Result<Pulled, StepError> {
    let _core = OnCore1::pin();
    let mut scratch = vec![0u8; SCRATCH];
    let before: u64 = lines.iter().map(|line| line.speech.answers()).sum();
    let begun = now();
    for line in lines.iter_mut() {
        line.ask(depth as u64)?;
    }
    loop {
        let goes_on = begun.elapsed() < time;
        let mut moved = false;
        for line in lines.iter_mut() {
            let had = line.speech.answers();
            moved |= line.receive(&mut scratch)?;
            let more = line.speech.answers() - had;
            line.ask(if goes_on { more } else { 0 })?;
        }
        if lines.iter().all(Line::is_quiet) {
            break;
        }
        if !moved {
            wait(lines, begun)?;
        }
    }
    let after: u64 = lines.iter().map(|line| line.speech.answers()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds' length")]
    let answers = (after - before) as f64;
    Ok(Pulled { answers, seconds: begun.elapsed().as_secs_f64() })
}

/// Keeps this thread on core 1 and leaves core 0 to the servers, until dropped: programs that are
/// started later may go anywhere.
struct OnCore1(Option<CpuSet>);

impl OnCore1 {
    fn pin() -> OnCore1 {
        let before = sched_getaffinity(None).ok();
        let mut cores = CpuSet::new();
        cores.set(1);
        // A machine with one core: the figures hold what that costs.
        let _ = sched_setaffinity(None, &cores);
        OnCore1(before)
    }
}

impl Drop for OnCore1 {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // As it was allowed before.
            let _ = sched_setaffinity(None, before);
        }
    }
}

impl Line {
    /// Takes a connection over whose greetings are done.
    ///
    /// # Errors
    /// [`StepError::Different`] when the socket refuses its settings.
    pub(super) fn new(
        stream: TcpStream,
        tls: Option<ClientConnection>,
        speech: Box<dyn Speech>,
    ) -> Result<Line, StepError> {
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map_err(socket)?;
        Ok(Line { stream, tls, speech, out: Vec::new(), asked: 0 })
    }

    fn is_quiet(&self) -> bool {
        self.asked == self.speech.answers()
    }

    fn ask(&mut self, count: u64) -> Result<(), StepError> {
        for _ in 0..count {
            self.speech.ask(&mut self.out);
        }
        self.asked += count;
        if self.out.is_empty() {
            return Ok(());
        }
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(&self.out).map_err(socket)?;
            self.out.clear();
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    other => other.map(|_| ()).map_err(socket)?,
                }
            }
            return Ok(());
        }
        match self.stream.write(&self.out) {
            Ok(len) => drop(self.out.drain(..len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(socket(error)),
        }
        Ok(())
    }

    /// Receives once; false when nothing came.
    fn receive(&mut self, scratch: &mut [u8]) -> Result<bool, StepError> {
        let wrong = |what: String| StepError::Different(format!("a server answered: {what}"));
        if self.tls.is_none() {
            let space = self.speech.space();
            if space.len() >= LONG {
                let Some(len) = received(self.stream.read(space))? else { return Ok(false) };
                return self.speech.filled(len).map(|()| true).map_err(wrong);
            }
            let room = if space.is_empty() { SCRATCH } else { HEADS };
            let Some(len) = received(self.stream.read(&mut scratch[..room]))? else {
                return Ok(false);
            };
            return self.speech.hear(&scratch[..len]).map(|()| true).map_err(wrong);
        }
        let Some(len) = received(self.stream.read(scratch))? else { return Ok(false) };
        self.open(&scratch[..len])?;
        Ok(true)
    }

    fn open(&mut self, mut sealed: &[u8]) -> Result<(), StepError> {
        let wrong = |what: String| StepError::Different(format!("a server answered: {what}"));
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let mut plain = [0u8; HEADS];
        while !sealed.is_empty() {
            tls.read_tls(&mut sealed).map_err(socket)?;
            tls.process_new_packets().map_err(|error| wrong(error.to_string()))?;
            loop {
                let space = self.speech.space();
                let direct = !space.is_empty();
                let into = if direct { space } else { &mut plain };
                let len = match tls.reader().read(into) {
                    Ok(0) => return Err(wrong("end of the connection".to_owned())),
                    Ok(len) => len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(socket(error)),
                };
                let taken =
                    if direct { self.speech.filled(len) } else { self.speech.hear(&plain[..len]) };
                taken.map_err(wrong)?;
            }
        }
        Ok(())
    }
}

fn received(result: std::io::Result<usize>) -> Result<Option<usize>, StepError> {
    match result {
        Ok(0) => Err(socket(ErrorKind::UnexpectedEof.into())),
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(socket(error)),
    }
}

fn wait(lines: &[Line], begun: Instant) -> Result<(), StepError> {
    let flags = |line: &Line| {
        let waits = !line.out.is_empty() || line.tls.as_ref().is_some_and(|tls| tls.wants_write());
        if waits { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    };
    let mut awaited: Vec<PollFd<'_>> = lines
        .iter()
        .map(|line| PollFd::from_borrowed_fd(line.stream.as_fd(), flags(line)))
        .collect();
    match poll(&mut awaited, Some(&PATIENCE)) {
        Ok(0) => Err(StepError::Timeout {
            seconds: begun.elapsed().as_secs(),
            what: "the next answer of a server".to_owned(),
        }),
        other => other.map(|_| ()).map_err(|error| socket(error.into())),
    }
}

fn socket(error: std::io::Error) -> StepError {
    StepError::Different(format!("connection to a server: {error}"))
}
