//! Random damage to everything that a closed store leaves behind, over and over: the store opens, serves no wrong page,
//! goes on, and says what it found.

mod fixture;

use std::fs;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use fixture::wounds::Wounds;
use fixture::{Bench, PAGE, Page, config, copy_tree, keys, limited, namespace, pages, pread, say, seen_of};
use hicache_core::{ErrorKind, Namespace, Outcome, PageRequest, Storage, StoreOptions};
use hicache_page_store::{PageStore, PageStoreConfig, inspect};
use hicache_testkit::argument;

/// Rounds, unless `rounds=` says otherwise.
const ROUNDS: u64 = 60;
/// Longer than a round takes unless something hangs.
const MOST_SECONDS: u64 = 60;
/// A store with room for everything, and one that evicts.
const CAPACITIES: [u64; 2] = [64 << 20, TIGHT];
/// Room for what is there, for one copy of a set, and for few pages more.
const TIGHT: u64 = 5 << 20;
/// Versions of pages that the store has had, and those that the other namespace has of the same keys.
const OURS: RangeInclusive<u64> = 1..=4;
const THEIRS: RangeInclusive<u64> = 20..=20;

fn ours(root: &Path, capacity_bytes: u64) -> PageStoreConfig {
    PageStoreConfig { segment_bytes: 256 << 10, ..limited(root, capacity_bytes) }
}

fn theirs(root: &Path, capacity_bytes: u64) -> PageStoreConfig {
    PageStoreConfig { namespace: Namespace::new("others"), ..ours(root, capacity_bytes) }
}

fn long(number: u64) -> Page {
    Page { number, version: 1, bytes: 3 * PAGE + 100 }
}

fn of_version(version: u64, pages: Vec<Page>) -> Vec<Page> {
    pages.into_iter().map(|page| Page { version, ..page }).collect()
}

/// Every page that was ever stored.
fn everything() -> Vec<Page> {
    pages(0..300).into_iter().chain((400..430).map(long)).collect()
}

fn name_of(page: &Page) -> String {
    format!("name-{}", page.number)
}

fn named(page: &Page, memory: hicache_core::PageMemory) -> PageRequest {
    PageRequest::named(&name_of(page), memory).unwrap()
}

/// What stores leave behind that were killed: two sets of one namespace, one of another, snapshots, journals, names.
async fn image(directory: &Path, capacity_bytes: u64) {
    let live = directory.join("live");
    let open = |config| async { Bench::new(fixture::open(config, pread()).await, 64, 4 * PAGE) };
    let bench = open(ours(&live, capacity_bytes)).await;
    bench.store(&pages(0..120)).await;
    bench.store(&(400..420).map(long).collect::<Vec<_>>()).await;
    bench.store_with(&of_version(2, pages(0..40)), true).await;
    let requests =
        pages(500..520).iter().enumerate().map(|(i, p)| named(p, bench.full(i, *p).memory)).collect();
    let batch = bench.store.store(requests, StoreOptions::default()).await;
    assert!(batch.outcomes.iter().all(Outcome::is_done));
    drop(batch);
    bench.close().await;
    let bench = open(ours(&live, capacity_bytes)).await;
    let second = open(ours(&live, capacity_bytes)).await;
    let other = open(theirs(&live, capacity_bytes)).await;
    bench.store(&pages(120..160)).await;
    bench.store.delete(&keys(&pages(100..110))).await.unwrap();
    bench.store_with(&of_version(3, pages(10..20)), true).await;
    second.store(&pages(200..260)).await;
    second.store(&(420..430).map(long).collect::<Vec<_>>()).await;
    other.store(&of_version(20, pages(0..100))).await;
    copy_tree(&live, &directory.join("image"));
    for bench in [bench, second, other] {
        bench.close().await;
    }
    fs::remove_dir_all(live).unwrap();
}

/// Pages found, absent and corrupt.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    there: u64,
    absent: u64,
    corrupt: u64,
    /// Records, snapshots and pages that an opening found bad or lost, and refusals.
    counted: u64,
    refused: u64,
}

