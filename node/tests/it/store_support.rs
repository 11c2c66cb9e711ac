//! What the tests of the store share: a model, and ways to run a store on a container.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use futures_lite::future::{block_on, or};
use node::io::memory::MemoryDisk;
use node::io::{Buffer, Disk};
use node::store::{FormatOptions, ReadMode, Recovered, Store, StoreError, WriteOp};
use protocol::checksum::cell_sum;
use protocol::ids::{
    ChunkKey, ClusterId, Epoch, Fid, Generation, GroupId, NodeId, OpId, Seq, SessionId, TargetId,
    Version,
};
use protocol::message::chunk::WriteClass;

pub(crate) const GROUP: GroupId = GroupId(3);
pub(crate) const SIZE: u64 = 24 << 20;

pub(crate) fn options() -> FormatOptions {
    FormatOptions {
        cluster: ClusterId(7),
        node: NodeId(1),
        target: TargetId(101),
        first_generation: Generation(1),
    }
}

pub(crate) fn key(fid: u64) -> ChunkKey {
    ChunkKey { fid: Fid(fid), index: 0 }
}

pub(crate) fn version(counter: u32) -> Version {
    Version { epoch: Epoch(1), counter }
}

/// Bytes that differ from place to place and from version to version.
pub(crate) fn pattern(tag: u64, len: usize) -> Vec<u8> {
    let mut state = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// A write, before it is given memory of a device.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) fid: u64,
    pub(crate) counter: u32,
    pub(crate) base: Version,
    pub(crate) offset: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expect_len: u32,
    pub(crate) cell_log2: u8,
    pub(crate) mutation: bool,
    /// A truncation to `offset`; there are no bytes.
    pub(crate) cut: bool,
    pub(crate) trunc_gen: u32,
}

impl Put {
    pub(crate) fn new(fid: u64, counter: u32, bytes: Vec<u8>) -> Put {
        let expect_len = bytes.len() as u32;
        let base = Version::ZERO;
        let (cell_log2, trunc_gen) = (14, 0);
        let (mutation, cut) = (false, false);
        Put {
            fid,
            counter,
            base,
            offset: 0,
            bytes,
            expect_len,
            cell_log2,
            mutation,
            cut,
            trunc_gen,
        }
    }

    /// Sets the length of a chunk.
    pub(crate) fn truncate(fid: u64, counter: u32, len: u32) -> Put {
        Put { offset: len, cut: true, trunc_gen: 1, ..Put::new(fid, counter, vec![]) }
    }

    fn class(&self) -> WriteClass {
        match (self.cut, self.mutation) {
            (true, _) => WriteClass::Truncate,
            (false, true) => WriteClass::Mutation,
            (false, false) => WriteClass::Growth,
        }
    }

    pub(crate) fn op<D: Disk>(&self, disk: &D) -> WriteOp<D> {
        let mut buffer = disk.allocate(self.bytes.len().max(1));
        buffer.bytes_mut().fill(0);
        buffer.bytes_mut()[..self.bytes.len()].copy_from_slice(&self.bytes);
        WriteOp {
            group: GROUP,
            key: key(self.fid),
            version: version(self.counter),
            base: self.base,
            op: OpId { session: SessionId(self.fid), seq: Seq(u64::from(self.counter)) },
            class: self.class(),
            offset: self.offset,
            len: self.bytes.len() as u32,
            expect_len: self.expect_len,
            trunc_gen: self.trunc_gen,
            cell_log2: self.cell_log2,
            chunk_log2: 22,
            sums: self.sums().into(),
            payload: Rc::new(buffer),
        }
    }

    fn sums(&self) -> Vec<protocol::checksum::CellSum> {
        let cell_size = 1u32 << self.cell_log2;
        let (mut at, mut sums) = (self.offset, Vec::new());
        let end = self.offset + self.bytes.len() as u32;
        while at < end {
            let stop = end.min((at / cell_size + 1) * cell_size);
            let part = (at - self.offset) as usize..(stop - self.offset) as usize;
            sums.push(cell_sum(key(self.fid), at / cell_size, &self.bytes[part]));
            at = stop;
        }
        sums
    }
}

/// What each chunk should hold, version by version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) versions: BTreeMap<u64, Vec<(u32, Vec<u8>)>>,
}

impl Model {
    pub(crate) fn apply(&mut self, put: &Put) {
        let versions = self.versions.entry(put.fid).or_default();
        let mut bytes = versions.last().map(|last| last.1.clone()).unwrap_or_default();
        if put.cut {
            bytes.resize(put.offset as usize, 0);
            versions.push((put.counter, bytes));
            return;
        }
        let end = put.offset as usize + put.bytes.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[put.offset as usize..end].copy_from_slice(&put.bytes);
        versions.push((put.counter, bytes));
    }

    pub(crate) fn newest(&self, fid: u64) -> Option<&(u32, Vec<u8>)> {
        self.versions.get(&fid)?.last()
    }

    pub(crate) fn at(&self, fid: u64, counter: u32) -> Option<&Vec<u8>> {
        self.versions.get(&fid)?.iter().find(|have| have.0 == counter).map(|have| &have.1)
    }
}

/// Runs a test body beside the store's own task.
pub(crate) fn with_store<D: Disk, T>(store: &Rc<Store<D>>, body: impl Future<Output = T>) -> T {
    let run = async {
        Rc::clone(store).run().await;
        std::future::pending().await
    };
    block_on(or(run, body))
}

pub(crate) fn formatted(size: u64, seed: u64) -> MemoryDisk {
    let disk = MemoryDisk::new(size, seed);
    block_on(Store::format(&disk, &options())).unwrap();
    disk
}

pub(crate) fn open(disk: &MemoryDisk) -> (Rc<Store<MemoryDisk>>, Recovered) {
    block_on(Store::open(Rc::new(disk.clone()), &options())).unwrap()
}

pub(crate) fn fresh(seed: u64) -> (MemoryDisk, Rc<Store<MemoryDisk>>) {
    let disk = formatted(SIZE, seed);
    let (store, _) = open(&disk);
    (disk, store)
}

/// Reads the newest version of a whole chunk, verified.
pub(crate) async fn read_all<D: Disk>(store: &Store<D>, fid: u64) -> Result<Vec<u8>, StoreError> {
    let len = store.info(GROUP, key(fid)).ok_or(StoreError::NotFound)?.chunk_len;
    let mode = ReadMode { newest: true, verify: true, suspect: false };
    Ok(store.read(GROUP, key(fid), 0, len, mode).await?.payload.to_vec())
}

pub(crate) async fn read_committed<D: Disk>(
    store: &Store<D>,
    fid: u64,
    offset: u32,
    len: u32,
) -> Result<Vec<u8>, StoreError> {
    let mode = ReadMode { newest: false, verify: true, suspect: false };
    let out = store.read(GROUP, key(fid), offset, len, mode).await?;
    let skip = (offset - (out.first_cell << out.cell_log2)) as usize;
    Ok(out.payload.to_vec()[skip..skip + len as usize].to_vec())
}
