//! Copies between pinned host memory and memory of a device.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hicache_core::{Direction, MemoryKind, Region, Result};

use super::copier::{Copier, CopyFailure, Lane, StagedCopy};
use crate::cuda::copies::Copying;
use crate::cuda::stream::Idle;
use crate::cuda::{Context, Queue, RawCopy};

/// Between questions to a device that did not say whether copies have ended.
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// It is said again after so many.
const TRIES_A_WARNING: u32 = 1000;

/// Copies of one device; each lane has a stream.
#[derive(Debug)]
pub struct CudaCopier {
    context: Arc<Context>,
}

impl CudaCopier {
    /// Copies from and to memory of this device.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[async_trait]
impl Copier for CudaCopier {
    fn memory(&self) -> MemoryKind {
        MemoryKind::Device(self.context.ordinal())
    }

    fn allocate_staging(&self, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        self.context.allocate_pinned(1, slots, slot_bytes)
    }

    fn lane(&self) -> Result<Box<dyn Lane>> {
        Ok(Box::new(CudaLane { queue: Queue::new(&self.context)?, copying: Copying::of(&self.context) }))
    }

    fn context(&self) -> Option<&Arc<Context>> {
        Some(&self.context)
    }

    fn proves_idle(&self) -> bool {
        true
    }

    async fn settle(&self) {
        self.context.all_freed().await;
    }
}

struct CudaLane {
    queue: Queue,
    copying: Copying,
}

impl Lane for CudaLane {
    unsafe fn copy(&mut self, direction: Direction, copies: &[StagedCopy]) -> Result<(), CopyFailure> {
        let raw: Vec<RawCopy> = copies
            .iter()
            .map(|copy| {
                let (staging, memory) = (copy.staging as u64, copy.memory as u64);
                match direction {
                    Direction::Read => RawCopy { from: staging, to: memory, bytes: copy.bytes },
                    Direction::Write => RawCopy { from: memory, to: staging, bytes: copy.bytes },
                }
            })
            .collect();
        // SAFETY: the caller vouches for the ranges until this returns, which is when the stream is past them.
        let mut outcome = unsafe { self.copying.queue(&self.queue, &raw) };
        // Also after a failure: a part of them may be queued. The memory may be the caller's own, who uses it again as soon as this
        // returns, so time is lost here rather than bytes.
        let mut tries = 0_u32;
        loop {
            match self.queue.idle() {
                Idle::Yes => return outcome.map_err(CopyFailure::Ended),
                Idle::Gone(error) => return Err(CopyFailure::Lost(error)),
                Idle::Unknown(error) => {
                    if tries.is_multiple_of(TRIES_A_WARNING) {
                        tracing::error!(%error, tries, "the device does not say that copies have ended; they are waited for");
                    }
                    tries = tries.wrapping_add(1);
                    outcome = outcome.and(Err(error));
                    std::thread::sleep(BETWEEN_TRIES);
                }
            }
        }
    }
}
