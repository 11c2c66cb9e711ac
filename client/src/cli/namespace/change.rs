//! `mkdir`, `mv`, `ln`, `touch`, `truncate`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use protocol::ids::Ino;
use protocol::message::namespace::{FileType, NamespaceOp, SetAttributes};
use protocol::status::Status;

use crate::cli::clock;
use crate::cli::failure::Failure;
use crate::cli::path::{RemotePath, source_name};
use crate::cli::place::Source;
use crate::cli::report::Report;
use crate::cli::transfer::{
    Found, RemoteDestination, RemotePlace, expect, expect_directory, find, find_in, refused,
};
use crate::{Client, Error};

/// Permission bits of a new directory before the umask.
const DIRECTORY_MODE: u32 = 0o777;
/// Permission bits of a new file before the umask.
const FILE_MODE: u32 = 0o666;

/// Makes directories; with `parents`, those above them too. `cell` is the cell size of files made in
/// them, as a power of two.
pub(crate) async fn mkdir(
    client: &Client,
    paths: Vec<OsString>,
    parents: bool,
    cell: Option<u8>,
) -> Result<(), Failure> {
    let report = Report::new("mkdir");
    for path in paths {
        let path = RemotePath::parse(&path);
        let made = if parents {
            make_ancestry(client, &path, cell).await
        } else {
            make_one(client, &path, cell).await
        };
        note(&report, made)?;
    }
    report.finish()
}

async fn make_one(client: &Client, path: &RemotePath, cell: Option<u8>) -> Result<(), Failure> {
    let Some(name) = path.name() else { return Err(refused(path, Status::Exists)) };
    let parent = expect_directory(client, &path.parent()).await?;
    match make(client, parent, name, cell).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::at(&path.bytes(), error)),
    }
}

async fn make_ancestry(
    client: &Client,
    path: &RemotePath,
    cell: Option<u8>,
) -> Result<(), Failure> {
    let mut parent = Ino::ROOT;
    for ancestor in path.ancestry() {
        // A link to a directory is a directory here, as for mkdir -p.
        parent = match find(client, &ancestor, true).await? {
            Found::Entry(entry) if entry.attributes.file_type == FileType::Directory => {
                entry.attributes.ino
            }
            Found::Entry(_) => return Err(refused(&ancestor, Status::NotDirectory)),
            Found::Missing => make(client, parent, ancestor.name().unwrap_or_default(), cell)
                .await
                .map_err(|error| Failure::at(&ancestor.bytes(), error))?,
        };
    }
    Ok(())
}

async fn make(
    client: &Client,
    parent: Ino,
    name: &[u8],
    cell_log2: Option<u8>,
) -> Result<Ino, Error> {
    let attributes = SetAttributes { cell_log2, ..with_mode(DIRECTORY_MODE) };
    let op = NamespaceOp::Mkdir { parent, name: name.to_vec(), attributes };
    match client.mutate(op).await? {
        Some(entry) => Ok(entry.attributes.ino),
        None => match find_in(client, parent, name).await? {
            Found::Entry(entry) => Ok(entry.attributes.ino),
            Found::Missing => Err(Error::refused("", Status::NotFound, "")),
        },
    }
}

/// Sets the length of files.
pub(crate) async fn truncate(
    client: &Client,
    paths: Vec<OsString>,
    size: u64,
) -> Result<(), Failure> {
    let report = Report::new("truncate");
    for path in paths {
        let path = RemotePath::parse(&path);
        note(&report, truncate_one(client, &path, size).await)?;
    }
    report.finish()
}

async fn truncate_one(client: &Client, path: &RemotePath, size: u64) -> Result<(), Failure> {
    let entry = expect(client, path, true).await?;
    if entry.attributes.file_type == FileType::Directory {
        return Err(refused(path, Status::IsDirectory));
    }
    let cut = client.truncate(entry.attributes.ino, size).await;
    cut.map(drop).map_err(|error| Failure::at(&path.bytes(), error))
}

/// Moves and renames.
pub(crate) async fn mv(client: &Client, mut paths: Vec<OsString>) -> Result<(), Failure> {
    let destination = RemotePath::parse(&paths.pop().unwrap_or_default());
    let destination = RemoteDestination::look(client, destination).await?;
    let report = Report::new("mv");
    let many = paths.len() > 1;
    for path in paths {
        note(&report, move_one(client, &path, &destination, many).await)?;
    }
    report.finish()
}

