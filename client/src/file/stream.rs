//! The bytes of a range in order, with a window of reads ahead of the consumer.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::{Id, JoinSet};

use crate::error::Error;
use crate::file::reader::FileReader;
use crate::limits::{STREAM_HELD_BYTES_MAX, STREAM_WINDOW_BYTES};

/// The bytes of a range of a file, in order.
///
/// Up to [`STREAM_WINDOW_BYTES`] are asked for ahead of the consumer, from several shards at once.
/// While the next piece is late, what arrived behind it makes way for more, up to
/// [`STREAM_HELD_BYTES_MAX`] in all. Dropping the stream ends its reads.
pub struct ReadStream {
    reader: FileReader,
    /// Next byte to ask for.
    at: u64,
    end: u64,
    reads: JoinSet<Result<Bytes, Error>>,
    ahead: VecDeque<Ahead>,
    /// Bytes of all pieces in `ahead`.
    held: usize,
    /// Bytes of those that have not arrived.
    in_flight: usize,
}

struct Ahead {
    id: Id,
    len: usize,
    arrived: Option<Result<Bytes, Error>>,
}

impl ReadStream {
    pub(super) fn new(reader: FileReader, at: u64, end: u64) -> ReadStream {
        let (reads, ahead) = (JoinSet::new(), VecDeque::new());
        ReadStream { reader, at, end, reads, ahead, held: 0, in_flight: 0 }
    }

    /// The next piece; `None` at the end of the range.
    ///
    /// # Errors
    /// Why a piece cannot be read; the stream ends there.
    ///
    /// # Cancel safety
    /// No piece is lost.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let mut held_max = STREAM_WINDOW_BYTES;
        loop {
            if let Err(error) = self.fill(held_max) {
                self.stop();
                return Some(Err(error));
            }
            let first = self.ahead.front_mut()?;
            let len = first.len;
            if let Some(result) = first.arrived.take() {
                self.ahead.pop_front();
                self.held -= len;
                if result.is_err() {
                    self.stop();
                }
                return Some(result);
            }
            self.arrive().await;
            held_max = STREAM_HELD_BYTES_MAX;
        }
    }

    /// Asks for pieces until the window is full.
    fn fill(&mut self, held_max: usize) -> Result<(), Error> {
        while self.in_flight < STREAM_WINDOW_BYTES
            && self.held < held_max
            && let Some(piece) = self.reader.piece(self.at, self.end)?
        {
            let len = piece.len as usize;
            let id = self.reads.spawn(self.reader.clone().read(piece)).id();
            self.ahead.push_back(Ahead { id, len, arrived: None });
            self.held += len;
            self.in_flight += len;
            self.at += u64::from(piece.len);
        }
        Ok(())
    }

    /// Waits until one more piece has arrived, whichever it is.
    async fn arrive(&mut self) {
        let Some(ended) = self.reads.join_next_with_id().await else { return };
        let (id, result) = ended.unwrap_or_else(|error| {
            let detail = format!("read task ended: {error}");
            (error.id(), Err(Error::Stopped { what: "read".into(), detail }))
        });
        if let Some(piece) = self.ahead.iter_mut().find(|piece| piece.id == id) {
            self.in_flight -= piece.len;
            piece.arrived = Some(result);
        }
    }

    fn stop(&mut self) {
        self.end = self.at;
        self.reads.abort_all();
        self.ahead.clear();
        (self.held, self.in_flight) = (0, 0);
    }
}

impl Drop for ReadStream {
    fn drop(&mut self) {
        self.stop();
    }
}
