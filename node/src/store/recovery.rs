//! Opening a target: root, checkpoint, journal, data of the journal's end, new generation.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use protocol::guard::{self, Guard};
use protocol::ids::{Generation, Lsn};

use super::Store;
use super::allocator::Allocator;
use super::cells::PageCache;
use super::checkpoint::load;
use super::entry::{Entry, Name};
use super::extent::ExtentSet;
use super::fence::Phase;
use super::format::read_superblock;
use super::index::Index;
use super::journal::{Journal, Point};
use super::meter::Meter;
use super::replay::{Replay, Scan};
use super::space::Space;
use super::superblock::{BadSuperblock, LAYOUT_VERSION, Slot, Superblock};
use super::types::{FormatOptions, Recovered, StoreError};
use super::upkeep::Upkeep;
use super::verdict::remembered;
use super::wait::{Bell, Gates};
use crate::io::Disk;
#[cfg(doc)]
use crate::limits::TAIL_SCAN_LEN;

/// What the container says before the new generation begins.
struct Found {
    index: Index,
    replay: Replay,
    /// Journal position of the older good checkpoint.
    keep_from: u64,
    /// Journal position of the newer one, and its length.
    checkpointed: (u64, u64),
    /// The checkpoint area that does not hold what the superblock says.
    damaged: Option<usize>,
}

impl<D: Disk> Store<D> {
    /// Recovers a target and raises its generation.
    ///
    /// # Errors
    /// [`StoreError::Open`] when the container holds no target, another one, or a format this
    /// release does not know; the text says what to do. Damage to journal or index is not an
    /// error: [`Recovered::intact`] tells it.
    ///
    /// # Durability
    /// On return the new generation is on the medium, and with it the verdict that the target is not
    /// intact: each opening says so again until [`Store::verdict_is_known`].
    ///
    /// # Cancel safety
    /// The generation may have been raised; open again.
    ///
    /// # Cost
    /// Reads the newest checkpoint and the journal after it; after a crash also what lies behind the
    /// journal's end, in most cases [`TAIL_SCAN_LEN`], and the data of its last batch.
    pub async fn open(
        disk: Rc<D>,
        options: &FormatOptions,
    ) -> Result<(Rc<Self>, Recovered), StoreError> {
        let mut superblock =
            read_superblock(&*disk).await?.map_err(|bad| unreadable(bad, options))?;
        check_identity(&superblock, options)?;
        check_features(&superblock)?;
        if superblock.geometry.container > disk.capacity() {
            return Err(StoreError::Open(format!(
                "container has {} bytes, target {} was made with {}; restore its full size",
                disk.capacity(),
                options.target,
                superblock.geometry.container
            )));
        }
        let previous_fence = superblock.fence.clone();
        let found = find(&*disk, &superblock).await;
        let damaged = found.damaged;
        if let Some(damaged) = damaged {
            // The next image goes to this area, never over the good one.
            superblock.slots[damaged] = Slot::default();
        }
        let durable = found.replay.durable;
        let mut intact = found.replay.intact && !remembered(&superblock);
        let store = Rc::new(Self::assemble(disk, options, superblock, found));
        let torn_repairs = !store.upkeep.before_repairs.borrow().is_empty();
        let suspects = store.check_tail(durable).await;
        intact &= store.rebuild_space();
        if !intact {
            store.suspect_all();
        }
        store.begin_generation(intact).await?;
        if !intact || suspects > 0 || torn_repairs || damaged.is_some() {
            // A fresh image makes the verdict durable, and the damaged journal is not needed.
            store.checkpoint().await?;
        }
        store.phase.set(Phase::Open);
        let recovered = Recovered {
            generation: store.generation,
            lsn: store.durable_lsn(),
            intact,
            chunks: store.chunks(),
            suspects,
            previous_fence,
        };
        Ok((store, recovered))
    }

