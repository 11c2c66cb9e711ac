//! Codec of inodes as lookups and listings return them.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_bytes, put_items, put_records};
use super::{Out, Record, wire};
use crate::ids::{Fid, GroupId, Ino, MapVersion};
use crate::layout::{Layout, Segment};
use crate::limits::{
    CELL_LOG2_ALLOWED, LINK_LEN_MAX, SEGMENT_GROUPS_MAX, SEGMENTS_MAX, TOKEN_LEN_MAX,
};
use crate::message::MessageError;
use crate::message::namespace::{
    Attributes, DirEntry, Entry, FileContent, FileType, SetAttributes, Time,
};

/// Permission bits there are.
const MODE_MAX: u32 = 0o7777;

impl Record for Attributes {
    type Table<'a> = wire::Attributes<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Attributes<'b>> {
        let file_type = match self.file_type {
            FileType::File => wire::FileType::File,
            FileType::Directory => wire::FileType::Directory,
            FileType::Symlink => wire::FileType::Symlink,
        };
        wire::Attributes::create(
            out,
            &wire::AttributesArgs {
                ino: self.ino.0,
                file_type,
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
                nlink: self.nlink,
                size: self.size,
                mtime: Some(&self.mtime.into()),
                ctime: Some(&self.ctime.into()),
            },
        )
    }

    fn unpack(table: wire::Attributes<'_>, check: Check) -> Result<Self, MessageError> {
        let file_type = match table.file_type() {
            wire::FileType::File => FileType::File,
            wire::FileType::Directory => FileType::Directory,
            wire::FileType::Symlink => FileType::Symlink,
            _ => return Err(check.error("file_type")),
        };
        check.that(table.mode() <= MODE_MAX, "mode")?;
        Ok(Attributes {
            ino: Ino(table.ino()),
            file_type,
            mode: table.mode(),
            uid: table.uid(),
            gid: table.gid(),
            nlink: table.nlink(),
            size: table.size(),
            mtime: time(table.mtime(), check, "mtime")?,
            ctime: time(table.ctime(), check, "ctime")?,
        })
    }
}

impl Record for Segment {
    type Table<'a> = wire::Segment<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Segment<'b>> {
        let groups = put_items(out, self.groups.iter().map(|group| group.0));
        let (first_chunk, chunk_log2) = (self.first_chunk, self.chunk_log2);
        wire::Segment::create(out, &wire::SegmentArgs { first_chunk, chunk_log2, groups })
    }

    fn unpack(table: wire::Segment<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(Segment {
            first_chunk: table.first_chunk(),
            chunk_log2: table.chunk_log2(),
            groups: check.items(table.groups(), SEGMENT_GROUPS_MAX, "groups", GroupId)?,
        })
    }
}

impl Record for Layout {
    type Table<'a> = wire::Layout<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Layout<'b>> {
        let segments = put_records(out, &self.segments);
        wire::Layout::create(out, &wire::LayoutArgs { segments, cell_log2: self.cell_log2 })
    }

    fn unpack(table: wire::Layout<'_>, check: Check) -> Result<Self, MessageError> {
        let segments = check.records(table.segments(), SEGMENTS_MAX, "segments")?;
        let layout = Layout { segments, cell_log2: table.cell_log2() };
        check.that(layout.validate().is_ok(), "layout")?;
        Ok(layout)
    }
}

impl Record for FileContent {
    type Table<'a> = wire::FileContent<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::FileContent<'b>> {
        let layout = self.layout.pack(out);
        let token = put_bytes(out, &self.token);
        wire::FileContent::create(
            out,
            &wire::FileContentArgs {
                fid: self.fid.0,
                layout: Some(layout),
                trunc_gen: self.trunc_gen,
                growth_only: self.growth_only,
                stamp: self.stamp.0,
                token,
                truncating: self.truncating,
                writing: self.writing,
                recovered: self.recovered,
            },
        )
    }

    fn unpack(table: wire::FileContent<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(FileContent {
            fid: Fid(table.fid()),
            layout: Layout::unpack(table.layout(), check)?,
            trunc_gen: table.trunc_gen(),
            growth_only: table.growth_only(),
            stamp: MapVersion(table.stamp()),
            token: check.bytes(table.token(), TOKEN_LEN_MAX, "token")?,
            truncating: table.truncating(),
            writing: table.writing(),
            recovered: table.recovered(),
        })
    }
}

impl Record for Entry {
    type Table<'a> = wire::Entry<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Entry<'b>> {
        let attributes = Some(self.attributes.pack(out));
        let content = self.content.as_ref().map(|content| content.pack(out));
        let link = put_bytes(out, &self.link);
        wire::Entry::create(out, &wire::EntryArgs { attributes, content, link })
    }

    fn unpack(table: wire::Entry<'_>, check: Check) -> Result<Self, MessageError> {
        let attributes = Attributes::unpack(table.attributes(), check)?;
        let content = table.content().map(|table| FileContent::unpack(table, check)).transpose()?;
        let link = check.path(table.link(), LINK_LEN_MAX, "link")?;
        let is = |file_type| attributes.file_type == file_type;
        check.that(content.is_none() || is(FileType::File), "content")?;
        check.that(link.is_empty() || is(FileType::Symlink), "link")?;
        Ok(Entry { attributes, content, link })
    }
}

impl Record for DirEntry {
    type Table<'a> = wire::DirEntry<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::DirEntry<'b>> {
        let name = Some(out.create_vector(&self.name));
        let entry = Some(self.entry.pack(out));
        wire::DirEntry::create(out, &wire::DirEntryArgs { name, entry })
    }

    fn unpack(table: wire::DirEntry<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(DirEntry {
            name: check.name(table.name(), "name")?,
            entry: Entry::unpack(table.entry(), check)?,
        })
    }
}

impl Record for SetAttributes {
    type Table<'a> = wire::SetAttributes<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::SetAttributes<'b>> {
        let mtime = self.mtime.map(wire::Time::from);
        wire::SetAttributes::create(
            out,
            &wire::SetAttributesArgs {
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
                mtime: mtime.as_ref(),
                cell_log2: self.cell_log2,
            },
        )
    }

    fn unpack(table: wire::SetAttributes<'_>, check: Check) -> Result<Self, MessageError> {
        check.that(table.mode().is_none_or(|mode| mode <= MODE_MAX), "mode")?;
        let cells = table.cell_log2().is_none_or(|log2| CELL_LOG2_ALLOWED.contains(&log2));
        check.that(cells, "cell_log2")?;
        Ok(SetAttributes {
            mode: table.mode(),
            uid: table.uid(),
            gid: table.gid(),
            mtime: table.mtime().map(|mtime| time(mtime, check, "mtime")).transpose()?,
            cell_log2: table.cell_log2(),
        })
    }
}

fn time(time: &wire::Time, check: Check, field: &'static str) -> Result<Time, MessageError> {
    check.that(time.nanos() < 1_000_000_000, field)?;
    Ok(Time { secs: time.secs(), nanos: time.nanos() })
}
