//! The controller: what it is made of, and how it is driven.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use hicache_core::{CopyPlan, Device, OwnerId, Result, Stream};

use crate::bell::Bell;
use crate::config::ControllerConfig;
use crate::copy_queue::{CopyInFlight, CopyOperation, CopyQueue};
use crate::device_pool::DevicePool;
use crate::host_pool::HostPool;
use crate::layer_done::{LayerDone, LoadWait};
use crate::metrics::Metrics;
use crate::page_state::PageState;
use crate::storage_tier::StorageTier;
use crate::sync::later;
use crate::tree::{NodeId, Tree};

/// Moves the pages of a model's KV cache between device, host and storage, and knows where which prompt's pages are.
///
/// It is driven by one thread, the engine's scheduler: all that changes the tree and the pools happens in its calls,
/// so the ranks of a group, which make the same calls, have the same trees. What takes time goes on behind it: copies
/// on the device's streams, storage on threads of the controller's own. What came to an end there takes effect in
/// [`Controller::poll`], which never blocks.
#[derive(Debug)]
pub struct Controller {
    pub(crate) owner: OwnerId,
    pub(crate) config: ControllerConfig,
    pub(crate) tree: Tree,
    pub(crate) host: HostPool,
    pub(crate) device: DevicePool,
    pub(crate) write_plan: Arc<CopyPlan>,
    pub(crate) load_plan: Arc<CopyPlan>,
    pub(crate) write_stream: Arc<dyn Stream>,
    pub(crate) load_stream: Arc<dyn Stream>,
    pub(crate) writes: CopyQueue,
    /// Writes that were merged and cut, and wait for the device.
    pub(crate) cut_writes: std::collections::VecDeque<CopyOperation>,
    pub(crate) writing: Vec<CopyInFlight>,
    pub(crate) loads: CopyQueue,
    /// Loads that are with the device, and what their forward passes wait for.
    pub(crate) loading: Vec<(CopyInFlight, LoadWait)>,
    pub(crate) layer_done: LayerDone,
    /// Loads that may not have arrived, the latest last.
    pub(crate) load_waits: Vec<LoadWait>,
    pub(crate) storage: StorageTier,
    pub(crate) bell: Arc<Bell>,
    pub(crate) metrics: Arc<Metrics>,
    /// Nodes whose write or load ended, since they were last asked for.
    pub(crate) acknowledged: Vec<Acknowledged>,
}

/// An operation on a node that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// What was done.
    pub operation: Operation,
    /// The node it was done for.
    pub node: NodeId,
    /// Pages that it was done for, and how many of them from the start are good.
    pub pages: (usize, usize),
}

/// What was done for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Device to host.
    Write,
    /// Host to device.
    Load,
    /// Host to storage.
    Backup,
}

/// More acknowledgements than this are not kept for a caller who does not ask.
pub(crate) const KEPT_ACKNOWLEDGEMENTS: usize = 65_536;

