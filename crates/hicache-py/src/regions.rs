//! The memory of one call, watched until the device is done with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hicache::{PageRequest, Region};

/// How often a call with a lost operation looks whether its memory is at rest.
const LOOK: Duration = Duration::from_millis(10);

/// The regions that the pages of a call lie in. They are held here: what a store has forgotten since, or closed, is
/// waited for all the same.
pub(crate) struct Regions(BTreeMap<usize, Arc<Region>>);

impl Regions {
    /// Those of `requests`.
    pub(crate) fn of(requests: &[PageRequest]) -> Self {
        let mut regions = BTreeMap::new();
        let mut last = None;
        for piece in requests.iter().flat_map(|request| request.memory.pieces()) {
            let region = piece.registration().region();
            let address = Arc::as_ptr(region) as usize;
            // Most calls have one region.
            if last.replace(address) != Some(address) {
                regions.entry(address).or_insert_with(|| Arc::clone(region));
            }
        }
        Self(regions)
    }

    /// Waits until no lease of any of them is out.
    pub(crate) fn wait_for_rest(&self) {
        while self.0.values().any(|region| region.leases() > 0) {
            std::thread::sleep(LOOK);
        }
    }
}
