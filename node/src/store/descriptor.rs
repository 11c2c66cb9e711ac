//! Descriptor pages: sums and places of the cells of a chunk with more than a few of them.
//!
//! A page is written once, to a fresh unit; its hash is kept by whoever refers to it, so a lost or
//! misdirected write is seen.

use protocol::checksum::{CellSum, sum64};
use protocol::guard::{self, Guard};
use protocol::ids::ChunkKey;
use protocol::limits::IO_ALIGN;

use super::bytes::{Reader, Writer};
use super::state::{CELLS_PER_PAGE, Cell};

/// Fields of the head, in order, with their sizes in bytes.
#[cfg(test)]
pub(super) const PAGE_FIELDS: &[(&str, usize)] = &[
    ("magic", 8),
    ("fid", 8),
    ("index", 4),
    ("page", 4),
    ("cells", 4),
    ("cell_log2", 1),
    ("reserved", 35),
];
/// Bytes of the head; cells of 13 bytes follow.
pub(super) const PAGE_HEAD_LEN: usize = 64;
const PAGE_MAGIC: u64 = u64::from_le_bytes(*b"lanedesc");

/// The 4 KiB of one page.
pub(super) fn encode_page(key: ChunkKey, page: u32, cell_log2: u8, cells: &[Cell]) -> Vec<u8> {
    let mut out = Writer::of(IO_ALIGN);
    let count = u32::try_from(cells.len()).unwrap_or(u32::MAX);
    out.u64(PAGE_MAGIC).key(key).u32(page).u32(count).u8(cell_log2).pad_to(PAGE_HEAD_LEN);
    for cell in cells {
        out.u64(cell.sum.0).u40(cell.place);
    }
    out.pad_to(IO_ALIGN);
    out.finish()
}

/// Reads a page; `None` when it is not the one that was written there.
pub(super) fn decode_page(
    bytes: &[u8],
    key: ChunkKey,
    page: u32,
    hash: u64,
) -> Option<Box<[Cell]>> {
    if guard::holds(Guard::DescriptorHash) && page_hash(bytes) != hash {
        return None;
    }
    let mut from = Reader::new(bytes);
    let head = (from.u64()?, from.key()?, from.u32()?);
    let count = from.u32()?;
    if head != (PAGE_MAGIC, key, page) || count > CELLS_PER_PAGE {
        return None;
    }
    from.take(PAGE_HEAD_LEN - 28)?;
    from.list(count as usize, |from| Some(Cell { sum: CellSum(from.u64()?), place: from.u40()? }))
}

/// The hash by which a page is referred to.
pub(super) fn page_hash(bytes: &[u8]) -> u64 {
    sum64(bytes)
}

const _: () = assert!(PAGE_HEAD_LEN + 13 * CELLS_PER_PAGE as usize <= IO_ALIGN);

#[cfg(test)]
mod tests {
    use protocol::ids::Fid;

    use super::*;

    #[test]
    fn a_page_reads_back_only_as_itself() {
        let key = ChunkKey { fid: Fid(7), index: 2 };
        let cells: Vec<Cell> =
            (0..256).map(|n| Cell { sum: CellSum(n * 3), place: (1 << 39) + n }).collect();
        let bytes = encode_page(key, 1, 14, &cells);
        let hash = page_hash(&bytes);
        assert_eq!(bytes.len(), IO_ALIGN);
        assert_eq!(decode_page(&bytes, key, 1, hash).as_deref(), Some(&cells[..]));
        assert_eq!(decode_page(&bytes, key, 2, hash), None);
        assert_eq!(decode_page(&bytes, ChunkKey { index: 3, ..key }, 1, hash), None);
        assert_eq!(decode_page(&bytes, key, 1, hash ^ 1), None);
        let mut bad = bytes.clone();
        bad[3391] ^= 1;
        assert_eq!(decode_page(&bad, key, 1, hash), None);
    }
}
