//! Making room: device to host to gone, the pages used longest ago first, and never what is locked.

use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use crate::config::WritePolicy;
use crate::controller::Controller;
use crate::device_pool::DevicePage;
use crate::host_pool::HostPage;
use crate::page_state::HostState;
use crate::sync::later;
use crate::tree::{Dropped, NodeId, Tier};

impl Controller {
    /// Gives out device pages to compute into, evicting what is needed. They are the caller's until
    /// [`Controller::finish`] or [`Controller::give_back`].
    ///
    /// This blocks while copies are under way after which there may be room, for at most `device_timeout_ms`: with policy
    /// `write_back` evicted pages are written first. A caller that must not block uses [`Controller::try_allocate`].
    ///
    /// # Errors
    /// `NoSpace` if so many pages can't be had: the others are locked.
    pub fn allocate(&mut self, pages: usize) -> Result<Vec<DevicePage>> {
        let until = later(Instant::now(), Duration::from_millis(self.config.device_timeout_ms));
        loop {
            match self.try_allocate(pages) {
                Err(error) if error.kind() == ErrorKind::Busy => {}
                done => return done,
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.no_room(pages));
            }
            self.wait(left.min(Duration::from_millis(20)));
        }
    }

    /// As [`Controller::allocate`], and never blocks: what has to be written before it can be evicted is queued.
    ///
    /// # Errors
    /// `Busy` if there will perhaps be room when copies that are under way have ended: poll, and try again. `NoSpace` as
    /// [`Controller::allocate`].
    pub fn try_allocate(&mut self, pages: usize) -> Result<Vec<DevicePage>> {
        if pages > self.device.pages() {
            return Err(self.no_room(pages)); // Nothing is evicted in vain.
        }
        let mut written = true;
        // Once more where what was evicted has been written at once.
        while written {
            let missing = pages.saturating_sub(self.device.free_pages());
            if missing == 0 {
                return self.device.allocate(pages);
            }
            let (freed, pending) = self.evict_device(missing);
            if freed >= missing {
                return self.device.allocate(pages);
            }
            self.start_writing();
            written = pending > 0 && self.writing_pages() == 0;
        }
        if self.writing_pages() + self.loads.operations() + self.loading.len() > 0 {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{pages} device pages were wanted; copies are under way, after which there may be room"
                ),
            ));
        }
        Err(self.no_room(pages))
    }

    fn no_room(&self, pages: usize) -> Error {
        let (free, all) = (self.device.free_pages(), self.device.pages());
        let text =
            format!("{pages} device pages were wanted; {free} of {all} are free, the others are in use");
        Error::new(ErrorKind::NoSpace, text)
    }

    /// Takes pages back that were given out and not used.
    ///
    /// # Errors
    /// `Config` for pages that were not given out.
    pub fn give_back(&mut self, pages: &[DevicePage]) -> Result<()> {
        self.device.free(pages)
    }

    /// Evicts pages from the device: how many are free now, and how many will be when they are written.
    pub fn evict_device(&mut self, pages: usize) -> (usize, usize) {
        // By this policy pages are written to be evicted, and for nothing else.
        let write_back = self.config.write_policy == WritePolicy::WriteBack;
        let (mut freed, mut pending) = (0, if write_back { self.writing_pages() } else { 0 });
        while freed + pending < pages {
            let Some(id) = self.tree.next_to_leave(Tier::Device, pages - freed - pending) else { break };
            let node = self.tree.node(id);
            let own = node.pages(self.config.shape.page_tokens);
            let unwritten = node.host.is_none() && !node.write_failed;
            if unwritten && write_back && self.write_node(id, None) {
                pending += own;
                continue;
            }
            let free_before = self.device.free_pages();
            let dropped = self.tree.drop_below(id);
            self.settle_dropped(dropped);
            self.metrics.evicted("device", own);
            freed += self.device.free_pages() - free_before;
        }
        (freed, pending)
    }

    /// Evicts pages from the host that are not on the device. Says how many are free now.
    pub fn evict_host(&mut self, pages: usize) -> usize {
        let mut freed = 0;
        while freed < pages {
            let Some(id) = self.tree.next_to_leave(Tier::Host, pages - freed) else { break };
            let host = self.tree.set_host(id, None).unwrap_or_default();
            self.tree.remove_if_gone(id);
            self.metrics.evicted("host", host.len());
            let free_before = self.host.free_pages();
            let result = self.host.free(&host);
            self.must(result);
            freed += self.host.free_pages() - free_before;
        }
        freed
    }

    /// Gives out host pages, evicting what is needed; `None` if so many can't be had.
    pub(crate) fn allocate_host(&mut self, pages: usize) -> Option<Vec<HostPage>> {
        let missing = pages.saturating_sub(self.host.free_pages());
        if missing > 0 {
            self.evict_host(missing);
        }
        self.host.allocate(pages).ok()
    }

    /// Makes the pools follow what was taken out of the tree.
    pub(crate) fn settle_dropped(&mut self, dropped: Dropped) {
        let result = self.device.free(&dropped.device);
        self.must(result);
        let result = self.host.free(&dropped.host);
        self.must(result);
        let synced = |page: &HostPage| self.host.state(*page).ok() == Some(HostState::Synced);
        let unsynced: Vec<HostPage> = dropped.unsynced.into_iter().filter(synced).collect();
        let result = self.host.change(&unsynced, HostState::Backup);
        self.must(result);
    }

    /// Ends locks on a node, and lets go of what only they kept.
    pub(crate) fn unlock(&mut self, id: NodeId, tiers: &[Tier]) {
        for &tier in tiers {
            self.tree.unlock(id, tier);
        }
        let dropped = self.tree.drop_spoilt(id);
        self.settle_dropped(dropped);
        if self.tree.has(id) {
            self.tree.remove_if_gone(id);
        }
    }
}
