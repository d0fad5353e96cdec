//! Memory of those that are not the store: one piece on the same kind of pages, which nobody else uses.

use std::sync::Arc;

use hicache_core::{Access, Lease, Region};

use super::order::noise;
use crate::bench::Problem;
use crate::bench::spec::Spec;

/// As many pages, one behind the other, as are in flight.
pub(super) struct Memory {
    #[expect(dead_code, reason = "lives as long as the lease is used")]
    region: Arc<Region>,
    pub(super) lease: Lease,
}

impl Memory {
    /// Full of bytes that nothing compresses.
    pub(super) fn new(spec: &Spec) -> Result<Self, Problem> {
        let region = Region::allocate_with(1, spec.batch * spec.in_flight * spec.page_bytes, spec.huge)?;
        let mut lease = region.lease(0, 0, region.bytes(), Access::Write)?;
        let content = noise(spec.page_bytes, 1);
        for page in lease.bytes_mut()?.chunks_exact_mut(spec.page_bytes) {
            page.copy_from_slice(&content);
        }
        Ok(Self { region, lease })
    }
}
