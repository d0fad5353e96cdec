//! Which bytes a step of a copy plan moves, run by run.

use hicache_core::device::buffer_of;
use hicache_core::{Block, Error, PageCopy, Result};

use crate::cuda::RawCopy;

/// Appends the copies of one step for one page. The page must have been checked against the plan (`PageCopy::check`), so that
/// every run lies in its buffer.
///
/// # Errors
/// `Config` for a page with fewer buffers than the plan.
pub(super) fn runs_of(page: &PageCopy, step: &[Block], copies: &mut Vec<RawCopy>) -> Result<()> {
    let missing = || Error::config("the page has fewer buffers than the copy plan");
    for block in step {
        // Neighbours on both sides are one copy.
        let block = block.merged();
        let (lease, plane) = buffer_of(&page.from, block.from.buffer).ok_or_else(missing)?;
        let from =
            page.from[lease].plane_address(plane).ok_or_else(missing)? as u64 + block.from.offset as u64;
        let (lease, plane) = buffer_of(&page.to, block.to.buffer).ok_or_else(missing)?;
        let to = page.to[lease].plane_address(plane).ok_or_else(missing)? as u64 + block.to.offset as u64;
        for outer in 0..block.counts[0] {
            for inner in 0..block.counts[1] {
                let at = |strides: [usize; 2]| (outer * strides[0] + inner * strides[1]) as u64;
                let (from, to) = (from + at(block.from.strides), to + at(block.to.strides));
                if block.bytes > 0 {
                    copies.push(RawCopy { from, to, bytes: block.bytes });
                }
            }
        }
    }
    Ok(())
}
