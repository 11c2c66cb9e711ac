//! `stat`, and how an entry is shown to people and programs.

use protocol::ids::Ino;
use protocol::message::namespace::{Attributes, Entry, FileType};
use serde_json::{Value, json};

use crate::Client;
use crate::cli::args::PathJson;
use crate::cli::calendar::{minute, rfc3339};
use crate::cli::failure::Failure;
use crate::cli::output::{insert_name, print, shown};
use crate::cli::path::RemotePath;
use crate::cli::transfer::expect;

/// Shows the attributes of one path; a symbolic link is not followed.
pub(crate) async fn stat(client: &Client, args: PathJson) -> Result<(), Failure> {
    let path = RemotePath::parse(&args.path);
    let entry = expect(client, &path, false).await?;
    let text = if args.json {
        let mut document = document(&entry);
        insert_name(&mut document, "path", &path.bytes());
        add_content(&mut document, &entry);
        format!("{document}\n")
    } else {
        sheet(&path.bytes(), &entry)
    };
    print(&text).map_err(Failure::output)
}

/// The attributes of an entry as a JSON object, without its name.
pub(crate) fn document(entry: &Entry) -> Value {
    let Attributes { ino: Ino(ino), file_type, mode, uid, gid, nlink, size, mtime, ctime } =
        entry.attributes;
    let mut document = json!({
        "ino": ino,
        "type": type_word(file_type),
        "mode": format!("{mode:04o}"),
        "uid": uid,
        "gid": gid,
        "nlink": nlink,
        "size": size,
        "mtime": rfc3339(mtime),
        "ctime": rfc3339(ctime),
    });
    if file_type == FileType::Symlink {
        insert_name(&mut document, "link", &entry.link);
    }
    document
}

fn add_content(document: &mut Value, entry: &Entry) {
    let (Value::Object(map), Some(content)) = (document, &entry.content) else { return };
    let layout = &content.layout;
    let groups: Vec<Vec<u32>> = layout
        .segments
        .iter()
        .map(|segment| segment.groups.iter().map(|group| group.0).collect())
        .collect();
    map.insert("fid".to_owned(), json!(content.fid.0));
    map.insert("chunk_size".to_owned(), json!(1_u64 << layout.chunk_log2()));
    map.insert("cell_size".to_owned(), json!(1_u64 << layout.cell_log2));
    map.insert("segment_groups".to_owned(), json!(groups));
}

fn sheet(path: &[u8], entry: &Entry) -> String {
    let attributes = &entry.attributes;
    let arrow = match attributes.file_type {
        FileType::Symlink => format!(" -> {}", shown(&entry.link)),
        FileType::File | FileType::Directory => String::new(),
    };
    let mut text = format!(
        "  path: {}{arrow}\n  type: {}  inode: {}  links: {}\n  mode: {:04o} ({})  \
         uid: {}  gid: {}\n  size: {}\n modify: {}\n change: {}\n",
        shown(path),
        type_word(attributes.file_type),
        attributes.ino,
        attributes.nlink,
        attributes.mode,
        mode_text(attributes),
        attributes.uid,
        attributes.gid,
        attributes.size,
        rfc3339(attributes.mtime),
        rfc3339(attributes.ctime),
    );
    if let Some(content) = &entry.content {
        let chunk = 1_u64 << content.layout.chunk_log2();
        let chunks = attributes.size.div_ceil(chunk);
        text.push_str(&format!("chunks: {chunks} of {} KiB\n", chunk >> 10));
    }
    text
}

/// One line of a long listing.
pub(crate) fn long_line(name: &[u8], entry: &Entry) -> String {
    let attributes = &entry.attributes;
    let arrow = match attributes.file_type {
        FileType::Symlink => format!(" -> {}", shown(&entry.link)),
        FileType::File | FileType::Directory => String::new(),
    };
    format!(
        "{} {:>3} {:>5} {:>5} {:>12} {} {}{arrow}\n",
        mode_text(attributes),
        attributes.nlink,
        attributes.uid,
        attributes.gid,
        attributes.size,
        minute(attributes.mtime),
        shown(name)
    )
}

/// What an inode is, in one word.
pub(crate) fn type_word(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
    }
}

/// Type and permissions as `ls -l` writes them.
fn mode_text(attributes: &Attributes) -> String {
    let mut text = String::with_capacity(10);
    text.push(match attributes.file_type {
        FileType::File => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
    });
    // Shift of the three bits, the bit that changes the last letter, and that letter.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = attributes.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (attributes.mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, false) => letter.to_ascii_uppercase(),
            (true, true) => letter,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use protocol::message::namespace::Time;

    use super::*;

    fn entry(file_type: FileType, mode: u32, link: &[u8]) -> Entry {
        let time = Time { secs: 1_795_419_912, nanos: 5 };
        let attributes = Attributes {
            ino: Ino(7),
            file_type,
            mode,
            uid: 1,
            gid: 2,
            nlink: 1,
            size: 3,
            mtime: time,
            ctime: time,
        };
        Entry { attributes, content: None, link: link.to_vec() }
    }

    #[test]
    fn modes_are_written_as_ls_writes_them() {
        let text = |file_type, mode| mode_text(&entry(file_type, mode, b"").attributes);
        assert_eq!(text(FileType::File, 0o644), "-rw-r--r--");
        assert_eq!(text(FileType::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(text(FileType::File, 0o4755), "-rwsr-xr-x");
        assert_eq!(text(FileType::File, 0o2640), "-rw-r-S---");
        assert_eq!(text(FileType::Symlink, 0o777), "lrwxrwxrwx");
    }

    #[test]
    fn a_link_shows_where_it_leads() {
        let entry = entry(FileType::Symlink, 0o777, b"../x\xff");
        assert!(long_line(b"name", &entry).ends_with("2026-11-23 07:45 name -> ../x\\xff\n"));
        assert_eq!(document(&entry)["link_b64"], "Li4veP8=");
        assert_eq!(document(&entry)["mtime"], "2026-11-23T07:45:12.000000005Z");
        assert_eq!(document(&entry)["mode"], "0777");
    }
}
