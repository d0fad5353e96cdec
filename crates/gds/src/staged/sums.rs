//! Checksums of pages that the CPU can't read, by way of staging memory.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hicache_core::{Access, Direction, Error, ErrorKind, PageMemory, Region, Result, hashing};

use super::copier::{Copier, CopyFailure, StagedCopy};

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;
/// Chunks of staging memory that are kept for later sums.
const MOST_KEPT: usize = 8;

/// Sums pages: copied to staging memory, and summed there.
#[derive(Debug)]
pub struct Sums {
    copier: Arc<dyn Copier>,
    kept: Mutex<Vec<Arc<Region>>>,
}

impl Sums {
    /// Sums what `copier` reaches, and memory of the host.
    pub fn new(copier: Arc<dyn Copier>) -> Self {
        Self { copier, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Arc<Region>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CRC-64/NVMe over the pieces in order. Blocks until the device has done its part.
    ///
    /// # Errors
    /// What the device reports; `Abandoned` where a copy was lost.
    pub fn sum(&self, memory: &PageMemory) -> Result<u64> {
        if memory.pieces().iter().all(|piece| piece.lease().region().kind().is_host()) {
            return memory.checksum();
        }
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
