//! The log as segment files in one folder.
//!
//! A new segment is written under a temporary name, flushed and renamed, so a segment that is
//! there has a whole header. Entries are not kept in memory: they are read back once, at start.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use protocol::guard::{self, Guard};
use protocol::ids::ClusterId;

use super::format::{
    RecordRef, SegmentHeader, decode_segment_header, encode_batch, encode_segment_header,
};
use super::recovery::{End, Position, scan, start_of};
use super::{Entry, Log, LogError, LogId, Visit, Vote};
use crate::limits::{LOG_PAGE, LOG_SEGMENT_LEN_MAX};

const SUFFIX: &str = "log";
const TEMPORARY: &str = "new";

/// The log of one coordinator on its disk.
#[derive(Debug)]
pub struct FileLog {
    dir: PathBuf,
    cluster: ClusterId,
    /// Every segment, the open one last; each with the place of the last entry before it.
    segments: VecDeque<Segment>,
    file: File,
    len: u64,
    position: Position,
    segment_len_max: u64,
    fenced: bool,
}

#[derive(Clone, Debug)]
struct Segment {
    path: PathBuf,
    sequence: u64,
    previous: LogId,
}

/// What recovery did, for the log line at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments found.
    pub segments: usize,
    /// Bytes of a torn batch that were cut from the end.
    pub cut: u64,
}

impl FileLog {
    /// Opens the log in `dir`, or makes it when the folder is empty or missing.
    ///
    /// # Errors
    /// [`LogError::WrongCluster`], [`LogError::Corrupt`], [`LogError::Io`]; nothing was changed
    /// then but temporary files.
    ///
    /// # Durability
    /// A torn end is cut and the cut is flushed before this returns.
    pub fn open(dir: &Path, cluster: ClusterId) -> Result<(FileLog, Recovered), LogError> {
        FileLog::open_with(dir, cluster, LOG_SEGMENT_LEN_MAX)
    }

    /// As [`FileLog::open`] with segments of another length, so that tests reach the edges.
    ///
    /// # Errors
    /// As [`FileLog::open`].
    pub fn open_with(
        dir: &Path,
        cluster: ClusterId,
        segment_len_max: u64,
    ) -> Result<(FileLog, Recovered), LogError> {
        fs::create_dir_all(dir).map_err(io(dir, "create folder"))?;
        let paths = list_segments(dir)?;
        if paths.is_empty() {
            let log = FileLog::create(dir, cluster, segment_len_max)?;
            return Ok((log, Recovered { segments: 1, cut: 0 }));
        }
        let mut segments = VecDeque::new();
        let mut position: Option<Position> = None;
        let mut end_at = 0;
        let mut cut = 0;
        let count = paths.len();
        for (turn, path) in paths.into_iter().enumerate() {
            let bytes = fs::read(&path).map_err(io(&path, "read"))?;
            let header = check_header(&path, cluster, &bytes, position, &segments)?;
            segments.push_back(Segment {
                path: path.clone(),
                sequence: header.sequence,
                previous: header.previous,
            });
            let (reached, end) =
                scan::<LogError>(cluster, &bytes, start_of(&header), &mut |_| Ok(()))?;
            position = Some(reached);
            end_at = bytes.len() as u64;
            match end {
                End::Clean => {}
                End::Torn { offset } if turn + 1 == count => {
                    end_at = offset as u64;
                    cut = bytes.len() as u64 - end_at;
                }
                End::Torn { offset } => {
                    let what = "batch is incomplete and another segment follows";
                    return Err(LogError::Corrupt { path, offset: offset as u64, what });
                }
                End::Corrupt { offset, what } => {
                    return Err(LogError::Corrupt { path, offset: offset as u64, what });
                }
            }
        }
        let path = newest(&segments, dir);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(io(&path, "open"))?;
        if cut > 0 {
            file.set_len(end_at).map_err(io(&path, "cut"))?;
            file.sync_all().map_err(io(&path, "flush"))?;
        }
        let position = position.unwrap_or(EMPTY);
        let recovered = Recovered { segments: count, cut };
        let dir = dir.to_path_buf();
        let log = FileLog {
            dir,
            cluster,
            segments,
            file,
            len: end_at,
            position,
            segment_len_max,
            fenced: false,
        };
        Ok((log, recovered))
    }

