//! Placing a write and putting its bytes, sums and descriptor pages on the device.

use std::rc::Rc;

use futures_lite::future::zip;
use protocol::checksum::{CellSum, cell_sum};
use protocol::guard::{self, Guard};
use protocol::limits::IO_ALIGN;
use protocol::message::chunk::WriteClass;

use super::Store;
use super::cells::Stride;
use super::draft::{Built, Draft, Placed, Window, assign, has_bytes, pages_rewritten, window_of};
use super::extent::{Extent, UNIT, units_for};
use super::grant::{Grant, Terms};
use super::plan::{Plan, Shape, Source, Touched, reservation, slack};
use super::state::{Cells, ChunkState, PageRef, hole_sum};
use super::types::{StoreError, WriteOp};
use super::wait::join_all;
use crate::io::{Buffer, Disk};
use crate::limits::{CHUNK_RUNS_MAX, COPIES_STOP_PERCENT, FREES_ONLY_PERCENT};

/// Why bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The target is asked for something new.
    New,
    /// Another member has the same chunk: it takes here what it takes there and no more, so nothing
    /// is kept for growth, and it finds room where nothing new does.
    Copy,
    /// What is here takes another place.
    Repair,
}

/// What is written.
#[derive(Clone, Copy)]
struct Job<'a, D: Disk> {
    op: &'a WriteOp<D>,
    base: Option<&'a ChunkState>,
    purpose: Purpose,
}

impl<D: Disk> Store<D> {
    /// Writes the bytes of a version that builds on `base`, or of a whole chunk.
    ///
    /// # Durability
    /// The device writes have completed; the next flush makes them durable.
    ///
    /// A write that the device refuses is tried once more at another place.
    pub(super) async fn build(
        &self,
        op: &WriteOp<D>,
        base: Option<&ChunkState>,
        purpose: Purpose,
    ) -> Result<(Built, Grant<'_>), StoreError> {
        let job = &Job { op, base, purpose };
        let first = self.build_once(job).await;
        let Err(StoreError::Disk(error)) = &first else { return first };
        if !self.survives(error).await {
            return first;
        }
        let second = self.build_once(job).await;
        if let Err(StoreError::Disk(error)) = &second {
            self.survives(error).await;
        }
        second
    }

    async fn build_once(&self, job: &Job<'_, D>) -> Result<(Built, Grant<'_>), StoreError> {
        let _pin = self.pin();
        if job.base.is_some_and(|base| base.owned.len() >= CHUNK_RUNS_MAX) {
            match self.build_planned(job, true).await {
                // Putting it together is an optimisation: neither a bad cell elsewhere nor a
                // lack of space for all of it refuses this write.
                Err(StoreError::Corrupt { .. } | StoreError::NoSpace) => {}
                built => return built,
            }
        }
        self.build_planned(job, false).await
    }

    async fn build_planned(
        &self,
        job: &Job<'_, D>,
        rewrite: bool,
    ) -> Result<(Built, Grant<'_>), StoreError> {
        let Job { op, base, .. } = *job;
        let plan = Plan::new(Shape {
            base_len: base.map_or(0, |base| base.len),
            cell_log2: op.cell_log2,
            offset: op.offset,
            len: op.len,
            truncate: op.class == WriteClass::Truncate,
            rewrite,
        });
        let window = self.open_window(op, base, &plan).await?;
        let mut grant = Grant::new(&self.space, self.terms(job));
        match self.build_from(job, &plan, window, &mut grant).await {
            Ok(built) => Ok((built, grant)),
            // The grant is dropped: nobody knows what the device did with those units.
            Err(error @ StoreError::Disk(_)) => Err(error),
            Err(error) => {
                grant.give_back();
                Err(error)
            }
        }
    }