async fn move_one(
    client: &Client,
    source: &OsString,
    destination: &RemoteDestination,
    one_of_many: bool,
) -> Result<(), Failure> {
    let path = RemotePath::parse(source);
    let Some(from_name) = path.name() else { return Err(refused(&path, Status::IntoItself)) };
    // A trailing slash or dot does not change what is moved, only that it must be a directory.
    let entry = expect(client, &path, false).await?;
    let is_folder = entry.attributes.file_type == FileType::Directory;
    let to = destination.place(Source { name: Some(from_name), is_folder, one_of_many })?;
    let RemotePlace::Named(to) = to else { return Err(refused(&path, Status::IntoItself)) };
    let from_parent = expect_directory(client, &path.parent()).await?;
    let op = NamespaceOp::Rename {
        from_parent,
        from_name: from_name.to_vec(),
        to_parent: to.parent,
        to_name: to.name,
        replace: true,
    };
    client.mutate(op).await.map(drop).map_err(|error| Failure::at(&to.path, error))
}

/// Makes a link.
pub(crate) async fn ln(
    client: &Client,
    target: OsString,
    name: OsString,
    symbolic: bool,
) -> Result<(), Failure> {
    let destination = RemoteDestination::look(client, RemotePath::parse(&name)).await?;
    let source =
        Source { name: source_name(target.as_bytes()), is_folder: false, one_of_many: false };
    let RemotePlace::Named(to) = destination.place(source)? else {
        return Err(refused(&RemotePath::parse(&name), Status::Exists));
    };
    let op = if symbolic {
        NamespaceOp::Symlink {
            parent: to.parent,
            name: to.name,
            target: target.into_vec(),
            attributes: SetAttributes::default(),
            replace: false,
        }
    } else {
        let path = RemotePath::parse(&target);
        let entry = expect(client, &path, false).await?;
        if entry.attributes.file_type == FileType::Directory {
            return Err(refused(&path, Status::IsDirectory));
        }
        NamespaceOp::Link { ino: entry.attributes.ino, parent: to.parent, name: to.name }
    };
    client.mutate(op).await.map(drop).map_err(|error| Failure::at(&to.path, error))
}

/// Makes empty files, or sets the modification time to now.
pub(crate) async fn touch(client: &Client, paths: Vec<OsString>) -> Result<(), Failure> {
    let report = Report::new("touch");
    for path in paths {
        note(&report, touch_one(client, &RemotePath::parse(&path)).await)?;
    }
    report.finish()
}

async fn touch_one(client: &Client, path: &RemotePath) -> Result<(), Failure> {
    let at = |error| Failure::at(&path.bytes(), error);
    if let Found::Missing = find(client, path, true).await? {
        if path.is_folder {
            return Err(refused(path, Status::NotFound));
        }
        let parent = expect_directory(client, &path.parent()).await?;
        let name = path.name().unwrap_or_default();
        let writer = client.create(parent, 0).await.map_err(at)?;
        match writer.publish(parent, name, with_mode(FILE_MODE), false).await {
            Ok(_) => return Ok(()),
            // Somebody else made it first: then it is touched like any other.
            Err(error) if error.status() == Some(Status::Exists) => {}
            Err(error) => return Err(at(error)),
        }
    }
    let entry = expect(client, path, true).await?;
    let attributes = SetAttributes { mtime: Some(clock::now()), ..SetAttributes::default() };
    let op = NamespaceOp::SetAttr { ino: entry.attributes.ino, attributes };
    client.mutate(op).await.map(drop).map_err(at)
}

/// Attributes of something new, as the umask allows.
fn with_mode(mode: u32) -> SetAttributes {
    SetAttributes { mode: Some(mode & !umask()), ..SetAttributes::default() }
}

/// The umask of this process, read without changing it.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|value| u32::from_str_radix(value.trim(), 8).ok()).unwrap_or(0o022)
}

/// Goes on after the failure of one path, and ends the command for anything else.
fn note(report: &Report, result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(Failure::Failed(line)) => {
            report.line(&line);
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_respect_the_umask() {
        let mode = with_mode(0o666).mode;
        assert!(mode.is_some_and(|mode| mode & umask() == 0 && mode & 0o400 != 0));
    }
}
