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
    /// With policy `write_back` this waits for evicted pages to be written.
    ///
    /// # Errors
    /// `NoSpace` if so many pages can't be had: the others are locked.
    pub fn allocate(&mut self, pages: usize) -> Result<Vec<DevicePage>> {
        let until = later(Instant::now(), Duration::from_millis(self.config.device_timeout_ms));
        loop {
            let missing = pages.saturating_sub(self.device.free_pages());
            if missing == 0 {
                return self.device.allocate(pages);
            }
            let (freed, pending) = self.evict_device(missing);
            if freed >= missing {
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            let in_flight = pending > 0 || !self.writing.is_empty() || !self.loading.is_empty();
            if !in_flight || left.is_zero() {
                return Err(Error::new(
                    ErrorKind::NoSpace,
                    format!(
                        "{pages} device pages were wanted; {} of {} are free and the others are in use",
                        self.device.free_pages(),
                        self.device.pages()
                    ),
                ));
            }
            self.start_writing();
            self.wait(left.min(Duration::from_millis(20)));
        }
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
        let (mut freed, mut pending) = (0, 0);
        while freed + pending < pages {
            let Some(id) = self.tree.next_to_leave(Tier::Device, pages - freed - pending) else { break };
            let node = self.tree.node(id);
            let own = node.pages(self.config.shape.page_tokens);
            let unwritten = node.host.is_none() && !node.write_failed;
            if unwritten && self.config.write_policy == WritePolicy::WriteBack && self.write_node(id, None) {
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