/// Loads pages under their keys, or under their names. Panics on any byte that was not stored under the key.
async fn load(bench: &Bench, pages: &[Page], by_name: bool, versions: RangeInclusive<u64>) -> Tally {
    let mut tally = Tally::default();
    for part in pages.chunks(bench.registration.region().slots()) {
        let requests = part.iter().enumerate().map(|(i, page)| {
            let memory = bench.blank(i, page.bytes);
            if by_name { named(page, memory) } else { PageRequest::new(page.key(), memory) }
        });
        let batch = bench.store.load(requests.collect()).await;
        for (page, got) in part.iter().zip(seen_of(part, &batch, versions.clone())) {
            match got {
                fixture::Got::Version(_) => tally.there += 1,
                fixture::Got::Absent => tally.absent += 1,
                fixture::Got::Failed(ErrorKind::Corrupt) => tally.corrupt += 1,
                fixture::Got::Failed(kind) => panic!("{page:?} failed: {kind}"),
            }
        }
    }
    tally
}

/// Opens; a refusal must be about the manifest, mend itself as it says, and leave another root usable.
async fn open(config: PageStoreConfig, manifest_was_hit: bool, refused: &mut u64) -> Bench {
    let root = &config.roots[0];
    let opened = PageStore::open(config.clone(), vec![pread()]).await;
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            assert!(manifest_was_hit, "refused with a good manifest: {error}");
            let text = error.to_string();
            let manifest = root.join(config.namespace.fingerprint().to_string()).join("MANIFEST");
            let named = text.contains(&manifest.display().to_string());
            assert!(error.kind() == ErrorKind::Config && named, "{text}");
            *refused += 1;
            let beside = PageStoreConfig { roots: vec![root.with_file_name("beside")], ..config.clone() };
            let beside = Bench::open(beside).await;
            beside.store(&pages(0..10)).await;
            beside.load_all(&pages(0..10)).await;
            beside.close().await;
            fs::remove_file(manifest).unwrap();
            PageStore::open(config, vec![pread()]).await.unwrap()
        }
    };
    Bench::new(store, 64, 4 * PAGE)
}

/// Two lives of a damaged store.
async fn survive(root: &Path, capacity_bytes: u64, manifest_was_hit: bool) -> Tally {
    // From outside, before anything is mended.
    let outside = inspect::sets(root);
    assert!(outside.is_ok() || manifest_was_hit, "{outside:?}");
    for set in outside.unwrap_or_default() {
        set.verify(|_| ()).unwrap();
        set.list("").unwrap().count();
    }
    let mut refused = 0;
    let config = ours(root, capacity_bytes);
    let bench = open(config.clone(), manifest_was_hit, &mut refused).await;
    let found = bench.store.stat();
    let mut tally = load(&bench, &everything(), false, OURS).await;
    tally.counted = found.bad_records + found.bad_snapshots + found.bad_manifests + found.lost_pages;
    load(&bench, &pages(500..520), true, OURS).await;
    let again = load(&bench, &everything(), false, OURS).await;
    assert_eq!((again.there, again.corrupt), (tally.there, 0), "a page came or went: {tally:?}, {again:?}");
    let stat = bench.store.stat();
    assert!(stat.corrupt_pages >= tally.corrupt, "{stat:?}");
    assert_eq!(bench.store.list("", None, 10_000).await.unwrap().pages.len() as u64, stat.pages);
    // It goes on.
    let fresh = of_version(4, pages(0..60));
    bench.store_with(&fresh, true).await;
    bench.load_all(&fresh[..16]).await;
    bench.store.delete(&keys(&pages(0..5))).await.unwrap();
    if capacity_bytes == TIGHT {
        // More than fits: what is evicted may be what was damaged.
        bench.store(&pages(1000..2200)).await;
        assert!(bench.store.stat().evicted_pages > 0);
        bench.count(&pages(1000..2200)).await;
        bench.store_with(&fresh[5..16], true).await;
    }
    bench.close().await;
    // The damage is gone.
    let bench = open(config, false, &mut refused).await;
    let clean = bench.store.stat();
    let left = clean.bad_records + clean.bad_snapshots + clean.bad_manifests + clean.lost_pages;
    assert_eq!(left, 0, "found again at the second opening: {clean:?}");
    load(&bench, &everything(), false, OURS).await;
    bench.load_all(&fresh[5..16]).await;
    bench.close().await;
    let other = open(theirs(root, capacity_bytes), manifest_was_hit, &mut refused).await;
    load(&other, &everything(), false, THEIRS).await;
    other.store_with(&of_version(20, pages(0..20)), true).await;
    load(&other, &pages(0..20), false, THEIRS).await;
    other.close().await;
    tally.refused = refused;
    tally
}

