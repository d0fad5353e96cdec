//! What came of a replay through the tiers.

use std::time::Duration;

use hicache::controller::Account;
use serde::Serialize;

use super::engine::Served;
use super::{TierHits, TierPlay, TierSizes};
use crate::exit::{Exit, Failure};
use crate::output::{Output, align_numbers, count, size, table};
use crate::workload::Request;

/// Tokens of a page.
const PAGE_TOKENS: u64 = 512;

/// The result. Tokens are pages of 512.
#[derive(Clone, Debug, Serialize)]
pub struct TierReport {
    /// Sizes of the tiers.
    pub sizes: TierSizes,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Requests played.
    pub requests: u64,
    /// Requests for which the device had no room.
    pub refused_requests: u64,
    /// Pages of all requests.
    pub pages: u64,
    /// Pages found, by tier.
    pub hits: TierHits,
    /// What the ideal simulation finds.
    pub ideal: TierHits,
    /// Pages computed.
    pub computed_pages: u64,
    /// Pages that storage had when it was asked, and those of them that were there in time.
    pub storage_found_pages: u64,
    /// Pages found on the device or brought there whose bytes were wrong.
    pub corrupt_pages: u64,
    /// Host pages that nobody has, and device pages likewise, at the end.
    pub leaked_pages: u64,
    /// Pages whose memory lost operations may still touch.
    pub abandoned_pages: u64,
    /// Loads to the device that failed.
    pub failed_loads: u64,
    /// Whether everything came to an end.
    pub drained: bool,
    /// Bytes brought from storage, from host to device.
    pub storage_bytes: u64,
    /// Bytes brought from host to device.
    pub loaded_bytes: u64,
    /// Mean time to the first token, in ms: modelled time of computing, and measured time of prefetching and loading, as
    /// if no request waited for another.
    pub first_token_ms: FirstToken,
    /// Requests in flight at once, at most.
    pub concurrency: usize,
    /// In real time: how many times as fast.
    pub speed: Option<f64>,
    /// In real time: mean time from arrival to first token as the clock shows it, in ms, with computing as fast as `speed`
    /// makes it, and waiting for others.
    pub first_token_seen_ms: Option<f64>,
    /// Time of playing.
    pub seconds: f64,
    /// The controller's figures, as Prometheus reads them.
    pub metrics: String,
    #[serde(skip)]
    compute_us: u64,
    #[serde(skip)]
    sums_ms: FirstToken,
    /// Sum and number.
    #[serde(skip)]
    seen_ms: (f64, u64),
}

/// Time to the first token with all tiers, and with fewer.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct FirstToken {
    /// With all three tiers.
    pub all: f64,
    /// Without storage.
    pub without_storage: f64,
    /// With the device alone.
    pub device_only: f64,
    /// Everything computed.
    pub no_cache: f64,
}

impl TierReport {
    pub(super) fn new(play: &TierPlay) -> Self {
        Self {
            sizes: play.sizes,
            page_bytes: play.page_bytes,
            requests: 0,
            refused_requests: 0,
            pages: 0,
            hits: TierHits::default(),
            ideal: TierHits::default(),
            computed_pages: 0,
            storage_found_pages: 0,
            corrupt_pages: 0,
            leaked_pages: 0,
            abandoned_pages: 0,
            failed_loads: 0,
            drained: false,
            storage_bytes: 0,
            loaded_bytes: 0,
            first_token_ms: FirstToken::default(),
            concurrency: play.concurrency,
            speed: play.speed,
            first_token_seen_ms: None,
            seconds: 0.0,
            metrics: String::new(),
            compute_us: play.compute_us,
            sums_ms: FirstToken::default(),
            seen_ms: (0.0, 0),
        }
    }

