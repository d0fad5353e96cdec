//! What copies between staging and the memory that callers register.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::fmt;
use std::ptr;
use std::sync::Arc;

use async_trait::async_trait;
use hicache_core::{Direction, Error, MemoryKind, Region, Result};

use crate::cuda::Context;

/// One copy between staging memory and a caller's.
#[derive(Clone, Copy, Debug)]
pub struct StagedCopy {
    /// In the staging.
    pub staging: *mut u8,
    /// In the caller's memory; an address of its device.
    pub memory: *mut u8,
    /// How many bytes.
    pub bytes: usize,
}

/// Why copies failed.
#[derive(Debug)]
pub enum CopyFailure {
    /// Nothing moves any more.
    Ended(Error),
    /// Nobody knows whether something still moves: the memory must never be used again.
    Lost(Error),
}

/// Of what was refused before anything moved.
impl From<Error> for CopyFailure {
    fn from(error: Error) -> Self {
        Self::Ended(error)
    }
}

/// Makes lanes, and the memory that they stage in.
#[async_trait]
pub trait Copier: Send + Sync + fmt::Debug + 'static {
    /// The memory that it reaches.
    fn memory(&self) -> MemoryKind;

    /// Memory of the host that it copies from and to at full speed.
    ///
    /// # Errors
    /// `NoSpace`.
    fn allocate_staging(&self, slots: usize, slot_bytes: usize) -> Result<Arc<Region>>;

    /// A lane; called on the thread that then uses it.
    ///
    /// # Errors
    /// What the device answers.
    fn lane(&self) -> Result<Box<dyn Lane>>;

    /// The device of that memory, where there is one: its kernels reach the memory too.
    fn context(&self) -> Option<&Arc<Context>> {
        None
    }

    /// Whether lanes answer [`CopyFailure::Lost`] only once nothing moves any more in the memory that [`Copier::memory`] names, or
    /// nobody can look at that memory any more.
    fn proves_idle(&self) -> bool {
        false
    }

    /// Waits for what is left to do with memory that it gave and that nobody uses any more.
    async fn settle(&self) {}
}

/// One thread's way to copy.
pub trait Lane {
    /// Copies, and returns when nothing moves any more. A read goes from the staging to the caller's memory, a write the other
    /// way.
    ///
    /// # Errors
    /// [`CopyFailure`].
    ///
    /// # Safety
    /// Until it returns (and for ever, after [`CopyFailure::Lost`]), both ranges of every copy must be valid, the target must
    /// be touched by nobody else, and the source be written by nobody.
    unsafe fn copy(&mut self, direction: Direction, copies: &[StagedCopy]) -> Result<(), CopyFailure>;
}

/// Copies between host memory and host memory: what a device does, where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostCopier;

#[async_trait]
impl Copier for HostCopier {
    fn memory(&self) -> MemoryKind {
        MemoryKind::Host
    }

    fn allocate_staging(&self, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        Region::allocate(slots, slot_bytes)
    }

    fn lane(&self) -> Result<Box<dyn Lane>> {
        Ok(Box::new(*self))
    }

    fn proves_idle(&self) -> bool {
        true
    }
}

impl Lane for HostCopier {
    unsafe fn copy(&mut self, direction: Direction, copies: &[StagedCopy]) -> Result<(), CopyFailure> {
        for copy in copies {
            let (from, to) = match direction {
                Direction::Read => (copy.staging, copy.memory),
                Direction::Write => (copy.memory, copy.staging),
            };
            // SAFETY: the caller vouches for both ranges; staging is memory of its own, so they don't overlap.
            unsafe { ptr::copy_nonoverlapping(from.cast_const(), to, copy.bytes) };
        }
        Ok(())
    }
}
