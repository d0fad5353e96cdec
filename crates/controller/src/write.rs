//! Device to host.

use std::time::{Duration, Instant};

use hicache_core::{Access, CopyBatch, PageCopy};

use crate::config::WritePolicy;
use crate::controller::{Controller, Operation};
use crate::copy_queue::{Copied, CopyInFlight, PageMove};
use crate::page_state::HostState;
use crate::tree::{NodeId, Tier};

impl Controller {
    /// Writes what the policy says of the path down to a node that was used: from the top, since the host has no page
    /// without those before it.
    pub(crate) fn write_used(&mut self, id: NodeId) {
        let threshold = match self.config.write_policy {
            WritePolicy::WriteThrough => 1,
            WritePolicy::WriteThroughSelective => 2,
            WritePolicy::WriteBack => return,
        };
        for id in self.tree.parts(id, usize::MAX) {
            let node = self.tree.node(id);
            if node.is_root() || node.host.is_some() {
                continue;
            }
            if node.hits < threshold || !self.write_node(id, None) {
                return;
            }
        }
    }

    /// Queues the write of a node. False if it can't be written now.
    pub(crate) fn write_node(&mut self, id: NodeId, priority: Option<u64>) -> bool {
        let node = self.tree.node(id);
        if node.host.is_some() || node.spoilt {
            return false;
        }
        let Some(device) = node.device.clone() else { return false };
        // Locked first, so that making room on the host does not take what the write stands on.
        self.tree.lock(id, Tier::Device);
        self.tree.lock(id, Tier::Host);
        let Some(host) = self.allocate_host(device.len()) else {
            self.unlock(id, &[Tier::Device, Tier::Host]);
            self.metrics.failed("write", "no-space", device.len());
            return false;
        };
        let pages = device.iter().zip(&host).map(|(&device, &host)| {
            let from = self.device.leases(device, Access::Read)?;
            Ok(PageMove { host, device, copy: PageCopy { from, to: self.host.leases(host, Access::Write)? } })
        });
        match pages.collect::<hicache_core::Result<Vec<_>>>() {
            Ok(moves) => {
                let result = self.host.change(&host, HostState::Writing);
                self.must(result);
                self.tree.set_host(id, Some(host));
                self.writes.push(id, moves, priority);
                true
            }
            // Somebody computes on a page of the tree: it is not written now.
            Err(_) => {
                let result = self.host.free(&host);
                self.must(result);
                self.unlock(id, &[Tier::Device, Tier::Host]);
                self.metrics.failed("write", "busy", device.len());
                false
            }
        }
    }

    /// Pages that are queued to be written, or being written.
    pub(crate) fn writing_pages(&self) -> usize {
        let cut: usize = self.cut_writes.iter().map(|operation| operation.moves.len()).sum();
        let flying: usize = self.writing.iter().map(|copy| copy.pages.len()).sum();
        self.writes.pages() + cut + flying
    }

    /// Hands queued writes to the device, as many as it may have at once.
    pub(crate) fn start_writing(&mut self) {
        let waker = self.waker();
        while self.writing.len() < self.config.write_buffers {
            if self.cut_writes.is_empty() {
                let Some(merged) = self.writes.take() else { break };
                self.cut_writes = merged.split(self.config.write_batch_pages);
            }
            let Some(operation) = self.cut_writes.pop_front() else { break };
            let span = tracing::debug_span!("write", id = operation.id, pages = operation.moves.len());
            let pages = operation.moves.iter().map(|page| (page.host, page.device)).collect();
            let batch = CopyBatch {
                pages: operation.moves.into_iter().map(|page| page.copy).collect(),
                plan: std::sync::Arc::clone(&self.write_plan),
                step_done: None,
            };
            let transfer = self.write_stream.copy(batch);
            let timeout = Duration::from_millis(self.config.device_timeout_ms);
            let mut copy = CopyInFlight::new(operation.nodes, pages, transfer, timeout, span);
            match copy.look(&waker, Instant::now()) {
                Some(copied) => self.write_ended(copy, copied),
                None => self.writing.push(copy),
            }
        }
    }

    pub(crate) fn poll_writes(&mut self, now: Instant) -> usize {
        let waker = self.waker();
        let mut ended = 0;
        // One stream does them in order; but one that is lost must not hold up those behind it.
        let mut at = 0;
        while at < self.writing.len() {
            match self.writing[at].look(&waker, now) {
                Some(copied) => {
                    let copy = self.writing.remove(at);
                    self.write_ended(copy, copied);
                    ended += 1;
                }
                None => at += 1,
            }
        }
        ended
    }

    fn write_ended(&mut self, copy: CopyInFlight, copied: Copied) {
        let _entered = copy.span.clone().entered();
        let mut good = 0;
        match copied {
            Copied::Done(done) => {
                for ((host, _), outcome) in copy.pages.iter().zip(&done.outcomes) {
                    match outcome {
                        // A page that was dropped meanwhile stays dropped.
                        Ok(()) if self.host.state(*host).ok() == Some(HostState::Writing) => {
                            let result = self.host.change(&[*host], HostState::Synced);
                            self.must(result);
                            good += 1;
                        }
                        Ok(()) => {}
                        Err(error) => self.metrics.failed("write", error.kind().as_str(), 1),
                    }
                }
                drop(done); // The leases end before pages are freed.
            }
            Copied::Lost => self.metrics.failed("write", "timeout", copy.pages.len()),
        }
        self.metrics.moved("write", good, self.config.shape.page_bytes(), copy.begun.elapsed());
        for (node, pages) in copy.nodes {
            self.write_acknowledged(node, pages);
        }
    }

    /// All pages of a node have been tried.
    fn write_acknowledged(&mut self, id: NodeId, pages: usize) {
        let mut good = 0;
        let mut written = Vec::new();
        for part in self.tree.parts(id, pages) {
            let host = self.tree.node(part).host.clone().unwrap_or_default();
            let whole = |page: &&_| self.host.state(**page).ok() == Some(HostState::Synced);
            let run = host.iter().take_while(whole).count();
            good += run;
            if run == self.tree.node(part).pages(self.config.shape.page_tokens) {
                written.push(part);
                continue;
            }
            if run > 0 {
                written.push(self.tree.split(part, run));
            }
            self.tree.node_mut(part).write_failed = true;
            // What is below stands on the device copy.
            let host = self.tree.set_host(part, None).unwrap_or_default();
            let result = self.host.free(&host);
            self.must(result);
        }
        for part in written {
            self.back_up_node(part);
        }
        self.unlock(id, &[Tier::Device, Tier::Host]);
        self.acknowledge(Operation::Write, id, (pages, good));
    }
}
