//! TLS over one nonblocking socket: rustls' buffered connection and two short loops. What a
//! connection does after it left TLS is in `clear.rs`.
//!
//! Ciphertext is taken from the socket into a scratch buffer shared by the executor and opened at
//! once, so an idle connection holds no receive buffer of its own. Plaintext is sealed in slices
//! that stay in the second-level cache and leaves through one gathering system call.
//!
//! Both directions are driven from `poll` functions that borrow the wire only while they run.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::AsyncRead;
use futures_lite::AsyncWrite;
use glommio::net::TcpStream;
use protocol::session::{EXPORTER_LABEL, FrameMac, FrameMacs};
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use rustls::Connection;

use super::clear;

/// A socket and the TLS state over it, until the connection leaves TLS.
pub(super) struct Wire {
    stream: TcpStream,
    tls: Option<Connection>,
}

/// The tags of both directions of a connection that has left TLS.
pub(super) struct Tags {
    pub(super) sends: FrameMac,
    pub(super) receives: FrameMac,
}

/// Why a wire gave no plaintext.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError<E> {
    /// The socket failed.
    #[error("{0}")]
    Socket(io::Error),
    /// The peer does not speak TLS, or not to us.
    #[error("{0}")]
    Tls(rustls::Error),
    /// The taker of the plaintext refused it.
    #[error("{0}")]
    Taker(E),
}

/// What one receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes of ciphertext.
    Bytes(usize),
    /// The peer ended the stream.
    End,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, mut tls: Connection) -> Wire {
        // One slice at a time is sealed and flushed, so the slice is the bound.
        tls.set_buffer_limit(None);
        Wire { stream, tls: Some(tls) }
    }

    /// True until the peer's identity is known.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// True when sealed bytes wait for the socket.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// The TLS state; none after the connection left TLS.
    pub(super) fn tls(&self) -> Option<&Connection> {
        self.tls.as_ref()
    }

    /// True once the connection has left TLS.
    pub(super) fn is_clear(&self) -> bool {
        self.tls.is_none()
    }

    /// Leaves TLS: what is sent and received from now on is not encrypted, and carries tags.
    ///
    /// # Errors
    /// When sealed bytes still wait, or the session gives no keys; nothing has changed then.
    pub(super) fn leave_tls(&mut self) -> Result<Tags, rustls::Error> {
        let unfinished = || rustls::Error::General("TLS is not at rest".to_owned());
        let tls = self.tls.as_ref().filter(|tls| !tls.wants_write()).ok_or_else(unfinished)?;
        let export = |key, context| tls.export_keying_material(key, EXPORTER_LABEL, Some(context));
        let FrameMacs { of_client, of_server } = FrameMacs::derive(export)?;
        let tags = match tls {
            Connection::Client(_) => Tags { sends: of_client, receives: of_server },
            Connection::Server(_) => Tags { sends: of_server, receives: of_client },
        };
        self.tls = None;
        Ok(tags)
    }

    /// Hands runs of memory to the socket as they lie; outside of TLS only.
    /// Returns how many bytes it took.
    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        runs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = Gathered { stream: &mut self.stream, context };
        loop {
            match gathered.write_vectored(runs) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Receives once, as much as `scratch` holds, and gives the plaintext to `take`.
    ///
    /// `take` must read until the reader would block.
    pub(super) fn poll_receive<E>(
        &mut self,
        context: &mut Context<'_>,
        scratch: &mut [u8],
        take: &mut dyn FnMut(&mut dyn Read) -> Result<(), E>,
    ) -> Poll<Result<Received, WireError<E>>> {
        let Some(tls) = &mut self.tls else {
            return clear::poll_receive(&mut self.stream, context, scratch, take);
        };
        let len = match Pin::new(&mut self.stream).poll_read(context, scratch) {
            Poll::Ready(Ok(len)) => len,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(WireError::Socket(error))),
            Poll::Pending => return Poll::Pending,
        };
        if len == 0 {
            return Poll::Ready(Ok(Received::End));
        }
        Poll::Ready(open(tls, &scratch[..len], take))
    }

    /// Seals runs of plaintext as if they were one; they leave with the next flush.
    /// Returns how many bytes that were.
    pub(super) fn seal(&mut self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return Err(io::ErrorKind::NotConnected.into()) };
        match tls.writer().write_vectored(runs)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            len => Ok(len),
        }
    }

    /// Tells the peer that nothing more comes; it leaves with the next flush.
    pub(super) fn seal_end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
    }

    /// Hands sealed bytes to the socket until none are left.
    /// Returns how many left in this call, also when it has to wait for the rest.
    pub(super) fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
    ) -> (usize, Poll<io::Result<()>>) {
        let mut flushed = 0;
        let Some(tls) = &mut self.tls else { return (flushed, Poll::Ready(Ok(()))) };
        while tls.wants_write() {
            let mut gathered = Gathered { stream: &mut self.stream, context };
            match tls.write_tls(&mut gathered) {
                Ok(0) => return (flushed, Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Ok(len) => flushed += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (flushed, Poll::Pending);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (flushed, Poll::Ready(Err(error))),
            }
        }
        (flushed, Poll::Ready(Ok(())))
    }

    /// Ends both directions at once; whoever waits for the socket is woken.
    pub(super) fn cut(&self) {
        // An error means that the peer was faster, and the socket is as good as cut.
        let _ = rustix::net::shutdown(socket(&self.stream), Shutdown::Both);
    }
}

/// Opens what came and gives the plaintext to `take`.
fn open<E>(
    tls: &mut Connection,
    mut ciphertext: &[u8],
    take: &mut dyn FnMut(&mut dyn Read) -> Result<(), E>,
) -> Result<Received, WireError<E>> {
    let len = ciphertext.len();
    while !ciphertext.is_empty() {
        tls.read_tls(&mut ciphertext).map_err(WireError::Socket)?;
        let state = tls.process_new_packets().map_err(WireError::Tls)?;
        if state.plaintext_bytes_to_read() > 0 {
            take(&mut tls.reader()).map_err(WireError::Taker)?;
        }
        if state.peer_has_closed() {
            return Ok(Received::End);
        }
    }
    Ok(Received::Bytes(len))
}

/// Borrows the descriptor of a stream.
pub(super) fn socket(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns an open descriptor and is borrowed for as long as the result.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// Sends all slices by one system call; waits through the stream, which has no such call itself.
struct Gathered<'a, 'b, 'c> {
    stream: &'a mut TcpStream,
    context: &'b mut Context<'c>,
}

impl Write for Gathered<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut nothing = SendAncillaryBuffer::default();
        match rustix::net::sendmsg(socket(self.stream), slices, &mut nothing, flags) {
            Err(rustix::io::Errno::AGAIN) => {}
            other => return other.map_err(Into::into),
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        let first: &[u8] = first.map_or(&[], |slice| slice);
        match Pin::new(&mut *self.stream).poll_write(self.context, first) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