impl Controller {
    /// A controller over `device`, without a storage.
    ///
    /// # Errors
    /// As [`ControllerConfig::validate`]; `NoSpace` where there is no memory for the pools.
    pub fn new(config: ControllerConfig, device: Arc<dyn Device>) -> Result<Self> {
        config.validate()?;
        let shape = &config.shape;
        let bell = Arc::new(Bell::default());
        Ok(Self {
            owner: OwnerId::new(),
            tree: Tree::new(shape.page_tokens),
            host: HostPool::new(&device, shape, config.host_layout, config.host_pages())?,
            device: DevicePool::new(&device, shape, config.device_layout, config.device_pages())?,
            write_plan: Arc::new(shape.whole(config.device_layout, config.host_layout)?),
            load_plan: Arc::new(shape.by_layer(config.host_layout, config.device_layout)?),
            write_stream: device.stream("hicache-write")?,
            load_stream: device.stream("hicache-load")?,
            writes: CopyQueue::default(),
            cut_writes: std::collections::VecDeque::new(),
            writing: Vec::new(),
            loads: CopyQueue::default(),
            loading: Vec::new(),
            layer_done: LayerDone::new(shape.layers),
            load_waits: Vec::new(),
            storage: StorageTier::new(Arc::clone(&bell)),
            bell,
            metrics: Arc::new(Metrics::default()),
            acknowledged: Vec::new(),
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ControllerConfig {
        &self.config
    }

    /// The host pool.
    pub fn host_pool(&self) -> &HostPool {
        &self.host
    }

    /// The device pool.
    pub fn device_pool(&self) -> &DevicePool {
        &self.device
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Takes note of what has ended, and starts what can be started. Never blocks. Says how many things have ended.
    pub fn poll(&mut self) -> usize {
        self.bell.still();
        let now = Instant::now();
        let ended = self.poll_writes(now) + self.poll_loads(now) + self.poll_storage(now);
        self.host.reclaim();
        self.device.reclaim();
        self.start_writing();
        ended
    }

    /// As [`Controller::poll`], after waiting until something has ended, for at most `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> usize {
        let now = Instant::now();
        let next = self.next_deadline().map(|deadline| deadline.saturating_duration_since(now));
        self.bell.wait(next.map_or(timeout, |next| next.min(timeout)));
        self.poll()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let copies =
            self.writing.iter().chain(self.loading.iter().map(|(copy, _)| copy)).map(CopyInFlight::deadline);
        copies.chain(self.storage.next_deadline()).min()
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }

    /// Pages that wait to be stored, or are being stored.
    pub fn backlog_pages(&self) -> usize {
        self.storage.backing_up_pages
    }

    /// Whether anything is queued or in flight.
    pub fn is_idle(&self) -> bool {
        self.writing.is_empty()
            && self.loading.is_empty()
            && self.cut_writes.is_empty()
            && self.writes.operations() == 0
            && self.loads.operations() == 0
            && self.storage.is_idle()
    }

    /// Polls until nothing is queued or in flight, for at most `timeout`; says whether that was reached.
    pub fn drain(&mut self, timeout: Duration) -> bool {
        let until = later(Instant::now(), timeout);
        loop {
            self.poll();
            drop(self.start_loading());
            let left = until.saturating_duration_since(Instant::now());
            if self.is_idle() || left.is_zero() {
                return self.is_idle();
            }
            self.wait(left.min(Duration::from_millis(50)));
        }
    }

    /// Operations that have ended since this was last asked.
    pub fn take_acknowledged(&mut self) -> Vec<Acknowledged> {
        std::mem::take(&mut self.acknowledged)
    }

    pub(crate) fn acknowledge(&mut self, operation: Operation, node: NodeId, pages: (usize, usize)) {
        if self.acknowledged.len() < KEPT_ACKNOWLEDGEMENTS {
            self.acknowledged.push(Acknowledged { operation, node, pages });
        }
    }

    /// The figures.
    pub fn metrics(&self) -> &Metrics {
        let pools = [("host", self.host.account().iter().map(|(s, n)| (s.as_str(), n)).collect::<Vec<_>>())];
        let device = self.device.account().iter().map(|(s, n)| (s.as_str(), n)).collect::<Vec<_>>();
        for (pool, states) in pools.into_iter().chain([("device", device)]) {
            states.into_iter().for_each(|(state, pages)| self.metrics.pool(pool, state, pages));
        }
        self.metrics.queue("write", self.writes.operations() + self.cut_writes.len() + self.writing.len());
        self.metrics.queue("load", self.loads.operations() + self.loading.len());
        self.metrics.queue("prefetch", self.storage.prefetches.len());
        self.metrics.queue("backup_pages", self.storage.backing_up_pages);
        &self.metrics
    }

    /// Tells of a defect of the controller's own: what it believes of a page is not true. The page stays as it is.
    pub(crate) fn must(&self, done: Result<()>) {
        if let Err(error) = done {
            debug_assert!(false, "{error}");
            tracing::error!(%error, "the account of pages is wrong");
        }
    }
}
