//! Flips bits of chunks in a container under a running node.
//!
//! Finds cells by the stamps that the workload put in them, so it needs no knowledge of the format.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::workload::ledger::Ledger;
use super::workload::stamp::{CELL_BYTES, STAMP_BYTES, Stamp};
use crate::cluster::{StepError, file_error};
use crate::dice::Dice;

/// Containers put cells at multiples of this.
const PAGE: usize = 4096;
/// Bytes looked at at once.
const PIECE: usize = 256 << 10;

/// A bit that was flipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Byte of the container.
    pub at: u64,
    /// The bit, as a mask.
    pub mask: u8,
    /// The cell it belongs to.
    pub stamp: Stamp,
}

/// Memory that direct I/O accepts.
#[repr(C, align(4096))]
struct Aligned([u8; PIECE]);

/// Flips one bit in each of up to `count` cells of live files.
///
/// # Errors
/// [`StepError`] when the container cannot be read or written.
pub fn flip(
    container: &Path,
    ledger: &Ledger,
    run: u64,
    count: usize,
    dice: &mut Dice,
) -> Result<Vec<Flip>, StepError> {
    flip_owned(container, ledger, run, count, dice, |_, _| true)
}

/// The same, among the cells that `wanted` says yes to, by file and cell.
///
/// A cell of which the container holds two copies is left alone: one of them belongs to nobody any
/// more, and nothing here tells which.
///
/// # Errors
/// [`StepError`] when the container cannot be read or written.
pub fn flip_owned(
    container: &Path,
    ledger: &Ledger,
    run: u64,
    count: usize,
    dice: &mut Dice,
    wanted: impl Fn(u64, u32) -> bool,
) -> Result<Vec<Flip>, StepError> {
    let failed = || file_error(container);
    let file = open(container).map_err(failed())?;
    let mut cells =
        cells(&file, |stamp| stamp.run == run && ledger.is_live(stamp.file)).map_err(failed())?;
    let mut copies: BTreeMap<(u64, u32), u32> = BTreeMap::new();
    for (_, stamp) in &cells {
        *copies.entry((stamp.file, stamp.cell)).or_default() += 1;
    }
    cells.retain(|(_, stamp)| {
        let cell = (stamp.file, stamp.cell);
        copies.get(&cell) == Some(&1) && wanted(stamp.file, stamp.cell)
    });
    let mut flips = Vec::new();
    while flips.len() < count && !cells.is_empty() {
        let chosen = usize::try_from(dice.below(cells.len() as u64)).unwrap_or(0);
        let (at, stamp) = cells.swap_remove(chosen);
        // Beyond the stamp, so that the cell is found again.
        let within = dice.between(STAMP_BYTES as u64, PAGE as u64);
        let flip = Flip { at: at + within, mask: 1 << dice.below(8), stamp };
        invert(&file, &flip).map_err(failed())?;
        flips.push(flip);
    }
    Ok(flips)
}

/// Opens past the page cache, as the node does, so that both see the same bytes.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)
}

/// Places of cells whose stamp is wanted.
fn cells(file: &File, wanted: impl Fn(&Stamp) -> bool) -> io::Result<Vec<(u64, Stamp)>> {
    let len = file.metadata()?.len();
    let mut memory = aligned();
    let mut found = Vec::new();
    let mut at = next_data(file, 0)?;
    while let Some(from) = at.filter(|from| *from < len) {
        let from = from / PAGE as u64 * PAGE as u64;
        let wanted_len = usize::try_from(len - from).unwrap_or(PIECE).min(PIECE);
        let got = file.read_at(&mut memory.0[..wanted_len / PAGE * PAGE], from)?;
        if got < PAGE {
            break;
        }
        for (place, page) in (from..).step_by(PAGE).zip(memory.0[..got].chunks_exact(PAGE)) {
            // The last cell of a file may be shorter than a page; its bytes alone can be flipped.
            if let Some(stamp) = Stamp::decode(page)
                && wanted(&stamp)
                && is_whole(&stamp, page)
            {
                found.push((place, stamp));
            }
        }
        at = next_data(file, from + got as u64)?;
    }
    Ok(found)
}

/// True when the first page of the cell is as it was written, so every byte of it counts.
fn is_whole(stamp: &Stamp, page: &[u8]) -> bool {
    let mut expected = [0; CELL_BYTES];
    stamp.fill(&mut expected);
    page == &expected[..PAGE]
}

fn invert(file: &File, flip: &Flip) -> io::Result<()> {
    let mut memory = aligned();
    let page = flip.at / PAGE as u64 * PAGE as u64;
    file.read_exact_at(&mut memory.0[..PAGE], page)?;
    memory.0[usize::try_from(flip.at - page).unwrap_or(0)] ^= flip.mask;
    file.write_all_at(&memory.0[..PAGE], page)
}

/// Where bytes that were ever written begin, at or after `from`.
fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn aligned() -> Box<Aligned> {
    Box::new(Aligned([0; PIECE]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_live_cells_are_flipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("container");
        let ledger = Ledger::default();
        let live = ledger.begin(1, 1, 4 * CELL_BYTES as u64);
        ledger.published(&live);
        let gone = ledger.begin(1, 2, CELL_BYTES as u64);
        let mut content = vec![0; 64 * CELL_BYTES];
        live.stamp(7, 3).fill(&mut content[5 * CELL_BYTES..6 * CELL_BYTES]);
        live.stamp(8, 2).fill(&mut content[7 * CELL_BYTES..8 * CELL_BYTES]);
        gone.stamp(7, 0).fill(&mut content[9 * CELL_BYTES..10 * CELL_BYTES]);
        std::fs::write(&path, &content).unwrap();
        let flips = flip(&path, &ledger, 7, 9, &mut Dice::new(1)).unwrap();
        assert_eq!(flips.len(), 1, "one cell is of this run and live: {flips:?}");
        assert_eq!((flips[0].stamp.file, flips[0].stamp.cell), (live.number, 3));
        let changed = std::fs::read(&path).unwrap();
        let differing: Vec<usize> =
            (0..content.len()).filter(|&at| changed[at] != content[at]).collect();
        assert_eq!(differing, [usize::try_from(flips[0].at).unwrap()]);
        assert!(
            flip_owned(&path, &ledger, 7, 9, &mut Dice::new(1), |_, _| false).unwrap().is_empty()
        );
        live.stamp(7, 3).fill(&mut content[11 * CELL_BYTES..12 * CELL_BYTES]);
        std::fs::write(&path, &content).unwrap();
        let twice = flip(&path, &ledger, 7, 9, &mut Dice::new(1)).unwrap();
        assert!(twice.is_empty(), "nobody knows which of two copies is in use: {twice:?}");
    }
}
