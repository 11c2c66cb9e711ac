//! The queue of records on their way to the journal, and how full the ring is.
//!
//! Pure: it decides what the next batch is and whether there is room; writing it is done in
//! `commit`. Positions count bytes since format and never wrap; the ring takes them modulo its
//! size.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use protocol::guard::{self, Guard};
use protocol::ids::{GroupId, Lsn, Version};

use super::batch::{BATCH_HEADER_LEN, padded_len};
use super::bytes::Writer;
use super::geometry::Geometry;
use super::record::{RECORD_HEADER_LEN, Record};
use super::superblock::Slot;
use super::types::StoreError;
use super::wait::Outcome;

/// What a batch's writers wait for.
pub(super) type Done = Rc<Outcome<Result<(), StoreError>>>;

/// Where the journal goes on: after which batch, and with which predecessor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) lsn: Lsn,
    pub(super) position: u64,
    pub(super) chain_hash: u128,
}

impl Point {
    /// Where the journal goes on after a checkpoint.
    pub(super) fn of(slot: &Slot) -> Point {
        Point { lsn: slot.lsn, position: slot.position, chain_hash: slot.chain_hash }
    }
}

/// Which share of the ring a record may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Growth and mutation.
    Ordinary,
    /// What frees space or fences: deletes, adoptions, discards.
    Reserved,
}

/// Records that will be made durable by one flush.
pub(super) struct Batch {
    pub(super) lsn: Lsn,
    body: Writer,
    records: u32,
    marks: BTreeMap<GroupId, Version>,
    urgent: bool,
    sealed: bool,
    pub(super) done: Done,
}

/// Records waiting, and the ring's fill level.
pub(super) struct Journal {
    ring_size: u64,
    reserve: u64,
    batch_len_max: usize,
    geometry: Geometry,
    queue: VecDeque<Batch>,
    newest: Lsn,
    durable: Point,
    in_flight: u64,
    keep_from: u64,
    checkpoint_after: u64,
    wanted: Option<Lsn>,
    found: Option<Point>,
    /// True when a record was refused for want of room since the last checkpoint began.
    starved: bool,
}

impl Journal {
    /// Goes on after `durable`; bytes from `keep_from` on are still needed. The last checkpoint is of the
    /// position `checkpointed` and has `image` bytes.
    pub(super) fn new(
        geometry: &Geometry,
        durable: Point,
        keep_from: u64,
        (checkpointed, image): (u64, u64),
    ) -> Journal {
        Journal {
            ring_size: geometry.journal_size,
            reserve: geometry.journal_reserve(),
            batch_len_max: geometry.batch_len_max(),
            geometry: *geometry,
            queue: VecDeque::new(),
            newest: durable.lsn,
            durable,
            in_flight: 0,
            keep_from,
            checkpoint_after: checkpointed + geometry.checkpoint_due(image),
            wanted: None,
            found: None,
            starved: false,
        }
    }

    /// Newest batch that is durable, and where the next one goes.
    pub(super) fn durable(&self) -> Point {
        self.durable
    }

    /// As [`Journal::has_room`], for a record that is refused otherwise: a full ring is a reason
    /// for a checkpoint, also when the last one failed a moment ago.
    pub(super) fn admit(&mut self, len: usize, room: Room) -> bool {
        let fits = self.has_room(len, room);
        self.starved |= !fits;
        fits
    }

    /// True when a record of `len` bytes fits into its share of the ring.
    pub(super) fn has_room(&self, len: usize, room: Room) -> bool {
        // Half of the reserve is left for the commit marks that ride with any batch.
        let spared = match room {
            Room::Ordinary if guard::holds(Guard::JournalReserve) => self.reserve,
            Room::Ordinary => self.reserve / 2,
            Room::Reserved => self.reserve / 2,
        };
        self.used() + padded_len(len) + spared <= self.ring_size
    }

    /// Queues a record; it is durable when the outcome says so.
    pub(super) fn enqueue(&mut self, record: &Record) -> (Lsn, Done) {
        let mut encoded = Writer::new();
        record.encode(&mut encoded);
        let limit = self.batch_len_max;
        let full = |batch: &Batch| batch.body.len() + encoded.len() > limit;
        if self.queue.back().is_some_and(full) {
            self.seal();
        }
        let batch = self.open_batch();
        batch.body.raw(encoded.bytes());
        batch.records += 1;
        batch.urgent = true;
        (batch.lsn, Rc::clone(&batch.done))
    }

