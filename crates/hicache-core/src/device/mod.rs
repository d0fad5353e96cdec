//! What the controller moves pages between: memory of a device, streams, events, and batched copies.
//!
//! | module | what is there |
//! |---|---|
//! | `plan` | [`CopyPlan`]: which bytes of a page go where, so that two layouts can differ |
//! | `cpu` | [`CpuDevice`]: host memory with one worker a stream, that can be told to be late and to fail |

mod cpu;
mod cpu_stream;
mod plan;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

pub use cpu::{CpuDevice, DeviceFault, DeviceOperation};
pub use plan::{Block, CopyPlan, Place};

use crate::error::{Error, ErrorKind, Result};
use crate::region::{Access, Lease, MemoryKind, Region};
use crate::transfer::{Answer, Transfer};

/// The memory of one page on one side of a copy. Its *buffers* are the planes of the leases, in order.
pub type PageLeases = SmallVec<[Lease; 2]>;

/// One page to copy: read leases, and write leases.
#[derive(Debug)]
pub struct PageCopy {
    /// Where the bytes are.
    pub from: PageLeases,
    /// Where they go.
    pub to: PageLeases,
}

impl PageCopy {
    /// Whether the page is what the plan was made for.
    ///
    /// # Errors
    /// `Config` for buffers of other lengths, and for a target that is leased for reading.
    pub fn check(&self, plan: &CopyPlan) -> Result<()> {
        let fits = |leases: &PageLeases, lengths: &[usize]| {
            let own = leases.iter().flat_map(|lease| std::iter::repeat_n(lease.len(), lease.planes()));
            own.eq(lengths.iter().copied())
        };
        if !fits(&self.from, plan.from_bytes()) || !fits(&self.to, plan.to_bytes()) {
            return Err(Error::config("the page's buffers are not those of the copy plan"));
        }
        if self.to.iter().any(|lease| lease.access() != Access::Write) {
            return Err(Error::config("the target of a copy must be leased for writing"));
        }
        Ok(())
    }
}

/// Which lease, and which plane of it, a buffer of a page is.
pub fn buffer_of(leases: &PageLeases, mut buffer: usize) -> Option<(usize, usize)> {
    for (number, lease) in leases.iter().enumerate() {
        match buffer.checked_sub(lease.planes()) {
            None => return Some((number, buffer)),
            Some(rest) => buffer = rest,
        }
    }
    None
}

/// Told after each step of a batch, on a thread of the device: the number of the step, and whether it is whole for
/// every page. It must not block, and must not call the device.
pub type StepHook = Arc<dyn Fn(usize, bool) + Send + Sync>;

/// Pages that are copied together, step by step.
pub struct CopyBatch {
    /// The pages.
    pub pages: Vec<PageCopy>,
    /// What is copied of each page, the same for all.
    pub plan: Arc<CopyPlan>,
    /// Called after each step.
    pub step_done: Option<StepHook>,
}

impl fmt::Debug for CopyBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyBatch").field("pages", &self.pages.len()).finish_non_exhaustive()
    }
}

/// The answer to a batch, in its order.
#[derive(Debug)]
pub struct CopiesDone {
    /// Whether every byte of each page has arrived; after an error the target holds anything.
    pub outcomes: Vec<Result<()>>,
    /// The leases; `None` where the copy was lost and the device may still use the memory.
    pub pages: Vec<Option<PageCopy>>,
}

impl CopiesDone {
    /// Every page failed for the same reason, and none is in flight.
    pub fn failed(pages: Vec<PageCopy>, error: &Error) -> Self {
        Self {
            outcomes: pages.iter().map(|_| Err(error.clone())).collect(),
            pages: pages.into_iter().map(Some).collect(),
        }
    }
}

impl Answer for CopiesDone {
    fn abandoned(len: usize) -> Self {
        let error = Error::new(ErrorKind::Abandoned, "the device lost the copy");
        Self {
            outcomes: (0..len).map(|_| Err(error.clone())).collect(),
            pages: (0..len).map(|_| None).collect(),
        }
    }
}

/// A point in a stream.
pub trait Event: Send + Sync + fmt::Debug {
    /// Whether everything before it is done.
    fn is_done(&self) -> bool;

    /// Blocks until then, for at most `timeout`; says whether it is done.
    fn wait(&self, timeout: Duration) -> bool;
}

/// Work in order. Different streams don't order each other, except through events.
pub trait Stream: Send + Sync + fmt::Debug {
    /// Copies pages behind all earlier work, and answers once, for every page. Returns at once; dropping the transfer
    /// changes nothing: what was begun is finished, and the leases then end.
    ///
    /// A step is done for all pages before the next begins.
    fn copy(&self, batch: CopyBatch) -> Transfer<CopiesDone>;

    /// A point behind all work so far.
    ///
    /// # Errors
    /// `Closed` if the stream's worker is gone.
    fn record(&self) -> Result<Arc<dyn Event>>;

    /// Lets later work of this stream wait for a point of another one.
    ///
    /// # Errors
    /// `Closed` if the stream's worker is gone.
    fn wait_event(&self, event: Arc<dyn Event>) -> Result<()>;
}

/// Memory that a model computes in, and copies between it and host memory.
///
/// # Contract
/// - Copies move the leases into the device; they come back in the answer, when the device has finished with that
///   memory, and not before.
/// - Whoever computes on the device's memory holds a lease of it as well.
/// - What is lost is answered `Abandoned`, without its leases.
pub trait Device: Send + Sync + fmt::Debug + 'static {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Where its memory lives.
    fn memory(&self) -> MemoryKind;

    /// Allocates memory of the device, in `planes` planes of `slots` slots of at least `slot_bytes` bytes.
    ///
    /// # Errors
    /// `Config` for sizes of 0, `NoSpace`.
    fn allocate(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>>;

    /// Allocates host memory that this device copies from and to at full speed: pinned, where that means something,
    /// else on huge pages.
    ///
    /// # Errors
    /// As [`Device::allocate`].
    fn allocate_host(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        Region::allocate_planes(planes, slots, slot_bytes)
    }

    /// A new stream; `name` shows up in messages and as a thread's name.
    ///
    /// # Errors
    /// `Unavailable` where no more can be had.
    fn stream(&self, name: &'static str) -> Result<Arc<dyn Stream>>;

    /// Takes note that a page of its memory is given back to a pool. A device for tests writes over it here, so that
    /// whoever goes on reading is found out.
    fn page_freed(&self, page: PageLeases) {
        drop(page);
    }
}

const _: Option<(&dyn Device, &dyn Stream, &dyn Event)> = None; // The traits are dyn-compatible.
