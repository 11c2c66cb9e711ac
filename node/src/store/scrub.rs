//! Reading everything a target holds, a little at a time, to find what has gone bad.
//!
//! One pass goes through the arena by address, so that a spinning or shingled device is read
//! forward. A chunk that is changed meanwhile may move behind the cursor; so at the end the pass
//! goes by name through all chunks that were recorded since it began. Together every chunk that
//! exists for the whole pass is read, and nothing in memory grows with the target.

use std::collections::{BTreeSet, VecDeque};

use futures_lite::future::yield_now;
use protocol::ids::{Lsn, Version};

use super::Store;
use super::damage::{Damage, DamagedPart};
use super::entry::{Entry, Name};
use super::examine::page_end;
use super::types::StoreError;
use crate::io::Disk;
use crate::limits::{SCRUB_BATCH_CHUNKS, SCRUB_RUN_BYTES, SCRUB_SLICE_ENTRIES};

/// How far one pass has come; the default is the start of a new one.
///
/// It stays valid whatever happens to the target's chunks between two steps, as long as the target
/// stays open.
#[derive(Clone, Debug, Default)]
pub struct ScrubCursor {
    /// Newest durable batch when the pass began; `None` before that.
    began: Option<Lsn>,
    sweep: Sweep,
    /// Chunks to read next; at most [`SCRUB_BATCH_CHUNKS`].
    batch: VecDeque<Name>,
    /// How far the first of them was read.
    within: Option<(Version, u32)>,
}

/// Which way a pass goes, and after what.
#[derive(Clone, Copy, Debug)]
enum Sweep {
    ByAddress(Option<(u64, Name)>),
    ByName(Option<Name>),
    Over,
}

/// What one step of a pass did.
#[derive(Debug)]
pub struct ScrubStep {
    /// Bytes that were read.
    pub bytes: u64,
    /// Chunks that were read to their end.
    pub chunks: u64,
    /// What was found damaged; it is noted already.
    pub damages: Vec<Damage>,
    /// Where to go on; `None` at the end of the pass.
    pub next: Option<ScrubCursor>,
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep::ByAddress(None)
    }
}

impl<D: Disk> Store<D> {
    /// Reads on from a cursor: committed and pending versions, cells and descriptor pages, also of
    /// chunks that are set aside.
    ///
    /// # Shape
    /// Ends after the transfer that reaches `bytes_max`, so it reads at most one transfer, its
    /// descriptor page and the second reads of bad cells more.
    ///
    /// # Errors
    /// [`StoreError::Disk`] when the container is closed. What the device cannot read is damage.
    ///
    /// # Cancel safety
    /// Nothing but the step's progress is lost.
    ///
    /// # Cost
    /// Payload bytes are read once and checked; one look at every entry of the index for each
    /// [`SCRUB_BATCH_CHUNKS`] chunks, with other tasks' turns in between.
    pub async fn scrub_step(
        &self,
        cursor: ScrubCursor,
        bytes_max: u64,
    ) -> Result<ScrubStep, StoreError> {
        let mut cursor = cursor;
        cursor.began.get_or_insert(self.durable_lsn());
        let mut step = ScrubStep { bytes: 0, chunks: 0, damages: Vec::new(), next: None };
        while step.bytes < bytes_max.max(1) {
            if cursor.batch.is_empty() {
                self.refill(&mut cursor).await;
            }
            let Some(&name) = cursor.batch.front() else {
                match cursor.sweep {
                    Sweep::Over => return Ok(step),
                    _ => continue,
                }
            };
            if self.scrub_chunk(name, &mut cursor, bytes_max, &mut step).await? {
                cursor.batch.pop_front();
                cursor.within = None;
                step.chunks += 1;
            }
        }
        step.next = Some(cursor);
        Ok(step)
    }

