//! Inodes and directory entries as rows.
//!
//! Fields of an inode after the row's version, all little-endian:
//!
//! ```text
//! 1  u8   type: 1 file, 2 directory, 3 symbolic link
//! 2  u16  mode            4  u32  uid            8  u32  gid         12  u32  nlink
//! 16 u64  size           24  i64  mtime s       32  u32  mtime ns    36  i64  ctime s     44 u32 ctime ns
//! file       48 u64 fid, u32 trunc_gen, u8 flags (bit 0 growth only, 1 recovered, 2 exclusive),
//!            u64 stamp, u32 writers, u32 groups to trim, u32 groups to measure,
//!            u8 cell_log2, u8 segments, each: u32 first chunk, u8 chunk_log2, u8 groups, u32 each,
//!            u16 abandoned groups, u32 each
//! directory  48 u64 parent, u8 cell_log2 of files made in it (0 the default; missing in older rows)
//! link       48 u16 length, target
//! ```

use protocol::ids::{Fid, GroupId, Ino, MapVersion};
use protocol::layout::{Layout, Segment};
use protocol::message::namespace::{Attributes, Entry, FileContent, FileType, Time};

use super::codec::{Reader, Writer, key};
use crate::kv::{Kv, KvError, KvRead};

/// One inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) body: Body,
}

/// What an inode has beyond its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    File(File),
    Directory { parent: Ino, cell_log2: u8 },
    Symlink { target: Vec<u8> },
}

/// The content of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) fid: Fid,
    pub(super) trunc_gen: u32,
    pub(super) growth_only: bool,
    pub(super) stamp: MapVersion,
    pub(super) layout: Layout,
    /// Its size was found by asking the groups after a writer died.
    pub(super) recovered: bool,
    /// Sessions that have it open for writing in place.
    pub(super) writers: u32,
    /// There is one of them at most.
    pub(super) exclusive: bool,
    /// Groups that have not cut it yet.
    pub(super) trims: u32,
    /// Groups that have not measured it yet.
    pub(super) measures: u32,
    /// Groups that may hold bytes of it although the layout does not name them any more.
    pub(super) abandoned: Vec<GroupId>,
}

/// What a name points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dentry {
    pub(super) ino: Ino,
    pub(super) file_type: FileType,
}

impl Inode {
    pub(super) fn file_type(&self) -> FileType {
        match self.body {
            Body::File(_) => FileType::File,
            Body::Directory { .. } => FileType::Directory,
            Body::Symlink { .. } => FileType::Symlink,
        }
    }

