//! Host memory as a device.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cpu_stream::CpuStream;
use super::{CopyBatch, Device, PageLeases, Stream};
use crate::error::Result;
use crate::region::{Access, MemoryKind, Region};
use crate::transfer::Completion;

/// What goes wrong with one batch of copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// It begins after this time.
    LateStart(Duration),
    /// Each of its steps begins after this time.
    LateSteps(Duration),
    /// From this step on it fails for one page, by its number modulo the pages of the batch.
    FailPage {
        /// Number of the page.
        page: usize,
        /// The first step that fails.
        step: usize,
    },
    /// It fails as a whole; nothing has moved.
    Fail,
    /// It is dropped before it was begun, and answered `Abandoned` at once.
    NeverSubmitted,
    /// It is done, and no answer comes, until [`CpuDevice::release_lost`] lets go of its memory.
    Swallowed,
}

/// One batch, as whoever injects faults sees it.
#[derive(Clone, Copy, Debug)]
pub struct DeviceOperation {
    /// Which one it is since the faults were set, from 0.
    pub number: u64,
    /// Name of its stream.
    pub stream: &'static str,
    /// Pages in it.
    pub pages: usize,
}

type Decide = Box<dyn FnMut(&DeviceOperation) -> Option<DeviceFault> + Send>;
/// A batch whose answer was swallowed, with the leases of its pages.
pub(super) type Lost = (Completion<super::CopiesDone>, CopyBatch);

/// Host memory with one worker a stream: the device of machines without one, and of tests. Asynchronous like a real
/// one: copies go on behind the caller's back, and step by step.
pub struct CpuDevice {
    shared: Arc<CpuShared>,
}

/// What the device and its streams share.
pub(super) struct CpuShared {
    faults: Mutex<Option<(Decide, u64)>>,
    lost: Mutex<Vec<Lost>>,
    poison: bool,
    injected: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CpuShared {
    pub(super) fn fault(&self, stream: &'static str, pages: usize) -> Option<DeviceFault> {
        let mut faults = lock(&self.faults);
        let (decide, number) = faults.as_mut()?;
        let operation = DeviceOperation { number: *number, stream, pages };
        *number += 1;
        let fault = decide(&operation);
        self.injected.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
        fault
    }

    pub(super) fn swallow(&self, lost: Lost) {
        lock(&self.lost).push(lost);
    }
}

impl CpuDevice {
    /// What a freed page is filled with when it is poisoned.
    pub const POISON: u8 = 0xdd;

    /// A device.
    pub fn new() -> Arc<Self> {
        Self::with_poison(false)
    }

    /// A device that fills pages with [`CpuDevice::POISON`] when they are freed.
    pub fn poisoning() -> Arc<Self> {
        Self::with_poison(true)
    }

    fn with_poison(poison: bool) -> Arc<Self> {
        let shared = CpuShared {
            faults: Mutex::new(None),
            lost: Mutex::default(),
            poison,
            injected: AtomicU64::new(0),
        };
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// From now on asks `decide` for each batch whether a fault is injected.
    pub fn set_faults(&self, decide: impl FnMut(&DeviceOperation) -> Option<DeviceFault> + Send + 'static) {
        *lock(&self.shared.faults) = Some((Box::new(decide), 0));
    }

    /// Injects nothing any more.
    pub fn clear_faults(&self) {
        *lock(&self.shared.faults) = None;
    }

    /// How many faults were injected.
    pub fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }

    /// How many batches were swallowed and hold their memory.
    pub fn held(&self) -> usize {
        lock(&self.shared.lost).len()
    }

    /// Lets go of the memory of what was swallowed; its answers are `Abandoned`.
    pub fn release_lost(&self) {
        let held = std::mem::take(&mut *lock(&self.shared.lost));
        for (completion, batch) in held {
            // The leases first: whoever is told may look whether they have ended.
            drop(batch);
            drop(completion);
        }
    }
}

impl fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuDevice").field("poison", &self.shared.poison).finish_non_exhaustive()
    }
}

impl Device for CpuDevice {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn memory(&self) -> MemoryKind {
        MemoryKind::Host
    }

    fn allocate(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        Region::allocate_planes(planes, slots, slot_bytes)
    }

    fn stream(&self, name: &'static str) -> Result<Arc<dyn Stream>> {
        Ok(Arc::new(CpuStream::start(name, Arc::clone(&self.shared))?))
    }

    fn page_freed(&self, mut page: PageLeases) {
        if !self.shared.poison {
            return;
        }
        for lease in page.iter_mut().filter(|lease| lease.access() == Access::Write) {
            for plane in 0..lease.planes() {
                if let Ok(bytes) = lease.plane_mut(plane) {
                    bytes.fill(Self::POISON);
                }
            }
        }
    }
}