    /// Reads one chunk on; true at its end.
    async fn scrub_chunk(
        &self,
        name: Name,
        cursor: &mut ScrubCursor,
        bytes_max: u64,
        step: &mut ScrubStep,
    ) -> Result<bool, StoreError> {
        loop {
            let from = cursor.within;
            let state = self.index.borrow().entry(name.0, name.1).and_then(|entry| {
                let after = |version| from.is_none_or(|(reached, _)| version >= reached);
                entry.states().find(|state| after(state.version)).cloned()
            });
            let Some(state) = state else { return Ok(true) };
            let mut at =
                from.map_or(0, |(version, cell)| if version == state.version { cell } else { 0 });
            while at < state.cell_count() {
                if step.bytes >= bytes_max {
                    cursor.within = Some((state.version, at));
                    return Ok(false);
                }
                let most = (SCRUB_RUN_BYTES >> state.cell_log2).max(1);
                let end = page_end(&state, at).min(at + most);
                let examined = self.examine(name.1, &state, at..end).await?;
                step.bytes += examined.bytes;
                if examined.whole {
                    step.damages.push(self.found(name, &state, DamagedPart::Whole));
                } else if !examined.bad.is_empty() {
                    let part = DamagedPart::Cells(examined.bad);
                    step.damages.push(self.found(name, &state, part));
                }
                // Other pages of a version without one of its pages can wait for its replacement.
                at = if examined.whole { state.cell_count() } else { end };
            }
            cursor.within = Some((after(state.version), 0));
        }
    }

    /// Finds the chunks to read next; when there are none, the sweep is the next one.
    async fn refill(&self, cursor: &mut ScrubCursor) {
        cursor.within = None;
        match cursor.sweep {
            Sweep::ByAddress(passed) => {
                let found = self.next_by_address(passed).await;
                cursor.sweep = match found.last() {
                    Some(last) => Sweep::ByAddress(Some(*last)),
                    None => Sweep::ByName(None),
                };
                cursor.batch = found.into_iter().map(|(_, name)| name).collect();
            }
            Sweep::ByName(passed) => {
                let began = cursor.began.unwrap_or_default();
                cursor.batch = self.next_recorded_after(began, passed).await;
                cursor.sweep = match cursor.batch.back() {
                    Some(last) => Sweep::ByName(Some(*last)),
                    None => Sweep::Over,
                };
            }
            Sweep::Over => {}
        }
    }

    /// The first chunks behind an address.
    async fn next_by_address(&self, passed: Option<(u64, Name)>) -> BTreeSet<(u64, Name)> {
        let mut first = BTreeSet::new();
        let mut seen = None;
        loop {
            let mut entries = 0;
            for (name, entry) in self.index.borrow().entries_after(seen).take(SCRUB_SLICE_ENTRIES) {
                (seen, entries) = (Some(*name), entries + 1);
                let Some(at) = address(entry).map(|unit| (unit, *name)) else { continue };
                if passed.is_none_or(|passed| at > passed) {
                    first.insert(at);
                }
                if first.len() > SCRUB_BATCH_CHUNKS {
                    first.pop_last();
                }
            }
            if entries < SCRUB_SLICE_ENTRIES {
                return first;
            }
            yield_now().await;
        }
    }

    /// The first chunks behind a name with a version recorded after a batch.
    async fn next_recorded_after(&self, began: Lsn, passed: Option<Name>) -> VecDeque<Name> {
        let mut found = VecDeque::new();
        let mut seen = passed;
        loop {
            let mut entries = 0;
            for (name, entry) in self.index.borrow().entries_after(seen).take(SCRUB_SLICE_ENTRIES) {
                (seen, entries) = (Some(*name), entries + 1);
                if entry.states().any(|state| state.lsn > began) {
                    found.push_back(*name);
                }
                if found.len() >= SCRUB_BATCH_CHUNKS {
                    return found;
                }
            }
            if entries < SCRUB_SLICE_ENTRIES {
                return found;
            }
            yield_now().await;
        }
    }
}

/// First unit of a chunk; `None` for one that is nothing but holes.
fn address(entry: &Entry) -> Option<u64> {
    entry.states().filter_map(|state| state.owned.first()).map(|run| run.start).min()
}

/// The smallest version above one.
fn after(version: Version) -> Version {
    match version.counter.checked_add(1) {
        Some(counter) => Version { counter, ..version },
        None => Version { epoch: protocol::ids::Epoch(version.epoch.0 + 1), counter: 0 },
    }
}