    fn create(dir: &Path, cluster: ClusterId, segment_len_max: u64) -> Result<FileLog, LogError> {
        let (segment, file) = create_segment(dir, cluster, 1, EMPTY)?;
        Ok(FileLog {
            dir: dir.to_path_buf(),
            cluster,
            segments: VecDeque::from([segment]),
            file,
            len: LOG_PAGE as u64,
            position: EMPTY,
            segment_len_max,
            fenced: false,
        })
    }

    fn write(&mut self, records: &[RecordRef<'_>]) -> Result<u128, LogError> {
        if self.fenced {
            return Err(LogError::Fenced);
        }
        // Shape errors are found before anything is written, so they do not fence.
        let (bytes, sum) =
            encode_batch(self.cluster, self.position.chain, records).map_err(LogError::Batch)?;
        self.fenced = true;
        if self.len >= self.segment_len_max {
            self.roll()?;
        }
        let path = newest(&self.segments, &self.dir);
        self.file.write_all_at(&bytes, self.len).map_err(io(&path, "write"))?;
        self.file.sync_data().map_err(io(&path, "fdatasync"))?;
        self.fenced = false;
        self.len += bytes.len() as u64;
        Ok(sum)
    }

    fn roll(&mut self) -> Result<(), LogError> {
        let sequence = self.segments.back().map_or(1, |segment| segment.sequence + 1);
        let (segment, file) = create_segment(&self.dir, self.cluster, sequence, self.position)?;
        self.segments.push_back(segment);
        self.file = file;
        self.len = LOG_PAGE as u64;
        Ok(())
    }

    /// Puts another file in the place of the open segment, so that a test can make writes fail.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// Segments there are.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }
}

impl Log for FileLog {
    fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        let mut last = self.position.last;
        for entry in entries {
            if entry.id.index != last.index + 1 || entry.id.term < last.term {
                return Err(LogError::Batch("entries do not continue the log"));
            }
            last = entry.id;
        }
        let records: Vec<_> = entries.iter().map(RecordRef::Entry).collect();
        let chain = self.write(&records)?;
        self.position = Position { last, chain, ..self.position };
        Ok(())
    }

    fn save_vote(&mut self, vote: Vote) -> Result<(), LogError> {
        if vote.term < self.position.vote.term {
            return Err(LogError::Batch("a vote must not go back to an older term"));
        }
        let chain = self.write(&[RecordRef::Vote(vote, self.position.last.index)])?;
        self.position = Position { vote, chain, ..self.position };
        Ok(())
    }

    fn vote(&self) -> Vote {
        self.position.vote
    }

    fn last(&self) -> LogId {
        self.position.last
    }

    fn read_from<E: From<LogError>>(&self, index: u64, visit: Visit<'_, E>) -> Result<(), E> {
        let first = self.segments.front().map_or(1, |segment| segment.previous.index + 1);
        if index < first {
            return Err(LogError::Gap { path: self.dir.clone(), first, wanted: index }.into());
        }
        let starts = self.segments.iter().rposition(|segment| segment.previous.index < index);
        for segment in self.segments.iter().skip(starts.unwrap_or(0)) {
            let path = &segment.path;
            let bytes = fs::read(path).map_err(io(path, "read"))?;
            let header = decode_segment_header(&bytes).map_err(|what| LogError::Corrupt {
                path: path.clone(),
                offset: 0,
                what,
            })?;
            let mut wanted = |entry: Entry| {
                if entry.id.index >= index { visit(entry) } else { Ok(()) }
            };
            let (_, end) = scan(self.cluster, &bytes, start_of(&header), &mut wanted)?;
            let (End::Torn { offset } | End::Corrupt { offset, .. }) = end else { continue };
            let (offset, what) = (offset as u64, "changed since the log was opened");
            return Err(LogError::Corrupt { path: path.clone(), offset, what }.into());
        }
        Ok(())
    }