    fn assemble(
        disk: Rc<D>,
        options: &FormatOptions,
        superblock: Superblock,
        found: Found,
    ) -> Store<D> {
        let geometry = superblock.geometry;
        let mut index = found.index;
        let upkeep = Upkeep::default();
        for record in found.replay.records {
            let unsure = record.repair_lsn().is_some_and(|lsn| lsn > found.replay.durable);
            let before = index.before_repair(&record).filter(|_| unsure);
            upkeep.before_repairs.borrow_mut().extend(before);
            index.apply(record);
        }
        let (keep_from, checkpointed) = (found.keep_from, found.checkpointed);
        Store {
            disk,
            identity: options.clone(),
            generation: next_generation(superblock.generation, options.first_generation),
            geometry,
            journal: RefCell::new(Journal::new(
                &geometry,
                found.replay.end,
                keep_from,
                checkpointed,
            )),
            superblock: RefCell::new(superblock),
            index: RefCell::new(index),
            space: RefCell::new(Space::new(Allocator::default())),
            cache: RefCell::new(PageCache::default()),
            gates: Gates::default(),
            checkpoint_turn: Gates::default(),
            superblock_turn: Gates::default(),
            flush_turn: Gates::default(),
            work: Bell::default(),
            phase: Cell::new(Phase::Opening),
            fence_reason: RefCell::new(None),
            upkeep,
            meter: Meter::default(),
            writes_in_flight: Cell::new(0),
            flushes: Cell::new(0),
            bytes_copied: Cell::new(0),
        }
    }

    /// Checks the data of versions whose batch is not certainly durable; those that do not verify
    /// become suspect: they may have been acknowledged, and the other members know.
    async fn check_tail(&self, durable: Lsn) -> u64 {
        let tail: Vec<(Name, _)> = {
            let index = self.index.borrow();
            let states = index
                .entries()
                .flat_map(|(name, entry)| entry.states().map(|state| (*name, Rc::clone(state))));
            states.filter(|(_, state)| state.lsn > durable).collect()
        };
        let mut suspects = 0;
        for (name, state) in tail {
            if !guard::holds(Guard::TailVerification) {
                continue;
            }
            let good = self.check_state(name, &state).await.is_ok_and(|(_, bad)| bad.is_empty());
            if !good && !self.undo_repair(name, state.version) {
                suspects += 1;
                let version = state.version;
                self.index.borrow_mut().suspect(name, |state| state.version == version);
            }
        }
        self.upkeep.before_repairs.borrow_mut().clear();
        suspects
    }

    /// Takes from the arena what the index refers to; false when the index contradicts itself.
    fn rebuild_space(&self) -> bool {
        let (start, end) = (self.geometry.arena_start(), self.geometry.arena_end());
        let used = self.index.borrow().runs();
        if let Some(allocator) = Allocator::without(start, end, &used) {
            *self.space.borrow_mut() = Space::new(allocator);
            return true;
        }
        let mut allocator = Allocator::new(start, end);
        let mut names: Vec<(Lsn, Name)> = {
            let index = self.index.borrow();
            let newest = |(name, entry): (&Name, &Entry)| {
                (entry.states().map(|state| state.lsn).max().unwrap_or_default(), *name)
            };
            index.entries().map(newest).collect()
        };
        // When two chunks claim the same units, the later one has overwritten the earlier.
        names.sort_by_key(|(lsn, name)| (std::cmp::Reverse(*lsn), *name));
        let mut sound = true;
        for (_, name) in names {
            let owned = self.index.borrow().entry(name.0, name.1).map(Entry::owned);
            if !claim_all(&mut allocator, &owned.unwrap_or_default()) {
                sound = false;
                tracing::error!(group = name.0.0, key = %name.1, "chunk was overwritten; dropped");
                self.index.borrow_mut().forget(name);
            }
        }
        *self.space.borrow_mut() = Space::new(allocator);
        sound
    }

    fn suspect_all(&self) {
        let mut index = self.index.borrow_mut();
        let names: Vec<Name> = index.entries().map(|(name, _)| *name).collect();
        for name in names {
            index.suspect(name, |_| true);
        }
    }

