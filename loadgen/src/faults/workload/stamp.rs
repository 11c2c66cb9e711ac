//! Cells that say whose they are. Pure.
//!
//! Every cell that the workload writes begins with a stamp and goes on with bytes that follow from
//! it, so a cell found in the wrong place, or of the wrong age, tells where it belongs.

use std::fmt;

use crate::dice::{Dice, mix};

/// Bytes of one cell.
pub const CELL_BYTES: usize = 16 << 10;
/// Bytes a stamp takes at the start of its cell.
pub const STAMP_BYTES: usize = 48;
/// First bytes of every stamp: no text, and unlikely in a journal.
const MAGIC: u64 = 0x9b1d_fa17_1e5c_e11a;

/// Whose a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run of the harness.
    pub run: u64,
    /// Task that wrote it.
    pub writer: u32,
    /// Cell of the file.
    pub cell: u32,
    /// File, by number.
    pub file: u64,
    /// Operation of the writer.
    pub operation: u64,
    /// How often the cell had been written before.
    pub counter: u64,
}

impl Stamp {
    /// The whole cell.
    pub fn fill(&self, out: &mut [u8]) {
        let mut words = Dice::new(self.digest());
        for word in out.chunks_mut(8) {
            let bytes = words.draw().to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
        let head = self.encode();
        let len = head.len().min(out.len());
        out[..len].copy_from_slice(&head[..len]);
    }

    /// The stamp at the start of some bytes; `None` when there is none.
    pub fn decode(bytes: &[u8]) -> Option<Stamp> {
        let word = |at: usize| {
            let bytes = bytes.get(at * 8..at * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let pair = word(2)?;
        let stamp = Stamp {
            run: word(1)?,
            writer: u32::try_from(pair >> 32).ok()?,
            cell: u32::try_from(pair & 0xffff_ffff).ok()?,
            file: word(3)?,
            operation: word(4)?,
            counter: word(5)?,
        };
        (word(0)? == MAGIC).then_some(stamp)
    }

    fn encode(&self) -> [u8; STAMP_BYTES] {
        let pair = u64::from(self.writer) << 32 | u64::from(self.cell);
        let words = [MAGIC, self.run, pair, self.file, self.operation, self.counter];
        let mut head = [0; STAMP_BYTES];
        for (out, word) in head.chunks_mut(8).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        head
    }

    fn digest(&self) -> u64 {
        let words = [self.run, self.writer.into(), self.cell.into(), self.file, self.operation];
        words.iter().fold(mix(self.counter), |digest, word| mix(digest ^ word).wrapping_add(*word))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp { run, writer, cell, file, operation, counter } = self;
        write!(f, "cell {cell} of file {file}, writer {writer}, operation {operation}, ")?;
        write!(f, "counter {counter}, run {run:x}")
    }
}

/// What the first cell that is not as expected holds instead, in words.
///
/// `at` is the place of `bytes` in the file; `stamp` says what a cell should be.
pub fn first_wrong(at: u64, bytes: &[u8], mut stamp: impl FnMut(u32) -> Stamp) -> Option<String> {
    let mut expected = vec![0; CELL_BYTES];
    let mut done = 0;
    while done < bytes.len() {
        let place = at + done as u64;
        let within = usize::try_from(place % CELL_BYTES as u64).unwrap_or(0);
        let len = (CELL_BYTES - within).min(bytes.len() - done);
        let wanted = stamp(u32::try_from(place / CELL_BYTES as u64).unwrap_or(u32::MAX));
        wanted.fill(&mut expected);
        let found = &bytes[done..done + len];
        if found != &expected[within..within + len] {
            return Some(difference(&wanted, found, &expected[within..within + len], within));
        }
        done += len;
    }
    None
}

fn difference(wanted: &Stamp, found: &[u8], expected: &[u8], within: usize) -> String {
    let pairs = found.iter().zip(expected);
    let wrong = pairs.clone().filter(|(found, expected)| found != expected).count();
    let first = pairs.take_while(|(found, expected)| found == expected).count() + within;
    let holds = match Stamp::decode(found) {
        Some(stamp) if within == 0 && stamp != *wanted => format!("it is {stamp}"),
        _ if found.iter().all(|byte| *byte == 0) => "it is all zeros".to_owned(),
        _ => "its stamp is not another's".to_owned(),
    };
    format!("{wanted}: {wrong} wrong bytes, the first at {first} of the cell; {holds}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(cell: u32) -> Stamp {
        Stamp { run: 7, writer: 2, cell, file: 5, operation: 9, counter: 0 }
    }

    fn file(cells: u32) -> Vec<u8> {
        let mut bytes = vec![0; cells as usize * CELL_BYTES];
        for (cell, out) in (0..).zip(bytes.chunks_mut(CELL_BYTES)) {
            stamp(cell).fill(out);
        }
        bytes
    }

    #[test]
    fn every_range_of_a_file_is_checked_against_its_cells() {
        let bytes = file(3);
        for (at, len) in [(0, 3 * CELL_BYTES), (100, 20_000), (CELL_BYTES - 1, 2)] {
            assert_eq!(first_wrong(at as u64, &bytes[at..at + len], stamp), None);
        }
    }

    #[test]
    fn a_cell_in_the_wrong_place_names_where_it_belongs() {
        let bytes = file(2);
        let text = first_wrong(0, &bytes[CELL_BYTES..], stamp).unwrap();
        assert!(text.contains("it is cell 1 of file 5"), "{text}");
    }

    #[test]
    fn one_flipped_bit_is_found() {
        let mut bytes = file(2);
        bytes[CELL_BYTES + 100] ^= 1;
        let text = first_wrong(0, &bytes, stamp).unwrap();
        assert!(text.contains("1 wrong bytes, the first at 100"), "{text}");
    }
}
