//! Telling a forked child, which has none of the threads, from the process that opened the store.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use memmap2::MmapMut;
use rustix::mm::{Advice, madvise};

/// A byte that the kernel wipes in a child. Asked at every call, so it must cost no system call.
#[derive(Debug)]
pub(crate) struct ForkMark {
    /// `None` where the kernel can't wipe; then the process id is compared.
    page: Option<MmapMut>,
    process: u32,
}

impl ForkMark {
    pub(crate) fn new() -> Self {
        let page = MmapMut::map_anon(1).ok().and_then(|mut page| {
            // SAFETY: the range is exactly this mapping, which is ours, private and anonymous; the advice changes
            // nothing in this process.
            unsafe { madvise(page.as_mut_ptr().cast(), page.len(), Advice::LinuxWipeOnFork) }.ok()?;
            page[0] = 1;
            Some(page)
        });
        Self { page, process: std::process::id() }
    }

    /// Whether this is another process than the one that made the mark.
    pub(crate) fn is_child(&self) -> bool {
        match &self.page {
            Some(page) => std::hint::black_box(&page[..])[0] == 0,
            None => std::process::id() != self.process,
        }
    }
}
