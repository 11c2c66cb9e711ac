//! Registers of whole chunks, and the bytes that stand for values.
//!
//! A chunk is a row of slots. A slot that was written holds a value, its place, and filler made
//! from both, over its whole length: no slot can pass for another, and none can be half of one and
//! half of another without being found.
//!
//! A file may be cut: then its slots from some place on are empty again, and whoever writes to them
//! must know of the cut. What knew of it and what did not are registers of their own, the eras of a
//! slot. Nothing of an older era may be seen once the cut is done; an empty slot may be seen only
//! when no acknowledged write says otherwise.

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
    registers: BTreeMap<(ChunkKey, usize, Era), Register>,
    /// Slots that each unfinished write covers, when it began.
    writing: BTreeMap<Value, (ChunkKey, std::ops::Range<usize>, Nanos)>,
    /// The newest cut that the writer of each value knew of.
    known: BTreeMap<Value, u32>,
    cuts: BTreeMap<ChunkKey, Vec<Cut>>,
    /// What cuts show to be wrong.
    wrong: Option<(ChunkKey, usize, Violation)>,
    values: u64,
}

/// How many cuts that the writer knew of took a slot.
type Era = usize;

/// A chunk lost its slots from one on.
#[derive(Clone, Copy, Debug)]
struct Cut {
    from: usize,
    trunc_gen: u32,
    start: Nanos,
    end: Option<Nanos>,
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
        self.begin_cut(key, slots, 0, now)
    }

    /// Begins a write by somebody who knows of the cuts up to `trunc_gen`.
    pub fn begin_cut(
        &mut self,
        key: ChunkKey,
        slots: std::ops::Range<usize>,
        trunc_gen: u32,
        now: Nanos,
    ) -> (Value, Vec<u8>) {
        self.values += 1;
        let value = Value(self.values);
        self.known.insert(value, trunc_gen);
        for slot in slots.clone() {
            let name = (key, slot, self.era(key, slot, trunc_gen));
            self.registers.entry(name).or_default().write(value, now);
        }
        let bytes = slots.clone().flat_map(|slot| content(key, slot, value)).collect();
        self.writing.insert(value, (key, slots, now));
        (value, bytes)
    }

    /// A write was acknowledged.
    pub fn end(&mut self, value: Value, now: Nanos) {
        let Some((key, slots, start)) = self.writing.remove(&value) else { return };
        let trunc_gen = self.known.get(&value).copied().unwrap_or(0);
        for slot in slots {
            let late =
                |cut: &&Cut| cut.trunc_gen > trunc_gen && cut.end.is_some_and(|end| end < start);
            if self.cuts_of(key, slot).any(|cut| late(&cut)) {
                self.wrong.get_or_insert((key, slot, Violation::Undead { value }));
            }
            let name = (key, slot, self.era(key, slot, trunc_gen));
            if let Some(register) = self.registers.get_mut(&name) {
                register.written(value, now);
            }
        }
    }

    /// A cut begins: slots from `from` on go, whoever writes to them later knows of `trunc_gen`.
    pub fn cut(&mut self, key: ChunkKey, from: usize, trunc_gen: u32, now: Nanos) {
        let cut = Cut { from, trunc_gen, start: now, end: None };
        self.cuts.entry(key).or_default().push(cut);
    }

    /// A cut is done everywhere.
    pub fn cut_done(&mut self, key: ChunkKey, trunc_gen: u32, now: Nanos) {
        let cuts = self.cuts.get_mut(&key).into_iter().flatten();
        for cut in cuts.filter(|cut| cut.trunc_gen <= trunc_gen) {
            cut.end.get_or_insert(now);
        }
    }

    fn cuts_of(&self, key: ChunkKey, slot: usize) -> impl Iterator<Item = &Cut> {
        let cuts = self.cuts.get(&key).into_iter().flatten();
        cuts.filter(move |cut| cut.from <= slot)
    }

    fn era(&self, key: ChunkKey, slot: usize, trunc_gen: u32) -> Era {
        self.cuts_of(key, slot).filter(|cut| cut.trunc_gen <= trunc_gen).count()
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
            match value_of(key, slot, bytes)? {
                Value(0) if self.cuts_of(key, slot).any(|cut| cut.start < end) => {
                    self.read_empty(key, slot, (start, end));
                }
                value => self.read_value(key, slot, value, (start, end)),
            }
        }
        Ok(())
    }

    fn read_value(
        &mut self,
        key: ChunkKey,
        slot: usize,
        value: Value,
        (start, end): (Nanos, Nanos),
    ) {
        let trunc_gen = self.known.get(&value).copied().unwrap_or(0);
        let over = |cut: &Cut| cut.trunc_gen > trunc_gen && cut.end.is_some_and(|end| end < start);
        if self.cuts_of(key, slot).any(over) && value != Value(0) {
            self.wrong.get_or_insert((key, slot, Violation::Undead { value }));
        }
        let name = (key, slot, self.era(key, slot, trunc_gen));
        self.registers.entry(name).or_default().read(value, start, end);
    }

    /// An empty slot was read that a cut may have emptied: no write may stand between.
    fn read_empty(&mut self, key: ChunkKey, slot: usize, (start, end): (Nanos, Nanos)) {
        let registers = self.registers.range((key, slot, 0)..=(key, slot, Era::MAX));
        let before = registers.flat_map(|(_, register)| register.written_before(start));
        let stands = |value: &Value| {
            let trunc_gen = self.known.get(value).copied().unwrap_or(0);
            let gone = |cut: &Cut| cut.trunc_gen > trunc_gen && cut.start < end;
            !self.cuts_of(key, slot).any(gone)
        };
        let lost = before.into_iter().find(stands);
        if let Some(lost) = lost {
            let violation = Violation::Lost { lost, kept: Value(0) };
            self.wrong.get_or_insert((key, slot, violation));
        }
    }

    /// Checks the history of every slot.
    ///
    /// # Errors
    /// The place and what is wrong with it.
    pub fn check(&self) -> Result<(), (ChunkKey, usize, Violation)> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        for ((key, slot, _), register) in &self.registers {
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

    /// Slots 0 and 1 are written, then slot 1 is cut.
    fn cut() -> (Book, Value, Vec<u8>) {
        let mut book = Book::default();
        let (value, bytes) = book.begin(KEY, 0..2, Nanos(1));
        book.end(value, Nanos(2));
        book.cut(KEY, 1, 1, Nanos(3));
        (book, value, bytes)
    }

    #[test]
    fn a_cut_empties_its_slots_and_leaves_the_others() {
        let (mut book, _, bytes) = cut();
        assert_eq!(book.read(KEY, 0, &bytes, (Nanos(4), Nanos(5))), Ok(()), "it is not done yet");
        book.cut_done(KEY, 1, Nanos(6));
        let after = [&bytes[..SLOT_LEN], &[0; SLOT_LEN]].concat();
        assert_eq!(book.read(KEY, 0, &after, (Nanos(7), Nanos(8))), Ok(()));
        let (anew, bytes) = book.begin_cut(KEY, 1..2, 1, Nanos(9));
        book.end(anew, Nanos(10));
        assert_eq!(book.read(KEY, 1, &bytes, (Nanos(11), Nanos(12))), Ok(()));
        assert_eq!(book.check(), Ok(()));
    }

    #[test]
    fn bytes_that_come_back_after_a_cut_are_found() {
        let (mut book, value, bytes) = cut();
        book.cut_done(KEY, 1, Nanos(6));
        assert_eq!(book.read(KEY, 0, &bytes, (Nanos(7), Nanos(8))), Ok(()));
        assert_eq!(book.check(), Err((KEY, 1, Violation::Undead { value })));
    }

    #[test]
    fn a_write_that_did_not_know_of_a_cut_and_is_acknowledged_is_found() {
        let (mut book, ..) = cut();
        book.cut_done(KEY, 1, Nanos(6));
        let (late, _) = book.begin_cut(KEY, 1..2, 0, Nanos(7));
        book.end(late, Nanos(8));
        assert_eq!(book.check(), Err((KEY, 1, Violation::Undead { value: late })));
    }

    #[test]
    fn a_write_after_a_cut_that_is_not_there_is_found() {
        let (mut book, ..) = cut();
        book.cut_done(KEY, 1, Nanos(6));
        let (anew, _) = book.begin_cut(KEY, 1..2, 1, Nanos(7));
        book.end(anew, Nanos(8));
        assert_eq!(book.read(KEY, 1, &[0; SLOT_LEN], (Nanos(9), Nanos(10))), Ok(()));
        let lost = Violation::Lost { lost: anew, kept: Value(0) };
        assert_eq!(book.check(), Err((KEY, 1, lost)));
    }
}
