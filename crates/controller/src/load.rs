//! Host to device, layer by layer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{Access, CopyBatch, PageCopy, Result, StepHook};

use crate::controller::{Controller, Operation};
use crate::copy_queue::{Copied, CopyInFlight, PageMove};
use crate::layer_done::{LayerWait, LoadWait};
use crate::page_state::{DeviceState, HostState};
use crate::request::Request;
use crate::sync::later;
use crate::tree::{NodeId, Tier};

/// All loads that a forward pass may have to wait for.
#[derive(Clone, Debug, Default)]
pub struct LoadGate(Vec<LoadWait>);

impl LoadGate {
    /// Blocks until `layer`, counted from 0, of every load has arrived, for at most `timeout` each.
    pub fn wait(&self, layer: usize, timeout: Duration) -> LayerWait {
        let waits = self.0.iter().map(|load| load.wait(layer, timeout));
        waits.fold(LayerWait::Done, |all, one| match (all, one) {
            (LayerWait::Failed, _) | (_, LayerWait::Failed) => LayerWait::Failed,
            (LayerWait::TimedOut, _) | (_, LayerWait::TimedOut) => LayerWait::TimedOut,
            _ => LayerWait::Done,
        })
    }

    /// Blocks until everything has arrived, for at most `timeout` each.
    pub fn wait_all(&self, timeout: Duration) -> LayerWait {
        self.wait(usize::MAX, timeout)
    }

    /// Whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Controller {
    /// Queues loads of the pages of a request that the host has and the device has not. From then on they count as on
    /// the device, and a forward pass waits for them at the gate that [`Controller::start_loading`] answers. Says how
    /// many pages.
    ///
    /// # Errors
    /// `Config` for a request of another controller; `NoSpace` if the device has no room for all of them; `Busy` if somebody writes a page. Nothing is queued then.
    pub fn load_back(&mut self, request: &mut Request) -> Result<usize> {
        self.load_back_with(request, None)
    }

    /// As [`Controller::load_back`], with a priority; the lower goes first, and the default is the order of creation.
    ///
    /// # Errors
    /// As [`Controller::load_back`].
    pub fn load_back_with(&mut self, request: &mut Request, priority: Option<u64>) -> Result<usize> {
        self.check_own(request)?;
        // Another request may have loaded them meanwhile.
        self.look_again(request);
        let wanted = request.matched.host_pages;
        if wanted == 0 {
            return Ok(0);
        }
        let node = request.matched.node;
        let target = self.allocate(wanted)?;
        let parts = self.tree.parts(node, wanted);
        let mut moves = Vec::with_capacity(wanted);
        let mut rest = target.as_slice();
        for &part in &parts {
            let host = self.tree.node(part).host.clone().unwrap_or_default();
            let (own, after) = rest.split_at(host.len().min(rest.len()));
            rest = after;
            for (&host, &device) in host.iter().zip(own) {
                let copy = self
                    .host
                    .leases(host, Access::Read)
                    .and_then(|from| Ok(PageCopy { from, to: self.device.leases(device, Access::Write)? }));
                match copy {
                    Ok(copy) => moves.push(PageMove { host, device, copy }),
                    Err(error) => {
                        drop(moves);
                        let result = self.device.free(&target);
                        self.must(result);
                        return Err(error);
                    }
                }
            }
        }
        let host: Vec<_> = moves.iter().map(|page| page.host).collect();
        if let Err(error) = self.host.change(&host, HostState::Loading) {
            drop(moves);
            let result = self.device.free(&target);
            self.must(result);
            return Err(error);
        }
        let result = self.device.change(&target, DeviceState::Loading);
        self.must(result);
        let mut rest = target.as_slice();
        for &part in &parts {
            let (own, after) = rest.split_at(self.tree.node(part).pages(self.config.shape.page_tokens));
            rest = after;
            self.tree.set_device(part, Some(own.to_vec()));
            if std::mem::take(&mut self.tree.node_mut(part).prefetched) {
                self.metrics.prefetch_used(own.len());
            }
        }
        // For the operation; the request's own lock moves to the node that is now on the device.
        self.tree.lock(node, Tier::Device);
        self.tree.lock(node, Tier::Host);
        self.tree.lock(node, Tier::Device);
        self.tree.unlock(request.matched.device_node, Tier::Device);
        request.matched.device_node = node;
        request.matched.device_pages.extend_from_slice(&target);
        request.matched.host_pages = 0;
        self.loads.push(node, moves, priority);
        Ok(wanted)
    }

