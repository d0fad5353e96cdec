//! Whether the kernel copies what it should and nothing else, on the device that is there: seen before the kernel is used.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::sync::Arc;

use hicache_core::{Access, Error, ErrorKind, Region, Result};

use super::run_kernel::RunKernel;
use crate::GDS;
use crate::cuda::trial_bytes::{download, pattern, upload};
use crate::cuda::{Context, Queue, RawCopy};

/// Bytes of each side.
const BYTES: usize = 1 << 20;

/// A run: where from, where to, how long.
type Offsets = (usize, usize, usize);

/// Lengths on both sides of what a thread and what a block copies at once, and of the longest that is short, from and to places
/// that are aligned in every way.
fn runs() -> Vec<Offsets> {
    let (mut runs, mut next) = (Vec::new(), 64);
    for near in [4, 16, 64, 512, 2048, 4096, 28 << 10] {
        for (from, to) in [(0, 0), (16, 32), (4, 8), (1, 0), (0, 1), (3, 7)] {
            for length in [near - 1, near, near + 1] {
                // Backwards, so that what is mixed up is seen.
                runs.push(((BYTES - next - length) / 64 * 64 - 64 + from, next + to, length));
                next = (next + to + length).next_multiple_of(64) + 64;
            }
        }
    }
    runs
}

/// Copies known bytes from the device and from pinned memory to both, and compares what is there then.
///
/// # Errors
/// `Unexpected` where a byte differs; what the device reports.
pub(super) fn compare(context: &Arc<Context>, kernel: &RunKernel) -> Result<()> {
    let (source, before) = (pattern(BYTES), vec![0xa5; BYTES]);
    let mut expected = before.clone();
    for (from, to, length) in runs() {
        expected[to..to + length].copy_from_slice(&source[from..from + length]);
    }
    for (name, from, to) in [
        ("device to device", upload(context, &source)?, upload(context, &before)?),
        ("host to device", pinned(context, &source)?, upload(context, &before)?),
        ("device to host", upload(context, &source)?, pinned(context, &before)?),
    ] {
        copy(context, kernel, &from, &to)?;
        let seen = match to.kind().is_host() {
            true => to.lease(0, 0, BYTES, Access::Read)?.bytes()?.to_vec(),
            false => download(context, &to, BYTES)?,
        };
        if let Some(at) = seen.iter().zip(&expected).position(|(seen, expected)| seen != expected) {
            let message = format!("the kernel that copies gets known bytes wrong, {name}, from byte {at} on");
            return Err(Error::new(ErrorKind::Unexpected, message).with_backend(GDS));
        }
    }
    Ok(())
}

fn pinned(context: &Arc<Context>, bytes: &[u8]) -> Result<Arc<Region>> {
    let region = context.allocate_pinned(1, 1, bytes.len())?;
    region.lease(0, 0, bytes.len(), Access::Write)?.bytes_mut()?.copy_from_slice(bytes);
    Ok(region)
}

fn copy(context: &Arc<Context>, kernel: &RunKernel, from: &Arc<Region>, to: &Arc<Region>) -> Result<()> {
    let queue = Queue::new(context)?;
    let leases = (from.lease(0, 0, BYTES, Access::Read)?, to.lease(0, 0, BYTES, Access::Write)?);
    let starts = (leases.0.address() as u64, leases.1.address() as u64);
    let run = |(from, to, bytes): Offsets| RawCopy {
        from: starts.0 + from as u64,
        to: starts.1 + to as u64,
        bytes,
    };
    let (runs, mut lists): (Vec<RawCopy>, _) = (runs().into_iter().map(run).collect(), Vec::new());
    // SAFETY: the runs lie in what is leased, and their targets apart; leases and lists are held until the stream is past them,
    // or for ever. Memory of the device and of our own pinned kind is reached by its kernels.
    let queued = unsafe { kernel.queue(&queue, &runs, &mut lists) };
    if let Err(error) = queue.synchronize() {
        std::mem::forget((leases, lists));
        return Err(error);
    }
    if queued < runs.len() {
        let message = "the kernel that copies could not be launched";
        return Err(Error::new(ErrorKind::Unavailable, message).with_backend(GDS));
    }
    kernel.take_back(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_lie_apart_and_are_of_all_kinds() {
        let runs = runs();
        let mut end = 0;
        for &(from, to, length) in &runs {
            assert!(to >= end && to + length <= BYTES && from + length <= BYTES, "{from} {to} {length}");
            end = to + length;
        }
        for unit in [16, 4, 1] {
            let is = |(from, to, length): &Offsets| (from | to | length) % unit == 0;
            assert!(runs.iter().filter(|run| is(run)).count() > 3, "{unit}");
        }
        assert!(runs.iter().any(|&(from, to, length)| (from | to) % 16 == 0 && length % 16 == 1));
    }
}
