//! Workloads through device, host and storage with faults of storage and device the whole way.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hicache::controller::{Layout, PrefetchPolicy, WritePolicy};
use hicache::core::{CpuDevice, DeviceFault};
use hicache::{ErrorKind, MemoryStorage, Namespace, Storage};
use hicache_cli::tiers::{TierPlay, TierReport, TierSizes, play_tiers};
use hicache_cli::workload::{Request, Synthetic, SyntheticConfig, TraceReader};
use hicache_core::Engine;
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_posix_uring::{PreadConfig, PreadEngine};
use hicache_testkit::{EngineFault, FaultPlan, FaultyEngine, FaultyStorage, StorageFault};
use hicache_tests::{argument, say, trace};

const PAGE: usize = 4096;

/// One at a time: they compare times.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What storage and device may take here before they count as lost.
const TIMEOUT: Duration = Duration::from_millis(250);

/// The first requests of the trace, with `whole=1` all of them; or as many made-up ones as make a test of it.
fn requests() -> Vec<Request> {
    let most = if argument("whole").is_some() { usize::MAX } else { 2_000 };
    match trace() {
        Some(path) => TraceReader::open(path).unwrap().take(most).collect::<Result<_, _>>().unwrap(),
        None => Synthetic::new(SyntheticConfig::default()).unwrap().collect(),
    }
}

/// How many different pages there are.
fn unique(requests: &[Request]) -> usize {
    let blocks = requests.iter().flat_map(|request| &request.blocks);
    blocks.collect::<std::collections::HashSet<_>>().len()
}

/// Plays all requests; `before` is told of each. Also how many requests a second the last tenth made.
fn play(
    requests: &[Request],
    concurrency: usize,
    storage: Arc<dyn Storage>,
    device: Arc<CpuDevice>,
    mut before: impl FnMut(usize),
) -> (TierReport, f64) {
    let unique = unique(requests);
    let pages = |percent: usize| (unique * percent / 100).max(300);
    let play = TierPlay {
        sizes: TierSizes { device_pages: pages(2), host_pages: pages(8).max(700), storage_pages: pages(40) },
        page_bytes: PAGE,
        host_layout: Layout::PageFirst,
        write_policy: WritePolicy::WriteThrough,
        prefetch_policy: PrefetchPolicy::WaitComplete,
        compute_us: 50,
        speed: None,
        concurrency,
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
    let bytes = unique(requests) as u64 * 40 / 100 * PAGE as u64;
    FaultyStorage::new(Arc::new(MemoryStorage::with_capacity(bytes)), FaultPlan::none())
}

/// What goes wrong, and when.
trait Trouble {
    /// From the first request on.
    fn begin(&self);
    /// The backend dies, or comes back.
    fn set_down(&self, down: bool);
    /// Nothing goes wrong any more.
    fn end(&self);
    /// What was lost lets go of its memory.
    fn release(&self);
    fn injected(&self) -> u64;
}

/// Plays the requests without faults and with them: faults until three quarters, the backend dead for a tenth in the
/// middle, then nothing goes wrong any more.
fn with_and_without(
    requests: &[Request],
    concurrency: usize,
    clean: Arc<dyn Storage>,
    storage: Arc<dyn Storage>,
    trouble: &dyn Trouble,
) {
    let (clean, clean_rate) = play(requests, concurrency, clean, CpuDevice::poisoning(), |_| ());
    assert_eq!((clean.corrupt_pages, clean.leaked_pages, clean.abandoned_pages), (0, 0, 0));
    let device = CpuDevice::poisoning();
    let total = requests.len();
    let before = |number: usize| {
        if number == 0 {
            trouble.begin();
            device.set_faults(device_faults());
        }
        if number == total * 2 / 5 {
            trouble.set_down(true);
        }
        if number == total / 2 {
            trouble.set_down(false);
        }
        if number == total * 3 / 4 {
            trouble.end();
            device.clear_faults();
        }
        if number == total * 4 / 5 {
            trouble.release();
            device.release_lost();
        }
    };
    let begun = Instant::now();
    let (report, rate) = play(requests, concurrency, storage, Arc::clone(&device), before);
    say(&format!(
        "{} requests, {} faults of storage, {} of the device in {:.1} s; hits {:?}, without faults {:?}; {rate:.0} \
         requests a second at the end, {clean_rate:.0} without faults; {} loads failed, {} pages abandoned",
        total,
        trouble.injected(),
        device.injected(),
        begun.elapsed().as_secs_f64(),
        report.hits,
        clean.hits,
        report.failed_loads,
        report.abandoned_pages,
    ));
    assert!(trouble.injected() > 100 && device.injected() > 100);
    assert_eq!((report.corrupt_pages, report.leaked_pages), (0, 0));
    assert_eq!(report.abandoned_pages, 0, "all that was lost has let go by then");
    assert!(report.drained);
    let all =
        |report: &TierReport| report.hits.device_pages + report.hits.host_pages + report.hits.storage_pages;
    // Storage is cut off for a time that does not shrink with the workload.
    let share = if argument("whole").is_some() { 2 } else { 5 };
    assert!(all(&report) * share > all(&clean), "most is found all the same");
    assert!(report.hits.storage_pages > 0, "storage is used");
    assert!(
        // What was not stored is being stored, and other programs come and go: this only tells that nothing is stuck.
        rate * 10.0 > clean_rate,
        "{rate:.0} requests a second afterwards, {clean_rate:.0} without faults"
    );
}

impl Trouble for FaultyStorage {
    fn begin(&self) {
        self.set_plan(FaultPlan::custom(storage_faults()));
    }
    fn set_down(&self, down: bool) {
        self.set_down(down);
    }
    fn end(&self) {
        self.set_plan(FaultPlan::none());
    }
    fn release(&self) {
        self.release_lost();
    }
    fn injected(&self) -> u64 {
        self.injected()
    }
}

#[test]
fn faults_the_whole_way_cost_hits_and_nothing_else() {
    let _alone = alone();
    let requests = requests();
    let storage = memory(&requests);
    with_and_without(&requests, 1, memory(&requests), Arc::clone(&storage) as _, &*storage);
}

/// A page store over an engine that fails, in a directory of its own.
struct FaultyStore {
    engine: Arc<FaultyEngine>,
    down: Arc<AtomicBool>,
}

impl Trouble for FaultyStore {
    fn begin(&self) {
        self.engine.set_plan(FaultPlan::custom(engine_faults(Arc::clone(&self.down))));
    }
    fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Release);
    }
    fn end(&self) {
        self.engine.set_plan(FaultPlan::none());
    }
    fn release(&self) {
        self.engine.release_lost();
    }
    fn injected(&self) -> u64 {
        self.engine.injected().total()
    }
}

