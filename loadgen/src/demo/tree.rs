//! A real tree of this machine, large enough to mean something: chosen, measured and compared.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::cluster::{StepError, file_error};

/// Folders of a Debian machine with Rust that hold many real files.
const CANDIDATES: [&str; 5] = ["/usr/lib", "/usr/share", "/usr/bin", "/usr/include", "/opt"];
/// Largest single entry that is taken, so that the demonstration ends in minutes.
const ENTRY_BYTES_MAX: u64 = 700 << 20;
/// Bytes compared at a time.
const COMPARE_LEN: usize = 1 << 20;

/// What a tree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeSize {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories and symbolic links.
    pub others: u64,
}

/// Chooses entries that together have at least `files` files and `bytes` bytes.
///
/// Entries that the caller cannot read whole, or that hold sockets and devices, are passed over.
pub fn choose(files: u64, bytes: u64) -> Result<(Vec<PathBuf>, TreeSize), StepError> {
    let mut entries: Vec<(PathBuf, TreeSize)> = candidates()
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|listing| listing.flatten().map(|entry| entry.path()))
        .filter_map(|path| measure(&path).map(|size| (path, size)))
        .filter(|(_, size)| size.files > 0 && size.bytes <= ENTRY_BYTES_MAX)
        .collect();
    // Many small files first, then the bytes that are missing.
    entries.sort_by_key(|(path, size)| (size.bytes / size.files.max(1), path.clone()));
    let mut chosen: Vec<(PathBuf, TreeSize)> = Vec::new();
    let mut names: Vec<OsString> = Vec::new();
    let mut total = TreeSize::default();
    for want_files in [true, false] {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        if !want_files {
            order.sort_by_key(|&at| std::cmp::Reverse(entries[at].1.bytes));
        }
        for at in order {
            let enough = if want_files { total.files >= files } else { total.bytes >= bytes };
            let (path, size) = &entries[at];
            let name = path.file_name().unwrap_or_default().to_owned();
            if enough || names.contains(&name) {
                continue;
            }
            names.push(name);
            total = total.plus(*size);
            chosen.push((path.clone(), *size));
        }
    }
    if total.files < files || total.bytes < bytes {
        return Err(StepError::Different(format!(
            "this machine has only {} readable files and {} bytes in {CANDIDATES:?}",
            total.files, total.bytes
        )));
    }
    Ok((chosen.into_iter().map(|(path, _)| path).collect(), total))
}

impl TreeSize {
    fn plus(self, other: TreeSize) -> TreeSize {
        TreeSize {
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
            others: self.others + other.others,
        }
    }
}

/// Compares two trees entry by entry: kinds, modes, times, link targets and every byte.
///
/// # Errors
/// [`StepError::Different`] names the first entry that differs and how.
pub fn compare(left: &Path, right: &Path) -> Result<TreeSize, StepError> {
    let (left_meta, right_meta) = (stat(left)?, stat(right)?);
    let different = |what: &str| {
        Err(StepError::Different(format!("{} and {}: {what}", left.display(), right.display())))
    };
    if left_meta.file_type() != right_meta.file_type() {
        return different("kinds differ");
    }
    if left_meta.is_symlink() {
        let same = fs::read_link(left).map_err(file_error(left))?
            == fs::read_link(right).map_err(file_error(right))?;
        let size = TreeSize { others: 1, ..TreeSize::default() };
        return if same { Ok(size) } else { different("link targets differ") };
    }
    if left_meta.mode() != right_meta.mode() {
        return different("modes differ");
    }
    if (left_meta.mtime(), left_meta.mtime_nsec()) != (right_meta.mtime(), right_meta.mtime_nsec())
    {
        return different("modification times differ");
    }
    if left_meta.is_dir() {
        return compare_directories(left, right);
    }
    if left_meta.len() != right_meta.len() || !same_bytes(left, right)? {
        return different("contents differ");
    }
    Ok(TreeSize { files: 1, bytes: left_meta.len(), others: 0 })
}

fn compare_directories(left: &Path, right: &Path) -> Result<TreeSize, StepError> {
    let names = names_of(left)?;
    if names != names_of(right)? {
        return Err(StepError::Different(format!(
            "{} and {}: entries differ",
            left.display(),
            right.display()
        )));
    }
    let mut total = TreeSize { others: 1, ..TreeSize::default() };
    for name in names {
        total = total.plus(compare(&left.join(&name), &right.join(&name))?);
    }
    Ok(total)
}

