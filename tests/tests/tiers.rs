//! Workloads through device, host and storage: the recorded trace beside an ideal simulation, and with faults on storage
//! and device the whole way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hicache::controller::{Layout, PrefetchPolicy, WritePolicy};
use hicache::core::{CpuDevice, DeviceFault};
use hicache::{ErrorKind, MemoryStorage, Namespace};
use hicache_cli::tiers::{TierPlay, TierReport, TierSizes, play_tiers};
use hicache_cli::workload::{Request, Synthetic, SyntheticConfig, TraceReader};
use hicache_testkit::{FaultPlan, FaultyStorage, StorageFault};
use hicache_tests::{hicache, json, number, say, trace};
use serde_json::Value;

const PAGE: usize = 4096;
/// One at a time: one of them compares times.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What storage and device may take here before they count as lost.
const TIMEOUT: Duration = Duration::from_millis(250);

fn within_one_percent(report: &Value) {
    for tier in ["device_pages", "host_pages", "storage_pages"] {
        let (hits, ideal) = (number(&report["hits"], tier), number(&report["ideal"], tier));
        say(&format!("{tier}: {hits}, ideal {ideal}"));
        assert!(ideal > 0 && hits.abs_diff(ideal) * 100 <= ideal, "{tier}: {hits}, ideal {ideal}");
    }
    for field in ["corrupt_pages", "leaked_pages", "abandoned_pages", "refused_requests", "failed_loads"] {
        assert_eq!(number(report, field), 0, "{field}");
    }
    assert_eq!(report["drained"], true);
}

#[test]
fn the_trace_finds_what_an_ideal_simulation_finds() {
    let _alone = alone();
    let Some(trace) = trace() else { return };
    let mut command = hicache();
    command.args(["replay", "--tiers", "--json", "--page-bytes", "16384", "--trace"]).arg(trace);
    let (report, code) = json(&mut command);
    say(&format!("{} s, time to the first token in ms: {}", report["seconds"], report["first_token_ms"]));
    assert_eq!(code, Some(0));
    within_one_percent(&report);
    assert_eq!(number(&report, "requests"), 12_031);
}

#[test]
fn made_up_conversations_likewise_in_every_layout() {
    let _alone = alone();
    for layout in Layout::ALL {
        let mut command = hicache();
        command.args([
            "replay",
            "--tiers",
            "--json",
            "--synthetic",
            "--requests",
            "400",
            "--page-bytes",
            "4096",
        ]);
        command.args(["--host-layout", layout.as_str()]);
        let (report, code) = json(&mut command);
        assert_eq!(code, Some(0), "{layout}");
        within_one_percent(&report);
    }
}

#[test]
fn bad_input_is_refused() {
    for (arguments, words) in [
        (["--host-layout", "page_last"], "page_first_direct"),
        (["--write-policy", "never"], "write_back"),
        (["--page-bytes", "1000"], "multiple of 32"),
        (["--concurrency", "4"], "one at a time"),
        (["--host-percent", "2"], "must be larger"),
    ] {
        let mut command = hicache();
        let output =
            command.args(["replay", "--tiers", "--requests", "10"]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(words), "{arguments:?}: {text}");
    }
}

/// The trace, or as many made-up requests as make a test of it.
fn requests() -> Vec<Request> {
    match trace() {
        Some(path) => TraceReader::open(path).unwrap().collect::<Result<_, _>>().unwrap(),
        None => Synthetic::new(SyntheticConfig::default()).unwrap().collect(),
    }
}

/// Plays all requests; `before` is told of each. Also how many requests a second the last tenth made.
fn play(
    requests: &[Request],
    storage: Arc<FaultyStorage>,
    device: Arc<CpuDevice>,
    mut before: impl FnMut(usize),
) -> (TierReport, f64) {
    let unique: std::collections::HashSet<u64> =
        requests.iter().flat_map(|request| &request.blocks).copied().collect();
    let pages = |percent: usize| (unique.len() * percent / 100).max(300);
    let play = TierPlay {
        sizes: TierSizes { device_pages: pages(2), host_pages: pages(8).max(700), storage_pages: pages(40) },
        page_bytes: PAGE,
        host_layout: Layout::PageFirst,
        write_policy: WritePolicy::WriteThrough,
        prefetch_policy: PrefetchPolicy::WaitComplete,
        compute_us: 50,
        realtime: false,
        most_backlog_pages: Some(512),
        timeout: TIMEOUT,
        namespace: Namespace::new("tiers"),
    };
    let last = requests.len() * 9 / 10;
    let mut since = Instant::now();
    let report = play_tiers(requests, &play, device, storage, |number| {
        before(number);
        if number == last {
            since = Instant::now();
        }
    })
    .unwrap();
    (report, (requests.len() - last) as f64 / since.elapsed().as_secs_f64())
}

