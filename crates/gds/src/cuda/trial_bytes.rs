//! Known bytes to a device and back: what kernels are tried with before they are used.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::sync::Arc;

use hicache_core::{Access, Lease, Region, Result};

use super::context::Context;
use super::copies::{Copying, RawCopy};
use super::stream::Queue;

/// Bytes that repeat nowhere soon: what lands in the wrong place is seen.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pattern = vec![0; bytes.next_multiple_of(8)];
    for word in pattern.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = state.to_le_bytes();
    }
    pattern.truncate(bytes);
    pattern
}

/// Memory of the device with these bytes.
pub(crate) fn upload(context: &Arc<Context>, bytes: &[u8]) -> Result<Arc<Region>> {
    let (device, host) = (context.allocate(1, 1, bytes.len())?, context.allocate_pinned(1, 1, bytes.len())?);
    let mut from = host.lease(0, 0, bytes.len(), Access::Write)?;
    from.bytes_mut()?.copy_from_slice(bytes);
    copy(context, from, device.lease(0, 0, bytes.len(), Access::Write)?)?;
    Ok(device)
}

/// The first bytes of memory of the device.
pub(crate) fn download(context: &Arc<Context>, device: &Arc<Region>, bytes: usize) -> Result<Vec<u8>> {
    let host = context.allocate_pinned(1, 1, bytes)?;
    let to = host.lease(0, 0, bytes, Access::Write)?;
    let (_, to) = copy(context, device.lease(0, 0, bytes, Access::Write)?, to)?;
    Ok(to.bytes()?.to_vec())
}

/// Copies with the device's copy engine, and waits; the leases come back where nothing moves any more.
fn copy(context: &Arc<Context>, from: Lease, to: Lease) -> Result<(Lease, Lease)> {
    let queue = Queue::new(context)?;
    let copy = RawCopy { from: from.address() as u64, to: to.address() as u64, bytes: to.len() };
    // SAFETY: both are as long as is said, and leased for writing until the stream is past the copy, or for ever.
    let queued = unsafe { Copying::one_by_one().queue(&queue, &[copy]) };
    if let Err(error) = queue.synchronize() {
        std::mem::forget((from, to));
        return Err(error);
    }
    queued.map(|()| (from, to))
}
