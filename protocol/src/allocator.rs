//! One setting of the C library's allocator that every process which moves payload wants.

/// Tells the allocator to keep freed buffers of a few megabytes instead of giving each back to the
/// kernel.
///
/// Payload buffers come and go thousands of times a second; with glibc's defaults each is fresh
/// memory that costs a page fault every 4 KiB. On a large read that was a third of the client's
/// system time. `keep_bytes` bounds what stays with the process above what it uses.
///
/// Call it before other threads start.
pub fn keep_freed_memory(keep_bytes: i32) {
    const OWN_MAPPING_FROM: i32 = 32 << 20;
    // SAFETY: `mallopt` only changes parameters of the allocator.
    let set = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_FROM)
            & libc::mallopt(libc::M_TRIM_THRESHOLD, keep_bytes)
    };
    debug_assert_eq!(set, 1, "both are parameters that glibc knows");
}
