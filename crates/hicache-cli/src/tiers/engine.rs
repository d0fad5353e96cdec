//! What an engine does with the controller for the requests that it works on: step by step, so that several are in
//! flight on one thread.

use std::time::{Duration, Instant};

use hicache::controller::{
    Controller, DevicePage, LayerWait, Layout, PageShape, PrefetchId, PrefetchStatus, PromptSpace,
    Request as Prompt,
};
use hicache::{Access, Error, Result};
use hicache_hashing::{Digest, page_hash};

use crate::workload::{check_page, fill_page};

/// Nothing takes longer unless it hangs.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// So often a load that fails is tried again with what is there all the same.
const LOADS: u64 = 3;

/// What one request was served from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served {
    pub(crate) device_pages: u64,
    pub(crate) host_pages: u64,
    pub(crate) storage_pages: u64,
    /// Pages that storage had, in time or not.
    pub(crate) storage_found_pages: u64,
    pub(crate) computed_pages: u64,
    pub(crate) corrupt_pages: u64,
    /// Not served by the controller: the device had no room.
    pub(crate) refused: bool,
    /// Loads that failed; their pages were loaded again or computed.
    pub(crate) failed_loads: u64,
    pub(crate) prefetch_time: Duration,
    pub(crate) load_time: Duration,
}

/// A controller and a model that fills its pages.
pub(crate) struct TierEngine {
    pub(crate) controller: Controller,
    shape: PageShape,
    scratch: Vec<u8>,
}

/// A request that is being worked on.
pub(crate) struct Flight {
    blocks: Vec<u64>,
    digests: Vec<Digest>,
    prompt: Prompt,
    served: Served,
    phase: Phase,
    since: Instant,
}

enum Phase {
    Prefetching(PrefetchId),
    /// So many pages came from storage.
    Prefetched(usize),
    /// So many of them, and so many from the host.
    Loading(usize, usize),
    /// All that was found has arrived and is right.
    Found,
}

/// How a request stands.
pub(crate) enum Step {
    /// Pages are on their way.
    Waiting,
    /// The device has no room now.
    Full,
    /// What was not found may be computed: this many pages, given out.
    Ready(Vec<DevicePage>),
}

impl TierEngine {
    pub(crate) fn new(controller: Controller) -> Self {
        let shape = controller.config().shape;
        Self { controller, shape, scratch: vec![0; shape.page_bytes()] }
    }

    /// Begins a prompt of one page a block: a page has one token, the id of its block.
    pub(crate) fn begin(&mut self, name: &str, blocks: &[u64]) -> Flight {
        let mut prior = None;
        let digests =
            blocks.iter().map(|block| *prior.insert(page_hash(prior.as_ref(), &[*block]))).collect();
        let prompt = self.controller.begin(PromptSpace::default(), blocks.to_vec());
        let phase = match self.controller.prefetch(name, &prompt) {
            Some(id) => Phase::Prefetching(id),
            None => Phase::Prefetched(0),
        };
        let (served, since) = (Served::default(), Instant::now());
        Flight { blocks: blocks.to_vec(), digests, prompt, served, phase, since }
    }

    /// Goes on with a request as far as that is possible now.
    ///
    /// # Errors
    /// What the controller refuses.
    pub(crate) fn advance(&mut self, flight: &mut Flight) -> Result<Step> {
        loop {
            match flight.phase {
                Phase::Prefetching(id) => {
                    let pages = match self.controller.check_prefetch(id) {
                        PrefetchStatus::Ended { pages, found } => {
                            flight.served.storage_found_pages = found as u64;
                            pages
                        }
                        PrefetchStatus::Pending if flight.since.elapsed() >= LONG => {
                            self.controller.terminate_prefetch(id)
                        }
                        PrefetchStatus::Pending => return Ok(Step::Waiting),
                    };
                    self.controller.look_again(&mut flight.prompt);
                    flight.served.prefetch_time = flight.since.elapsed();
                    flight.phase = Phase::Prefetched(pages);
                    flight.since = Instant::now();
                }
                Phase::Prefetched(storage) => {
                    // Without room on the device what is below is computed, if there is room for that.
                    let loaded = self.controller.load_back(&mut flight.prompt).unwrap_or(0);
                    flight.phase = Phase::Loading(storage, loaded);
                }
                Phase::Loading(storage, loaded) => match self.arrived(flight) {
                    None => return Ok(Step::Waiting),
                    Some(false) if flight.served.failed_loads < LOADS => {
                        flight.served.failed_loads += 1;
                        // Without what failed; what is on the host all the same is loaded once more.
                        self.controller.look_again(&mut flight.prompt);
                        flight.phase = Phase::Prefetched(storage);
                    }
                    Some(whole) => {
                        flight.served.load_time = flight.since.elapsed();
                        self.found(flight, storage, if whole { loaded } else { 0 })?;
                        flight.phase = Phase::Found;
                    }
                },
                Phase::Found => {
                    let missing = flight.blocks.len() - flight.prompt.matched().device_pages.len();
                    return Ok(match self.controller.allocate(missing) {
                        Ok(pages) => Step::Ready(pages),
                        Err(_) => Step::Full,
                    });
                }
            }
        }
    }