    async fn open_window(
        &self,
        op: &WriteOp<D>,
        base: Option<&ChunkState>,
        plan: &Plan,
    ) -> Result<Window, StoreError> {
        let Some(base) = base else { return Ok(Window { first: 0, cells: Vec::new() }) };
        // A plan that changes nothing keeps the cells that the index holds.
        let range = match (plan.first_changed(), &base.cells) {
            (None, Cells::Inline(_)) => 0..base.cell_count(),
            _ => window_of(plan, base.cell_count(), op.cell_log2),
        };
        let cells = self.load_cells((op.group, op.key), base, range.clone()).await?;
        Ok(Window { first: range.start, cells: cells.into_vec() })
    }

    async fn build_from(
        &self,
        job: &Job<'_, D>,
        plan: &Plan,
        window: Window,
        grant: &mut Grant<'_>,
    ) -> Result<Built, StoreError> {
        let Job { op, base, purpose } = *job;
        // A hole of the original arrives as zeros.
        let is_hole = |touched: &Touched| purpose == Purpose::Copy && is_zero(op, touched);
        let stored =
            |touched: &Touched| has_bytes(touched, &window, &plan.payload) && !is_hole(touched);
        let units = plan.touched.iter().filter(|cell| stored(cell));
        let units = units.map(|cell| units_for(cell.len)).sum();
        let (runs, reserve) = self.place(job, plan, units, grant).await?;
        let pages = self.take_pages(plan, op.cell_log2, grant).await?;
        let placed = assign(plan, &window, stored, &runs);
        let mut draft = Draft::new(op.key, op.cell_log2, base, plan, window);
        draft.own(&runs, &pages, reserve);
        // A copy goes in short transfers, which costs it another pass over its bytes in memory.
        let direct = plan.aligned && purpose != Purpose::Copy;
        let dense = placed.iter().all(|cell| cell.place != 0);
        if let (true, true, [run]) = (direct, dense, &runs[..]) {
            for (cell, sum) in placed.iter().zip(op.sums.iter()) {
                draft.set(base, cell, *sum);
            }
            let data = self.write_payload(op, *run);
            let (data, described) = zip(data, self.write_pages(&mut draft, &pages)).await;
            data.and(described)?;
        } else {
            let sums = self.write_merged(job, &placed).await?;
            for (cell, sum) in placed.iter().zip(sums) {
                draft.set(base, cell, sum);
            }
            self.write_pages(&mut draft, &pages).await?;
        }
        Ok(draft.finish())
    }

    /// Chooses where the new bytes go, and what stays reserved for growth.
    async fn place(
        &self,
        job: &Job<'_, D>,
        plan: &Plan,
        units: u32,
        grant: &mut Grant<'_>,
    ) -> Result<(Vec<Extent>, Extent), StoreError> {
        let Job { op, base, .. } = *job;
        // What was kept for growth is free again when the chunk is cut.
        let cut = op.class == WriteClass::Truncate;
        let base = base.filter(|_| !cut);
        let reserve = base.map_or(Extent::NONE, |base| base.reserve);
        let slack = slack(units, op.cell_log2);
        if units == 0 {
            return Ok((Vec::new(), reserve));
        }
        if cut || plan.new_len == base.map_or(0, |base| base.len) {
            let (runs, rest) = self.take_units(op, (units, slack), grant).await?;
            // The end of the chunk has moved away from what was kept behind it.
            return Ok((runs, if slack > 0 { rest } else { reserve }));
        }
        let later = self.kept_for_growth(job, plan, units).max(slack);
        // The end of the chunk, if it is no whole cell, is written again: on a step as before.
        let run = reserve.without(base.map_or(0, ChunkState::slack));
        if run.units >= units && !self.space.borrow().is_lost(reserve) {
            let (run, rest) = run.split(units);
            grant.use_reserved(run);
            // What the chunk is not expected to need any more is free again.
            return Ok((vec![run], rest.first(later)));
        }
        if later > slack
            && let Some(run) = grant.take(units + later)
        {
            let (run, rest) = run.split(units);
            return Ok((vec![run], rest));
        }
        self.take_units(op, (units, slack), grant).await
    }

