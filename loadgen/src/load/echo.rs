//! Operations with a server that knows when each of them ended, without this program's bookkeeping.
//!
//! The recorder keeps the exact times at which it answered. From those, and from when an operation of a
//! given number was due, follow the latencies that a generator should have reported. It stands still
//! once, as servers do: a generator that waits for one answer before it sends the next would not see it.

use std::cell::RefCell;
use std::collections::BinaryHeap;
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::subject::Numbers;
use crate::cluster::now;
use crate::dice::mix;

/// Shortest and longest time after which an operation is answered, in microseconds.
const DELAY_US: (u64, u64) = (2_000, 12_000);
/// How long the recorder stands still, once.
const STANDSTILL: Duration = Duration::from_millis(120);
/// The operation with which it begins to.
const STANDS_STILL_AT: u64 = 700;
/// Longest sleep of the recorder between two looks.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The asking end: a socket for each operation under way.
pub(super) struct Echo {
    address: SocketAddr,
    numbers: Numbers,
    idle: RefCell<Vec<tokio::net::UdpSocket>>,
}

impl Echo {
    pub(super) fn new(address: SocketAddr, numbers: Numbers) -> Echo {
        Echo { address, numbers, idle: RefCell::default() }
    }

    /// Sends the next number and waits until it comes back.
    pub(super) async fn operate(&self) -> Result<u64> {
        let number = self.numbers.draw();
        let idle = self.idle.borrow_mut().pop();
        let socket = match idle {
            Some(socket) => socket,
            None => {
                let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                socket.connect(self.address).await?;
                socket
            }
        };
        socket.send(&number.to_le_bytes()).await?;
        let mut answer = [0; 8];
        let came = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await;
        came.map_err(|_| Error::from(ErrorKind::TimedOut))??;
        if u64::from_le_bytes(answer) != number {
            return Err(Error::new(ErrorKind::InvalidData, "the answer to another operation"));
        }
        self.idle.borrow_mut().push(socket);
        Ok(0)
    }
}

/// When an operation came and when it was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) number: u64,
    pub(crate) came: Instant,
    pub(crate) answered: Instant,
}

/// The answering end, in a thread of its own.
pub(crate) struct Recorder {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Answered>>>,
}

impl Recorder {
    /// Starts to answer.
    ///
    /// # Errors
    /// When the system has no socket.
    pub(crate) fn start() -> Result<Recorder> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let (address, ended) = (socket.local_addr()?, Arc::new(AtomicBool::new(false)));
        let own = Arc::clone(&ended);
        let thread = std::thread::spawn(move || answer(&socket, &own));
        Ok(Recorder { address, ended, thread })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it and gives what it saw, in the order of its answers.
    ///
    /// # Errors
    /// When it could not receive or send.
    pub(crate) fn end(self) -> Result<Vec<Answered>> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Error::other("the recorder panicked"))?
    }
}

/// An operation that waits to be answered; the earliest is the greatest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due: std::cmp::Reverse<Instant>,
    number: u64,
    came: Instant,
    from: SocketAddr,
}

fn answer(socket: &UdpSocket, ended: &AtomicBool) -> Result<Vec<Answered>> {
    let (mut seen, mut waiting) = (Vec::new(), BinaryHeap::new());
    while !ended.load(Ordering::Relaxed) {
        let mut bytes = [0; 8];
        match socket.recv_from(&mut bytes) {
            Ok((_, from)) => {
                let (number, came) = (u64::from_le_bytes(bytes), now());
                if number == STANDS_STILL_AT {
                    rest(STANDSTILL);
                }
                let due = std::cmp::Reverse(came + delay(number));
                waiting.push(Waiting { due, number, came, from });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => rest(LOOK_EVERY),
            Err(error) => return Err(error),
        }
        while waiting.peek().is_some_and(|first| first.due.0 <= now()) {
            let Some(Waiting { number, came, from, .. }) = waiting.pop() else { break };
            let answered = now();
            socket.send_to(&number.to_le_bytes(), from)?;
            seen.push(Answered { number, came, answered });
        }
    }
    Ok(seen)
}

/// The same for the same number, unlike for others.
fn delay(number: u64) -> Duration {
    let (least, most) = DELAY_US;
    Duration::from_micros(least + mix(number) % (most - least))
}

#[expect(clippy::disallowed_methods, reason = "stands for a server that takes real time")]
fn rest(time: Duration) {
    std::thread::sleep(time);
}
