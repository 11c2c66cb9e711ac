//! Checksums of cells, frames and records.
//!
//! A cell's sum is bound to its place in the file, so bytes of another cell never verify as this
//! one, wherever a device or a peer put them.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::ids::ChunkKey;

/// Checksum of one cell's committed bytes, bound to the cell's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellSum(pub u64);

/// Computes the checksum of one cell.
///
/// # Shape
/// `bytes` are exactly the cell's committed bytes, never padding; `cell` counts from the start of
/// the chunk.
///
/// # Cost
/// One pass of xxh3-64 over `bytes`; nothing is copied.
pub fn cell_sum(key: ChunkKey, cell: u32, bytes: &[u8]) -> CellSum {
    CellSum(mix64(xxh3_64(bytes) ^ identity64(key, cell)))
}

/// Computes the checksums of consecutive cells of one chunk.
///
/// # Shape
/// `bytes` start at the first byte of cell `first_cell`; the last cell may be partial.
pub fn cell_sums(key: ChunkKey, first_cell: u32, cell_log2: u8, bytes: &[u8]) -> Vec<CellSum> {
    bytes
        .chunks(1 << cell_log2)
        .zip(first_cell..)
        .map(|(cell, index)| cell_sum(key, index, cell))
        .collect()
}

/// Computes the checksums of the cells that a piece of a chunk touches, each over exactly the bytes
/// of the piece in it.
///
/// # Shape
/// `bytes` start at byte `offset` of the chunk, which need not be the start of a cell.
pub fn piece_sums(key: ChunkKey, offset: u32, cell_log2: u8, bytes: &[u8]) -> Vec<CellSum> {
    let (first_cell, inside) = (offset >> cell_log2, offset & ((1 << cell_log2) - 1));
    let rest_of_first = (1_usize << cell_log2) - inside as usize;
    let (first, rest) = bytes.split_at(rest_of_first.min(bytes.len()));
    let mut sums = cell_sums(key, first_cell, cell_log2, first);
    sums.extend(cell_sums(key, first_cell + 1, cell_log2, rest));
    sums
}

/// Finds the cells whose bytes do not match their checksums, ascending.
///
/// # Shape
/// As [`cell_sums`]; `sums` has one entry for each cell that `bytes` touch; a cell without one is
/// bad.
pub fn bad_cells<'a>(
    key: ChunkKey,
    first_cell: u32,
    cell_log2: u8,
    bytes: &'a [u8],
    sums: &'a [CellSum],
) -> impl Iterator<Item = u32> + 'a {
    let mut sums = sums.iter();
    bytes
        .chunks(1 << cell_log2)
        .zip(first_cell..)
        .filter(move |(cell, index)| sums.next() != Some(&cell_sum(key, *index, cell)))
        .map(|(_, index)| index)
}

/// Finds the first cell whose bytes do not match its checksum.
///
/// # Shape
/// As [`bad_cells`].
pub fn first_bad_cell(
    key: ChunkKey,
    first_cell: u32,
    cell_log2: u8,
    bytes: &[u8],
    sums: &[CellSum],
) -> Option<u32> {
    bad_cells(key, first_cell, cell_log2, bytes, sums).next()
}

/// Checksum of a frame part or another short control structure.
pub fn sum64(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Checksum of a journal batch, a checkpoint or a log record.
pub fn sum128(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

/// The checksum code path this binary was compiled with.
pub const fn compiled_path() -> &'static str {
    if cfg!(target_feature = "avx512f") {
        "xxh3/avx512"
    } else if cfg!(target_feature = "avx2") {
        "xxh3/avx2"
    } else if cfg!(target_feature = "sse2") {
        "xxh3/sse2"
    } else {
        "xxh3/scalar"
    }
}

fn identity64(key: ChunkKey, cell: u32) -> u64 {
    let place = (u64::from(key.index) << 32) | u64::from(cell);
    mix64(key.fid.0 ^ mix64(place ^ 0x9e37_79b9_7f4a_7c15))
}

/// A bijective finalizer: every input bit reaches every output bit.
fn mix64(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Fid;

    const KEY: ChunkKey = ChunkKey { fid: Fid(7), index: 3 };

    #[test]
    fn a_cell_verifies_only_in_its_own_place() {
        let sum = cell_sum(KEY, 5, b"bytes");
        assert_ne!(sum, cell_sum(KEY, 6, b"bytes"));
        assert_ne!(sum, cell_sum(ChunkKey { index: 4, ..KEY }, 5, b"bytes"));
        assert_ne!(sum, cell_sum(ChunkKey { fid: Fid(8), ..KEY }, 5, b"bytes"));
        assert_ne!(sum, cell_sum(KEY, 5, b"bytez"));
    }

    #[test]
    fn the_function_is_frozen() {
        assert_eq!(cell_sum(KEY, 5, b"lanefs"), CellSum(FROZEN));
    }

    #[test]
    fn the_first_bad_cell_is_named() {
        let mut bytes = vec![1u8; 3 << 12];
        let sums = cell_sums(KEY, 2, 12, &bytes);
        assert_eq!(first_bad_cell(KEY, 2, 12, &bytes, &sums), None);
        bytes[(1 << 12) + 9] ^= 1;
        assert_eq!(first_bad_cell(KEY, 2, 12, &bytes, &sums), Some(3));
        assert_eq!(first_bad_cell(KEY, 2, 12, &bytes[..1 << 12], &[]), Some(2));
    }

    const FROZEN: u64 = 0x4929_a47d_664b_a1b8;
}
