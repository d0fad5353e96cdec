//! `hicache replay --tiers`: the workload through the controller, over a storage that is opened as for any replay.

use std::sync::Arc;
use std::time::Duration;

use hicache::core::CpuDevice;

use super::replay::Place;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::progress::Progress;
use crate::replay::{ReplayArguments, Workload};
use crate::tiers::{TierPlay, TierReport, TierSizes, play_tiers, simulate_tiers};

/// What storage and the device are given before they count as lost.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn run(arguments: &ReplayArguments, output: &mut Output) -> Result<Exit, Failure> {
    let report = replay(arguments)?;
    if arguments.json {
        output.json(&report)?;
    } else {
        report.show(output)?;
    }
    Ok(report.exit())
}

fn replay(arguments: &ReplayArguments) -> Result<TierReport, Failure> {
    let tiers = &arguments.tiers;
    let workload = Workload::new(arguments)?;
    let pages = |percent: f64| ((workload.unique_pages as f64 * percent / 100.0).ceil() as usize).max(1);
    let sizes = TierSizes {
        device_pages: pages(tiers.device_percent),
        host_pages: pages(tiers.host_percent),
        storage_pages: pages(tiers.storage_percent),
    };
    let place = Place::new(&arguments.dir)?;
    let config = arguments.tier_config(&place.directories, sizes.storage_pages as u64)?;
    let runtime = super::runtime(0)?;
    let opened = runtime.block_on(hicache::open(&config))?;
    for note in opened.notes {
        tracing::warn!("{note}");
    }
    let storage = opened.storage;
    let settings = config.settings();
    let play = TierPlay {
        sizes,
        page_bytes: usize::try_from(settings.page_bytes.unwrap_or_default()).unwrap_or(usize::MAX),
        host_layout: tiers.host_layout,
        write_policy: tiers.write_policy,
        prefetch_policy: tiers.prefetch_policy,
        compute_us: tiers.compute_us,
        speed: arguments.speed(),
        concurrency: arguments.concurrency,
        // One after the other, each finds what the one before has stored, as the ideal does.
        most_backlog_pages: (arguments.realtime || arguments.concurrency > 1).then_some(usize::MAX),
        timeout: TIMEOUT,
        namespace: storage.namespace().or(settings.namespace.as_ref()).cloned().unwrap_or_else(|| {
            hicache::Namespace::new("replay-tiers") // The memory backend has none.
        }),
    };
    let progress = Progress::new("replay", workload.requests.len() as u64, "requests");
    let played = play_tiers(&workload.requests, &play, CpuDevice::poisoning(), Arc::clone(&storage), |_| {
        progress.advance(1)
    });
    let slots = storage.stat().slots;
    let closed = runtime.block_on(storage.close());
    let mut report = played?;
    closed?;
    // As many as the storage really had room for.
    if let Some(slots) = slots.and_then(|slots| usize::try_from(slots).ok()) {
        report.sizes.storage_pages = slots;
    }
    report.ideal = simulate_tiers(&workload.requests, report.sizes);
    Ok(report)
}