    /// Hands all queued loads to the device as one, and answers what a forward pass waits for: these loads and earlier
    /// ones that have not ended. While three loads are waited for, the next one stays queued.
    pub fn start_loading(&mut self) -> LoadGate {
        // A load that failed stays here until its end has taken effect.
        let ended = |wait: &LoadWait| wait.wait_all(Duration::ZERO) != LayerWait::TimedOut;
        if self.loading.is_empty() {
            self.load_waits.retain(|wait| !ended(wait));
        }
        if self.loads.operations() > 0
            && let Some((producer, wait)) = self.layer_done.begin()
            && let Some(operation) = self.loads.take()
        {
            let span = tracing::debug_span!("load", id = operation.id, pages = operation.moves.len());
            self.load_waits.push(wait.clone());
            let pages = operation.moves.iter().map(|page| (page.host, page.device)).collect();
            // Dropped with the batch: a batch that is lost leaves the set failed.
            let producer = Arc::new(producer);
            let hook: StepHook = Arc::new(move |_, whole| producer.layer_done(whole));
            let batch = CopyBatch {
                pages: operation.moves.into_iter().map(|page| page.copy).collect(),
                plan: Arc::clone(&self.load_plan),
                step_done: Some(hook),
            };
            let transfer = self.load_stream.copy(batch);
            let timeout = Duration::from_millis(self.config.device_timeout_ms);
            let mut copy = CopyInFlight::new(operation.nodes, pages, transfer, timeout, span);
            match copy.look(&self.waker(), Instant::now()) {
                Some(copied) => self.load_ended(copy, copied, &wait),
                None => self.loading.push((copy, wait)),
            }
        }
        LoadGate(self.load_waits.clone())
    }

    /// Polls until no load is with the device, for at most `timeout`; says whether that was reached. From then on the
    /// loaded pages can be leased for reading; a kernel that reads a layer as soon as it has arrived addresses the
    /// memory by itself.
    pub fn wait_loaded(&mut self, timeout: Duration) -> bool {
        let until = later(Instant::now(), timeout);
        while !self.loading.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.wait(left);
        }
        true
    }

    pub(crate) fn poll_loads(&mut self, now: Instant) -> usize {
        let waker = self.waker();
        let (mut ended, mut at) = (0, 0);
        while at < self.loading.len() {
            match self.loading[at].0.look(&waker, now) {
                Some(copied) => {
                    let (copy, wait) = self.loading.remove(at);
                    self.load_ended(copy, copied, &wait);
                    ended += 1;
                }
                None => at += 1,
            }
        }
        if self.loading.is_empty() && self.loads.operations() == 0 {
            self.load_waits.clear();
        }
        ended
    }

    fn load_ended(&mut self, copy: CopyInFlight, copied: Copied, wait: &LoadWait) {
        let _entered = copy.span.clone().entered();
        let outcomes: Vec<bool> = match copied {
            Copied::Done(done) => {
                let failed = done.outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
                failed.for_each(|error| self.metrics.failed("load", error.kind().as_str(), 1));
                done.outcomes.iter().map(Result::is_ok).collect()
            }
            Copied::Lost => {
                // The device may keep its end for ever.
                self.layer_done.give_up(wait);
                self.metrics.failed("load", "timeout", copy.pages.len());
                vec![false; copy.pages.len()]
            }
        };
        for ((host, device), good) in copy.pages.iter().zip(&outcomes) {
            let after = if *good { HostState::Synced } else { HostState::Backup };
            let result = self.host.change(&[*host], after);
            self.must(result);
            if *good {
                let result = self.device.change(&[*device], DeviceState::Resident);
                self.must(result);
            }
        }
        let good = outcomes.iter().filter(|good| **good).count();
        self.metrics.moved("load", good, self.config.shape.page_bytes(), copy.begun.elapsed());
        for (node, pages) in copy.nodes {
            self.load_acknowledged(node, pages);
        }
    }

    fn load_acknowledged(&mut self, id: NodeId, pages: usize) {
        // The operation's own lock goes first: what failed is then dropped unless a request uses it.
        self.tree.unlock(id, Tier::Device);
        let mut good = 0;
        for part in self.tree.parts(id, pages) {
            let device = self.tree.node(part).device.clone().unwrap_or_default();
            let whole = |page: &&_| self.device.state(**page).ok() == Some(DeviceState::Resident);
            let run = device.iter().take_while(whole).count();
            good += run;
            if run == device.len() {
                continue;
            }
            if run > 0 {
                self.tree.split(part, run);
            }
            let dropped = self.tree.drop_below(part);
            self.settle_dropped(dropped);
            break;
        }
        self.unlock(id, &[Tier::Host]);
        self.acknowledge(Operation::Load, id, (pages, good));
    }
}
