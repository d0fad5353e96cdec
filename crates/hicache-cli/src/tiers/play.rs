//! All requests of a workload through the tiers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache::controller::{
    Attention, Controller, ControllerConfig, Layout, PageShape, PrefetchPolicy, WritePolicy,
};
use hicache::core::Device;
use hicache::{Namespace, Result, Storage};

use super::TierEngine;
use super::report::TierReport;
use crate::workload::Request;

/// Tokens of a page: of a block of the trace.
const PAGE_TOKENS: u64 = 512;
/// Layers and heads of the model that is played.
const LAYERS: usize = 4;
const HEADS: usize = 2;
/// Elements of two bytes, for keys and values.
const ROW_PARTS: usize = 2 * LAYERS * HEADS * 2;
/// Nothing takes longer unless it hangs.
const LONG: Duration = Duration::from_secs(60);

/// Sizes of the tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TierSizes {
    /// Pages of the device.
    pub device_pages: usize,
    /// Pages of host memory.
    pub host_pages: usize,
    /// Pages of storage.
    pub storage_pages: usize,
}

/// How a workload is played.
#[derive(Clone, Debug)]
pub struct TierPlay {
    /// Sizes of the two upper tiers; of the third it is what the ideal is told.
    pub sizes: TierSizes,
    /// Bytes of a page, a multiple of 32.
    pub page_bytes: usize,
    /// Layout of the host pool.
    pub host_layout: Layout,
    /// When pages are written to the host.
    pub write_policy: WritePolicy,
    /// When a request stops waiting for storage.
    pub prefetch_policy: PrefetchPolicy,
    /// Modelled time of computing a token.
    pub compute_us: u64,
    /// Whether each request begins at its time, and computing takes time.
    pub realtime: bool,
    /// Pages that may wait to be stored when the next request begins; `None` waits until everything is done.
    pub most_backlog_pages: Option<usize>,
    /// What storage and the device are given before they count as lost.
    pub timeout: Duration,
    /// What the pages are of.
    pub namespace: Namespace,
}

impl TierPlay {
    /// Pages of one token, the block's id.
    ///
    /// # Errors
    /// `Config` for a page of other than a multiple of 32 bytes.
    pub fn config(&self) -> Result<ControllerConfig> {
        if self.page_bytes == 0 || !self.page_bytes.is_multiple_of(ROW_PARTS) {
            return Err(hicache::Error::config(format!(
                "a page of {} bytes can't be cut into layers and heads; with --tiers it is a multiple of {ROW_PARTS}",
                self.page_bytes
            )));
        }
        let shape = PageShape {
            attention: Attention::Mha,
            page_tokens: 1,
            layers: LAYERS,
            heads: HEADS,
            head_dim: self.page_bytes / ROW_PARTS,
            element_bytes: 2,
        };
        let TierSizes { device_pages, host_pages, .. } = self.sizes;
        let mut config = ControllerConfig::new(shape, self.namespace.clone(), device_pages, host_pages);
        config.host_layout = self.host_layout;
        config.write_policy = self.write_policy;
        config.prefetch_policy = self.prefetch_policy;
        config.prefetch_threshold_tokens = 1;
        config.storage_timeout_ms = self.timeout.as_millis() as u64;
        config.device_timeout_ms = self.timeout.as_millis() as u64;
        Ok(config)
    }
}

/// Plays `requests` through a controller over `device` and `storage`, in their order, and compares every page that was
/// found. The storage is the caller's again afterwards.
///
/// # Errors
/// What the controller refuses; `Unexpected` if its account of pages is wrong.
pub fn play_tiers(
    requests: &[Request],
    play: &TierPlay,
    device: Arc<dyn Device>,
    storage: Arc<dyn Storage>,
    mut before: impl FnMut(usize),
) -> Result<TierReport> {
    let mut controller = Controller::new(play.config()?, device)?;
    controller.attach(storage)?;
    let mut engine = TierEngine::new(controller);
    let mut report = TierReport::new(play);
    let begun = Instant::now();
    for (number, request) in requests.iter().enumerate() {
        before(number);
        if play.realtime {
            let at = begun + Duration::from_millis(request.timestamp_ms);
            while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                engine.controller.wait(left);
            }
        }
        let served = engine.serve(&number.to_string(), &request.blocks)?;
        report.add(request, &served);
        if play.realtime {
            std::thread::sleep(Duration::from_micros(served.computed_pages * PAGE_TOKENS * play.compute_us));
        }
        match play.most_backlog_pages {
            None => _ = engine.controller.drain(LONG),
            Some(most) => {
                let until = Instant::now() + LONG;
                while engine.controller.backlog_pages() > most && Instant::now() < until {
                    engine.controller.wait(Duration::from_millis(100));
                }
            }
        }
    }
    let drained = engine.controller.drain(LONG);
    report.seconds = begun.elapsed().as_secs_f64();
    let account = engine.controller.account()?;
    report.ended(&account, drained);
    report.metrics = engine.controller.metrics().text()?;
    let (_, _) = engine.controller.shutdown(LONG);
    Ok(report)
}
