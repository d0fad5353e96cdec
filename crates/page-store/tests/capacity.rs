//! The capacity is a hard limit on physical bytes, and what fits in it is used as well as an LRU list can.

mod fixture;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use fixture::{Bench, Dice, Got, PAGE, Page, du, in_time, keys, limited, page, pages, pread, say};
use hicache_core::{ErrorKind, Namespace, Outcome, PageRequest, Storage, StoreOptions};
use hicache_page_store::{PageStore, PageStoreConfig};

/// Looks at a root all the time, and remembers the most that was taken.
struct Watch {
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    fn new(root: &Path) -> Self {
        let (most, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, ended, root) = (Arc::clone(&most), Arc::clone(&over), root.to_owned());
        let thread = std::thread::spawn(move || {
            let mut looks = 0;
            while !ended.load(Ordering::Relaxed) {
                seen.fetch_max(du(&root), Ordering::Relaxed);
                looks += 1;
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
            looks
        });
        Self { most, over, thread }
    }

    fn end(self, capacity: u64, what: &str) {
        self.over.store(true, Ordering::Relaxed);
        let looks = self.thread.join().unwrap();
        let most = self.most.load(Ordering::Relaxed);
        say(&format!("{what}: at most {most} of {capacity} bytes, {looks} looks"));
        assert!(most <= capacity, "{what}: {most} bytes were taken of {capacity}");
        assert!(looks > 10);
    }
}

#[tokio::test]
async fn the_limit_holds_while_three_sizes_come_and_go() {
    for capacity in [600 << 10, 3 << 20, 12 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let bench =
            Bench::new(fixture::open(limited(directory.path(), capacity), pread()).await, 64, 4 * PAGE);
        let watch = Watch::new(directory.path());
        let mut dice = Dice::new(capacity);
        let pages_stored = 2 * capacity / PAGE as u64;
        for number in 0..pages_stored / 32 {
            // Mostly one size at a time, so that sizes take room from each other.
            let favourite = [1, PAGE, 4 * PAGE][(number * 96 / pages_stored % 3) as usize];
            let size = |dice: &mut Dice| if dice.below(8) == 0 { 2 * PAGE } else { favourite };
            let some: Vec<_> = (0..32)
                .map(|i| Page { number: number * 32 + i, version: 1, bytes: size(&mut dice) })
                .collect();
            bench.store(&some).await;
        }
        watch.end(capacity, "three sizes");
        assert!(bench.store.stat().evicted_pages > pages_stored / 4);
        bench.close().await;
        assert!(du(directory.path()) <= capacity);
        fixture::verify(directory.path());
    }
}

/// Journals are longest when many batches are under way and every page is small.
#[tokio::test]
async fn the_limit_holds_with_many_batches_at_once() {
    for capacity in [300 << 10, 1 << 20, 4 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let store = fixture::open(limited(directory.path(), capacity), pread()).await;
        let benches: Vec<_> = (0..8).map(|_| Bench::new(Arc::clone(&store), 64, PAGE)).collect();
        let watch = Watch::new(directory.path());
        for round in 0..12 {
            let begun: Vec<_> = benches
                .iter()
                .zip(0..)
                .map(|(bench, i)| {
                    let first = (round * 8 + i) * 64;
                    let some: Vec<_> = (first..first + 64).map(|n| Page { bytes: 100, ..page(n) }).collect();
                    store.store(bench.full_batch(&some), StoreOptions::default())
                })
                .collect();
            for transfer in begun {
                let batch = in_time("a store", transfer).await;
                assert!(batch.outcomes.iter().all(Outcome::is_done), "{:?}", batch.outcomes);
            }
        }
        watch.end(capacity, "many batches");
        store.close().await.unwrap();
    }
}

/// The names of text keys are on the medium too.
#[tokio::test]
async fn the_limit_holds_with_long_names() {
    let directory = tempfile::tempdir().unwrap();
    let capacity = 2 << 20;
    let bench = Bench::open(limited(directory.path(), capacity)).await;
    // Full of pages without names first, the worst case for names.
    bench.store(&pages(0..500)).await;
    let watch = Watch::new(directory.path());
    for round in 0..40 {
        let name = |i: usize| format!("{:0>500}", round * 128 + i);
        let requests = (0..128).map(|i| PageRequest::named(&name(i), bench.full(i, page(0)).memory).unwrap());
        let batch = bench.store.store(requests.collect(), StoreOptions::default()).await;
        assert!(batch.outcomes.iter().all(Outcome::is_done), "{:?}", batch.outcomes);
    }
    watch.end(capacity, "long names");
    let listed = bench.store.list("000", None, 1000).await.unwrap().pages.len() as u64;
    let there = bench.store.stat().pages;
    say(&format!("{listed} names of {there} pages"));
    assert!(listed * 10 >= there * 9, "{listed} of {there} pages have their name");
    bench.close().await;
}

/// Least recently used first, at exactly so many pages.
struct PlainLru {
    slots: usize,
    clock: u64,
    used: HashMap<u64, u64>,
}

impl PlainLru {
    fn touch(&mut self, number: u64) -> bool {
        self.clock += 1;
        self.used.get_mut(&number).map(|used| *used = self.clock).is_some()
    }

