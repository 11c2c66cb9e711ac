//! `ls`.

use protocol::ids::Ino;
use protocol::message::namespace::{DirEntry, Entry, FileType};
use serde_json::{Value, json};

use super::show::{document, long_line};
use crate::Client;
use crate::cli::args::LsArgs;
use crate::cli::failure::Failure;
use crate::cli::output::{insert_name, print, shown};
use crate::cli::path::{RemotePath, join_bytes};
use crate::cli::report::Report;
use crate::cli::transfer::expect;

/// Lists a directory, or one file.
pub(crate) async fn ls(client: &Client, args: LsArgs) -> Result<(), Failure> {
    let path = RemotePath::parse(&args.path);
    let report = Report::new("ls");
    let mut entry = expect(client, &path, false).await?;
    if entry.attributes.file_type == FileType::Symlink && !args.long {
        // As ls does: a link to a directory is listed, unless the link itself is to be shown.
        entry = match crate::cli::transfer::find(client, &path, true).await? {
            crate::cli::transfer::Found::Entry(followed) => *followed,
            crate::cli::transfer::Found::Missing => entry,
        };
    }
    let bytes = path.bytes();
    let mut documents = Vec::new();
    if entry.attributes.file_type != FileType::Directory {
        if args.json {
            documents.push(listed(&bytes, path.name().unwrap_or_default(), &entry));
        } else {
            let text = if args.long { long_line(&bytes, &entry) } else { short_line(&bytes) };
            print(&text).map_err(Failure::output)?;
        }
    } else {
        let root = (entry.attributes.ino, bytes.clone());
        list_all(client, root, &args, &report, &mut documents).await?;
    }
    if args.json {
        let mut whole = json!({ "entries": documents });
        insert_name(&mut whole, "path", &bytes);
        print(&format!("{whole}\n")).map_err(Failure::output)?;
    }
    report.finish()
}

/// Lists a directory and, with `-R`, those below in the order of their names.
async fn list_all(
    client: &Client,
    root: (Ino, Vec<u8>),
    args: &LsArgs,
    report: &Report,
    documents: &mut Vec<Value>,
) -> Result<(), Failure> {
    let mut waiting = vec![root];
    let mut first = true;
    while let Some((ino, path)) = waiting.pop() {
        let entries = match client.read_dir(ino, false).await {
            Ok(entries) => entries,
            Err(error) if first => return Err(Failure::at(&path, error)),
            Err(error) => {
                report.remote(&path, error);
                continue;
            }
        };
        if args.json {
            let list = entries
                .iter()
                .map(|one| listed(&join_bytes(&path, &one.name), &one.name, &one.entry));
            documents.extend(list);
        } else {
            print(&page(&path, &entries, args, first)).map_err(Failure::output)?;
        }
        first = false;
        if args.recursive {
            let folders = entries.into_iter().rev();
            waiting.extend(
                folders
                    .filter(|one| one.entry.attributes.file_type == FileType::Directory)
                    .map(|one| (one.entry.attributes.ino, join_bytes(&path, &one.name))),
            );
        }
    }
    Ok(())
}

fn page(path: &[u8], entries: &[DirEntry], args: &LsArgs, first: bool) -> String {
    let mut text = String::new();
    if args.recursive {
        let gap = if first { "" } else { "\n" };
        text.push_str(&format!("{gap}{}:\n", shown(path)));
    }
    for one in entries {
        text.push_str(&if args.long {
            long_line(&one.name, &one.entry)
        } else {
            short_line(&one.name)
        });
    }
    text
}

fn short_line(name: &[u8]) -> String {
    format!("{}\n", shown(name))
}

fn listed(path: &[u8], name: &[u8], entry: &Entry) -> Value {
    let mut document = document(entry);
    insert_name(&mut document, "name", name);
    insert_name(&mut document, "path", path);
    document
}
