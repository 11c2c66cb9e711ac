//! The bytes of a range in order, with a window of reads ahead of the consumer.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::file::reader::FileReader;
use crate::limits::STREAM_WINDOW_BYTES;

/// The bytes of a range of a file, in order.
///
/// Up to [`STREAM_WINDOW_BYTES`] are asked for ahead of the consumer, from several shards at once.
/// Dropping the stream ends its reads.
pub struct ReadStream {
    reader: FileReader,
    /// Next byte to ask for.
    at: u64,
    end: u64,
    ahead: VecDeque<Ahead>,
    /// Bytes of all pieces in `ahead`.
    window: usize,
}

struct Ahead {
    len: usize,
    task: JoinHandle<Result<Bytes, Error>>,
}

impl ReadStream {
    pub(super) fn new(reader: FileReader, at: u64, end: u64) -> ReadStream {
        ReadStream { reader, at, end, ahead: VecDeque::new(), window: 0 }
    }

    /// The next piece; `None` at the end of the range.
    ///
    /// # Errors
    /// Why a piece cannot be read; the stream ends there.
    ///
    /// # Cancel safety
    /// No piece is lost.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if let Err(error) = self.fill() {
            self.stop();
            return Some(Err(error));
        }
        let first = self.ahead.front_mut()?;
        let result = (&mut first.task).await;
        let len = first.len;
        self.ahead.pop_front();
        self.window -= len;
        let result = result.unwrap_or_else(|error| {
            let detail = format!("read task ended: {error}");
            Err(Error::Stopped { what: "read".into(), detail })
        });
        if result.is_err() {
            self.stop();
        }
        Some(result)
    }

    /// Asks for pieces until the window is full.
    fn fill(&mut self) -> Result<(), Error> {
        while self.window < STREAM_WINDOW_BYTES
            && let Some(piece) = self.reader.piece(self.at, self.end)?
        {
            let len = piece.len as usize;
            let task = tokio::spawn(self.reader.clone().read(piece));
            self.ahead.push_back(Ahead { len, task });
            self.window += len;
            self.at += u64::from(piece.len);
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.end = self.at;
        for ahead in self.ahead.drain(..) {
            ahead.task.abort();
        }
        self.window = 0;
    }
}

impl Drop for ReadStream {
    fn drop(&mut self) {
        self.stop();
    }
}