    /// Cell size that files get which are made in this directory, as a power of two; 0 for the
    /// default.
    pub(super) fn cell_log2(&self) -> u8 {
        match self.body {
            Body::Directory { cell_log2, .. } => cell_log2,
            Body::File(_) | Body::Symlink { .. } => 0,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// The inode as requests return it.
    pub(super) fn entry(&self, ino: Ino, with_content: bool) -> Entry {
        let attributes = Attributes {
            ino,
            file_type: self.file_type(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: self.size,
            mtime: self.mtime,
            ctime: self.ctime,
        };
        let (content, link) = match &self.body {
            Body::File(file) if with_content => (Some(file.content()), Vec::new()),
            Body::Symlink { target } => (None, target.clone()),
            Body::File(_) | Body::Directory { .. } => (None, Vec::new()),
        };
        Entry { attributes, content, link }
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        let file_type = self.file_type();
        out.u8(type_code(file_type)).u16(u16::try_from(self.mode).unwrap_or(u16::MAX));
        out.u32(self.uid).u32(self.gid).u32(self.nlink).u64(self.size);
        for time in [self.mtime, self.ctime] {
            out.u64(time.secs.cast_unsigned()).u32(time.nanos);
        }
        match &self.body {
            Body::File(file) => file.encode(out),
            Body::Directory { parent, cell_log2 } => {
                out.u64(parent.0).u8(*cell_log2);
            }
            Body::Symlink { target } => {
                out.bytes(target);
            }
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Inode, KvError> {
        let file_type = type_of(from.u8()?).ok_or_else(|| from.bad("unknown inode type"))?;
        let mode = u32::from(from.u16()?);
        let (uid, gid, nlink, size) = (from.u32()?, from.u32()?, from.u32()?, from.u64()?);
        let mtime = time(from)?;
        let ctime = time(from)?;
        let body = match file_type {
            FileType::File => Body::File(File::decode(from)?),
            FileType::Directory => {
                let parent = Ino(from.u64()?);
                let cell_log2 = if from.is_at_end() { 0 } else { from.u8()? };
                Body::Directory { parent, cell_log2 }
            }
            FileType::Symlink => Body::Symlink { target: from.bytes()? },
        };
        Ok(Inode { mode, uid, gid, nlink, size, mtime, ctime, body })
    }
}

impl File {
    /// The content as requests return it.
    pub(super) fn content(&self) -> FileContent {
        FileContent {
            fid: self.fid,
            layout: self.layout.clone(),
            trunc_gen: self.trunc_gen,
            growth_only: self.growth_only,
            stamp: self.stamp,
            token: Vec::new(),
            truncating: self.is_settling(),
            writing: self.writers > 0,
            recovered: self.recovered,
        }
    }

    /// True while groups cut or measure it, so that nobody may write to it.
    pub(super) fn is_settling(&self) -> bool {
        self.trims > 0 || self.measures > 0
    }

    /// The groups that may hold bytes of the file, ascending, each once.
    pub(super) fn groups(&self) -> Vec<GroupId> {
        let segments = self.layout.segments.iter();
        let mut groups: Vec<_> = segments.flat_map(|segment| segment.groups.clone()).collect();
        groups.extend_from_slice(&self.abandoned);
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    fn encode(&self, out: &mut Writer) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.growth_only, GROWTH_ONLY)
            | flag(self.recovered, RECOVERED)
            | flag(self.exclusive, EXCLUSIVE);
        out.u64(self.fid.0).u32(self.trunc_gen).u8(flags).u64(self.stamp.0);
        out.u32(self.writers).u32(self.trims).u32(self.measures);
        let segments = u8::try_from(self.layout.segments.len()).unwrap_or(u8::MAX);
        out.u8(self.layout.cell_log2).u8(segments);
        for segment in &self.layout.segments {
            let groups = u8::try_from(segment.groups.len()).unwrap_or(u8::MAX);
            out.u32(segment.first_chunk).u8(segment.chunk_log2).u8(groups);
            for group in &segment.groups {
                out.u32(group.0);
            }
        }
        out.u16(u16::try_from(self.abandoned.len()).unwrap_or(u16::MAX));
        for group in &self.abandoned {
            out.u32(group.0);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<File, KvError> {
        let (fid, trunc_gen) = (Fid(from.u64()?), from.u32()?);
        let flags = from.u8()?;
        if flags & !(GROWTH_ONLY | RECOVERED | EXCLUSIVE) != 0 {
            return Err(from.bad("unknown file flag"));
        }
        let stamp = MapVersion(from.u64()?);
        let (writers, trims, measures) = (from.u32()?, from.u32()?, from.u32()?);
        let (cell_log2, count) = (from.u8()?, from.u8()?);
        let mut segments = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (first_chunk, chunk_log2, groups) = (from.u32()?, from.u8()?, from.u8()?);
            let groups = (0..groups).map(|_| from.u32().map(GroupId)).collect::<Result<_, _>>()?;
            segments.push(Segment { first_chunk, chunk_log2, groups });
        }
        let layout = Layout { segments, cell_log2 };
        layout.validate().map_err(|_| from.bad("unusable layout"))?;
        let count = from.u16()?;
        let abandoned = (0..count).map(|_| from.u32().map(GroupId)).collect::<Result<_, _>>()?;
        Ok(File {
            fid,
            trunc_gen,
            growth_only: flags & GROWTH_ONLY != 0,
            stamp,
            layout,
            recovered: flags & RECOVERED != 0,
            writers,
            exclusive: flags & EXCLUSIVE != 0,
            trims,
            measures,
            abandoned,
        })
    }
}

const GROWTH_ONLY: u8 = 1;
const RECOVERED: u8 = 2;
const EXCLUSIVE: u8 = 4;

/// Reads an inode; `None` when there is none.
pub(super) fn load<R: KvRead>(view: &R, ino: Ino) -> Result<Option<Inode>, KvError> {
    let key = key::inode(ino);
    view.get(&key)?.map(|value| from_row(&key, &value)).transpose()
}

/// Reads an inode from its row.
pub(super) fn from_row(key: &[u8], value: &[u8]) -> Result<Inode, KvError> {
    let mut reader = Reader::open(key, value)?;
    let inode = Inode::decode(&mut reader)?;
    reader.end()?;
    Ok(inode)
}

/// Writes an inode.
pub(super) fn store<K: Kv>(kv: &mut K, ino: Ino, inode: &Inode) {
    let key = key::inode(ino);
    let mut writer = Writer::new();
    inode.encode(&mut writer);
    let value = writer.seal(&key);
    kv.put(key, value);
}

/// Reads what a name points to; `None` when the directory does not have it.
pub(super) fn load_dentry<R: KvRead>(
    view: &R,
    parent: Ino,
    name: &[u8],
) -> Result<Option<Dentry>, KvError> {
    let key = key::dentry(parent, name);
    view.get(&key)?.map(|value| dentry_from_row(&key, &value)).transpose()
}

/// Reads a directory entry from its row.
pub(super) fn dentry_from_row(key: &[u8], value: &[u8]) -> Result<Dentry, KvError> {
    let mut reader = Reader::open(key, value)?;
    let ino = Ino(reader.u64()?);
    let file_type = type_of(reader.u8()?).ok_or_else(|| reader.bad("unknown entry type"))?;
    reader.end()?;
    Ok(Dentry { ino, file_type })
}

/// Writes a directory entry.
pub(super) fn store_dentry<K: Kv>(kv: &mut K, parent: Ino, name: &[u8], dentry: Dentry) {
    let key = key::dentry(parent, name);
    let mut writer = Writer::new();
    writer.u64(dentry.ino.0).u8(type_code(dentry.file_type));
    let value = writer.seal(&key);
    kv.put(key, value);
}

fn time(from: &mut Reader<'_>) -> Result<Time, KvError> {
    Ok(Time { secs: from.u64()?.cast_signed(), nanos: from.u32()? })
}

fn type_code(file_type: FileType) -> u8 {
    match file_type {
        FileType::File => 1,
        FileType::Directory => 2,
        FileType::Symlink => 3,
    }
}

fn type_of(code: u8) -> Option<FileType> {
    match code {
        1 => Some(FileType::File),
        2 => Some(FileType::Directory),
        3 => Some(FileType::Symlink),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(body: Body) -> Inode {
        Inode {
            mode: 0o644,
            uid: 1,
            gid: 2,
            nlink: 3,
            size: 4,
            mtime: Time { secs: -5, nanos: 6 },
            ctime: Time { secs: 7, nanos: 8 },
            body,
        }
    }

    fn file() -> File {
        let segment = |first_chunk, groups: &[u32]| Segment {
            first_chunk,
            chunk_log2: 22,
            groups: groups.iter().map(|&group| GroupId(group)).collect(),
        };
        File {
            fid: Fid(0x0102_0304_0506_0708),
            trunc_gen: 9,
            growth_only: true,
            stamp: MapVersion(10),
            layout: Layout {
                segments: vec![segment(0, &[11]), segment(4, &[12, 11])],
                cell_log2: 14,
            },
            recovered: true,
            writers: 13,
            exclusive: true,
            trims: 14,
            measures: 15,
            abandoned: vec![GroupId(16)],
        }
    }

    fn row(inode: &Inode) -> Vec<u8> {
        let mut writer = Writer::new();
        inode.encode(&mut writer);
        writer.seal(b"k")
    }

    #[test]
    fn the_bytes_of_an_inode_are_frozen() {
        let hex = row(&inode(Body::File(file())))
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        assert_eq!(hex, FROZEN);
    }

    #[test]
    fn every_kind_of_inode_round_trips() -> Result<(), KvError> {
        let bodies = [
            Body::File(file()),
            Body::Directory { parent: Ino(1), cell_log2: 0 },
            Body::Directory { parent: Ino(1), cell_log2: 12 },
            Body::Symlink { target: b"../x".to_vec() },
        ];
        for body in bodies {
            let inode = inode(body);
            assert_eq!(from_row(b"k", &row(&inode))?, inode);
        }
        Ok(())
    }

    #[test]
    fn a_directory_of_before_there_were_cell_sizes_is_read() -> Result<(), KvError> {
        let inode = inode(Body::Directory { parent: Ino(1), cell_log2: 0 });
        let mut older = Writer::new();
        inode.encode(&mut older);
        let whole = older.seal(b"k");
        let mut older = Writer::new();
        inode.encode(&mut older);
        let row = older.without_last().seal(b"k");
        assert_eq!(row.len() + 1, whole.len());
        assert_eq!(from_row(b"k", &row)?, inode);
        Ok(())
    }

    #[test]
    fn a_file_lists_each_group_once() {
        assert_eq!(file().groups(), [GroupId(11), GroupId(12), GroupId(16)]);
    }

    /// Worked out by hand from the table above, field by field.
    const FROZEN: &str = concat!(
        "01",                                         // version
        "01a401010000000200000003000000",             // type, mode, uid, gid, nlink
        "0400000000000000",                           // size
        "fbffffffffffffff06000000",                   // mtime
        "070000000000000008000000",                   // ctime
        "080706050403020109000000070a00000000000000", // fid, trunc_gen, flags, stamp
        "0d0000000e0000000f000000",                   // writers, trims, measures
        "0e02",                                       // cell size, segments
        "0000000016010b000000",                       // first segment
        "0400000016020c0000000b000000",               // second segment
        "010010000000",                               // abandoned groups
        "9a927546"                                    // checksum
    );
}
