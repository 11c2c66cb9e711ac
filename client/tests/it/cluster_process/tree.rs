//! A small tree with everything a copy must keep, and the comparison of two trees.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Bytes of the largest file: more than two chunks, and not a multiple of a cell.
const LARGE: usize = (9 << 20) + 777;

/// Makes the tree.
pub(super) fn make(root: &Path) {
    fs::create_dir(root).expect("writable");
    let odd = OsStr::from_bytes(b"name \xff\n with\xc3\xa4");
    let write = |path: &Path, content: &[u8]| fs::write(path, content).expect("writable");
    write(&root.join("empty"), b"");
    write(&root.join("small"), b"a small file\n");
    write(&root.join(odd), b"any bytes may be a name");
    write(&root.join("large"), &noise(LARGE));
    symlink("no/where\u{e4}", root.join("dangling")).expect("writable");
    symlink("folder", root.join("link")).expect("writable");
    fs::create_dir_all(root.join("folder/below/empty")).expect("writable");
    for number in 0..300 {
        let content = noise(number * 97);
        write(&root.join("folder/below").join(format!("file{number}")), &content);
    }
    let mode = |name: &str, mode| {
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).expect("own file");
    };
    mode("small", 0o4751);
    mode("empty", 0o000);
    let time = UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    for name in ["small", "folder/below/empty", "folder"] {
        let file = File::open(root.join(name)).expect("readable");
        file.set_modified(time).expect("own file");
    }
    mode("folder", 0o500);
}

/// Compares names, kinds, modes, times, link targets and bytes.
pub(super) fn assert_equal(one: &Path, other: &Path) {
    let (names, other_names) = (names(one), names(other));
    assert_eq!(
        names.keys().collect::<Vec<_>>(),
        other_names.keys().collect::<Vec<_>>(),
        "{}",
        one.display()
    );
    compare(one, other);
    for (name, is_directory) in names {
        let (one, other) = (one.join(&name), other.join(&name));
        if is_directory {
            assert_equal(&one, &other);
        } else {
            compare(&one, &other);
        }
    }
}

fn compare(one: &Path, other: &Path) {
    let metadata = |path: &Path| fs::symlink_metadata(path).expect("it exists");
    let (a, b) = (metadata(one), metadata(other));
    assert_eq!(a.mode(), b.mode(), "mode of {}", one.display());
    assert_eq!((a.mtime(), a.mtime_nsec()), (b.mtime(), b.mtime_nsec()), "{}", one.display());
    if a.is_symlink() {
        assert_eq!(fs::read_link(one).expect("a link"), fs::read_link(other).expect("a link"));
    } else if a.is_file() {
        let same = fs::read(one).expect("readable") == fs::read(other).expect("readable");
        assert!(same, "content of {}", one.display());
    }
}

fn names(folder: &Path) -> BTreeMap<OsString, bool> {
    let entries = fs::read_dir(folder).expect("a folder");
    let entry =
        |entry: fs::DirEntry| (entry.file_name(), entry.file_type().expect("known").is_dir());
    entries.map(|one| entry(one.expect("readable"))).collect()
}

/// Bytes without a pattern that a mistake in an offset would keep.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
