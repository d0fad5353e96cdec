//! All requests of a workload through the tiers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache::controller::{
    Attention, Controller, ControllerConfig, DevicePage, Layout, PageShape, PrefetchPolicy, WritePolicy,
};
use hicache::core::Device;
use hicache::{Namespace, Result, Storage};

use super::TierEngine;
use super::engine::{Flight, LONG, Step};
use super::report::TierReport;
use crate::workload::Request;

/// Tokens of a page: of a block of the trace.
const PAGE_TOKENS: u64 = 512;
/// Layers and heads of the model that is played.
const LAYERS: usize = 4;
const HEADS: usize = 2;
/// Elements of two bytes, for keys and values.
const ROW_PARTS: usize = 2 * LAYERS * HEADS * 2;
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
    /// Each request begins at its time, and computing takes time, so many times as fast; `None` for as fast as it goes.
    pub speed: Option<f64>,
    /// Requests that are worked on at once.
    pub concurrency: usize,
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
        // A replay that goes as fast as it can is over before a server's pause is.
        config.breaker_backoff_ms = (config.storage_timeout_ms / 10).clamp(1, 1_000);
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
    before: impl FnMut(usize),
) -> Result<TierReport> {
    let mut controller = Controller::new(play.config()?, device)?;
    controller.attach(storage)?;
    let mut player = Player {
        requests,
        play,
        engine: TierEngine::new(controller),
        report: TierReport::new(play),
        open: VecDeque::new(),
        next: 0,
        begun: Instant::now(),
        device_free: Instant::now(),
        before,
    };
    while player.next < requests.len() || !player.open.is_empty() {
        player.turn()?;
    }
    let Player { mut engine, mut report, begun, .. } = player;
    let drained = engine.controller.drain(LONG);
    report.seconds = begun.elapsed().as_secs_f64();
    let account = engine.controller.account()?;
    report.ended(&account, drained);
    report.metrics = engine.controller.metrics().text()?;
    let (_, _) = engine.controller.shutdown(LONG);
    Ok(report)
}

/// A request in flight.
struct Open<'a> {
    request: &'a Request,
    arrived: Instant,
    flight: Flight,
    /// Pages that are computed, and until when.
    computing: Option<(Vec<DevicePage>, Instant)>,
}

/// All that is played.
struct Player<'a, B> {
    requests: &'a [Request],
    play: &'a TierPlay,
    engine: TierEngine,
    report: TierReport,
    /// The oldest first.
    open: VecDeque<Open<'a>>,
    next: usize,
    begun: Instant,
    /// When the device has computed what it was given: it computes one request after the other.
    device_free: Instant,
    before: B,
}

impl<B: FnMut(usize)> Player<'_, B> {
    /// Looks once at everything that is open, and waits if nothing can be done.
    fn turn(&mut self) -> Result<()> {
        let begun_one = self.begin_next();
        let (mut ended, mut wake) = (false, Instant::now() + Duration::from_millis(20));
        let mut at = 0;
        while let Some(mut open) = self.open.remove(at) {
            let others_compute = self.open.iter().any(|other| other.computing.is_some());
            match self.look(&mut open, others_compute)? {
                Look::Later(until) => {
                    wake = wake.min(until.unwrap_or(wake));
                    self.open.insert(at, open);
                    at += 1;
                }
                Look::Refused => {
                    ended = true;
                    let served = self.engine.refuse(open.flight);
                    self.report.add(open.request, &served, None);
                }
                Look::Computed => {
                    ended = true;
                    let (pages, until) = open.computing.unwrap_or_else(|| (Vec::new(), Instant::now()));
                    let served = self.engine.finish(open.flight, &pages)?;
                    let seen = until.saturating_duration_since(open.arrived);
                    self.report.add(open.request, &served, Some(seen));
                }
            }
        }
        if ended && self.open.is_empty() {
            self.settle();
        } else if !ended && !begun_one {
            let now = Instant::now();
            self.engine.controller.wait(wake.saturating_duration_since(now).max(Duration::from_micros(100)));
        }
        Ok(())
    }

    /// Begins the next request, if it is time and there is room.
    fn begin_next(&mut self) -> bool {
        let Some(request) = self.requests.get(self.next) else { return false };
        if self.open.len() >= self.play.concurrency.max(1) {
            return false;
        }
        let mut arrived = Instant::now();
        if let Some(speed) = self.play.speed {
            let due = Duration::try_from_secs_f64(request.timestamp_ms as f64 / 1e3 / speed);
            let due = self.begun.checked_add(due.unwrap_or(Duration::MAX)).unwrap_or(arrived);
            if due > arrived {
                if self.open.is_empty() {
                    self.engine.controller.wait((due - arrived).min(Duration::from_millis(100)));
                }
                return false;
            }
            // It has waited since then for others to make room.
            arrived = due;
        }
        (self.before)(self.next);
        let flight = self.engine.begin(&self.next.to_string(), &request.blocks);
        self.open.push_back(Open { request, arrived, flight, computing: None });
        self.next += 1;
        true
    }

    fn look(&mut self, open: &mut Open<'_>, others_compute: bool) -> Result<Look> {
        let now = Instant::now();
        if let Some((_, until)) = &open.computing {
            return Ok(if *until <= now { Look::Computed } else { Look::Later(Some(*until)) });
        }
        match self.engine.advance(&mut open.flight)? {
            Step::Waiting => Ok(Look::Later(None)),
            // There will be room when another one ends.
            Step::Full if others_compute => Ok(Look::Later(None)),
            Step::Full => Ok(Look::Refused),
            Step::Ready(pages) => {
                let micros = pages.len() as u64 * PAGE_TOKENS * self.play.compute_us;
                let time = self.play.speed.map(|speed| Duration::from_micros(micros).div_f64(speed));
                let until = self.device_free.max(Instant::now()) + time.unwrap_or_default();
                self.device_free = until;
                open.computing = Some((pages, until));
                Ok(match time {
                    None => Look::Computed,
                    Some(_) => Look::Later(Some(until)),
                })
            }
        }
    }

    /// What is queued behind a request may not grow without bound.
    fn settle(&mut self) {
        match self.play.most_backlog_pages {
            None => _ = self.engine.controller.drain(LONG),
            Some(most) => {
                let until = Instant::now() + LONG;
                while self.engine.controller.backlog_pages() > most && Instant::now() < until {
                    self.engine.controller.wait(Duration::from_millis(100));
                }
            }
        }
    }
}

/// What became of a look at a request.
enum Look {
    /// Nothing before then, or before something has ended.
    Later(Option<Instant>),
    /// It is over.
    Computed,
    /// It is over: the device has no room for it.
    Refused,
}
