//! Checksums of pages that the CPU can't read: by a kernel on the device where that is right, else by way of staging memory.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hicache_core::{Access, Direction, Error, ErrorKind, PageMemory, Region, Result, hashing};

use super::copier::{Copier, CopyFailure, StagedCopy};
use crate::checksum::{ChecksumCounts, DeviceChecksums, KernelSums};

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;
/// Chunks of staging memory that are kept for later sums.
const MOST_KEPT: usize = 8;

/// Sums pages: on the device, or copied to staging memory and summed there.
#[derive(Debug)]
pub(crate) struct Sums {
    copier: Arc<dyn Copier>,
    kept: Mutex<Vec<Arc<Region>>>,
    kernel: Option<KernelSums>,
    /// Why the kernel is not used, or not any more.
    without_kernel: OnceLock<String>,
    by_kernel: AtomicU64,
    through_host: AtomicU64,
}

impl Sums {
    /// Tries the kernel where it is wanted; that takes the driver's compiler, and some MiB of the device for a moment.
    pub(crate) fn new(copier: Arc<dyn Copier>, wanted: DeviceChecksums) -> Self {
        let mut sums = Self {
            kernel: None,
            copier,
            kept: Mutex::default(),
            without_kernel: OnceLock::new(),
            by_kernel: AtomicU64::new(0),
            through_host: AtomicU64::new(0),
        };
        match (sums.copier.context(), wanted) {
            (None, _) => sums.without_kernel = OnceLock::from("there is no device for it".to_owned()),
            (Some(_), DeviceChecksums::Never) => {
                sums.without_kernel = OnceLock::from("it is turned off".to_owned());
            }
            (Some(context), DeviceChecksums::Auto) => match KernelSums::open(context) {
                Ok(kernel) => sums.kernel = Some(kernel),
                Err(error) => sums.warn(&error),
            },
        }
        sums
    }

    /// Once, whatever comes after it.
    fn warn(&self, error: &Error) {
        if self.without_kernel.set(error.to_string()).is_ok() {
            tracing::warn!(%error, "pages of the device are summed through pinned memory: the kernel for it can't be used");
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Arc<Region>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what sums are taken with.
    pub(crate) async fn end(&self) {
        if let Some(kernel) = &self.kernel {
            kernel.end();
        }
        self.kept().clear();
        self.copier.settle().await;
    }

    pub(crate) fn counts(&self) -> ChecksumCounts {
        ChecksumCounts {
            by_kernel: self.by_kernel.load(Ordering::Relaxed),
            through_host: self.through_host.load(Ordering::Relaxed),
            without_kernel: self.without_kernel.get().cloned(),
        }
    }

    /// CRC-64/NVMe over the pieces in order.
    pub(crate) fn sum(&self, memory: &PageMemory) -> Result<u64> {
        if memory.is_host() {
            return memory.checksum();
        }
        match self.kernel.as_ref().and_then(|kernel| kernel.sum(memory)) {
            Some(Ok(sum)) => {
                self.by_kernel.fetch_add(1, Ordering::Relaxed);
                return Ok(sum);
            }
            // A kernel that may still read the page does not change it: it can be copied all the same.
            Some(Err(error)) => self.warn(&error),
            None => {}
        }
        let sum = self.sum_staged(memory)?;
        self.through_host.fetch_add(1, Ordering::Relaxed);
        Ok(sum)
    }

    fn sum_staged(&self, memory: &PageMemory) -> Result<u64> {
        let kept = self.kept().pop();
        let staging = kept.map_or_else(|| self.copier.allocate_staging(1, CHUNK), Ok)?;
        let sum = self.sum_through(&staging, memory);
        if !sum.as_ref().is_err_and(|error| error.kind() == ErrorKind::Abandoned)
            && self.kept().len() < MOST_KEPT
        {
            self.kept().push(staging);
        }
        sum
    }

    fn sum_through(&self, staging: &Arc<Region>, memory: &PageMemory) -> Result<u64> {
        let mut lane = self.copier.lane()?;
        let lease = staging.lease(0, 0, CHUNK, Access::Write)?;
        let mut sum = hashing::Checksum::new();
        for piece in memory.pieces() {
            let start = piece.lease().address();
            for at in (0..piece.len()).step_by(CHUNK) {
                let bytes = CHUNK.min(piece.len() - at);
                // In range: the piece is leased.
                let copy = StagedCopy { staging: lease.address(), memory: start.wrapping_add(at), bytes };
                // SAFETY: both are leased until this returns, the staging for writing; after a loss the staging is leased for
                // ever, and of the caller's memory nothing is seen to move (`Copier::proves_idle`).
                match unsafe { lane.copy(Direction::Write, &[copy]) } {
                    Ok(()) => sum.update(&lease.bytes()?[..bytes]),
                    Err(CopyFailure::Ended(error)) => return Err(error),
                    Err(CopyFailure::Lost(error)) => {
                        std::mem::forget(lease);
                        let message = format!("the copy of a page to be summed was lost: {error}");
                        return Err(Error::new(ErrorKind::Abandoned, message));
                    }
                }
            }
        }
        Ok(sum.finish())
    }
}
