//! What a round costs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::allocations::allocations;

/// Of one round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Measure {
    pub(super) seconds: f64,
    /// Of all threads, the kernel's for them included.
    pub(super) cpu_seconds: f64,
    pub(super) bytes: u64,
    pub(super) pages: u64,
    pub(super) allocations: u64,
    /// Figures that only some kinds of work have, by name with their unit last.
    pub(super) figures: BTreeMap<String, f64>,
}

impl Measure {
    pub(super) fn gigabytes_a_second(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e9
    }

    pub(super) fn cpu_seconds_a_gigabyte(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / 1e9)
    }

    pub(super) fn allocations_a_page(&self) -> f64 {
        self.allocations as f64 / self.pages.max(1) as f64
    }
}

/// Runs between two looks at the clocks.
#[derive(Debug)]
pub(super) struct Stopwatch {
    began: Instant,
    cpu: Duration,
    allocations: u64,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self { cpu: cpu(), allocations: allocations(), began: Instant::now() }
    }

    pub(super) fn stop(&self, bytes: u64, pages: u64) -> Measure {
        Measure {
            seconds: self.began.elapsed().as_secs_f64(),
            cpu_seconds: (cpu().saturating_sub(self.cpu)).as_secs_f64(),
            bytes,
            pages,
            allocations: allocations() - self.allocations,
            figures: BTreeMap::new(),
        }
    }
}

/// User and system time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The middle one.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Below how much a share of the values lies.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 - 1.0) * share).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}