fn memory(requests: &[Request]) -> Arc<FaultyStorage> {
    let unique: std::collections::HashSet<u64> =
        requests.iter().flat_map(|request| &request.blocks).copied().collect();
    let bytes = unique.len() as u64 * 40 / 100 * PAGE as u64;
    FaultyStorage::new(Arc::new(MemoryStorage::with_capacity(bytes)), FaultPlan::none())
}

#[test]
fn faults_the_whole_way_cost_hits_and_nothing_else() {
    let _alone = alone();
    let requests = requests();
    let (clean, clean_rate) = play(&requests, memory(&requests), CpuDevice::poisoning(), |_| ());
    assert_eq!((clean.corrupt_pages, clean.leaked_pages, clean.abandoned_pages), (0, 0, 0));

    let (storage, device) = (memory(&requests), CpuDevice::poisoning());
    let total = requests.len();
    // Faults until four fifths, the backend dead for a tenth in the middle; then nothing goes wrong any more.
    let (faulty, faulty_device) = (Arc::clone(&storage), Arc::clone(&device));
    let before = move |number: usize| {
        if number == 0 {
            faulty.set_plan(FaultPlan::custom(storage_faults()));
            faulty_device.set_faults(device_faults());
        }
        if number == total * 2 / 5 {
            faulty.set_down(true);
        }
        if number == total / 2 {
            faulty.set_down(false);
        }
        if number == total * 3 / 4 {
            faulty.set_plan(FaultPlan::none());
            faulty_device.clear_faults();
        }
        if number == total * 4 / 5 {
            faulty.release_lost();
            faulty_device.release_lost();
        }
    };
    let begun = Instant::now();
    let (report, rate) = play(&requests, Arc::clone(&storage), Arc::clone(&device), before);
    say(&format!(
        "{} faults of storage, {} of the device in {:.1} s; hits {:?}, without faults {:?}; {rate:.0} requests a second \
         at the end, {clean_rate:.0} without faults; {} loads failed, {} pages abandoned",
        storage.injected(),
        device.injected(),
        begun.elapsed().as_secs_f64(),
        report.hits,
        clean.hits,
        report.failed_loads,
        report.abandoned_pages,
    ));
    assert!(storage.injected() > 100 && device.injected() > 100);
    assert_eq!((report.corrupt_pages, report.leaked_pages), (0, 0));
    assert_eq!(report.abandoned_pages, 0, "all that was lost has let go by then");
    assert!(report.drained);
    let all =
        |report: &TierReport| report.hits.device_pages + report.hits.host_pages + report.hits.storage_pages;
    assert!(all(&report) * 2 > all(&clean), "most is found all the same");
    assert!(
        rate * 2.0 > clean_rate,
        "{rate:.0} requests a second afterwards, {clean_rate:.0} without faults"
    );
}

/// 5 % fail, 5 % are late, a few are never submitted, never answered, or meet a panic.
fn storage_faults() -> impl FnMut(&hicache_testkit::Operation) -> Option<StorageFault> + Send {
    let mut dice = Dice(1);
    move |_| match dice.roll() {
        0..500 => Some(StorageFault::Fail(ErrorKind::Io)),
        500..1000 => Some(StorageFault::Late(Duration::from_millis(1))),
        1000..1003 => Some(StorageFault::NeverSubmitted),
        1003..1005 => Some(StorageFault::Swallowed),
        1005..1006 => Some(StorageFault::Panic),
        _ => None,
    }
}

fn device_faults() -> impl FnMut(&hicache::core::DeviceOperation) -> Option<DeviceFault> + Send {
    let mut dice = Dice(2);
    move |operation| match dice.roll() {
        0..300 => Some(DeviceFault::FailPage { page: operation.number as usize, step: 0 }),
        300..500 => Some(DeviceFault::Fail),
        500..1000 => Some(DeviceFault::LateStart(Duration::from_millis(1))),
        1000..1030 => Some(DeviceFault::NeverSubmitted),
        1030..1045 => Some(DeviceFault::Swallowed),
        _ => None,
    }
}

struct Dice(u64);

impl Dice {
    /// One of 10,000.
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % 10_000
    }
}
