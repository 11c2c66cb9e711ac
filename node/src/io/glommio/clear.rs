//! A connection that has left TLS: bytes go between the socket and where they belong.
//!
//! What is sent leaves from where it lies, by one gathering system call. What comes is received
//! straight into its buffer when it is long; what is short, frames' headers and bodies, comes
//! through the executor's scratch buffer, many to a system call.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::AsyncRead;
use glommio::net::TcpStream;

use super::tls::{Received, WireError};
use crate::limits::{RECEIVE_HEADS, RECEIVE_SLICE};

/// Receives until the socket is dry or [`RECEIVE_SLICE`] bytes have come, and gives them to `take`.
///
/// `take` must read until the reader would block.
pub(super) fn poll_receive<E>(
    stream: &mut TcpStream,
    context: &mut Context<'_>,
    scratch: &mut [u8],
    take: &mut dyn FnMut(&mut dyn Read) -> Result<(), E>,
) -> Poll<Result<Received, WireError<E>>> {
    let heads = scratch.len().min(RECEIVE_HEADS);
    let scratch = &mut scratch[..heads];
    let mut source = Source { stream, context, scratch, held: 0..0, received: 0, ended: false };
    let taken = take(&mut source).map_err(WireError::Taker);
    let Source { received, ended, .. } = source;
    match taken {
        Err(error) => Poll::Ready(Err(error)),
        Ok(()) if received > 0 => Poll::Ready(Ok(Received::Bytes(received))),
        Ok(()) if ended => Poll::Ready(Ok(Received::End)),
        Ok(()) => Poll::Pending,
    }
}

/// The socket as a reader that never waits.
struct Source<'a, 'b> {
    stream: &'a mut TcpStream,
    context: &'a mut Context<'b>,
    scratch: &'a mut [u8],
    /// What of the scratch buffer nobody has taken yet.
    held: std::ops::Range<usize>,
    received: usize,
    ended: bool,
}

impl Source<'_, '_> {
    fn receive(
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        out: &mut [u8],
    ) -> io::Result<usize> {
        match Pin::new(stream).poll_read(context, out) {
            Poll::Ready(received) => received,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Read for Source<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.held.is_empty() {
            if self.received >= RECEIVE_SLICE {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let direct = out.len() >= self.scratch.len();
            let room = out.len().min(RECEIVE_SLICE);
            let into = if direct { &mut out[..room] } else { &mut *self.scratch };
            let len = Source::receive(self.stream, self.context, into)?;
            self.received += len;
            self.ended = len == 0;
            if direct || self.ended {
                return Ok(len);
            }
            self.held = 0..len;
        }
        let len = out.len().min(self.held.len());
        out[..len].copy_from_slice(&self.scratch[self.held.start..self.held.start + len]);
        self.held.start += len;
        Ok(len)
    }
}