    /// Whether what a request loads has arrived, layer after layer; `None` while it is on its way.
    fn arrived(&mut self, flight: &Flight) -> Option<bool> {
        let gate = self.controller.start_loading();
        if self.controller.is_whole(&flight.prompt) {
            return Some(true);
        }
        let mut layers = (0..self.shape.layers).map(|layer| gate.wait(layer, Duration::ZERO));
        let failed = layers.any(|layer| layer == LayerWait::Failed);
        drop(gate);
        if failed || flight.since.elapsed() >= LONG {
            // Nothing of it moves any more when it is tried again.
            self.controller.wait_loaded(LONG);
            return Some(false);
        }
        // One that ended between the two looks.
        self.controller.wait_loaded(Duration::ZERO).then(|| self.controller.is_whole(&flight.prompt))
    }

    /// Compares every page that was found.
    fn found(&mut self, flight: &mut Flight, storage: usize, loaded: usize) -> Result<()> {
        let found = &flight.prompt.matched().device_pages;
        for (page, digest) in found.iter().zip(&flight.digests) {
            flight.served.corrupt_pages += u64::from(!self.is_right(*page, digest)?);
        }
        let served = &mut flight.served;
        served.storage_pages = storage.min(loaded) as u64;
        served.host_pages = loaded as u64 - served.storage_pages;
        served.device_pages = (found.len() - loaded.min(found.len())) as u64;
        Ok(())
    }

    /// Computes what was not found, and ends the request.
    ///
    /// # Errors
    /// What the controller refuses.
    pub(crate) fn finish(&mut self, mut flight: Flight, computed: &[DevicePage]) -> Result<Served> {
        let found = flight.prompt.matched().device_pages.len();
        for (page, digest) in computed.iter().zip(&flight.digests[found..]) {
            self.compute(*page, digest)?;
        }
        flight.served.computed_pages = computed.len() as u64;
        self.controller.finish(flight.prompt, &flight.blocks, computed)?;
        Ok(flight.served)
    }

    /// Ends a request for which the device has no room.
    pub(crate) fn refuse(&mut self, mut flight: Flight) -> Served {
        self.controller.cancel(flight.prompt);
        flight.served.refused = true;
        flight.served
    }

    fn part_bytes(&self) -> usize {
        self.shape.buffer_bytes(Layout::LayerFirst)
    }

    fn compute(&mut self, page: DevicePage, digest: &Digest) -> Result<()> {
        fill_page(digest, &mut self.scratch);
        let part = self.part_bytes();
        let mut leases = self.controller.device_pool().leases(page, Access::Write)?;
        let lease = leases.first_mut().ok_or_else(|| Error::config("a page has no memory"))?;
        for (plane, part) in self.scratch.chunks(part).enumerate() {
            lease.plane_mut(plane)?.copy_from_slice(part);
        }
        Ok(())
    }

    fn is_right(&mut self, page: DevicePage, digest: &Digest) -> Result<bool> {
        let part = self.part_bytes();
        let leases = self.controller.device_pool().leases(page, Access::Read)?;
        for (plane, part) in self.scratch.chunks_mut(part).enumerate() {
            let lease = leases.first().ok_or_else(|| Error::config("a page has no memory"))?;
            part.copy_from_slice(lease.plane(plane)?);
        }
        Ok(check_page(digest, &self.scratch).is_none())
    }
}
