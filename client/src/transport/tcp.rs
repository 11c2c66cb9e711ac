//! The socket under a connection: options, and large reads for a TLS library that asks for small
//! ones.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use crate::limits::{RECEIVE_BUFFER_BYTES, SOCKET_HEAD_BYTES, SOCKET_READ_BYTES};

/// Connects to `host:port`, trying each address the name has.
///
/// # Errors
/// The error of the last address.
pub(super) async fn connect(address: &str) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for place in lookup_host(address).await? {
        let socket = if place.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // The window scale is fixed by the handshake, so the buffer is set before it. The kernel
        // may give less; that costs speed on a long path and nothing else.
        let wanted = u32::try_from(RECEIVE_BUFFER_BYTES).unwrap_or(u32::MAX);
        if let Err(error) = socket.set_recv_buffer_size(wanted) {
            tracing::debug!(%error, wanted, "receive buffer not set");
        }
        match socket.connect(place).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(Socket::new(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A TCP stream that takes [`SOCKET_READ_BYTES`] from the kernel at once.
///
/// rustls reads 4 KiB at a time into its own buffer; without this each would be a system call.
pub(super) struct Socket {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Socket {
    fn new(stream: TcpStream) -> Socket {
        let buffer = vec![0; SOCKET_READ_BYTES].into_boxed_slice();
        Socket { stream, buffer, start: 0, end: 0 }
    }

    /// The same for a connection that left TLS: its reader asks for as much as it wants itself, so
    /// only heads of frames come through the buffer, with the payload that follows them closely.
    pub(super) fn without_tls(mut self) -> Socket {
        if self.start == self.end {
            self.buffer = vec![0; SOCKET_HEAD_BYTES].into_boxed_slice();
        }
        self
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start == this.end {
            if out.remaining() >= this.buffer.len() {
                return Pin::new(&mut this.stream).poll_read(context, out);
            }
            let mut fill = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut fill))?;
            (this.start, this.end) = (0, fill.filled().len());
        }
        let count = out.remaining().min(this.end - this.start);
        out.put_slice(&this.buffer[this.start..this.start + count]);
        this.start += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