    /// Units that stay with a chunk beyond those it needs now, as far as there is room for that.
    fn kept_for_growth(&self, job: &Job<'_, D>, plan: &Plan, units: u32) -> u32 {
        if job.purpose != Purpose::New {
            return 0;
        }
        let expected = job.op.expect_len.max(plan.new_len).min(1 << job.op.chunk_log2);
        let later = reservation(expected, job.op.cell_log2).saturating_sub(units_for(plan.new_len));
        let more = u64::from(units + later) * u64::from(UNIT);
        if self.fullness_with(more).takes_reserves() { later } else { 0 }
    }

    /// How the space for a job is taken.
    fn terms(&self, job: &Job<'_, D>) -> Terms {
        let units = self.capacity() / u64::from(UNIT);
        let cut = job.op.class == WriteClass::Truncate;
        let percent = match job.purpose {
            Purpose::New if !cut => FREES_ONLY_PERCENT,
            Purpose::Copy => COPIES_STOP_PERCENT,
            Purpose::New | Purpose::Repair => 100,
        };
        let bounded = percent < 100 && guard::holds(Guard::FullRefusal);
        Terms {
            keep_free: if bounded { units * (100 - percent) / 100 + 1 } else { 0 },
            tight: !self.fullness().takes_reserves(),
        }
    }

    /// Takes units for cells, and with them the rest of the last step; without that when it is all
    /// there is.
    async fn take_units(
        &self,
        op: &WriteOp<D>,
        (units, slack): (u32, u32),
        grant: &mut Grant<'_>,
    ) -> Result<(Vec<Extent>, Extent), StoreError> {
        let cell = (1 << op.cell_log2) / UNIT;
        self.take_space(|| {
            if let Some(mut runs) = grant.take_cells(units + slack, cell) {
                let last = runs.pop()?;
                let (used, rest) = last.split(last.units - slack);
                runs.push(used);
                return Some((runs, rest));
            }
            Some((grant.take_cells(units, cell)?, Extent::NONE))
        })
        .await
    }

    async fn take_pages(
        &self,
        plan: &Plan,
        cell_log2: u8,
        grant: &mut Grant<'_>,
    ) -> Result<Vec<Extent>, StoreError> {
        let mut pages = Vec::new();
        for _ in pages_rewritten(plan, cell_log2).into_iter().flatten() {
            pages.push(self.take_space(|| grant.take_page()).await?);
        }
        Ok(pages)
    }

    /// Writes the payload from where it lies.
    async fn write_payload(&self, op: &WriteOp<D>, run: Extent) -> Result<(), StoreError> {
        let len = units_for(op.len) as usize * IO_ALIGN;
        let offset = run.start * u64::from(UNIT);
        Ok(self.device_write(offset, Rc::clone(&op.payload), len).await?)
    }

    async fn write_pages(&self, draft: &mut Draft, places: &[Extent]) -> Result<(), StoreError> {
        let pages = draft.encode_pages(places);
        let writes = pages.iter().zip(places).map(|((_, bytes, _), place)| {
            self.write_bytes(place.start * u64::from(UNIT), bytes, IO_ALIGN)
        });
        for written in join_all(writes.collect()).await {
            written?;
        }
        for ((hash, _, cells), place) in pages.into_iter().zip(places) {
            let page = PageRef { place: place.start, hash };
            self.cache.borrow_mut().insert(page, cells.into());
        }
        Ok(())
    }

