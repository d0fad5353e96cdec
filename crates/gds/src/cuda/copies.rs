//! Many copies with as few calls as the driver allows.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use cudarc::driver::sys;
use hicache_core::Result;

use super::context::Context;
use super::driver::{check, check_code};
use super::stream::Queue;

/// The first driver that copies in batches.
const FIRST_WITH_BATCHES: u32 = 12080;
/// The first driver that is asked for a function by version.
const FIRST_WITH_VERSIONS: u32 = 12000;
/// Copies that are shorter are not faster in a batch.
pub const LEAST_BATCHED_BYTES: usize = 28 << 10;
/// Most copies with one call.
const MOST_BATCHED: usize = 4096;

/// One copy. Addresses are those of the device, of pinned memory, or of any memory of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawCopy {
    /// Where the bytes are.
    pub from: u64,
    /// Where they go.
    pub to: u64,
    /// How many.
    pub bytes: usize,
}

/// `CUmemcpyAttributes` of 12.8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    source_access_order: c_uint,
    source_hint: Location,
    target_hint: Location,
    flags: c_uint,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Location {
    kind: c_uint,
    id: c_int,
}

/// The source is read in the order of the stream.
const IN_STREAM_ORDER: c_uint = 1;

/// `cuMemcpyBatchAsync` of 12.8: targets, sources, lengths, how many; attributes, the first copy of each, how many; which one
/// failed; the stream.
type BatchAsync = unsafe extern "C" fn(
    *mut u64,
    *mut u64,
    *mut usize,
    usize,
    *mut Attributes,
    *mut usize,
    usize,
    *mut usize,
    sys::CUstream,
) -> c_uint;

/// How copies are queued on one device.
#[derive(Clone, Copy)]
pub struct Copying {
    batch: Option<BatchAsync>,
}

impl Copying {
    /// The best that the driver has.
    pub fn of(context: &Context) -> Self {
        Self { batch: batch_function(context) }
    }

    /// One call a copy, whatever the driver has.
    pub fn one_by_one() -> Self {
        Self { batch: None }
    }

    /// Whether the driver copies in batches.
    pub fn batches(&self) -> bool {
        self.batch.is_some()
    }

    /// Queues the copies, in no order among each other.
    ///
    /// # Errors
    /// What the driver answers; some of the copies may be queued then.
    ///
    /// # Safety
    /// Until the stream is past them, the bytes at `from` must be valid for reads and not be written, those at `to` be valid
    /// for writes and be touched by nobody else.
    pub unsafe fn queue(&self, queue: &Queue, copies: &[RawCopy]) -> Result<()> {
        let _bound = queue.context().bind()?;
        let bytes: usize = copies.iter().map(|copy| copy.bytes).sum();
        match self.batch {
            Some(batch) if copies.len() > 1 && bytes / copies.len() >= LEAST_BATCHED_BYTES => {
                // SAFETY: the caller's promise.
                copies.chunks(MOST_BATCHED).try_for_each(|copies| unsafe { in_batch(batch, queue, copies) })
            }
            _ => copies.iter().try_for_each(|copy| {
                // SAFETY: the caller's promise; a context is bound. With unified addressing one address says where it is.
                check("cuMemcpyAsync", unsafe {
                    sys::cuMemcpyAsync(copy.to, copy.from, copy.bytes, queue.raw())
                })
            }),
        }
    }
}

/// # Safety
/// As [`Copying::queue`].
unsafe fn in_batch(batch: BatchAsync, queue: &Queue, copies: &[RawCopy]) -> Result<()> {
    let mut targets: Vec<u64> = copies.iter().map(|copy| copy.to).collect();
    let mut sources: Vec<u64> = copies.iter().map(|copy| copy.from).collect();
    let mut lengths: Vec<usize> = copies.iter().map(|copy| copy.bytes).collect();
    let mut attributes = Attributes { source_access_order: IN_STREAM_ORDER, ..Attributes::default() };
    let (mut first, mut failed) = (0, usize::MAX);
    // SAFETY: three lists of `copies.len()` entries, and one of attributes that begins with the first copy; the driver reads
    // them during the call. The stream has a name, as this function demands. The rest is the caller's promise.
    check_code("cuMemcpyBatchAsync", unsafe {
        batch(
            targets.as_mut_ptr(),
            sources.as_mut_ptr(),
            lengths.as_mut_ptr(),
            copies.len(),
            &raw mut attributes,
            &raw mut first,
            1,
            &raw mut failed,
            queue.raw(),
        )
    })
}

/// The function as 12.8 had it; later drivers have another of the same name.
fn batch_function(context: &Context) -> Option<BatchAsync> {
    if context.cuda().version() < FIRST_WITH_BATCHES.max(FIRST_WITH_VERSIONS) {
        return None;
    }
    let mut found: *mut c_void = ptr::null_mut();
    let mut status = sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    // SAFETY: the driver is of a version that has this function; the name ends with a 0, and both results are of this frame.
    let answer = unsafe {
        sys::cuGetProcAddress_v2(
            c"cuMemcpyBatchAsync".as_ptr(),
            &raw mut found,
            FIRST_WITH_BATCHES as c_int,
            0,
            &raw mut status,
        )
    };
    check("cuGetProcAddress", answer).ok()?;
    // SAFETY: asked for as of 12.8, it is of this type; a null pointer is `None`.
    unsafe { std::mem::transmute::<*mut c_void, Option<BatchAsync>>(found) }
}
