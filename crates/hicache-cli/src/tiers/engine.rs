//! What an engine does with the controller for one request.

use std::time::{Duration, Instant};

use hicache::controller::{
    Controller, LayerWait, Layout, PageShape, PrefetchStatus, PromptSpace, Request as Prompt,
};
use hicache::{Access, Error, Result};
use hicache_hashing::{Digest, page_hash};

use crate::workload::{check_page, fill_page};

/// Nothing takes longer unless it hangs.
const LONG: Duration = Duration::from_secs(60);

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
    /// A load failed, and its pages were computed.
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

impl TierEngine {
    pub(crate) fn new(controller: Controller) -> Self {
        let shape = controller.config().shape;
        Self { controller, shape, scratch: vec![0; shape.page_bytes()] }
    }

    /// The keys of a prompt's pages: a page has one token, the id of its block.
    fn digests(&self, blocks: &[u64]) -> Vec<Digest> {
        let mut prior = None;
        blocks.iter().map(|block| *prior.insert(page_hash(prior.as_ref(), &[*block]))).collect()
    }

    /// Serves a prompt of one page a block.
    pub(crate) fn serve(&mut self, name: &str, blocks: &[u64]) -> Result<Served> {
        let digests = self.digests(blocks);
        let mut served = Served::default();
        let mut prompt = self.controller.begin(PromptSpace::default(), blocks.to_vec());
        let begun = Instant::now();
        let storage = self.prefetch(name, &mut prompt, &mut served);
        served.prefetch_time = begun.elapsed();
        let begun = Instant::now();
        let loaded = self.load(&mut prompt, &mut served)?;
        served.load_time = begun.elapsed();
        let found = prompt.matched().device_pages.clone();
        for (page, digest) in found.iter().zip(&digests) {
            served.corrupt_pages += u64::from(!self.is_right(*page, digest)?);
        }
        served.storage_pages = storage.min(loaded) as u64;
        served.host_pages = loaded as u64 - served.storage_pages;
        served.device_pages = (found.len() - loaded) as u64;
        let computed = match self.controller.allocate(blocks.len() - found.len()) {
            Ok(pages) => pages,
            Err(_) => {
                self.controller.cancel(prompt);
                served.refused = true;
                return Ok(served);
            }
        };
        served.computed_pages = computed.len() as u64;
        for (page, digest) in computed.iter().zip(&digests[found.len()..]) {
            self.compute(*page, digest)?;
        }
        self.controller.finish(prompt, blocks, &computed)?;
        Ok(served)
    }

    fn prefetch(&mut self, name: &str, prompt: &mut Prompt, served: &mut Served) -> usize {
        let Some(id) = self.controller.prefetch(name, prompt) else { return 0 };
        let until = Instant::now() + LONG;
        let pages = loop {
            match self.controller.check_prefetch(id) {
                PrefetchStatus::Ended { pages, found } => {
                    served.storage_found_pages = found as u64;
                    break pages;
                }
                PrefetchStatus::Pending if Instant::now() >= until => {
                    break self.controller.terminate_prefetch(id);
                }
                PrefetchStatus::Pending => _ = self.controller.wait(Duration::from_millis(100)),
            }
        };
        self.controller.look_again(prompt);
        pages
    }

    /// Loads what the host has; after a failure what is there all the same.
    fn load(&mut self, prompt: &mut Prompt, served: &mut Served) -> Result<usize> {
        for _ in 0..3 {
            let loaded = self.controller.load_back(prompt).unwrap_or(0);
            let gate = self.controller.start_loading();
            let layers = (0..self.shape.layers).map(|layer| gate.wait(layer, LONG));
            let outcome =
                layers.fold(LayerWait::Done, |all, one| if all == LayerWait::Done { one } else { all });
            let arrived = outcome == LayerWait::Done && self.controller.wait_loaded(LONG);
            if arrived && self.controller.is_whole(prompt) {
                return Ok(loaded);
            }
            served.failed_loads += 1;
            self.controller.wait_loaded(LONG);
            // Without what failed; what is on the host all the same is loaded once more.
            self.controller.look_again(prompt);
        }
        Ok(0)
    }

    fn part_bytes(&self) -> usize {
        self.shape.buffer_bytes(Layout::LayerFirst)
    }

    fn compute(&mut self, page: hicache::controller::DevicePage, digest: &Digest) -> Result<()> {
        fill_page(digest, &mut self.scratch);
        let part = self.part_bytes();
        let mut leases = self.controller.device_pool().leases(page, Access::Write)?;
        let lease = leases.first_mut().ok_or_else(|| Error::config("a page has no memory"))?;
        for (plane, part) in self.scratch.chunks(part).enumerate() {
            lease.plane_mut(plane)?.copy_from_slice(part);
        }
        Ok(())
    }

    fn is_right(&mut self, page: hicache::controller::DevicePage, digest: &Digest) -> Result<bool> {
        let part = self.part_bytes();
        let leases = self.controller.device_pool().leases(page, Access::Read)?;
        for (plane, part) in self.scratch.chunks_mut(part).enumerate() {
            let lease = leases.first().ok_or_else(|| Error::config("a page has no memory"))?;
            part.copy_from_slice(lease.plane(plane)?);
        }
        Ok(check_page(digest, &self.scratch).is_none())
    }
}
