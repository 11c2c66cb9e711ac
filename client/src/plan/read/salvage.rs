//! Putting a range together from several answers, when no single replica has good bytes for all
//! of it.
//!
//! Pure bookkeeping: what was found good so far, what is missing, and what to ask the member that
//! is being asked. Begins only after every member that answers has failed to give the range as a
//! whole, so a read that one replica can serve never comes here.
//!
//! Invariant: what leaves here is of one version, unless the file only ever grew; then its bytes
//! are the same in all versions that have them.

use std::collections::BTreeMap;
use std::ops::Range;

use protocol::ids::{Generation, TargetId, Version};
use protocol::limits::CELL_LOG2_ALLOWED;

use super::check::Kept;
use crate::limits::NARROWING_ASKS_MAX;

/// How far a read has gone to get bytes that no replica has as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The range is asked for as a whole and taken from one answer.
    #[default]
    Whole,
    /// What is good in an answer is kept, and what is missing asked of the next member.
    Parts,
    /// A range that a member refuses is halved until the cells are found that it does have.
    Narrow,
}

/// What is known of a range whose bytes come from several answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Salvage {
    stage: Stage,
    /// Some member sent or has cells that do not verify.
    damaged: bool,
    /// Some member refused more than one cell at once, so that there may be good ones among them.
    refused: bool,
    /// Good bytes by their first byte inside the chunk.
    parts: BTreeMap<u32, Vec<u8>>,
    /// Version that they are of; the newest one seen.
    version: Option<Version>,
    /// Length of the chunk in it.
    chunk_len: u32,
    /// From here on the chunk has nothing, as the primary says.
    ends_at: Option<u32>,
    cell_log2: Option<u8>,
    /// Member that is being asked, and what it is still to be asked for; the next one is last.
    member: Option<(TargetId, Generation)>,
    todo: Vec<Range<u32>>,
    /// What was wrong with this member's answers.
    why: Option<String>,
    narrowed: u32,
}

impl Salvage {
    /// True when good bytes are kept.
    pub(super) fn is_on(&self) -> bool {
        self.stage > Stage::Whole
    }

    /// Notes that a member has damaged cells.
    pub(super) fn note_damage(&mut self) {
        self.damaged = true;
    }

    /// Goes further, at the end of a round that did not bring all bytes; false when that is no use.
    pub(super) fn deepen(&mut self) -> bool {
        let next = match self.stage {
            Stage::Whole if self.damaged => Stage::Parts,
            Stage::Parts if self.refused => Stage::Narrow,
            _ => return false,
        };
        self.stage = next;
        self.leave();
        true
    }

    /// Begins to ask a member for what is missing of `wanted`; the first range to ask for.
    pub(super) fn begin(
        &mut self,
        member: (TargetId, Generation),
        wanted: &Range<u32>,
    ) -> Range<u32> {
        self.leave();
        if !self.is_on() {
            return wanted.clone();
        }
        self.member = Some(member);
        self.todo = self.missing(wanted);
        self.todo.reverse();
        self.todo.pop().unwrap_or_else(|| wanted.clone())
    }

    /// The member that has more to be asked for.
    pub(super) fn unfinished(&self) -> Option<(TargetId, Generation)> {
        self.member.filter(|_| !self.todo.is_empty())
    }

    /// What to ask it for next.
    pub(super) fn take_next(&mut self) -> Option<Range<u32>> {
        self.todo.pop()
    }

    /// Asks the member nothing more.
    pub(super) fn leave(&mut self) {
        self.member = None;
        self.todo.clear();
        self.why = None;
    }

    /// Takes in what is good in an answer; `ends` when the end of the chunk may be believed.
    pub(super) fn keep(&mut self, kept: Kept, growth_only: bool, ends: bool) {
        self.cell_log2 = Some(kept.cell_log2);
        if !growth_only && self.version != Some(kept.version) {
            if self.version.is_some_and(|version| version > kept.version) {
                return;
            }
            let before = self.ends_at.filter(|_| self.version.is_none());
            self.forget();
            self.version = Some(kept.version);
            self.chunk_len = kept.chunk_len;
            self.ends_at = before.filter(|end| kept.chunk_len <= *end);
        }
        if ends {
            self.ends_at = Some(kept.chunk_len);
        }
        self.parts.extend(kept.parts);
    }

    /// Forgets all bytes: they are of a version that is not the newest.
    pub(super) fn forget(&mut self) {
        self.parts.clear();
        self.version = None;
        self.ends_at = None;
    }

    /// Takes in that the chunk has nothing from `start` on, as the primary says.
    pub(super) fn on_end(&mut self, start: u32) {
        if self.version.is_some() && self.chunk_len > start {
            // It was cut since the version that is kept.
            self.forget();
        }
        self.ends_at = Some(self.ends_at.map_or(start, |end| end.min(start)));
    }

    /// Notes what was wrong with an answer of the member that is being asked.
    pub(super) fn note(&mut self, why: String) {
        self.why = Some(why);
    }

    /// What was wrong with this member, once it has nothing more to be asked for.
    pub(super) fn verdict(&mut self) -> Option<String> {
        if self.todo.is_empty() { self.why.take() } else { None }
    }

    /// Notes that the member refuses a range; halves of it are asked for when that is the stage.
    pub(super) fn on_refused(&mut self, range: &Range<u32>) {
        let log2 = self.cell_log2.unwrap_or(CELL_LOG2_ALLOWED[0]);
        let (first, last) = (range.start >> log2, (range.end - 1) >> log2);
        if first == last {
            return;
        }
        self.refused = true;
        if self.stage != Stage::Narrow || self.narrowed + 2 > NARROWING_ASKS_MAX {
            return;
        }
        self.narrowed += 2;
        let middle = (first + (last - first).div_ceil(2)) << log2;
        self.todo.push(middle..range.end);
        self.todo.push(range.start..middle);
    }

    /// The bytes of `wanted` up to the end of the chunk, when none is missing.
    pub(super) fn take_whole(&mut self, wanted: &Range<u32>) -> Option<Vec<u8>> {
        if !self.missing(wanted).is_empty() {
            return None;
        }
        let mut all = Vec::with_capacity(wanted.len());
        std::mem::take(&mut self.parts).values().for_each(|part| all.extend_from_slice(part));
        Some(all)
    }

    /// What of a range was not found yet, ascending.
    fn missing(&self, wanted: &Range<u32>) -> Vec<Range<u32>> {
        let end = self.ends_at.map_or(wanted.end, |end| end.min(wanted.end));
        let mut missing = Vec::new();
        let mut at = wanted.start;
        for (start, bytes) in &self.parts {
            if at < *start {
                missing.push(at..*start);
            }
            at = start.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        if at < end {
            missing.push(at..end);
        }
        missing
    }
}

#[cfg(test)]
mod tests;
