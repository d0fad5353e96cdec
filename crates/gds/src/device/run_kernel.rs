//! Short runs, copied by a kernel: one launch for many, of which a copy engine would make a command each.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hicache_core::{Access, Error, ErrorKind, Lease, MemoryKind, PageLeases, Result};

use super::cuda_device::ShortCopies;
use super::run_trial;
use crate::GDS;
use crate::cuda::copies::LEAST_BATCHED_BYTES;
use crate::cuda::kernels::{Kernels, Run};
use crate::cuda::{Context, Queue, RawCopy};

/// Runs of one launch.
const MOST_RUNS: usize = 2048;
/// For fewer a launch saves nothing.
const LEAST_RUNS: usize = 8;
/// Bytes before the runs of a list: a word that the kernel copies too, and where it goes.
const HEAD: usize = 16;
/// Bytes of a list.
const LIST_BYTES: usize = HEAD + (MOST_RUNS + 1) * size_of::<Run>();
/// Lists that are kept for later launches.
const MOST_IDLE: usize = 128;

/// The kernel, for all streams of one device, for as long as it is right.
pub(super) struct RunKernel {
    context: Arc<Context>,
    kernels: Option<Kernels>,
    idle: Mutex<Vec<Lease>>,
    /// Lists that were made: what makes the word of each another.
    lists: AtomicU64,
    launches: AtomicU64,
    /// Why the kernel is not used, or not any more.
    without: OnceLock<String>,
}

/// The runs of a launch, in pinned memory; dropped when the stream is past the launch, or forgotten.
pub(super) struct RunList {
    memory: Lease,
    /// The word that is copied, where something was launched.
    known: Option<u64>,
}

impl RunKernel {
    /// Loads the kernel and tries it where it is wanted.
    pub(super) fn open(context: &Arc<Context>, wanted: ShortCopies) -> Self {
        let mut kernel = Self {
            context: Arc::clone(context),
            kernels: None,
            idle: Mutex::default(),
            lists: AtomicU64::new(0),
            launches: AtomicU64::new(0),
            without: OnceLock::new(),
        };
        if wanted == ShortCopies::Engines {
            kernel.without = OnceLock::from("it is turned off".to_owned());
            return kernel;
        }
        match Kernels::load(context) {
            Ok(kernels) => {
                kernel.kernels = Some(kernels);
                if let Err(error) = run_trial::compare(context, &kernel) {
                    kernel.give_up(&error);
                }
            }
            Err(error) => kernel.give_up(&error),
        }
        kernel
    }

    /// For good.
    pub(super) fn give_up(&self, error: &Error) {
        if self.without.set(error.to_string()).is_ok() {
            tracing::warn!(%error, "short runs are copied by the copy engines: the kernel for them can't be used");
        }
    }

    /// How many launches there were, and why there will be none.
    pub(super) fn counts(&self) -> (u64, Option<String>) {
        (self.launches.load(Ordering::Relaxed), self.without.get().cloned())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether kernels reach that memory at its address. Of pinned memory that is not ours nobody knows.
    pub(super) fn reaches(&self, leases: &PageLeases) -> bool {
        leases.iter().map(Lease::region).all(|region| match region.kind() {
            MemoryKind::Device(ordinal) => ordinal == self.context.ordinal(),
            MemoryKind::PinnedHost => !region.is_foreign(),
            MemoryKind::Host => false,
        })
    }

    /// Whether these copies are for the kernel: many, and short.
    pub(super) fn wants(&self, copies: &[RawCopy]) -> bool {
        let bytes: usize = copies.iter().map(|copy| copy.bytes).sum();
        self.without.get().is_none()
            && copies.len() >= LEAST_RUNS
            && bytes / copies.len() < LEAST_BATCHED_BYTES
    }

    /// Queues copies, in no order among each other, and answers how many of them, from the first on; the others are for the copy
    /// engines. `lists` is held until the stream is past the launches, or for ever.
    ///
    /// # Safety
    /// As [`crate::cuda::copies::Copying::queue`], of memory that the kernels reach.
    pub(super) unsafe fn queue(&self, queue: &Queue, copies: &[RawCopy], lists: &mut Vec<RunList>) -> usize {
        let mut done = 0;
        for runs in copies.chunks(MOST_RUNS) {
            let Some(kernels) = self.kernels.as_ref().filter(|_| self.without.get().is_none()) else { break };
            let (mut list, address, known) = match self.list(runs) {
                Ok(list) => list,
                Err(error) => {
                    // Pinned memory does not suffice, say: that tells nothing of the kernel.
                    tracing::debug!(%error, "no memory for a list of short runs at this time");
                    break;
                }
            };
            // One more: the known word.
            let count = runs.len() as u32 + 1;
            // SAFETY: the list has so many runs, all of memory that the kernels reach, which the caller keeps as is demanded; the
            // list itself is the caller's to keep from here on.
            match unsafe { kernels.copy_runs(queue, address, count) } {
                Ok(()) => {
                    self.launches.fetch_add(1, Ordering::Relaxed);
                    list.known = Some(known);
                }
                Err(error) => {
                    self.give_up(&error);
                    lists.push(list);
                    break;
                }
            }
            lists.push(list);
            done += runs.len();
        }
        done
    }

    /// A list of these runs and of one for the known word, its address, and that word.
    fn list(&self, runs: &[RawCopy]) -> Result<(RunList, u64, u64)> {
        let known = self.lists.fetch_add(1, Ordering::Relaxed) + 1;
        let idle = self.idle().pop();
        let mut memory = match idle {
            Some(memory) => memory,
            None => self.context.allocate_pinned(1, 1, LIST_BYTES)?.lease(0, 0, LIST_BYTES, Access::Write)?,
        };
        let start = memory.address() as u64;
        let word = RawCopy { from: start, to: start + 8, bytes: 8 };
        let (head, list) = memory.bytes_mut()?.split_at_mut(HEAD);
        head[..8].copy_from_slice(&known.to_ne_bytes());
        head[8..].fill(0);
        let places = list.as_chunks_mut::<{ size_of::<Run>() }>().0;
        for (place, run) in places.iter_mut().zip(runs.iter().chain([&word])) {
            let numbers = [run.from, run.to, run.bytes as u64];
            for (place, number) in place.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
                *place = number.to_le_bytes();
            }
        }
        Ok((RunList { memory, known: None }, start + HEAD as u64, known))
    }

    /// Takes lists back of which a stream is past the launches.
    ///
    /// # Errors
    /// `Unexpected` where a launch did not do its work though the driver says that it is over.
    pub(super) fn take_back(&self, lists: Vec<RunList>) -> Result<()> {
        let mut worked = true;
        for RunList { memory, known } in lists {
            if let Some(known) = known {
                worked &= memory.bytes()?[8..HEAD] == known.to_ne_bytes();
            }
            let mut idle = self.idle();
            if idle.len() < MOST_IDLE {
                idle.push(memory);
            }
        }
        if worked {
            return Ok(());
        }
        let message = "the kernel that copies did not copy what is known; the driver says that it has ended";
        let error = Error::new(ErrorKind::Unexpected, message).with_backend(GDS);
        self.give_up(&error);
        Err(error)
    }
}

impl fmt::Debug for RunKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunKernel").field("counts", &self.counts()).finish_non_exhaustive()
    }
}
