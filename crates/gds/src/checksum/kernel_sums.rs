//! The kernel for any number of threads, for as long as it is right.
//!
//! One mutex around one [`Summer`] would have threads wait for each other's kernels, and a page of 64 KiB keeps a device busy
//! with 64 threads of the thousands that it can run. So each thread that sums takes a summer of its own, with its own stream, from
//! a pool that makes one where none is idle: there are as many as threads that sum at one time, and at most [`MOST_IDLE`] are
//! kept, each with less than a MiB. They share the machine code.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hicache_core::{MemoryKind, PageMemory, Result};

use super::summer::Summer;
use super::trial;
use crate::cuda::Context;
use crate::cuda::kernels::Kernels;

/// Summers that are kept for later sums.
const MOST_IDLE: usize = 8;
/// Pages in more pieces are summed elsewhere: their parts may be too many for one launch.
const MOST_PIECES: usize = 1024;

/// Sums pages in memory of one device.
#[derive(Debug)]
pub(crate) struct KernelSums {
    context: Arc<Context>,
    pool: Mutex<Pool>,
}

#[derive(Debug)]
struct Pool {
    /// `None` once the kernel has failed.
    kernels: Option<Arc<Kernels>>,
    idle: Vec<Summer>,
}

impl KernelSums {
    /// Loads the kernel, and has it sum pages that are known.
    ///
    /// # Errors
    /// Why it is not to be used: a sum that is not the CPU's, or what the driver answers.
    pub(crate) fn open(context: &Arc<Context>) -> Result<Self> {
        let kernels = Arc::new(Kernels::load(context)?);
        let mut summer = Summer::with(context, Arc::clone(&kernels))?;
        trial::compare(context, &mut summer)?;
        let pool = Mutex::new(Pool { kernels: Some(kernels), idle: vec![summer] });
        Ok(Self { context: Arc::clone(context), pool })
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CRC-64/NVMe over the pieces in order; `None` for a page that is not for the kernel, and for all once it has failed. An
    /// error is why it has: it sums nothing after that.
    pub(crate) fn sum(&self, page: &PageMemory) -> Option<Result<u64>> {
        let own = MemoryKind::Device(self.context.ordinal());
        let pieces = page.pieces();
        if pieces.len() > MOST_PIECES || pieces.iter().any(|piece| piece.lease().region().kind() != own) {
            return None;
        }
        let mut summer = self.take()?;
        let sum = summer.sum_borrowed(page);
        if sum.is_err() {
            self.end();
        } else {
            let mut pool = self.pool();
            if pool.kernels.is_some() && pool.idle.len() < MOST_IDLE {
                pool.idle.push(summer);
            }
        }
        Some(sum)
    }

    /// Gives back what it works with. It sums nothing after that.
    pub(crate) fn end(&self) {
        let mut pool = self.pool();
        pool.kernels = None;
        let idle = std::mem::take(&mut pool.idle);
        drop(pool);
        drop(idle);
    }

    fn take(&self) -> Option<Summer> {
        let kernels = {
            let mut pool = self.pool();
            let kernels = Arc::clone(pool.kernels.as_ref()?);
            if let Some(idle) = pool.idle.pop() {
                return Some(idle);
            }
            kernels
        };
        match Summer::with(&self.context, kernels) {
            Ok(summer) => Some(summer),
            Err(error) => {
                // The memory does not suffice, say: that tells nothing of the kernel.
                tracing::debug!(%error, "nothing to sum one more page with at this time");
                None
            }
        }
    }
}