/// One round, on a thread of its own, so that whatever hangs is seen.
fn round(image: &Path, capacity_bytes: u64, seed: u64) -> Tally {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    copy_tree(image, &root);
    let mut wounds = Wounds::new(&root, seed);
    for _ in 0..=wounds.below(4) {
        wounds.strike();
    }
    let done = wounds.done.join("\n  ");
    let manifest_was_hit = wounds.manifest;
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let survived = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(survive(&root, capacity_bytes, manifest_was_hit))
        }));
        let _ = sender.send(survived);
    });
    let what = match receiver.recv_timeout(Duration::from_secs(MOST_SECONDS)) {
        Ok(Ok(tally)) => {
            thread.join().unwrap();
            return tally;
        }
        Ok(Err(panic)) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_default(),
        Err(_) => format!("nothing after {MOST_SECONDS} s"),
    };
    let kept = directory.keep();
    panic!(
        "seed {seed} (arguments: random rounds=1 seed={seed}): {what}\n  {done}\nThe files are in {}",
        kept.display()
    );
}

#[test]
fn random_damage() {
    let (rounds, first) = (argument("rounds").unwrap_or(ROUNDS), argument("seed").unwrap_or(1));
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let images = CAPACITIES.map(|capacity_bytes| {
        let path = directory.path().join(capacity_bytes.to_string());
        runtime.block_on(image(&path, capacity_bytes));
        (path.join("image"), capacity_bytes)
    });
    let mut sum = Tally::default();
    let (mut hit, mut begun) = (0, std::time::Instant::now());
    for seed in first..first + rounds {
        let (image, capacity_bytes) = &images[(seed % 2) as usize];
        let tally = round(image, *capacity_bytes, seed);
        sum.there += tally.there;
        sum.absent += tally.absent;
        sum.corrupt += tally.corrupt;
        sum.counted += tally.counted;
        sum.refused += tally.refused;
        hit += u64::from(tally.counted + tally.corrupt + tally.refused > 0);
        if begun.elapsed() > Duration::from_secs(60) {
            say(&format!("round {} of {rounds}: {sum:?}", seed - first + 1));
            begun = std::time::Instant::now();
        }
    }
    say(&format!(
        "{rounds} rounds of damage, {hit} noticed: {} pages there and right, {} absent, {} corrupt, 0 wrong; \
         {} records, snapshots, manifests and pages counted as bad or lost; {} refusals over a manifest",
        sum.there, sum.absent, sum.corrupt, sum.counted, sum.refused
    ));
    assert!(rounds < 20 || (sum.counted > 0 && sum.corrupt > 0), "the damage does no harm: {sum:?}");
}

/// What an opening finds is what a look from outside found before it.
#[tokio::test]
async fn the_counts_of_an_opening_stay_visible() {
    let directory = tempfile::tempdir().unwrap();
    let (root, copy) = (directory.path().join("root"), directory.path().join("copy"));
    let bench = Bench::open(config(&root)).await;
    bench.store(&pages(0..600)).await;
    bench.close().await;
    let bench = Bench::open(config(&root)).await;
    bench.store(&pages(600..700)).await;
    copy_tree(&root, &copy);
    bench.close().await;
    let journal = fixture::files(&copy, "journal-").pop().unwrap();
    fixture::flip(&journal, 64 * 40 + 9);
    fixture::flip(&fixture::files(&copy, "snapshot-")[0], 64 * 3);
    let manifest = copy.join(namespace().fingerprint().to_string()).join("MANIFEST");
    let outside = fixture::stat(&copy);
    fs::write(&manifest, &fs::read(&manifest).unwrap()[..20]).unwrap();
    let bench = Bench::open(config(&copy)).await;
    let stat = bench.store.stat();
    assert_eq!((outside.bad_records, outside.bad_snapshots), (1, 1), "{outside:?}");
    assert_eq!((stat.bad_records, stat.bad_snapshots, stat.bad_manifests), (1, 1, 1), "{stat:?}");
    assert_eq!(stat.lost_pages, outside.lost_pages);
    bench.close().await;
}
