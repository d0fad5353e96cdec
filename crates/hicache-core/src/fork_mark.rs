//! Telling a forked child, which has none of the threads, from the process that opened something.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use memmap2::MmapMut;
use rustix::mm::{Advice, madvise};

use crate::error::{Error, ErrorKind};

/// A byte that the kernel wipes in a child. Whatever has threads of its own asks it at every call, and before it takes
/// any lock: one that a thread of the parent held at the fork is held for ever in the child. So asking costs no
/// system call.
#[derive(Debug)]
pub struct ForkMark {
    /// `None` where the kernel can't wipe; then the process id is compared.
    page: Option<MmapMut>,
    process: u32,
}

impl ForkMark {
    /// Marks this process.
    pub fn new() -> Self {
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
    pub fn is_child(&self) -> bool {
        match &self.page {
            Some(page) => std::hint::black_box(&page[..])[0] == 0,
            None => std::process::id() != self.process,
        }
    }

    /// What to answer in the child; `what` was opened before the fork.
    pub fn refusal(what: &str) -> Error {
        let message =
            format!("the process has forked since the {what} was opened; open another {what} in the child");
        Error::new(ErrorKind::Closed, message)
    }
}

impl Default for ForkMark {
    fn default() -> Self {
        Self::new()
    }
}