    fn insert(&mut self, number: u64) {
        if self.used.len() == self.slots
            && let Some(coldest) = self.used.iter().min_by_key(|(_, used)| **used).map(|(&number, _)| number)
        {
            self.used.remove(&coldest);
        }
        self.clock += 1;
        self.used.insert(number, self.clock);
    }
}

/// A workload of shared prefixes, request by request: the leading hits are loaded, the rest is stored.
#[tokio::test]
async fn hits_are_those_of_lru_at_the_slots_that_were_reported() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::open(limited(directory.path(), 3 << 20)).await;
    let slots = bench.store.slots(PAGE as u64).unwrap();
    let mut lru = PlainLru { slots: slots as usize, clock: 0, used: HashMap::new() };
    let mut dice = Dice::new(5);
    let (mut hits, mut expected) = (0, 0);
    for _ in 0..700 {
        // Conversation c has pages c*100..; popular ones come again, longer each time.
        let conversation = dice.below(60).min(dice.below(60));
        let length = 3 + dice.below(27);
        let chain: Vec<_> = (0..length).map(|i| page(conversation * 100 + i)).collect();
        let there = bench.store.exists_prefix(&keys(&chain)).await.unwrap();
        if there > 0 {
            bench.load_all(&chain[..there]).await;
        }
        bench.store(&chain[there..]).await;
        hits += there;
        let found: Vec<_> = chain.iter().map(|page| lru.used.contains_key(&page.number)).collect();
        expected += found.iter().take_while(|&&found| found).count();
        for page in chain.iter().rev() {
            if !lru.touch(page.number) {
                lru.insert(page.number);
            }
        }
    }
    let pages = bench.store.stat().pages;
    say(&format!("{hits} hits, LRU at {slots} slots {expected}; {pages} pages in the end"));
    assert!(pages * 100 >= slots * 99 && pages <= slots, "{pages} pages where {slots} slots were reported");
    assert!(expected > 500 && hits * 100 >= expected * 99, "{hits} hits, {expected} expected");
    bench.close().await;
}

/// How a chain is used last, as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Stored,
    Loaded,
    Asked,
}

#[tokio::test]
async fn heads_outlive_tails() {
    for last in [Use::Stored, Use::Loaded, Use::Asked] {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench::open(limited(directory.path(), 1 << 20)).await;
        let slots = bench.store.slots(PAGE as u64).unwrap();
        let chain = pages(0..100);
        if last == Use::Stored {
            bench.store(&chain).await;
        } else {
            // One by one: that alone would let the tail outlive the head.
            for page in &chain {
                bench.store(&[*page]).await;
            }
        }
        match last {
            Use::Stored => {}
            Use::Loaded => bench.load_all(&chain).await,
            Use::Asked => {
                assert!(bench.store.exists(&keys(&chain)).await.unwrap().iter().all(|there| *there));
            }
        }
        for number in 1000.. {
            bench.store(&[page(number)]).await;
            // Not asked through the store: that would be a use.
            let there = bench.store.stat().pages;
            if number - 1000 + 50 >= slots {
                assert_eq!(there, slots);
                break;
            }
        }
        let got = bench.load(&chain).await;
        let left = got.iter().take_while(|got| **got == Got::Version(1)).count();
        assert!((40..60).contains(&left), "{left} pages left");
        assert!(got[left..].iter().all(|got| *got == Got::Absent), "a tail outlived a head");
        bench.close().await;
    }
}

#[tokio::test]
async fn a_batch_larger_than_the_capacity_keeps_its_head() {
    let directory = tempfile::tempdir().unwrap();
    let store = fixture::open(limited(directory.path(), 1 << 20), pread()).await;
    let bench = Bench::new(store, 1000, PAGE);
    let slots = bench.store.slots(PAGE as u64).unwrap() as usize;
    let chain = pages(0..1000);
    bench.store(&chain).await;
    let got = bench.load(&chain).await;
    let left = got.iter().take_while(|got| **got == Got::Version(1)).count();
    assert!(left <= slots && left * 10 >= slots * 9, "{left} of {slots} slots hold the head");
    assert!(du(directory.path()) <= 1 << 20);
    bench.close().await;
}