    fn purge(&mut self, below: u64) -> Result<(), LogError> {
        // A segment's entries end where the next one begins; the open segment is never removed.
        while let [oldest, next, ..] = self.segments.make_contiguous() {
            if guard::holds(Guard::PurgeBound) && next.previous.index >= below {
                break;
            }
            fs::remove_file(&oldest.path).map_err(io(&oldest.path, "remove"))?;
            self.segments.pop_front();
        }
        Ok(())
    }
}

/// Position of a log that never held anything.
const EMPTY: Position = Position {
    last: LogId { term: 0, index: 0 },
    vote: Vote { term: 0, voted_for: protocol::ids::CoordinatorId(0), committed: false },
    chain: 0,
};

fn list_segments(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(io(dir, "list"))? {
        let path = entry.map_err(io(dir, "list"))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(SUFFIX) => paths.push(path),
            Some(TEMPORARY) => fs::remove_file(&path).map_err(io(&path, "remove"))?,
            _ => {}
        }
    }
    // Names are sequence numbers of one width, so their order is the order of the segments.
    paths.sort();
    Ok(paths)
}

fn check_header(
    path: &Path,
    cluster: ClusterId,
    bytes: &[u8],
    position: Option<Position>,
    segments: &VecDeque<Segment>,
) -> Result<SegmentHeader, LogError> {
    let corrupt = |what| LogError::Corrupt { path: path.to_path_buf(), offset: 0, what };
    let header = decode_segment_header(bytes).map_err(corrupt)?;
    if header.cluster != cluster {
        let (path, found) = (path.to_path_buf(), header.cluster);
        return Err(LogError::WrongCluster { path, found, expected: cluster });
    }
    let named = path.file_stem().and_then(|stem| stem.to_str());
    if named != Some(&stem(header.sequence)) {
        return Err(corrupt("segment has the name of another one"));
    }
    if segments.back().is_some_and(|before| before.sequence + 1 != header.sequence) {
        return Err(corrupt("the segment before this one is missing"));
    }
    if position.is_some_and(|position| position != start_of(&header)) {
        return Err(corrupt("segment does not follow the one before it"));
    }
    Ok(header)
}

fn create_segment(
    dir: &Path,
    cluster: ClusterId,
    sequence: u64,
    position: Position,
) -> Result<(Segment, File), LogError> {
    let path = dir.join(stem(sequence)).with_extension(SUFFIX);
    let temporary = path.with_extension(TEMPORARY);
    let Position { last: previous, vote, chain } = position;
    let header = SegmentHeader { sequence, cluster, previous, vote, chain };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.open(&temporary).map_err(io(&temporary, "create"))?;
    file.write_all_at(&encode_segment_header(&header), 0).map_err(io(&temporary, "write"))?;
    file.sync_all().map_err(io(&temporary, "flush"))?;
    fs::rename(&temporary, &path).map_err(io(&path, "rename"))?;
    let folder = File::open(dir).map_err(io(dir, "open"))?;
    folder.sync_all().map_err(io(dir, "flush"))?;
    Ok((Segment { path, sequence, previous }, file))
}

fn stem(sequence: u64) -> String {
    format!("{sequence:020}")
}

fn newest(segments: &VecDeque<Segment>, dir: &Path) -> PathBuf {
    segments.back().map_or_else(|| dir.to_path_buf(), |segment| segment.path.clone())
}

fn io<'a>(path: &'a Path, action: &'static str) -> impl Fn(std::io::Error) -> LogError + 'a {
    move |source| LogError::Io { path: path.to_path_buf(), action, source }
}
