//! Registers of whole chunks, and the bytes that stand for values.
//!
//! A chunk is a row of slots. A slot that was written holds a value, its place, and filler made
//! from both, over its whole length: no slot can pass for another, and none can be half of one and
//! half of another without being found.

use std::collections::BTreeMap;

use node::io::Nanos;
use protocol::ids::ChunkKey;

use super::{Register, Value, Violation};

/// Bytes of a slot.
pub const SLOT_LEN: usize = 1024;
/// Bytes of the pattern that fills a slot.
const WORD_LEN: usize = 16;

/// The registers of all chunks.
#[derive(Clone, Debug, Default)]
pub struct Book {
    registers: BTreeMap<(ChunkKey, usize), Register>,
    /// Slots that each unfinished write covers.
    writing: BTreeMap<Value, (ChunkKey, std::ops::Range<usize>)>,
    values: u64,
}

/// Why bytes are no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {slot} of chunk {key} holds no value at byte {at}")]
pub struct Garbled {
    /// The chunk.
    pub key: ChunkKey,
    /// The slot.
    pub slot: usize,
    /// First byte of it that does not fit the others.
    pub at: usize,
}

impl Book {
    /// Begins a write of some slots: its value, and the bytes for them.
    pub fn begin(
        &mut self,
        key: ChunkKey,
        slots: std::ops::Range<usize>,
        now: Nanos,
    ) -> (Value, Vec<u8>) {
        self.values += 1;
        let value = Value(self.values);
        for slot in slots.clone() {
            self.registers.entry((key, slot)).or_default().write(value, now);
        }
        let bytes = slots.clone().flat_map(|slot| content(key, slot, value)).collect();
        self.writing.insert(value, (key, slots));
        (value, bytes)
    }

    /// A write was acknowledged.
    pub fn end(&mut self, value: Value, now: Nanos) {
        let Some((key, slots)) = self.writing.remove(&value) else { return };
        for slot in slots {
            if let Some(register) = self.registers.get_mut(&(key, slot)) {
                register.written(value, now);
            }
        }
    }

    /// Adds a read of whole slots that starts with slot `first`.
    ///
    /// # Errors
    /// [`Garbled`] when a slot holds no value.
    pub fn read(
        &mut self,
        key: ChunkKey,
        first: usize,
        bytes: &[u8],
        (start, end): (Nanos, Nanos),
    ) -> Result<(), Garbled> {
        for (slot, bytes) in (first..).zip(bytes.chunks(SLOT_LEN)) {
            let value = value_of(key, slot, bytes)?;
            self.registers.entry((key, slot)).or_default().read(value, start, end);
        }
        Ok(())
    }

    /// Checks the history of every slot.
    ///
    /// # Errors
    /// The place and what is wrong with it.
    pub fn check(&self) -> Result<(), (ChunkKey, usize, Violation)> {
        for ((key, slot), register) in &self.registers {
            register.check().map_err(|violation| (*key, *slot, violation))?;
        }
        Ok(())
    }
}

/// What a slot holds once a value is written to it.
fn content(key: ChunkKey, slot: usize, value: Value) -> Vec<u8> {
    let mut word = [0; WORD_LEN];
    word[..8].copy_from_slice(&value.0.to_le_bytes());
    word[8..].copy_from_slice(&place(key, slot, value).to_le_bytes());
    word.repeat(SLOT_LEN / WORD_LEN)
}

/// Differs for each value and place.
fn place(key: ChunkKey, slot: usize, value: Value) -> u64 {
    let mut mixed = value.0 ^ key.fid.0.rotate_left(20) ^ u64::from(key.index).rotate_left(44);
    mixed = (mixed ^ slot as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)) | 1
}

/// The value that a slot holds; 0 for zeros.
fn value_of(key: ChunkKey, slot: usize, bytes: &[u8]) -> Result<Value, Garbled> {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    let value = Value(u64::from_le_bytes(first));
    let wanted = if value.0 == 0 { vec![0; SLOT_LEN] } else { content(key, slot, value) };
    match bytes.iter().zip(&wanted).position(|(byte, wanted)| byte != wanted) {
        None => Ok(value),
        Some(at) => Err(Garbled { key, slot, at }),
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::Fid;

    use super::*;

    const KEY: ChunkKey = ChunkKey { fid: Fid(5), index: 1 };

    #[test]
    fn what_was_written_is_read_and_passes() {
        let mut book = Book::default();
        let (value, bytes) = book.begin(KEY, 2..5, Nanos(10));
        assert_eq!(bytes.len(), 3 * SLOT_LEN);
        book.end(value, Nanos(20));
        let mut seen = vec![0; SLOT_LEN];
        seen.extend(&bytes);
        assert_eq!(book.read(KEY, 1, &seen, (Nanos(30), Nanos(40))), Ok(()));
        assert_eq!(book.check(), Ok(()));
    }

    #[test]
    fn bytes_of_another_place_or_a_mixture_are_found() {
        let mut book = Book::default();
        let (_, one) = book.begin(KEY, 0..1, Nanos(1));
        let (_, other) = book.begin(KEY, 0..1, Nanos(1));
        let span = (Nanos(2), Nanos(3));
        assert_eq!(book.read(KEY, 1, &one, span), Err(Garbled { key: KEY, slot: 1, at: 8 }));
        let torn: Vec<u8> = [&one[..512], &other[512..]].concat();
        assert_eq!(book.read(KEY, 0, &torn, span), Err(Garbled { key: KEY, slot: 0, at: 512 }));
        let cut: Vec<u8> = [&one[..512], &[0; 512]].concat();
        assert!(book.read(KEY, 0, &cut, span).is_err());
    }

    #[test]
    fn an_overwrite_that_vanishes_is_found_in_its_slot() {
        let mut book = Book::default();
        let (old, bytes) = book.begin(KEY, 0..2, Nanos(1));
        book.end(old, Nanos(2));
        let (new, _) = book.begin(KEY, 1..2, Nanos(3));
        book.end(new, Nanos(4));
        assert_eq!(book.read(KEY, 0, &bytes, (Nanos(5), Nanos(6))), Ok(()));
        let found = book.check();
        assert_eq!(found, Err((KEY, 1, Violation::Lost { lost: new, kept: old })));
    }
}