fn same_bytes(left: &Path, right: &Path) -> Result<bool, StepError> {
    let mut files = (
        File::open(left).map_err(file_error(left))?,
        File::open(right).map_err(file_error(right))?,
    );
    let mut buffers = (vec![0u8; COMPARE_LEN], vec![0u8; COMPARE_LEN]);
    loop {
        let got = fill(&mut files.0, &mut buffers.0).map_err(file_error(left))?;
        let other = fill(&mut files.1, &mut buffers.1).map_err(file_error(right))?;
        if got != other || buffers.0[..got] != buffers.1[..got] {
            return Ok(false);
        }
        if got == 0 {
            return Ok(true);
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}

fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = CANDIDATES.iter().map(PathBuf::from).collect();
    let sysroot = std::process::Command::new("rustc").args(["--print", "sysroot"]).output();
    if let Ok(output) = sysroot {
        let root = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        folders.push(root.join("lib/rustlib"));
        folders.push(root.join("share/doc/rust"));
    }
    folders
}

/// Size of an entry, or `None` when not all of it can be stored.
fn measure(path: &Path) -> Option<TreeSize> {
    let meta = fs::symlink_metadata(path).ok()?;
    let kind = meta.file_type();
    if kind.is_symlink() {
        return Some(TreeSize { others: 1, ..TreeSize::default() });
    }
    if kind.is_dir() {
        let mut total = TreeSize { others: 1, ..TreeSize::default() };
        for entry in fs::read_dir(path).ok()? {
            total = total.plus(measure(&entry.ok()?.path())?);
        }
        return Some(total);
    }
    if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return None;
    }
    File::open(path).ok()?;
    Some(TreeSize { files: 1, bytes: meta.len(), others: 0 })
}

fn stat(path: &Path) -> Result<Metadata, StepError> {
    fs::symlink_metadata(path).map_err(file_error(path))
}

fn names_of(folder: &Path) -> Result<Vec<OsString>, StepError> {
    let mut names: Vec<OsString> = fs::read_dir(folder)
        .and_then(|listing| listing.map(|entry| entry.map(|entry| entry.file_name())).collect())
        .map_err(file_error(folder))?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).expect("folders");
        fs::write(deep.join("file"), b"some bytes").expect("file");
        symlink("file", deep.join("link")).expect("link");
        for path in [deep.join("file"), deep.clone(), folder.path().join("a")] {
            let file = File::open(path).expect("open");
            file.set_modified(std::time::UNIX_EPOCH).expect("time");
        }
        folder
    }

    #[test]
    fn equal_trees_compare_equal_and_are_counted() {
        let (left, right) = (tree(), tree());
        let size = compare(&left.path().join("a"), &right.path().join("a")).expect("equal");
        assert_eq!(size, TreeSize { files: 1, bytes: 10, others: 3 });
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        type Edit = (&'static str, fn(&Path));
        let edits: [Edit; 5] = [
            ("contents", |root| {
                fs::write(root.join("b/file"), b"some bytez").expect("write");
                let file = File::open(root.join("b/file")).expect("open");
                file.set_modified(std::time::UNIX_EPOCH).expect("time");
            }),
            ("modes", |root| {
                fs::set_permissions(root.join("b/file"), fs::Permissions::from_mode(0o600))
                    .expect("mode");
            }),
            ("times", |root| {
                let file = File::open(root.join("b/file")).expect("open");
                file.set_modified(
                    std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1, 0),
                )
                .expect("time");
            }),
            ("link targets", |root| {
                fs::remove_file(root.join("b/link")).expect("remove");
                symlink("other", root.join("b/link")).expect("link");
                File::open(root.join("b"))
                    .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
                    .expect("time");
            }),
            ("entries", |root| {
                fs::write(root.join("b/more"), b"").expect("write");
                File::open(root.join("b"))
                    .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
                    .expect("time");
            }),
        ];
        for (what, edit) in edits {
            let (left, right) = (tree(), tree());
            edit(&right.path().join("a"));
            let found = compare(&left.path().join("a"), &right.path().join("a"));
            let said = found.expect_err(what).to_string();
            assert!(said.contains(what), "{what}: {said}");
        }
    }
}
