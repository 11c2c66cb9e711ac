//! Pages that were written and not flushed. Pure.

use std::collections::BTreeMap;
use std::rc::Rc;

use protocol::limits::IO_ALIGN;

/// One page and the write it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Its place in the container, in pages.
    pub(super) number: u64,
    /// Rises with every write, so that a newer one is told from the one that was flushed.
    write: u64,
    /// Its content.
    pub(super) bytes: Rc<[u8]>,
}

/// Everything that a power cut would lose.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pages: BTreeMap<u64, Page>,
    writes: u64,
}

impl Overlay {
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Keeps whole pages from `offset` on.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.writes += 1;
        for (number, bytes) in (offset / IO_ALIGN as u64..).zip(bytes.chunks(IO_ALIGN)) {
            let page = Page { number, write: self.writes, bytes: bytes.into() };
            self.pages.insert(number, page);
        }
    }

    /// The pages that lie over a range, ascending.
    pub(super) fn pages(&self, offset: u64, len: usize) -> Vec<Page> {
        let first = offset / IO_ALIGN as u64;
        let end = first + (len / IO_ALIGN) as u64;
        self.pages.range(first..end).map(|(_, page)| page.clone()).collect()
    }

    /// All pages, ascending.
    pub(super) fn snapshot(&self) -> Vec<Page> {
        self.pages.values().cloned().collect()
    }

    /// Drops pages, unless they were written again meanwhile.
    pub(super) fn forget(&mut self, pages: &[Page]) {
        for page in pages {
            if self.pages.get(&page.number).is_some_and(|kept| kept.write == page.write) {
                self.pages.remove(&page.number);
            }
        }
    }
}

/// Fills a page with a mixture of old and new units of `unit` bytes; all new when it is 0.
pub(super) fn torn(
    out: &mut [u8],
    old: &[u8],
    new: &[u8],
    unit: usize,
    mut keep_old: impl FnMut() -> bool,
) {
    let unit = if unit == 0 { new.len() } else { unit };
    let sides = old.chunks(unit).zip(new.chunks(unit));
    for (out, (old, new)) in out.chunks_mut(unit).zip(sides) {
        let stays = unit < IO_ALIGN && keep_old();
        out.copy_from_slice(if stays { old } else { new });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_written_again_during_its_flush_stays() {
        let mut overlay = Overlay::default();
        overlay.put(0, &[1; 2 * IO_ALIGN]);
        let flushed = overlay.snapshot();
        overlay.put(IO_ALIGN as u64, &[2; IO_ALIGN]);
        overlay.forget(&flushed);
        let left = overlay.pages(0, 2 * IO_ALIGN);
        assert_eq!(
            left.iter().map(|page| (page.number, page.bytes[0])).collect::<Vec<_>>(),
            [(1, 2)]
        );
    }

    #[test]
    fn a_torn_page_is_old_and_new_in_units() {
        let (old, new) = ([1; IO_ALIGN], [2; IO_ALIGN]);
        let mut turn = false;
        let mut page = [0; IO_ALIGN];
        torn(&mut page, &old, &new, 512, || {
            turn = !turn;
            turn
        });
        let units: Vec<u8> = page.chunks(512).map(|unit| unit[0]).collect();
        assert_eq!(units, [1, 2, 1, 2, 1, 2, 1, 2]);
        torn(&mut page, &old, &new, 0, || true);
        assert_eq!(page, new, "an untorn page is the new one");
    }
}
