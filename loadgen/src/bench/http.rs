//! What is said to a web server: pipelined requests for ranges of one file.

use super::pull::Speech;
use crate::dice::Dice;

/// Longest head of an answer, in bytes.
const HEAD_MAX: usize = 8 << 10;

/// The speech of one connection.
pub(super) struct Ranges {
    path: String,
    block: u64,
    places: u64,
    dice: Dice,
    head: Vec<u8>,
    /// Bytes of the payload that have not come.
    left: usize,
    payload: Vec<u8>,
    answers: u64,
}

impl Ranges {
    /// Asks for `block` bytes at a time of a file of `size` bytes.
    pub(super) fn new(path: &str, size: u64, block: u64, seed: u64) -> Ranges {
        Ranges {
            path: path.to_owned(),
            block,
            places: size / block,
            dice: Dice::new(seed),
            head: Vec::new(),
            left: 0,
            payload: vec![0; usize::try_from(block).unwrap_or(0)],
            answers: 0,
        }
    }

    fn finish_head(&mut self) -> Result<(), String> {
        let text = String::from_utf8_lossy(&self.head);
        if !text.starts_with("HTTP/1.1 206") {
            return Err(text.lines().next().unwrap_or("nothing").to_owned());
        }
        let is_length = |line: &&str| line.to_ascii_lowercase().starts_with("content-length:");
        let line = text.lines().find(is_length).unwrap_or_default();
        let length = line.split_once(':').and_then(|(_, value)| value.trim().parse().ok());
        if length != Some(self.payload.len()) {
            return Err(format!("an answer of another length: {line}"));
        }
        self.head.clear();
        self.left = self.payload.len();
        Ok(())
    }
}

impl Speech for Ranges {
    fn ask(&mut self, out: &mut Vec<u8>) {
        let first = self.dice.below(self.places) * self.block;
        let last = first + self.block - 1;
        let text = format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\nRange: bytes={first}-{last}\r\n\r\n",
            self.path
        );
        out.extend_from_slice(text.as_bytes());
    }

    fn hear(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let len = self.left.min(bytes.len());
                self.space()[..len].copy_from_slice(&bytes[..len]);
                self.filled(len)?;
                bytes = &bytes[len..];
                continue;
            }
            let had = self.head.len();
            self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD_MAX)]);
            let from = had.saturating_sub(3);
            let end = self.head[from..].windows(4).position(|window| window == b"\r\n\r\n");
            let Some(end) = end.map(|at| from + at + 4) else {
                if self.head.len() >= HEAD_MAX {
                    return Err("a head without end".to_owned());
                }
                return Ok(());
            };
            bytes = &bytes[end - had..];
            self.head.truncate(end);
            self.finish_head()?;
        }
        Ok(())
    }

    fn space(&mut self) -> &mut [u8] {
        let start = self.payload.len() - self.left;
        if self.left > 0 { &mut self.payload[start..] } else { &mut [] }
    }

    fn filled(&mut self, len: usize) -> Result<(), String> {
        self.left -= len;
        self.answers += u64::from(self.left == 0);
        Ok(())
    }

    fn answers(&self) -> u64 {
        self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_however_the_bytes_are_cut() {
        let one = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 8\r\nX: y\r\n\r\n12345678";
        let all = [&one[..], one, one].concat();
        for step in [1, 3, 7, 60, 1000] {
            let mut speech = Ranges::new("/f", 1 << 20, 8, 1);
            for piece in all.chunks(step) {
                speech.hear(piece).unwrap();
            }
            assert_eq!(speech.answers(), 3, "step {step}");
        }
    }

    #[test]
    fn anything_else_than_the_range_is_an_error() {
        let refused = |text: &[u8]| Ranges::new("/f", 1 << 20, 8, 1).hear(text).unwrap_err();
        assert!(refused(b"HTTP/1.1 404 Not Found\r\n\r\n").contains("404"));
        assert!(refused(b"HTTP/1.1 206 x\r\nContent-Length: 9\r\n\r\n").contains("another length"));
        assert!(refused(&[b'x'; HEAD_MAX]).contains("without end"));
    }
}
