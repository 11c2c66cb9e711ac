//! The byte tables of `docs/disk-format.md` say what the code does.

use std::collections::BTreeMap;

use super::batch::{BATCH_FIELDS, BATCH_HEADER_LEN};
use super::checkpoint::{GROUP_FIELDS, PIECE_FIELDS};
use super::descriptor::{PAGE_FIELDS, PAGE_HEAD_LEN};
use super::entry::ENTRY_FIELDS;
use super::record::{RECORD_FIELDS, RECORD_HEADER_LEN, RECORD_KINDS};
use super::state::{STATE_FIELDS, STATE_ITEMS};
use super::superblock::{SLOT_FIELDS, SUPERBLOCK_FIELDS};

const DOCUMENT: &str = include_str!("../../../docs/disk-format.md");

type Row = (usize, usize, String);

/// Tables by name: offset, size and field of each row.
fn tables() -> BTreeMap<String, Vec<Row>> {
    let mut tables: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut name = None;
    for line in DOCUMENT.lines() {
        if let Some(title) = line.strip_prefix("<!-- table: ") {
            name = Some(title.trim_end_matches(" -->").to_owned());
        } else if !line.starts_with('|') {
            name = None;
        } else if let Some(name) = &name {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            if let (Ok(offset), Ok(size)) = (cells[1].parse(), cells[2].parse()) {
                let row = (offset, size, cells[3].to_owned());
                tables.entry(name.clone()).or_default().push(row);
            }
        }
    }
    tables
}

fn rows(fields: &[(&str, usize)]) -> Vec<Row> {
    let mut at = 0;
    fields
        .iter()
        .map(|(name, size)| {
            at += size;
            (at - size, *size, (*name).to_owned())
        })
        .collect()
}

fn len(fields: &[(&str, usize)]) -> usize {
    fields.iter().map(|(_, size)| size).sum()
}

#[test]
fn every_table_of_the_document_matches_the_code() {
    let mut expected: BTreeMap<String, Vec<Row>> = [
        ("superblock", SUPERBLOCK_FIELDS),
        ("slot", SLOT_FIELDS),
        ("batch", BATCH_FIELDS),
        ("record", RECORD_FIELDS),
        ("state", STATE_FIELDS),
        ("descriptor", PAGE_FIELDS),
        ("piece", PIECE_FIELDS),
        ("group", GROUP_FIELDS),
        ("entry", ENTRY_FIELDS),
    ]
    .into_iter()
    .map(|(name, fields)| (name.to_owned(), rows(fields)))
    .collect();
    for (code, name, fields) in RECORD_KINDS {
        expected.insert(format!("record {name}"), rows(fields));
        assert!(DOCUMENT.contains(&format!("### {name} (kind {code})")));
    }
    assert_eq!(tables(), expected);
    for (item, size) in STATE_ITEMS {
        assert!(DOCUMENT.contains(&format!("| {size} | {item} |")), "{item}");
    }
}

#[test]
fn the_parts_add_up() {
    assert_eq!(len(BATCH_FIELDS), BATCH_HEADER_LEN);
    assert_eq!(len(RECORD_FIELDS), RECORD_HEADER_LEN);
    assert_eq!(len(PAGE_FIELDS), PAGE_HEAD_LEN);
    assert_eq!(len(SLOT_FIELDS), 56);
    assert_eq!(len(STATE_FIELDS), 56);
    assert_eq!(len(SUPERBLOCK_FIELDS), 384);
}
