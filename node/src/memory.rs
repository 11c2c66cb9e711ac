//! The allocator: mimalloc, huge pages wanted for what is large, and a count of what each thread takes.
//!
//! The count is an instrument: a request that is served again and again should take nothing
//! (`perf/budget.md`). It costs one addition in memory of the thread's own.
//!
//! What is large here is the arena of a shard, out of which every transfer is made. In huge pages a
//! transfer of 1 MiB is one or two segments for the device instead of up to 256, and the copy into the
//! socket misses the TLB less: figures in `docs/design/0006-payload-outside-of-tls.md`. Where the system
//! has no huge pages to give, everything goes on with small ones.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use mimalloc::MiMalloc;
use rustix::mm::{Advice, madvise};

/// Bytes of a huge page of this architecture.
pub const HUGE_PAGE: usize = 2 << 20;

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// Counts, and wants huge pages for every allocation that can hold one.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeMemory;

/// How often this thread took memory from [`NodeMemory`]; 0 where another allocator is in use.
pub fn allocations() -> u64 {
    TAKEN.get()
}

// SAFETY: every call goes to mimalloc as it came; advice on pages changes nothing of what they hold.
unsafe impl GlobalAlloc for NodeMemory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are mimalloc's.
        let memory = unsafe { MiMalloc.alloc(layout) };
        TAKEN.set(TAKEN.get() + 1);
        want_huge(memory, layout.size());
        memory
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let memory = unsafe { MiMalloc.alloc_zeroed(layout) };
        TAKEN.set(TAKEN.get() + 1);
        want_huge(memory, layout.size());
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        TAKEN.set(TAKEN.get() + 1);
        // SAFETY: as above. What grows is a list, not an arena: it is left as it is.
        unsafe { MiMalloc.realloc(memory, layout, size) }
    }
}

/// Advises the whole huge pages inside of a run of memory.
fn want_huge(memory: *mut u8, len: usize) {
    if len < HUGE_PAGE || memory.is_null() {
        return;
    }
    let lead = memory.align_offset(HUGE_PAGE);
    let whole = len.saturating_sub(lead) / HUGE_PAGE * HUGE_PAGE;
    if whole > 0 {
        // SAFETY: the range lies inside of memory that was just allocated, and the advice keeps its
        // content. A system that does not take it is no error.
        let _ = unsafe { madvise(memory.add(lead).cast(), whole, Advice::LinuxHugepage) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_can_be_used_to_its_last_byte_and_given_back() {
        for len in [1, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 1] {
            let layout = Layout::from_size_align(len, 4096).unwrap();
            let before = allocations();
            // SAFETY: the layout is not empty, the bytes are inside of it, and it is freed once.
            unsafe {
                let memory = NodeMemory.alloc_zeroed(layout);
                assert!(!memory.is_null());
                assert_eq!((*memory, *memory.add(len - 1)), (0, 0));
                memory.add(len - 1).write(7);
                let memory = NodeMemory.realloc(memory, layout, len + 1);
                assert_eq!(*memory.add(len - 1), 7);
                let grown = Layout::from_size_align(len + 1, 4096).unwrap();
                NodeMemory.dealloc(memory, grown);
            }
            assert_eq!(allocations() - before, 2, "one to begin with, one to grow");
        }
    }
}
