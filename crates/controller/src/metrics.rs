//! Counters and times of a controller, in the text form that Prometheus reads.

use std::time::Duration;

use hicache_core::{Error, ErrorKind, Result};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

type Labels = Vec<(&'static str, &'static str)>;

/// Seconds, from 10 µs to 20 s.
const BUCKETS: [f64; 14] = [1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0];

/// Figures of a controller.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    hit_pages: Family<Labels, Counter>,
    missed_pages: Family<Labels, Counter>,
    moved_pages: Family<Labels, Counter>,
    moved_bytes: Family<Labels, Counter>,
    failed_pages: Family<Labels, Counter>,
    evicted_pages: Family<Labels, Counter>,
    prefetches: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram>,
    pool_pages: Family<Labels, Gauge>,
    queued: Family<Labels, Gauge>,
    breaker_opened: Family<Labels, Counter>,
    worker_failures: Counter,
    prefetch_used_pages: Counter,
    computed_pages: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("hicache_controller");
        let mut family = |name: &str, help: &str| {
            let family = Family::<Labels, Counter>::default();
            registry.register(name, help, family.clone());
            family
        };
        let hit_pages = family("hit_pages", "Pages of prompts that were found, by tier");
        let missed_pages = family("missed_pages", "Pages that storage was not used for, by cause");
        let moved_pages = family("moved_pages", "Pages moved, by operation");
        let moved_bytes = family("moved_bytes", "Bytes moved, by operation");
        let failed_pages = family("failed_pages", "Pages that were not moved, by operation and cause");
        let evicted_pages = family("evicted_pages", "Pages evicted, by tier");
        let prefetches = family("prefetches", "Prefetches, by what became of them");
        let breaker_opened = family("breaker_opened", "How often storage was cut off, by direction");
        let seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit("operation", "Time of operations", Unit::Seconds, seconds.clone());
        let gauges =
            [("pool_pages", "Pages of the pools, by pool and state"), ("queued", "What waits, by queue")];
        let [pool_pages, queued] = gauges.map(|(name, help)| {
            let family = Family::<Labels, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        });
        let [worker_failures, prefetch_used_pages, computed_pages] = [(); 3].map(|()| Counter::default());
        registry.register("worker_failures", "Workers that panicked", worker_failures.clone());
        let help = "Prefetched pages that were then used";
        registry.register("prefetch_used_pages", help, prefetch_used_pages.clone());
        registry.register("computed_pages", "Pages of prompts that were computed", computed_pages.clone());
        Self {
            registry,
            hit_pages,
            missed_pages,
            moved_pages,
            moved_bytes,
            failed_pages,
            evicted_pages,
            prefetches,
            seconds,
            pool_pages,
            queued,
            breaker_opened,
            worker_failures,
            prefetch_used_pages,
            computed_pages,
        }
    }

    /// All of them, as Prometheus scrapes them.
    ///
    /// # Errors
    /// `Unexpected` if the text can't be written.
    pub fn text(&self) -> Result<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(|source| {
            Error::new(ErrorKind::Unexpected, "the metrics can't be written").with_source(source)
        })?;
        Ok(text)
    }

    pub(crate) fn hits(&self, tier: &'static str, pages: usize) {
        self.hit_pages.get_or_create(&vec![("tier", tier)]).inc_by(pages as u64);
    }

    pub(crate) fn missed(&self, cause: &'static str, pages: usize) {
        if pages == 0 {
            return;
        }
        self.missed_pages.get_or_create(&vec![("cause", cause)]).inc_by(pages as u64);
    }

    pub(crate) fn computed(&self, pages: usize) {
        self.computed_pages.inc_by(pages as u64);
    }

    pub(crate) fn moved(&self, operation: &'static str, pages: usize, page_bytes: usize, time: Duration) {
        let labels = vec![("operation", operation)];
        self.moved_pages.get_or_create(&labels).inc_by(pages as u64);
        self.moved_bytes.get_or_create(&labels).inc_by((pages * page_bytes) as u64);
        self.seconds.get_or_create(&labels).observe(time.as_secs_f64());
    }

    pub(crate) fn failed(&self, operation: &'static str, cause: &'static str, pages: usize) {
        if pages > 0 {
            let labels = vec![("operation", operation), ("cause", cause)];
            self.failed_pages.get_or_create(&labels).inc_by(pages as u64);
        }
    }

    pub(crate) fn evicted(&self, tier: &'static str, pages: usize) {
        self.evicted_pages.get_or_create(&vec![("tier", tier)]).inc_by(pages as u64);
    }

    pub(crate) fn prefetch(&self, outcome: &'static str) {
        self.prefetches.get_or_create(&vec![("outcome", outcome)]).inc();
    }

    pub(crate) fn prefetch_used(&self, pages: usize) {
        self.prefetch_used_pages.inc_by(pages as u64);
    }

    pub(crate) fn breaker_opened(&self, direction: &'static str) {
        self.breaker_opened.get_or_create(&vec![("direction", direction)]).inc();
    }

    pub(crate) fn worker_failed(&self) {
        self.worker_failures.inc();
    }

    pub(crate) fn pool(&self, pool: &'static str, state: &'static str, pages: usize) {
        let labels = vec![("pool", pool), ("state", state)];
        self.pool_pages.get_or_create(&labels).set(i64::try_from(pages).unwrap_or(i64::MAX));
    }

    pub(crate) fn queue(&self, queue: &'static str, depth: usize) {
        let labels = vec![("queue", queue)];
        self.queued.get_or_create(&labels).set(i64::try_from(depth).unwrap_or(i64::MAX));
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}