    /// Copies cells into buffers of the device, merging old and new bytes, and writes those.
    async fn write_merged(
        &self,
        job: &Job<'_, D>,
        placed: &[Placed],
    ) -> Result<Vec<CellSum>, StoreError> {
        let Job { op, base, purpose } = *job;
        let stride = if purpose == Purpose::Copy { Stride::SHORT } else { Stride::LONG };
        let mut sums = Vec::with_capacity(placed.len());
        let mut rest = placed;
        while let Some(first) = rest.first() {
            if first.place == 0 {
                sums.push(hole_sum(op.key, first.touched.cell, first.touched.len));
                rest = &rest[1..];
                continue;
            }
            let (together, later) = rest.split_at(transfer_of(rest, stride.longest));
            self.write_transfer(op, base, together, &mut sums).await?;
            rest = later;
        }
        Ok(sums)
    }

    async fn write_transfer(
        &self,
        op: &WriteOp<D>,
        base: Option<&ChunkState>,
        placed: &[Placed],
        sums: &mut Vec<CellSum>,
    ) -> Result<(), StoreError> {
        let len: usize = placed.iter().map(padded).sum();
        let mut buffer = self.disk.allocate(len);
        let mut at = 0;
        for cell in placed {
            let memory = &mut buffer.bytes_mut()[at..at + padded(cell)];
            sums.push(self.merge_cell(op, base, cell, memory).await?);
            at += padded(cell);
        }
        let offset = placed.first().map_or(0, |first| first.place) * u64::from(UNIT);
        self.count_copied(len);
        Ok(self.device_write(offset, Rc::new(buffer), len).await?)
    }

    /// Fills the memory of one cell: old bytes, zeros, payload on top.
    async fn merge_cell(
        &self,
        op: &WriteOp<D>,
        base: Option<&ChunkState>,
        placed: &Placed,
        memory: &mut [u8],
    ) -> Result<CellSum, StoreError> {
        let Placed { touched, old, .. } = placed;
        let start = touched.cell << op.cell_log2;
        let from = op.offset.max(start);
        let to = (op.offset + op.len).min(start + touched.len);
        let covered = from == start && to == start + touched.len;
        memory[if covered { touched.len as usize } else { 0 }..].fill(0);
        if touched.source == Source::Merge
            && let Some((old, base)) = old.zip(base)
        {
            // All of the old cell is checked, also of a cell that is cut: what is not known to be
            // right gets no new sum.
            let len = base.cell_len(touched.cell);
            if let Some(read) = self.read_cell(op.key, touched.cell, old, len).await? {
                let kept = len.min(touched.len) as usize;
                memory[..kept].copy_from_slice(&read[..kept]);
            }
        }
        if from < to {
            let source = (from - op.offset) as usize..(to - op.offset) as usize;
            let target = (from - start) as usize..(to - start) as usize;
            memory[target].copy_from_slice(&op.payload.bytes()[source]);
        }
        if touched.source == Source::Payload {
            // The sender's sum, not one of this copy: it still covers what memory may do to it.
            let number = touched.cell - (op.offset >> op.cell_log2);
            return op.sums.get(number as usize).copied().ok_or(StoreError::Refused("checksums"));
        }
        Ok(cell_sum(op.key, touched.cell, &memory[..touched.len as usize]))
    }
}

/// True when the payload has nothing but zeros for a cell that it covers.
fn is_zero<D: Disk>(op: &WriteOp<D>, touched: &Touched) -> bool {
    let start = ((touched.cell << op.cell_log2) - op.offset) as usize;
    let bytes = op.payload.bytes().get(start..start + touched.len as usize);
    bytes.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

/// Bytes one cell takes on the device.
fn padded(cell: &Placed) -> usize {
    units_for(cell.touched.len) as usize * IO_ALIGN
}

/// How many of the cells can be written by one transfer: they follow each other on the device.
fn transfer_of(placed: &[Placed], longest: u32) -> usize {
    let mut next = placed.first().map_or(0, |first| first.place);
    let mut bytes = 0;
    placed
        .iter()
        .take_while(|cell| {
            let follows = cell.place == next && bytes < longest as usize;
            next = cell.place + u64::from(units_for(cell.touched.len));
            bytes += padded(cell);
            follows
        })
        .count()
}
