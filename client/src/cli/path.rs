//! Paths in lanefs: bytes, absolute, and where a name starts. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// A path in lanefs, from the root; components are any bytes but `/` and NUL.
///
/// `.`, empty components and `..` are resolved as they are written, without asking what a
/// component is; a missing leading slash means from the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePath {
    components: Vec<Vec<u8>>,
    /// True when it was written with a slash or `.` at its end: it must be a directory.
    pub is_folder: bool,
}

impl RemotePath {
    /// Reads a path as it was given on the command line.
    pub fn parse(text: &OsStr) -> RemotePath {
        let bytes = text.as_bytes();
        let mut components: Vec<Vec<u8>> = Vec::new();
        for component in bytes.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    components.pop();
                }
                name => components.push(name.to_vec()),
            }
        }
        let last = bytes.rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
        RemotePath { components, is_folder: matches!(last, b"" | b"." | b"..") }
    }

    /// The path as bytes, beginning with `/`.
    pub fn bytes(&self) -> Vec<u8> {
        if self.components.is_empty() {
            return b"/".to_vec();
        }
        let mut bytes = Vec::new();
        for component in &self.components {
            bytes.push(b'/');
            bytes.extend_from_slice(component);
        }
        bytes
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.components.last().map(Vec::as_slice)
    }

    /// The directory that holds the last component; the root is its own parent.
    pub fn parent(&self) -> RemotePath {
        let mut components = self.components.clone();
        components.pop();
        RemotePath { components, is_folder: true }
    }

    /// The path of a name in this directory.
    pub fn join(&self, name: &[u8]) -> RemotePath {
        let mut components = self.components.clone();
        components.push(name.to_vec());
        RemotePath { components, is_folder: false }
    }

    /// Each directory from the first below the root down to the path itself.
    pub fn ancestry(&self) -> impl Iterator<Item = RemotePath> + '_ {
        (1..=self.components.len()).map(|count| RemotePath {
            components: self.components[..count].to_vec(),
            is_folder: true,
        })
    }
}

/// The name under which a source is placed into a directory; `None` when the source is written as
/// a folder's content (`DIR/.`, `..`, `/`), which merges into the directory.
pub fn source_name(source: &[u8]) -> Option<&[u8]> {
    let end = source.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let name = source[..end].rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
    (!matches!(name, b"" | b"." | b"..")).then_some(name)
}

/// Adds a name to a path of bytes.
pub fn join_bytes(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = folder.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_the_root_whatever_they_begin_with() {
        let cases = [
            ("/", "/", true),
            ("", "/", true),
            ("a/b", "/a/b", false),
            ("//a///b/", "/a/b", true),
            ("/a/./b/.", "/a/b", true),
            ("/a/../../b", "/b", false),
            ("/a/..", "/", true),
        ];
        for (text, path, folder) in cases {
            let parsed = RemotePath::parse(OsStr::new(text));
            assert_eq!(parsed.bytes(), path.as_bytes(), "{text}");
            assert_eq!(parsed.is_folder, folder, "{text}");
        }
    }

    #[test]
    fn a_path_is_its_parent_and_its_name() {
        let path = RemotePath::parse(OsStr::new("/a/b"));
        assert_eq!(path.name(), Some(b"b".as_slice()));
        assert_eq!(path.parent().bytes(), b"/a");
        assert_eq!(path.parent().parent().parent().bytes(), b"/");
        assert_eq!(path.join(b"\xff").bytes(), b"/a/b/\xff");
        let all: Vec<_> = path.ancestry().map(|one| one.bytes()).collect();
        assert_eq!(all, [b"/a".to_vec(), b"/a/b".to_vec()]);
        assert_eq!(join_bytes(b"/", b"x"), b"/x");
        assert_eq!(join_bytes(b"/a", b"x"), b"/a/x");
    }

    #[test]
    fn a_source_names_itself_or_its_content() {
        let cases: [(&str, Option<&str>); 7] = [
            ("a", Some("a")),
            ("/x/a//", Some("a")),
            ("a/.", None),
            ("..", None),
            ("/", None),
            ("", None),
            ("a/..b", Some("..b")),
        ];
        for (source, name) in cases {
            assert_eq!(source_name(source.as_bytes()), name.map(str::as_bytes), "{source}");
        }
    }
}