/// The number behind `word` in a message.
fn number_after(text: &str, word: &str) -> u64 {
    let rest = text.split(word).nth(1).unwrap_or_else(|| panic!("no {word:?} in {text}"));
    rest.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

fn several(directory: &Path, roots: u64, capacity: u64) -> PageStoreConfig {
    let paths: Vec<PathBuf> = (0..roots).map(|i| directory.join(format!("root-{i}"))).collect();
    PageStoreConfig { roots: paths, ..limited(directory, capacity) }
}

#[tokio::test]
async fn below_sixteen_pages_is_refused_and_the_least_is_named() {
    for (roots, bytes) in [(1, PAGE), (1, 1 << 20), (3, PAGE), (2, 300_000), (1, 8 << 20)] {
        let directory = tempfile::tempdir().unwrap();
        let small = several(directory.path(), roots, 60_000);
        let at_open = PageStoreConfig { page_bytes: Some(bytes as u64), ..small.clone() };
        let refused = PageStore::open(at_open.clone(), vec![pread()]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
        let least = number_after(refused.message(), "at least 16: give it at least");
        let enough = PageStoreConfig { capacity_bytes: Some(least), ..at_open };
        let store =
            PageStore::open(enough, vec![pread()]).await.unwrap_or_else(|error| panic!("{least}: {error}"));
        let bench = Bench::new(store, 16, bytes);
        let some: Vec<_> = (0..40 * roots).map(|number| Page { bytes, ..page(number) }).collect();
        bench.store(&some).await;
        assert!(bench.count(&some).await >= 16 * roots);
        bench.close().await;

        let directory = tempfile::tempdir().unwrap();
        let small = several(directory.path(), roots, 60_000);
        let bench = Bench::new(PageStore::open(small.clone(), vec![pread()]).await.unwrap(), 16, bytes);
        let outcomes = bench.try_store(&some[..2], false).await;
        let Outcome::Failed(refused) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
        let least = number_after(refused.message(), "at least 16: give it at least");
        bench.close().await;
        let enough = PageStoreConfig { capacity_bytes: Some(least), ..small };
        let bench = Bench::new(PageStore::open(enough, vec![pread()]).await.unwrap(), 16, bytes);
        bench.store(&some).await;
        assert!(bench.count(&some).await >= 16 * roots);
        bench.close().await;
        assert!(du(directory.path()) <= least);
    }
}

#[tokio::test]
async fn segments_shrink_with_the_capacity() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = limited(directory.path(), 2 << 20);
    config.segment_bytes = 256 << 20;
    let bench = Bench::open(config).await;
    bench.store(&pages(0..1000)).await;
    assert!(fixture::files(directory.path(), "seg-").len() >= 14);
    assert!(du(directory.path()) <= 2 << 20);
    assert!(bench.store.stat().pages >= 400);
    bench.close().await;
}

/// The limit of today holds, whatever it was when the pages were stored; the hottest stay.
#[tokio::test]
async fn a_smaller_limit_holds_from_the_first_store_on() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::open(limited(directory.path(), 8 << 20)).await;
    bench.store(&pages(0..1500)).await;
    bench.load_all(&pages(0..50)).await;
    bench.close().await;
    let bench = Bench::open(limited(directory.path(), 2 << 20)).await;
    bench.load_all(&pages(0..50)).await;
    bench.store(&[page(5000)]).await;
    assert!(du(directory.path()) <= 2 << 20, "{}", du(directory.path()));
    assert!(bench.store.stat().pages > 100);
    bench.store(&pages(6000..6100)).await;
    bench.load_all(&pages(6000..6100)).await;
    assert!(du(directory.path()) <= 2 << 20, "{}", du(directory.path()));
    bench.close().await;
    fixture::verify(directory.path());
}

#[tokio::test]
async fn another_size_takes_over_when_the_work_shifts() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(fixture::open(limited(directory.path(), 4 << 20), pread()).await, 64, 4 * PAGE);
    bench.store(&pages(0..1500)).await;
    let before = bench.store.stat().pages;
    let large: Vec<_> = (5000..5600).map(|number| Page { bytes: 4 * PAGE, ..page(number) }).collect();
    bench.store(&large).await;
    let there = bench.count(&large).await;
    assert!(there * 4 >= before / 2, "only {there} large pages where {before} small ones had been");
    bench.store(&pages(9000..12_000)).await;
    let back = bench.count(&pages(9000..12_000)).await;
    assert!(back >= before / 2, "only {back} small pages where {before} had been");
    assert!(du(directory.path()) <= 4 << 20);
    bench.close().await;
    fixture::verify(directory.path());
}

#[tokio::test]
async fn clear_gives_space_back_and_touches_its_own_namespace_only() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::open(limited(directory.path(), 8 << 20)).await;
    let other = PageStoreConfig { namespace: Namespace::new("other"), ..limited(directory.path(), 8 << 20) };
    let other = Bench::open(other).await;
    other.store(&pages(0..100)).await;
    for _ in 0..3 {
        bench.store(&pages(0..1800)).await;
        let full = du(directory.path());
        assert!(full > 6 << 20 && full <= 8 << 20, "{full}");
        let there = bench.store.stat().pages;
        assert_eq!(bench.store.clear().await.unwrap(), there);
        let cleared = du(directory.path());
        assert!(cleared < 2 << 20, "{cleared} bytes after a clear");
        assert_eq!(bench.count(&pages(0..1800)).await, 0);
    }
    other.load_all(&pages(0..100)).await;
    bench.close().await;
    let bench = Bench::open(limited(directory.path(), 8 << 20)).await;
    assert_eq!(bench.store.stat().pages, 0);
    bench.close().await;
    other.close().await;
}
