//! The local side: listings by the page, files that appear as a whole, attributes.

use std::ffi::OsString;
use std::fs::{self, File, FileType, Metadata, OpenOptions, ReadDir};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::message::namespace::Attributes;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fchown,
    futimens, utimensat,
};

use crate::cli::limits::LOCAL_PAGE;

/// A local directory, read a page at a time.
pub(super) struct Listing {
    path: PathBuf,
    state: Reading,
}

enum Reading {
    Unopened,
    Open(ReadDir),
    Ended,
}

/// Names of a directory with what is known of each; empty at the end.
pub(super) type Page = Vec<(OsString, io::Result<Metadata>)>;

impl Listing {
    pub(super) fn new(path: PathBuf) -> Listing {
        Listing { path, state: Reading::Unopened }
    }

    /// Reads the next page. An error of the directory itself comes under an empty name.
    pub(super) fn page(&mut self) -> Page {
        if matches!(self.state, Reading::Unopened) {
            match fs::read_dir(&self.path) {
                Ok(open) => self.state = Reading::Open(open),
                Err(error) => return self.fail(error),
            }
        }
        let Reading::Open(open) = &mut self.state else { return Page::new() };
        let mut page = Page::new();
        for entry in open.take(LOCAL_PAGE) {
            match entry {
                Ok(entry) => page.push((entry.file_name(), entry.metadata())),
                Err(error) => {
                    page.extend(self.fail(error));
                    return page;
                }
            }
        }
        page
    }

    fn fail(&mut self, error: io::Error) -> Page {
        self.state = Reading::Ended;
        vec![(OsString::new(), Err(error))]
    }
}

/// What a file that is not copied is.
pub(super) fn special_name(file_type: FileType) -> &'static str {
    if file_type.is_socket() {
        "socket"
    } else if file_type.is_fifo() {
        "FIFO"
    } else if file_type.is_block_device() || file_type.is_char_device() {
        "device"
    } else {
        "file of an unknown kind"
    }
}

/// A file that has no name of its own yet; removed when dropped before [`NewFile::place`].
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Makes a temporary file beside `path`.
    pub(super) fn beside(path: &Path) -> io::Result<NewFile> {
        let temporary = temporary_name(path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        Ok(NewFile { file, temporary: Some(temporary) })
    }

    /// The file to write to.
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file its attributes and its name, replacing what has the name.
    pub(super) fn place(
        mut self,
        path: &Path,
        attributes: &Attributes,
        keep_owner: bool,
    ) -> io::Result<()> {
        if keep_owner {
            let (uid, gid) = owner(attributes);
            fchown(&self.file, Some(uid), Some(gid))?;
        }
        // After the owner: changing it clears set-user-ID.
        fchmod(&self.file, Mode::from_raw_mode(attributes.mode))?;
        futimens(&self.file, &times(attributes))?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, path)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take()
            && let Err(error) = fs::remove_file(&temporary)
        {
            eprintln!("lanefs: get: {}: cannot remove: {error}", temporary.display());
        }
    }
}

/// Makes a symbolic link at `path`, replacing what has the name.
pub(super) fn place_link(
    path: &Path,
    target: &Path,
    attributes: &Attributes,
    keep_owner: bool,
) -> io::Result<()> {
    let temporary = temporary_name(path);
    std::os::unix::fs::symlink(target, &temporary)?;
    let set = || {
        if keep_owner {
            let (uid, gid) = owner(attributes);
            chownat(CWD, &temporary, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        utimensat(CWD, &temporary, &times(attributes), AtFlags::SYMLINK_NOFOLLOW)?;
        fs::rename(&temporary, path)
    };
    let result = set();
    if result.is_err() {
        fs::remove_file(&temporary)?;
    }
    result
}

/// Makes a directory that can be filled; one that exists stays as it is.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // A link to a directory inside the tree is not followed: it may lead anywhere.
            if fs::symlink_metadata(path)?.is_dir() {
                Ok(())
            } else {
                Err(io::Error::other("is not a directory and cannot be replaced by one"))
            }
        }
        other => other,
    }
}

/// Gives a directory its attributes, after everything in it is done.
pub(super) fn finish_directory(
    path: &Path,
    attributes: &Attributes,
    keep_owner: bool,
) -> io::Result<()> {
    let directory = File::open(path)?;
    if keep_owner {
        let (uid, gid) = owner(attributes);
        fchown(&directory, Some(uid), Some(gid))?;
    }
    fchmod(&directory, Mode::from_raw_mode(attributes.mode))?;
    Ok(futimens(&directory, &times(attributes))?)
}

/// True when this process may give files away.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn owner(attributes: &Attributes) -> (Uid, Gid) {
    (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid))
}

fn times(attributes: &Attributes) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: attributes.mtime.secs,
            tv_nsec: attributes.mtime.nanos.into(),
        },
    }
}

/// A name in the same directory that nothing else uses, whatever the length of the final one.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".lanefs-{}-{count}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    use protocol::ids::Ino;
    use protocol::message::namespace::Time;

    use super::*;

    fn attributes(mode: u32) -> Attributes {
        let mtime = Time { secs: 1_000_000_000, nanos: 123_456_789 };
        Attributes {
            ino: Ino(2),
            file_type: protocol::message::namespace::FileType::File,
            mode,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            mtime,
            ctime: mtime,
        }
    }

    #[test]
    fn a_file_appears_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut broken = NewFile::beside(&path).unwrap();
        broken.file().write_all(b"half").unwrap();
        drop(broken);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut new = NewFile::beside(&path).unwrap();
        new.file().write_all(b"new").unwrap();
        new.place(&path, &attributes(0o640), false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000_000, 123_456_789));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_replaces_a_file_and_keeps_its_own_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link");
        fs::write(&path, "old").unwrap();
        place_link(&path, Path::new("no/where"), &attributes(0o777), false).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("no/where"));
        assert_eq!(fs::symlink_metadata(&path).unwrap().mtime_nsec(), 123_456_789);
        let directory = folder.path().join("directory");
        fs::create_dir(&directory).unwrap();
        assert!(place_link(&directory, Path::new("x"), &attributes(0), false).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_listing_has_every_name_once_and_says_when_it_fails() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..LOCAL_PAGE + 3 {
            fs::write(folder.path().join(n.to_string()), "").unwrap();
        }
        let mut listing = Listing::new(folder.path().to_owned());
        let pages = [listing.page().len(), listing.page().len(), listing.page().len()];
        assert_eq!(pages, [LOCAL_PAGE, 3, 0]);
        let mut missing = Listing::new(folder.path().join("missing"));
        assert!(missing.page()[0].1.is_err());
        assert!(missing.page().is_empty());
    }

    #[test]
    fn a_directory_merges_and_a_file_in_its_place_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d");
        make_directory(&path).unwrap();
        make_directory(&path).unwrap();
        fs::write(path.join("f"), "").unwrap();
        assert!(make_directory(&path.join("f")).is_err());
        finish_directory(&path, &attributes(0o500), false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o500);
    }
}
