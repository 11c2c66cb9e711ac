//! Carries out the orders of what heals replicas: cells for others, rechecks, scrub, census.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures_lite::future::yield_now;
use protocol::ids::{ChunkKey, Epoch, Fid, GroupId};
use protocol::limits::{DROP_FIDS_MAX, MAP_RECORDS_MAX};
use protocol::message::Message;
use protocol::message::heal::{
    CensusRequest, FetchReply, ReportCorruptReply, ReportCorruptRequest,
};

use super::control::{Control, ShardReport};
use super::driver::Driver;
use super::effect::Refusal;
use super::event::{Event, ReplyTo};
use super::heal::{FetchTask, HealEvent, HealOrder};
use crate::io::{Clock, Env, Payload};
use crate::limits::{CENSUS_PAGE, SPACE_CHECK_ENTRIES};
use crate::store::{ReadMode, ReadOut, StoreError};

impl<E: Env, C: Control> Driver<E, C> {
    /// Carries out one order as a task of its own.
    pub(super) fn heal(self: &Rc<Self>, order: HealOrder) {
        let driver = Rc::clone(self);
        self.env.spawn(async move {
            match order {
                HealOrder::ServeFetch(to, epoch, fetch) => {
                    driver.serve_fetch(to, epoch, &fetch).await;
                }
                HealOrder::Recheck(to, report) => driver.recheck(to, &report).await,
                HealOrder::Scrub { restart, bytes } => driver.scrub(restart, bytes).await,
                HealOrder::Census => driver.census().await,
                HealOrder::Release(dead) => driver.release(dead).await,
            }
        });
    }

    /// Has a cell read again that a read found damaged.
    pub(super) fn found_corrupt(&self, group: GroupId, key: ChunkKey, error: &StoreError) {
        let StoreError::Corrupt { cell } = error else { return };
        self.found_corrupt_cells(group, key, vec![*cell]);
    }

    /// The same for several cells.
    pub(super) fn found_corrupt_cells(&self, group: GroupId, key: ChunkKey, cells: Vec<u32>) {
        let Some(info) = self.store.info(group, key) else { return };
        let report = ReportCorruptRequest { group, key, version: info.version, cells };
        self.notify(Event::Heal(HealEvent::FoundCorrupt(report)));
    }

    async fn serve_fetch(&self, to: ReplyTo, epoch: Epoch, fetch: &FetchTask) {
        match self.read_for_fetch(fetch).await {
            Ok((reply, out)) => self.answer(to, epoch, reply.encode(), out.payload),
            Err(error) => {
                self.refuse(to, epoch, &Refusal::new(error.status(), error.to_string()));
            }
        }
        self.notify(Event::Heal(HealEvent::FetchServed(fetch.len)));
    }

    async fn read_for_fetch(
        &self,
        fetch: &FetchTask,
    ) -> Result<(FetchReply, ReadOut<E::Disk>), StoreError> {
        let (group, key) = (fetch.group, fetch.key);
        let info = self.store.info(group, key).ok_or(StoreError::NotFound)?;
        let newest = info.version == fetch.version;
        let mode = ReadMode { newest, verify: fetch.verify, suspect: false };
        let out = self.store.read(group, key, fetch.offset, fetch.len, mode).await?;
        if out.version != fetch.version {
            return Err(StoreError::NotFound); // Replaced meanwhile.
        }
        let reply = FetchReply {
            version: out.version,
            committed: fetch.committed,
            chunk_len: out.chunk_len,
            trunc_gen: info.trunc_gen,
            cell_log2: out.cell_log2,
            chunk_log2: info.chunk_log2,
            mutated: info.mutated,
            first_cell: out.first_cell,
            sums: out.sums.clone(),
            aux: Vec::new(),
            ops: info.ops.iter().map(|(op, ..)| *op).collect(),
        };
        Ok((reply, out))
    }

    async fn recheck(&self, to: Option<(ReplyTo, Epoch)>, report: &ReportCorruptRequest) {
        let found = self.store.recheck(report.group, report.key, &report.cells).await;
        match (to, found) {
            (Some((to, epoch)), Ok(damages)) => {
                let reply = ReportCorruptReply { confirmed: !damages.is_empty() };
                self.answer(to, epoch, reply.encode(), Payload::empty());
            }
            (Some((to, epoch)), Err(error)) => {
                self.refuse(to, epoch, &Refusal::new(error.status(), error.to_string()));
            }
            (None, Ok(_) | Err(StoreError::NotFound)) => {}
            (None, Err(error)) => {
                tracing::debug!(target_id = self.config.target.0, %error, "recheck failed");
            }
        }
        self.notify(Event::Heal(HealEvent::Rechecked));
    }

    async fn scrub(&self, restart: bool, bytes: u64) {
        self.store.note_time(self.now());
        let cursor = self.scrub_cursor.take().filter(|_| !restart).unwrap_or_default();
        let event = match self.store.scrub_step(cursor, bytes).await {
            Ok(step) => {
                let last = step.next.is_none();
                self.scrub_cursor.set(step.next);
                if last {
                    self.check_space().await;
                }
                HealEvent::Scrubbed { bytes: step.bytes, last }
            }
            Err(error) => {
                tracing::debug!(target_id = self.config.target.0, %error, "scrub failed");
                HealEvent::Scrubbed { bytes, last: false }
            }
        };
        self.notify(Event::Heal(event));
    }

    /// Compares the allocator with the index, with other tasks' turns in between.
    async fn check_space(&self) {
        loop {
            let checked = self.store.check_space(SPACE_CHECK_ENTRIES);
            if let Some(window) = checked
                && (window.leaked > 0 || window.doubly_used > 0)
            {
                tracing::error!(
                    target_id = self.config.target.0,
                    leaked = window.leaked,
                    doubly_used = window.doubly_used,
                    "space of the target does not add up; drain it and format it anew"
                );
            }
            if checked.is_some_and(|window| window.last) {
                return;
            }
            yield_now().await;
        }
    }

    /// Asks about the files of what is set aside: each once, as many as one message holds.
    async fn census(&self) {
        let mut groups: BTreeMap<GroupId, Vec<Fid>> = BTreeMap::new();
        let mut after = None;
        loop {
            let (page, more) = self.store.quarantined(after, CENSUS_PAGE);
            for aside in &page {
                let known = groups.contains_key(&aside.group);
                if !known && groups.len() >= MAP_RECORDS_MAX {
                    continue;
                }
                let fids = groups.entry(aside.group).or_default();
                if fids.len() < DROP_FIDS_MAX && fids.last() != Some(&aside.key.fid) {
                    fids.push(aside.key.fid);
                }
            }
            after = page.last().map(|aside| (aside.group, aside.key));
            if !more || after.is_none() {
                break;
            }
            yield_now().await;
        }
        if !groups.is_empty() {
            let request = CensusRequest { groups: groups.into_iter().collect() };
            self.report(ShardReport::Census(request));
        }
    }

    async fn release(&self, dead: Vec<(GroupId, Vec<Fid>)>) {
        let now_s = self.env.clock().unix_seconds();
        for (group, fids) in dead {
            match self.store.release_quarantined(group, &fids, now_s).await {
                Ok(0) => {}
                Ok(chunks) => tracing::info!(
                    target_id = self.config.target.0,
                    group = group.0,
                    chunks,
                    "chunks of dead files that were set aside are freed"
                ),
                Err(error) => {
                    tracing::warn!(target_id = self.config.target.0, %error, "nothing was freed");
                }
            }
        }
    }
}