    async fn begin_generation(&self, intact: bool) -> Result<(), StoreError> {
        let generation = self.generation;
        self.write_superblock(|superblock| {
            superblock.generation = generation;
            superblock.clean_lsn = Lsn(0);
            superblock.fence = None;
            superblock.damaged = !intact;
        })
        .await
    }
}

/// Loads the newest good checkpoint and reads the journal after it.
async fn find<D: Disk>(disk: &D, superblock: &Superblock) -> Found {
    let geometry = &superblock.geometry;
    let newest = superblock.newest_slot();
    let slots = &superblock.slots;
    let known = slots[newest].lsn.max(superblock.clean_lsn);
    let (index, which, loaded) = match load_either(disk, superblock, newest).await {
        Some((index, which)) => (index, which, true),
        // Neither image is whole: what the journal still says is all there is.
        None => (Index::default(), 1 - newest, false),
    };
    let scan = Scan {
        disk,
        geometry,
        target: superblock.target,
        generation: superblock.generation,
        clean: superblock.clean_lsn,
    };
    let mut replay = scan.run(Point::of(&slots[which]), known).await;
    replay.intact &= loaded;
    if replay.end.lsn < slots[newest].lsn {
        // Numbers are never used twice, whatever was lost.
        replay.end = Point::of(&slots[newest]);
    }
    let whole = which == newest;
    Found {
        index,
        replay,
        keep_from: slots[1 - newest].position,
        checkpointed: (slots[which].position, slots[which].length),
        damaged: (!whole).then_some(newest),
    }
}

/// The generation of this opening.
fn next_generation(last: Generation, first: Generation) -> Generation {
    let step = u32::from(guard::holds(Guard::GenerationBump));
    match last {
        Generation(0) => first.max(Generation(1)),
        last => Generation(last.0.saturating_add(step)),
    }
}

async fn load_either<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    newest: usize,
) -> Option<(Index, usize)> {
    for which in [newest, 1 - newest] {
        let slot = superblock.slots[which];
        match load(disk, &superblock.geometry, which, &slot).await {
            Some(index) => return Some((index, which)),
            None => tracing::error!(
                target_id = superblock.target.0,
                area = which,
                lsn = slot.lsn.0,
                "checkpoint is damaged"
            ),
        }
    }
    None
}

fn claim_all(allocator: &mut Allocator, owned: &ExtentSet) -> bool {
    let mut claimed = Vec::new();
    for &run in owned.runs() {
        if allocator.claim(run).is_err() {
            for run in claimed {
                // Just claimed, so it cannot be free.
                let _ = allocator.release(run);
            }
            return false;
        }
        claimed.push(run);
    }
    true
}

fn check_identity(have: &Superblock, want: &FormatOptions) -> Result<(), StoreError> {
    let have = (have.cluster, have.node, have.target);
    let want = (want.cluster, want.node, want.target);
    if have == want {
        return Ok(());
    }
    Err(StoreError::Open(format!(
        "container holds target {} of node {} in cluster {}, not target {} of node {} in cluster \
         {}; correct the path or the ids in the configuration",
        have.2, have.1, have.0, want.2, want.1, want.0
    )))
}

fn check_features(superblock: &Superblock) -> Result<(), StoreError> {
    let unknown = superblock.features_incompat | superblock.features_read_only;
    if unknown == 0 {
        return Ok(());
    }
    Err(StoreError::Open(format!(
        "target {} uses format features {unknown:#x} that this release does not know; open it with \
         the release that wrote it",
        superblock.target
    )))
}

fn unreadable(bad: BadSuperblock, options: &FormatOptions) -> StoreError {
    let target = options.target;
    StoreError::Open(match bad {
        BadSuperblock::Invalid => format!(
            "container for target {target} has no two equal superblocks; it is not a target, or \
             its start was overwritten: correct the path, or remove it and let it be made anew"
        ),
        BadSuperblock::Layout(layout) => format!(
            "container for target {target} has layout version {layout}, this release knows \
             {LAYOUT_VERSION}; open it with the release that wrote it"
        ),
    })
}
