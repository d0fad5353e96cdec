//! What the store costs: nothing when idle, and few syscalls a page.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use hicache::{Access, Config, Namespace, PageKey, PageRequest, Region, Storage, StoreOptions};
use hicache_tests::say;

const PAGE: usize = 512 << 10;
const BATCH: usize = 128;

async fn open(directory: &std::path::Path) -> Arc<dyn Storage> {
    let config = Config::builder()
        .storage_dir([directory])
        .namespace(&Namespace::new("idle"))
        .set("io", "direct")
        .set("capacity_bytes", 1_u64 << 30)
        .build()
        .unwrap();
    hicache::open(&config).await.unwrap().storage
}

fn batch(registration: &hicache::Registration, access: Access) -> Vec<PageRequest> {
    let request = |slot: usize| {
        let mut digest = [0; 32];
        let page = (Arc::as_ptr(registration.region()) as u64)
            ^ (slot as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        digest[..8].copy_from_slice(&page.to_le_bytes());
        PageRequest::new(PageKey::kv(digest), registration.page(slot, PAGE, access).unwrap())
    };
    (0..BATCH).map(request).collect()
}

/// Stores and loads several batches at a time, as SGLang's threads do.
async fn busy_round(storage: &Arc<dyn Storage>, registrations: &[hicache::Registration]) {
    let store =
        |registration| storage.store(batch(registration, Access::Write), StoreOptions { overwrite: true });
    let stores: Vec<_> = registrations.iter().map(store).collect();
    for stored in stores {
        assert_eq!(stored.await.leading_done(), BATCH);
    }
    let loads: Vec<_> = registrations.iter().map(|own| storage.load(batch(own, Access::Write))).collect();
    for loaded in loads {
        assert_eq!(loaded.await.leading_done(), BATCH);
    }
}

async fn round(storage: &Arc<dyn Storage>, registration: &hicache::Registration) {
    let options = StoreOptions { overwrite: true };
    let stored = storage.store(batch(registration, Access::Write), options).await;
    assert_eq!(stored.leading_done(), BATCH, "{:?}", stored.outcomes);
    drop(stored);
    let loaded = storage.load(batch(registration, Access::Write)).await;
    assert_eq!(loaded.leading_done(), BATCH, "{:?}", loaded.outcomes);
}

/// Voluntary and involuntary context switches of all threads but the test's own, and their CPU time in ticks.
fn activity() -> (u64, u64) {
    let own = fs::read_link("/proc/thread-self").unwrap();
    let (mut switches, mut ticks) = (0, 0);
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        if own.ends_with(task.file_name().unwrap()) || !name.starts_with("hicache") {
            continue;
        }
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        let numbers = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        switches += numbers.filter_map(|(_, number)| number.trim().parse::<u64>().ok()).sum::<u64>();
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    }
    (switches, ticks)
}

#[tokio::test]
async fn idle_costs_no_cpu() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path()).await;
    let region = Region::allocate(BATCH, PAGE).unwrap();
    let registration = storage.register(&region).unwrap();
    round(&storage, &registration).await;
    std::thread::sleep(Duration::from_millis(300));
    let (switches_before, ticks_before) = activity();
    assert!(switches_before > 0, "the store's threads were not found");
    std::thread::sleep(Duration::from_secs(3));
    let (switches, ticks) = activity();
    say(&format!(
        "idle for 3 s: {} wake-ups, {} ticks of CPU",
        switches - switches_before,
        ticks - ticks_before
    ));
    assert_eq!((switches, ticks), (switches_before, ticks_before));
    storage.close().await.unwrap();
}

/// Batches in flight while syscalls are counted: SGLang stores and loads from several threads at once.
const IN_FLIGHT: usize = 4;

/// Runs itself under strace with and without the batches; the difference is what they cost, all threads included.
#[test]
fn a_page_costs_less_than_a_tenth_of_a_syscall_each_way() {
    const ROUNDS: u64 = 8;
    let count = |name: &str| -> Option<u64> {
        let summary = tempfile::NamedTempFile::new().unwrap();
        let this = std::env::current_exe().unwrap();
        let status = std::process::Command::new("strace")
            .args(["-f", "-c", "-o"])
            .arg(summary.path())
            .arg(this)
            .args(["--exact", name, "--test-threads=1"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .ok()?;
        assert!(status.success(), "the batches failed under strace");
        let text = fs::read_to_string(summary.path()).unwrap();
        let total = text.lines().find(|line| line.trim_end().ends_with("total"))?;
        total.split_whitespace().nth(3).and_then(|calls| calls.parse().ok())
    };
    // Somebody else's load puts threads to sleep more often, and only adds: the least of three is the store's own.
    let least = |name: &str| (0..3).filter_map(|_| count(name)).min();
    let each = |name: &str, in_flight: usize| -> Option<f64> {
        let without = least(&format!("{name}_0"))?;
        let with = least(&format!("{name}_8"))?;
        let pages = ROUNDS * 2 * (BATCH * in_flight) as u64;
        Some(with.saturating_sub(without) as f64 / pages as f64)
    };
    let (Some(single), Some(several)) = (each("single_batches", 1), each("several_batches", IN_FLIGHT))
    else {
        say("went without: strace is not there, so syscalls were not counted");
        return;
    };
    say(&format!(
        "syscalls a page of 512 KiB with O_DIRECT in batches of 128, set and get: {several:.3} with {IN_FLIGHT} batches in \
         flight, {single:.3} with one"
    ));
    assert!(several <= 0.1, "{several} syscalls a page");
    assert!(single <= 0.2, "{single} syscalls a page with one batch in flight");
}

/// On a runtime that waits for nothing but its tasks: what it costs a caller to be woken through epoll is not the store's.
fn batches(rounds: u64, in_flight: usize) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run_batches(rounds, in_flight));
}

async fn run_batches(rounds: u64, in_flight: usize) {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path()).await;
    let regions: Vec<_> = (0..in_flight).map(|_| Region::allocate(BATCH, PAGE).unwrap()).collect();
    let registrations: Vec<_> = regions.iter().map(|region| storage.register(region).unwrap()).collect();
    // Segments are made and first written, and memory is registered, outside of what is counted.
    for _ in 0..2 + rounds {
        if let [registration] = &registrations[..] {
            round(&storage, registration).await;
        } else {
            busy_round(&storage, &registrations).await;
        }
    }
    storage.close().await.unwrap();
}

#[test]
fn single_batches_0() {
    batches(0, 1);
}

#[test]
fn single_batches_8() {
    batches(8, 1);
}

#[test]
fn several_batches_0() {
    batches(0, IN_FLIGHT);
}

#[test]
fn several_batches_8() {
    batches(8, IN_FLIGHT);
}