    /// A request has ended; `seen` from its arrival to its first token.
    pub(super) fn add(&mut self, request: &Request, served: &Served, seen: Option<Duration>) {
        if let (Some(_), Some(seen)) = (self.speed, seen) {
            self.seen_ms.0 += seen.as_secs_f64() * 1e3;
            self.seen_ms.1 += 1;
        }
        self.requests += 1;
        self.refused_requests += u64::from(served.refused);
        self.pages += request.blocks.len() as u64;
        self.hits.device_pages += served.device_pages;
        self.hits.host_pages += served.host_pages;
        self.hits.storage_pages += served.storage_pages;
        self.storage_found_pages += served.storage_found_pages;
        self.computed_pages += served.computed_pages;
        self.corrupt_pages += served.corrupt_pages;
        self.failed_loads += served.failed_loads;
        self.storage_bytes += served.storage_pages * self.page_bytes as u64;
        self.loaded_bytes += (served.storage_pages + served.host_pages) * self.page_bytes as u64;
        let compute = |pages: u64| (pages * PAGE_TOKENS * self.compute_us) as f64 / 1e3;
        let (prefetch, load) =
            (served.prefetch_time.as_secs_f64() * 1e3, served.load_time.as_secs_f64() * 1e3);
        let below = served.host_pages + served.storage_pages;
        // Of the measured time of loading, the share of the pages that would still be loaded.
        let share = if below == 0 { 0.0 } else { served.host_pages as f64 / below as f64 };
        let computed = served.computed_pages;
        let sums = &mut self.sums_ms;
        sums.all += compute(computed) + prefetch + load;
        sums.without_storage += compute(computed + served.storage_pages) + load * share;
        sums.device_only += compute(computed + below);
        sums.no_cache += compute(request.blocks.len() as u64);
    }

    pub(super) fn ended(&mut self, account: &Account, drained: bool) {
        self.drained = drained;
        self.leaked_pages = (account.leaked_host_pages + account.held_device_pages) as u64;
        self.abandoned_pages = account.abandoned_pages as u64;
        let (seen, number) = self.seen_ms;
        self.first_token_seen_ms = (number > 0).then(|| seen / number as f64);
        let requests = self.requests.max(1) as f64;
        self.first_token_ms = FirstToken {
            all: self.sums_ms.all / requests,
            without_storage: self.sums_ms.without_storage / requests,
            device_only: self.sums_ms.device_only / requests,
            no_cache: self.sums_ms.no_cache / requests,
        };
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            report if report.corrupt_pages > 0 => Exit::Wrong,
            report if report.leaked_pages > 0 || !report.drained => Exit::Failed,
            _ => Exit::Good,
        }
    }

    /// Writes it as tables.
    pub(crate) fn show(&self, output: &mut Output) -> Result<(), Failure> {
        let mut rows = table(["tier", "slots", "hit tokens", "ideal", "of ideal", "of all"]);
        let rows_of = [
            ("device", self.sizes.device_pages, self.hits.device_pages, self.ideal.device_pages),
            ("host", self.sizes.host_pages, self.hits.host_pages, self.ideal.host_pages),
            ("storage", self.sizes.storage_pages, self.hits.storage_pages, self.ideal.storage_pages),
        ];
        let share = |part: u64, whole: u64| match whole {
            0 => String::new(),
            whole => format!("{:.2} %", part as f64 / whole as f64 * 100.0),
        };
        for (tier, slots, hits, ideal) in rows_of {
            rows.add_row([
                tier.to_owned(),
                count(slots as u64),
                count(hits * PAGE_TOKENS),
                count(ideal * PAGE_TOKENS),
                share(hits, ideal),
                share(hits, self.pages),
            ]);
        }
        align_numbers(&mut rows, 1);
        output.line(rows)?;
        output.line(format_args!(
            "{} requests ({} refused), {} pages computed; {} loaded to the device, {} of it from storage; {:.1} s",
            count(self.requests),
            count(self.refused_requests),
            count(self.computed_pages),
            size(self.loaded_bytes),
            size(self.storage_bytes),
            self.seconds
        ))?;
        let first = self.first_token_ms;
        output.line(format_args!(
            "time to the first token, mean: {:.1} ms; without storage {:.1}, device alone {:.1}, no cache {:.1}",
            first.all, first.without_storage, first.device_only, first.no_cache
        ))?;
        if let (Some(seen), Some(speed)) = (self.first_token_seen_ms, self.speed) {
            output.line(format_args!(
                "in real time, {speed} times as fast, at most {} requests in flight: {seen:.1} ms to the first token",
                self.concurrency
            ))?;
        }
        output.line(format_args!(
            "prefetch in time: {} of {} pages; corrupt {}, leaked {}, abandoned {}, failed loads {}{}",
            count(self.hits.storage_pages),
            count(self.storage_found_pages),
            count(self.corrupt_pages),
            count(self.leaked_pages),
            count(self.abandoned_pages),
            count(self.failed_loads),
            if self.drained { "" } else { "; operations are still in flight" }
        ))
    }
}
