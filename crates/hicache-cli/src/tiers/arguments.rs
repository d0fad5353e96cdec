//! What `--tiers` is asked.

use clap::Args;
use hicache::controller::{Layout, PrefetchPolicy, WritePolicy};

fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    (value > 0.0 && value <= 1000.0)
        .then_some(value)
        .ok_or_else(|| format!("{text} is not above 0 and at most 1000"))
}

/// Arguments of `hicache replay` for the tiers.
#[derive(Clone, Debug, Args)]
pub struct TierArguments {
    /// Play the requests through the controller: device, host memory and storage
    ///
    /// What is on the device is used, the rest is prefetched from storage, loaded layer by layer and compared byte by
    /// byte on the device; what is missing is computed, which with --realtime takes modelled time on one device, and
    /// written through. With --concurrency several requests are worked on at once; the ideal is of one after the other.
    #[arg(long, help_heading = "Tiers", conflicts_with_all = ["acknowledged", "check_acknowledged", "policies"])]
    pub(crate) tiers: bool,
    /// Pages on the device, in percent of the different pages
    #[arg(long, value_name = "PERCENT", default_value = "2", value_parser = percent, help_heading = "Tiers")]
    pub(crate) device_percent: f64,
    /// Pages in host memory, likewise
    #[arg(long, value_name = "PERCENT", default_value = "8", value_parser = percent, help_heading = "Tiers")]
    pub(crate) host_percent: f64,
    /// Pages in storage, likewise; --capacity says it in bytes
    #[arg(long, value_name = "PERCENT", default_value = "40", value_parser = percent, help_heading = "Tiers")]
    pub(crate) storage_percent: f64,
    /// Layout of the host pool: layer_first, page_first, page_first_direct or page_head
    #[arg(long, value_name = "LAYOUT", default_value = "page_first", help_heading = "Tiers")]
    pub(crate) host_layout: Layout,
    /// When pages are written to the host: write_through, write_through_selective or write_back
    #[arg(long, value_name = "POLICY", default_value = "write_through", help_heading = "Tiers")]
    pub(crate) write_policy: WritePolicy,
    /// When a request stops waiting for storage: best_effort, wait_complete or timeout
    #[arg(long, value_name = "POLICY", default_value = "wait_complete", help_heading = "Tiers")]
    pub(crate) prefetch_policy: PrefetchPolicy,
    /// Modelled time of computing, in microseconds a token
    #[arg(long, value_name = "US", default_value_t = 50, help_heading = "Tiers")]
    pub(crate) compute_us: u64,
}
