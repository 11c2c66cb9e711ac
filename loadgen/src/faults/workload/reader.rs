//! A task that reads random ranges of live files and compares every byte.
//!
//! Every other task keeps files open and needs no coordinator; the others look each file up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Error, FileReader};

use super::Shared;
use super::ledger::FileRecord;
use super::stamp::first_wrong;
use crate::cluster::now;
use crate::dice::Dice;

/// Longest range of one read, in bytes.
const READ_BYTES_MAX: u64 = 256 << 10;
/// Files a reader keeps open.
const OPEN_FILES_MAX: usize = 64;
/// Reads of a hundred for which a reader of open files opens another one.
const OPEN_PERCENT: u64 = 10;
/// How long such a reader waits for names before it reads what it has.
const OPEN_PATIENCE: Duration = Duration::from_millis(20);
/// Rest while there is no file yet.
const NOTHING_REST: Duration = Duration::from_millis(20);

type Opened = (Arc<FileRecord>, FileReader);

pub(super) async fn run(shared: Arc<Shared>, task: u32, mut dice: Dice) {
    let keeps_open = task.is_multiple_of(2);
    let watch = if keeps_open { &shared.reads } else { &shared.lookups };
    let mut open: BTreeMap<u64, Opened> = BTreeMap::new();
    while !shared.stopped() {
        let pass = shared.gate.read().await;
        open.retain(|number, _| shared.ledger.is_live(*number));
        if keeps_open && (open.is_empty() || dice.below(100) < OPEN_PERCENT) {
            open_another(&shared, &mut open, &mut dice).await;
        }
        watch.begins(task, now());
        let chosen = if keeps_open {
            open_file(&open, &mut dice)
        } else {
            looked_up(&shared, &mut dice).await
        };
        match chosen {
            Some((file, reader)) => {
                if read(&shared, &file, &reader, &mut dice).await {
                    watch.success(task, now());
                }
            }
            None => tokio::time::sleep(NOTHING_REST).await,
        }
        drop(pass);
        tokio::time::sleep(shared.pace.read_rest).await;
    }
}

fn open_file(open: &BTreeMap<u64, Opened>, dice: &mut Dice) -> Option<Opened> {
    let position = usize::try_from(dice.below(open.len() as u64)).unwrap_or(0);
    open.values().nth(position).cloned()
}

async fn open_another(shared: &Shared, open: &mut BTreeMap<u64, Opened>, dice: &mut Dice) {
    let Some(file) = shared.ledger.any_live(dice) else { return };
    let lookup = look_up(shared, &file);
    if let Ok(Ok(reader)) = tokio::time::timeout(OPEN_PATIENCE, lookup).await {
        if open.len() >= OPEN_FILES_MAX {
            open.pop_first();
        }
        open.insert(file.number, (file, reader));
    }
}

async fn looked_up(shared: &Shared, dice: &mut Dice) -> Option<Opened> {
    let file = shared.ledger.any_live(dice)?;
    match look_up(shared, &file).await {
        Ok(reader) => Some((file, reader)),
        Err(error) => {
            failed(shared, &file, &error);
            None
        }
    }
}

async fn look_up(shared: &Shared, file: &FileRecord) -> Result<FileReader, Error> {
    let entry = shared.client.lookup(file.path().as_bytes(), true).await?;
    Ok(shared.client.reader(&entry)?.named(file.path()))
}

/// Reads and compares a random range; true when there was an answer.
async fn read(shared: &Shared, file: &FileRecord, reader: &FileReader, dice: &mut Dice) -> bool {
    let at = dice.below(file.size);
    let len = 1 + dice.below(READ_BYTES_MAX.min(file.size - at));
    let bytes = match reader.read_at(at, usize::try_from(len).unwrap_or(1)).await {
        Ok(bytes) => bytes,
        Err(error) => {
            failed(shared, file, &error);
            return false;
        }
    };
    if bytes.len() as u64 != len {
        let got = bytes.len();
        shared.ledger.wrong(format!("{}: {got} of {len} bytes at {at}", file.path()));
    } else if let Some(text) = first_wrong(at, &bytes, |cell| file.stamp(shared.run, cell)) {
        shared.ledger.wrong(format!("{}: {text}", file.path()));
    }
    true
}

fn failed(shared: &Shared, file: &FileRecord, error: &Error) {
    // A file that is being removed may go away while it is read.
    if shared.ledger.is_live(file.number) {
        shared.ledger.error(error.status(), format!("{}: {error}", file.path()));
    }
}
