//! Moves extents between local files and host memory: [`UringEngine`] through io_uring, [`PreadEngine`] through threads
//! that call `preadv` and `pwritev`, for machines on which io_uring is refused.
//!
//! | module | what is there |
//! |---|---|
//! | [`config`] | [`UringConfig`], [`PreadConfig`], [`IoMode`] |
//! | [`engine`] | [`UringEngine`]: batches in, transfers out |
//! | [`pread`] | [`PreadEngine`]: the same with a pool of threads |
//! | [`backend`] | [`UringBackend`], [`PreadBackend`]: the probes |
//! | [`huge_pages`] | [`HugePages`]: how much of a range is backed by huge pages |
//! | `batch`, `operation` | what becomes of each extent: short results, retries, the one answer |
//! | `file` | direct and buffered descriptors of one inode, and which of them an operation takes |
//! | `cached` | reads of what the page cache has, summed as they come |
//! | `inbox`, `worker` | the queue to a ring thread, and what that thread does |
//! | `ring` | the io_uring itself, and nearly all `unsafe` of this crate |
//! | `memory`, `table` | registered buffers, and the slots of the kernel's tables |
//!
//! # Who owns memory while the kernel uses it
//!
//! Submitting moves the extents, and the leases in them, to a ring thread. The thread puts each into a slot of its ring
//! before the kernel hears of it, and takes it out when the kernel has answered *that* operation. A caller that drops
//! its transfer, its registration, its file and the engine frees nothing before that. When a ring thread panics, it
//! first waits for everything that the kernel still has, and only then are its batches answered `Abandoned`.

pub mod backend;
pub mod config;
pub mod engine;
pub mod huge_pages;
pub mod pread;

mod batch;
mod cached;
mod file;
mod inbox;
mod memory;
mod operation;
mod ring;
mod setup;
mod table;
mod turns;
mod worker;

pub use backend::{PreadBackend, UringBackend};
pub use config::{IoMode, PreadConfig, UringConfig};
pub use engine::UringEngine;
pub use huge_pages::HugePages;
pub use pread::PreadEngine;
pub use setup::RingReport;

/// Name of the io_uring engine and its backend.
pub const URING: &str = "posix-uring";
/// Name of the engine and the backend that call pread and pwrite.
pub const PREAD: &str = "posix-pread";
