//! A task that publishes files and removes its oldest.

use std::sync::Arc;

use client::Error;
use protocol::ids::Ino;
use protocol::message::namespace::{NamespaceOp, SetAttributes};

use super::Shared;
use super::ledger::FileRecord;
use super::stamp::CELL_BYTES;
use crate::cluster::now;
use crate::dice::Dice;

/// Bytes handed to the client at once.
const PIECE_CELLS: u64 = 32;
/// Old files that a writer removes after it wrote one.
const REMOVED_AT_ONCE: u32 = 8;
/// Files of a hundred that are as long as a small file of a source tree.
const SHORT_PERCENT: u64 = 70;
/// Longest of those, in bytes.
const SHORT_MAX: u64 = 64 << 10;
/// Files of a hundred that are up to a megabyte; the rest may be as long as the pace allows.
const MEDIUM_PERCENT: u64 = 25;
/// Longest of those, in bytes.
const MEDIUM_MAX: u64 = 1 << 20;

pub(super) async fn run(shared: Arc<Shared>, writer: u32, folder: Ino, mut dice: Dice) {
    let mut operation = 0;
    while !shared.stopped() {
        let pass = shared.gate.read().await;
        operation += 1;
        let size = draw_size(&mut dice, shared.pace.file_bytes_max);
        let file = shared.ledger.begin(writer, operation, size);
        shared.writes.begins(writer, now());
        match write(&shared, folder, &file).await {
            Ok(()) => {
                shared.ledger.published(&file);
                shared.writes.success(writer, now());
            }
            Err(error) => shared.ledger.error(error.status(), error.to_string()),
        }
        remove_oldest(&shared, writer, folder).await;
        drop(pass);
        if shared.ledger.totals().written_bytes >= shared.pace.fill_bytes {
            tokio::time::sleep(shared.pace.write_rest).await;
        }
    }
}

async fn write(shared: &Shared, folder: Ino, file: &Arc<FileRecord>) -> Result<(), Error> {
    let mut writer = shared.client.create(folder, file.size).await?.named(file.path());
    let mut at = 0;
    while at < file.size {
        let len = (PIECE_CELLS * CELL_BYTES as u64).min(file.size - at);
        let mut piece = vec![0; usize::try_from(len).unwrap_or(0)];
        let first = at / CELL_BYTES as u64;
        for (cell, out) in (first..).zip(piece.chunks_mut(CELL_BYTES)) {
            file.stamp(shared.run, u32::try_from(cell).unwrap_or(u32::MAX)).fill(out);
        }
        if let Err(error) = writer.write(piece).await {
            writer.abandon().await;
            return Err(error);
        }
        at += len;
    }
    shared.ledger.publishing(file);
    writer.publish(folder, &file.name(), SetAttributes::default(), false).await.map(drop)
}

/// Removes files until there is room for others; a few at a time.
async fn remove_oldest(shared: &Shared, writer: u32, folder: Ino) {
    for _ in 0..REMOVED_AT_ONCE {
        let Some(file) = shared.ledger.too_old(writer, shared.pace.live_bytes_max) else { return };
        shared.ledger.removing(&file);
        let op = NamespaceOp::Unlink { parent: folder, name: file.name() };
        match shared.client.mutate(op).await {
            Ok(_) => shared.ledger.removed(&file),
            Err(error) => return shared.ledger.error(error.status(), error.to_string()),
        }
    }
}

fn draw_size(dice: &mut Dice, longest: u64) -> u64 {
    let kind = dice.below(100);
    let most = match kind {
        _ if kind < SHORT_PERCENT => SHORT_MAX,
        _ if kind < SHORT_PERCENT + MEDIUM_PERCENT => MEDIUM_MAX,
        _ => longest,
    };
    1 + dice.below(most.min(longest))
}