#[test]
fn faults_of_an_engine_below_the_page_store_likewise() {
    let _alone = alone();
    let requests = requests();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let open = |directory: &Path, engine: Arc<dyn Engine>| {
        let mut config = PageStoreConfig::new([directory.to_owned()], Namespace::new("tiers"));
        config.capacity_bytes = Some((unique(&requests) * 40 / 100 * PAGE) as u64 + (16 << 20));
        (config.segment_bytes, config.io_timeout_ms) = (4 << 20, TIMEOUT.as_millis() as u64 / 2);
        runtime.block_on(PageStore::open(config, vec![engine])).unwrap()
    };
    let pread = || Arc::new(PreadEngine::open(PreadConfig::default()).unwrap());
    let engine = FaultyEngine::new(pread(), FaultPlan::none());
    let clean = open(directories[0].path(), pread());
    let store = open(directories[1].path(), Arc::clone(&engine) as _);
    let trouble = FaultyStore { engine, down: Arc::default() };
    with_and_without(&requests, 4, Arc::clone(&clean) as _, Arc::clone(&store) as _, &trouble);
    for store in [clean, store] {
        runtime.block_on(store.close()).unwrap();
    }
}

/// As of [`storage_faults`], for every extent, and bits turned over, which checksums find.
fn engine_faults(
    down: Arc<AtomicBool>,
) -> impl FnMut(&hicache_testkit::Operation) -> Option<EngineFault> + Send {
    let mut dice = Dice(3);
    move |_| match dice.roll() {
        _ if down.load(Ordering::Acquire) => Some(EngineFault::Fail { errno: 5, after_moving: false }),
        0..500 => Some(EngineFault::Fail { errno: 5, after_moving: false }),
        500..1000 => Some(EngineFault::LateStart(Duration::from_millis(1))),
        1000..1003 => Some(EngineFault::NeverSubmitted),
        1003..1005 => Some(EngineFault::Swallowed),
        1005..1008 => Some(EngineFault::Dropped),
        1008..1018 => Some(EngineFault::Corrupt { bit: 77 }),
        _ => None,
    }
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