    /// Notes that a group is committed up to a version; it rides with the next batch, whose
    /// number is returned.
    pub(super) fn mark(&mut self, group: GroupId, through: Version) -> Lsn {
        let batch = self.open_batch();
        let mark = batch.marks.entry(group).or_default();
        *mark = through.max(*mark);
        batch.lsn
    }

    /// Closes the open batch: what comes later gets a later number. Returns the newest number.
    pub(super) fn seal(&mut self) -> Lsn {
        if let Some(batch) = self.queue.back_mut() {
            batch.sealed = true;
            batch.urgent = true;
        }
        self.newest
    }

    /// Lets marks that wait for company go at once, if the ring has room to spare.
    pub(super) fn hurry(&mut self) -> bool {
        let room = self.has_room(0, Room::Reserved);
        match self.queue.back_mut() {
            Some(batch) => batch.urgent |= room,
            None => return self.in_flight > 0,
        }
        room
    }

    /// Takes the batch that should be written now.
    pub(super) fn take(&mut self) -> Option<Batch> {
        if !self.queue.front()?.urgent {
            return None;
        }
        let mut batch = self.queue.pop_front()?;
        batch.encode_marks();
        self.in_flight = padded_len(batch.body.len());
        Some(batch)
    }

    /// Notes that a batch is durable and where the next one goes.
    pub(super) fn completed(&mut self, point: Point) {
        self.durable = point;
        self.in_flight = 0;
        if self.wanted == Some(point.lsn) {
            self.found = Some(point);
        }
    }

    /// Takes every batch that waits, because none will be written any more.
    pub(super) fn take_all(&mut self) -> Vec<Batch> {
        self.in_flight = 0;
        self.queue.drain(..).collect()
    }

    /// True when nothing waits or is being written.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight == 0
    }

    /// True when a checkpoint should be written.
    pub(super) fn checkpoint_is_due(&self) -> bool {
        self.starved || self.durable.position > self.checkpoint_after
    }

    /// Ends the batch that a checkpoint will contain; later records are not in it.
    pub(super) fn begin_checkpoint(&mut self) -> Lsn {
        let lsn = self.seal();
        self.starved = false;
        self.wanted = Some(lsn);
        self.found = (self.durable.lsn == lsn).then_some(self.durable);
        lsn
    }

    /// Where the journal goes on after the checkpoint's last batch, once that is durable.
    pub(super) fn checkpoint_point(&self) -> Option<Point> {
        self.found
    }

    /// A checkpoint of `image` bytes is complete: nothing before `keep_from` is needed.
    pub(super) fn end_checkpoint(&mut self, position: u64, image: u64, keep_from: u64) {
        (self.wanted, self.found) = (None, None);
        self.keep_from = keep_from;
        self.starved = false;
        self.checkpoint_after = position + self.geometry.checkpoint_due(image);
    }

    /// A checkpoint failed; the next one is due after some more journal, or when that is full and
    /// another record is refused.
    pub(super) fn abandon_checkpoint(&mut self) {
        self.starved = false;
        (self.wanted, self.found) = (None, None);
        self.checkpoint_after = self.durable.position + self.reserve;
    }

    fn used(&self) -> u64 {
        let queued: u64 = self.queue.iter().map(Batch::padded_len).sum();
        self.durable.position + self.in_flight + queued - self.keep_from
    }

    fn open_batch(&mut self) -> &mut Batch {
        if self.queue.back().is_none_or(|batch| batch.sealed) {
            self.newest = Lsn(self.newest.0 + 1);
            self.queue.push_back(Batch::new(self.newest));
        }
        let last = self.queue.len() - 1;
        &mut self.queue[last]
    }
}

impl Batch {
    fn new(lsn: Lsn) -> Batch {
        Batch {
            lsn,
            body: Writer::new(),
            records: 0,
            marks: BTreeMap::new(),
            urgent: false,
            sealed: false,
            done: Rc::new(Outcome::new()),
        }
    }

    /// Encoded records.
    pub(super) fn body(&self) -> &[u8] {
        self.body.bytes()
    }

    /// Number of records.
    pub(super) fn records(&self) -> u32 {
        self.records
    }

    fn padded_len(&self) -> u64 {
        padded_len(self.body.len() + self.marks.len() * (RECORD_HEADER_LEN + 12))
    }

    fn encode_marks(&mut self) {
        for (group, through) in std::mem::take(&mut self.marks) {
            Record::Committed { group, through }.encode(&mut self.body);
            self.records += 1;
        }
    }
}

const _: () = assert!(BATCH_HEADER_LEN < 4096);
