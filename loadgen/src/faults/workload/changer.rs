//! A task that changes cells of files of its own, in place.
//!
//! Each file lies in a group of its own choice, so that a task meets many groups. Every cell says
//! how often it was written; whoever acknowledged a change must show it when the file is read at the
//! end.

use std::sync::Arc;

use client::{Error, FileEditor, WriteMode};
use protocol::ids::Ino;
use protocol::message::namespace::SetAttributes;

use super::Shared;
use super::stamp::{CELL_BYTES, Stamp, first_wrong};
use crate::cluster::{StepError, now};
use crate::dice::Dice;

/// Files of one task.
const FILES: u32 = 8;
/// Cells of one file.
const CELLS: u32 = 4;
/// Tasks of this kind have numbers from here on, so that their stamps are nobody else's.
const WRITER_BASE: u32 = 1 << 16;

/// One task and its files.
pub(super) struct Changer {
    task: u32,
    files: Vec<Changed>,
}

struct Changed {
    name: String,
    editor: FileEditor,
    /// How often each cell was written, as far as that was acknowledged.
    counters: [u64; CELLS as usize],
}

impl Changer {
    /// Makes the files and opens them for changes.
    pub(super) async fn make(shared: &Shared, task: u32) -> Result<Changer, StepError> {
        let failed = |error: Error| StepError::Different(error.to_string());
        let mut files = Vec::new();
        for number in 0..FILES {
            let name = format!("changed-{task}-{number}");
            let len = CELLS as usize * CELL_BYTES;
            let mut writer =
                shared.client.create(Ino::ROOT, len as u64).await.map_err(failed)?.named(&name);
            let mut bytes = vec![0; len];
            for (cell, out) in (0..).zip(bytes.chunks_mut(CELL_BYTES)) {
                stamp(shared.run, task, number, cell, 0).fill(out);
            }
            writer.write(bytes).await.map_err(failed)?;
            let attributes = SetAttributes::default();
            let entry = writer.publish(Ino::ROOT, name.as_bytes(), attributes, false).await;
            let ino = entry.map_err(failed)?.attributes.ino;
            let editor = shared.client.open_write(ino, WriteMode::Change).await.map_err(failed)?;
            files.push(Changed { name, editor, counters: [0; CELLS as usize] });
        }
        Ok(Changer { task, files })
    }

    /// Changes one cell after the other until everything stops, then reads all of them.
    pub(super) async fn run(mut self, shared: Arc<Shared>, mut dice: Dice) {
        while !shared.stopped() {
            let pass = shared.gate.read().await;
            shared.changes.begins(self.task, now());
            match self.change(&shared, &mut dice).await {
                Ok(()) => shared.changes.success(self.task, now()),
                // A handle that failed once fails for good.
                Err(error) => return shared.ledger.error(error.status(), error.to_string()),
            }
            drop(pass);
            tokio::time::sleep(shared.pace.write_rest).await;
        }
        if let Err(error) = self.check(&shared).await {
            shared.ledger.error(error.status(), error.to_string());
        }
    }

    async fn change(&mut self, shared: &Shared, dice: &mut Dice) -> Result<(), Error> {
        let draw =
            |dice: &mut Dice, bound: u32| u32::try_from(dice.below(bound.into())).unwrap_or(0);
        let (number, cell) = (draw(dice, FILES), draw(dice, CELLS));
        let (task, file) = (self.task, &mut self.files[number as usize]);
        let counter = file.counters[cell as usize] + 1;
        let mut bytes = vec![0; CELL_BYTES];
        stamp(shared.run, task, number, cell, counter).fill(&mut bytes);
        file.editor.write_at(u64::from(cell) * CELL_BYTES as u64, bytes).await?;
        file.counters[cell as usize] = counter;
        Ok(())
    }

    /// Closes every file and compares it with what was acknowledged.
    async fn check(self, shared: &Shared) -> Result<(), Error> {
        for (number, file) in (0..).zip(self.files) {
            let entry = file.editor.close().await?;
            let reader = shared.client.reader(&entry)?.named(&file.name);
            let bytes = reader.read_at(0, CELLS as usize * CELL_BYTES).await?;
            let counters = file.counters;
            let expected = |cell: u32| {
                let counter = counters.get(cell as usize).copied().unwrap_or(0);
                stamp(shared.run, self.task, number, cell, counter)
            };
            if let Some(text) = first_wrong(0, &bytes, expected) {
                shared.ledger.wrong(format!("{}: {text}", file.name));
            }
        }
        Ok(())
    }
}

fn stamp(run: u64, task: u32, file: u32, cell: u32, counter: u64) -> Stamp {
    Stamp { run, writer: WRITER_BASE + task, cell, file: file.into(), operation: 0, counter }
}
