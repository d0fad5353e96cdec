//! The files of a store at work, as a crash would leave them: opened as a copy, they have every page that was done,
//! and no wrong one.

mod fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fixture::{
    Bench, Dice, Got, LONG, PAGE, Page, config, copy_tree, keys, limited, page, pread, say, stat, verify,
};
use hicache_core::{Outcome, Storage, StoreOptions};
use hicache_page_store::PageStoreConfig;
use hicache_testkit::{Phase, ThreadEngine};

/// Images a test. Longer rounds: raise it.
const IMAGES: u64 = 25;
const KEYS: u64 = 400;

fn all(version: u64) -> Vec<Page> {
    (0..KEYS).map(|number| Page { version, ..page(number) }).collect()
}

/// The names of the files of a root that come and go with generations.
fn generations(root: &Path) -> Vec<PathBuf> {
    let mut found = fixture::files(root, "journal");
    found.extend(fixture::files(root, "snapshot"));
    found
}

/// A copy during which no generation began or ended: copying takes time, and a crash does not.
fn image(live: &Path, image: &Path) {
    loop {
        let before = generations(live);
        copy_tree(live, image);
        if before == generations(live) && !before.iter().any(|path| path.extension().is_some()) {
            return;
        }
        std::fs::remove_dir_all(image).unwrap();
    }
}

/// Truncates the last journal of the image at a random place: the newest records have not come to the disk.
fn tear(root: &Path, dice: &mut Dice) {
    let journal = fixture::files(root, "journal").pop().unwrap();
    let length = std::fs::metadata(&journal).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&journal).unwrap();
    file.set_len(dice.below(length + 1)).unwrap();
}

/// Opens an image and loads every page.
async fn found(config: PageStoreConfig, versions: u64) -> BTreeMap<u64, Got> {
    let bench = Bench::open(config).await;
    let got = bench.load_any(&all(1), versions).await;
    let found = (0..KEYS).zip(got).collect();
    bench.close().await;
    found
}

/// Held by the engine in a random phase the store stands still, so the copy is what a crash would leave. With
/// overwrites, evictions, deletions and clears before: exactly the pages that the store says it has are there, each as
/// it was stored last.
#[tokio::test]
async fn held_in_any_phase() {
    let mut dice = Dice::new(11);
    for capacity in [64 << 20, 1 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let live = directory.path().join("live");
        let engine = ThreadEngine::new().unwrap();
        let gate = engine.gate();
        let bench = Bench::new(fixture::open(limited(&live, capacity), engine).await, 64, PAGE);
        let probe = keys(&all(1));
        let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
        let mut version = 0;
        for round in 0..IMAGES {
            for _ in 0..dice.below(6) {
                version += 1;
                let first = dice.below(KEYS - 40);
                let some: Vec<_> = (first..first + 40).map(|n| Page { version, ..page(n) }).collect();
                bench.store_with(&some, true).await;
                newest.extend(some.iter().map(|page| (page.number, version)));
                bench.store.delete(&keys(&some[..dice.below(4) as usize])).await.unwrap();
            }
            if round == IMAGES / 2 {
                bench.store.clear().await.unwrap();
            }
            version += 1;
            let first = dice.below(KEYS - 20);
            let some: Vec<_> = (first..first + 20).map(|n| Page { version, ..page(n) }).collect();
            gate.hold(Phase::ALL[dice.below(4) as usize]);
            let transfer = bench.store.store(bench.full_batch(&some), StoreOptions { overwrite: true });
            assert!(gate.wait_reached(LONG));
            let there = bench.store.exists(&probe).await.unwrap();
            let copy = directory.path().join(format!("image-{round}"));
            image(&live, &copy);
            gate.release();
            let found = found(limited(&copy, capacity), version).await;
            for (number, got) in found {
                let expected =
                    if there[number as usize] { Got::Version(newest[&number]) } else { Got::Absent };
                assert_eq!(got, expected, "page {number}, round {round}");
            }
            std::fs::remove_dir_all(copy).unwrap();
            assert!(transfer.await.outcomes.iter().all(Outcome::is_done));
            newest.extend(some.iter().map(|page| (page.number, version)));
        }
        bench.close().await;
    }
}

/// Copied while it writes, by another thread and without stopping: what was done before the copy began is there.
#[tokio::test]
async fn copied_while_it_writes() {
    let directory = tempfile::tempdir().unwrap();
    let live = directory.path().join("live");
    let bench = Bench::new(fixture::open(config(&live), pread()).await, 16, PAGE);
    let ended = Arc::new(AtomicBool::new(false));
    // How many pages are done; they are stored once each, in order.
    let done = Arc::new(Mutex::new(0_u64));
    let (over, counted) = (Arc::clone(&ended), Arc::clone(&done));
    let writer = std::thread::spawn(move || {
        let mut next = 0;
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(2));
            // A store that has room for all of them.
            if next == 12_000 {
                continue;
            }
            let some: Vec<_> = (next..next + 8).map(page).collect();
            let batch = bench.store.store(bench.full_batch(&some), StoreOptions::default()).wait();
            assert!(batch.outcomes.iter().all(Outcome::is_done), "{:?}", batch.outcomes);
            next += 8;
            *counted.lock().unwrap() = next;
        }
        (bench, next)
    });
    let mut dice = Dice::new(3);
    let mut seen = 0;
    for round in 0..IMAGES {
        let copy = directory.path().join("copy");
        let before = *done.lock().unwrap();
        image(&live, &copy);
        let after = *done.lock().unwrap();
        let torn = round % 3 == 2;
        if torn {
            tear(&copy, &mut dice);
        }
        let reader = Bench::open(config(&copy)).await;
        // Among them those that came while it was copied: files copied earlier may lack their bytes.
        let some: Vec<_> = (0..after + 64).map(page).collect();
        let got = reader.load(&some).await;
        if !torn {
            let missing = got[..before as usize].iter().position(|got| *got != Got::Version(1));
            assert_eq!(missing, None, "a page that was done is not there: {:?}", missing.map(|at| got[at]));
        }
        seen += got.iter().filter(|got| **got == Got::Version(1)).count();
        reader.close().await;
        let clean = stat(&copy);
        assert_eq!((clean.bad_records, clean.bad_snapshots, clean.lost_pages), (0, 0, 0));
        verify(&copy);
        std::fs::remove_dir_all(copy).unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    let (bench, stored) = writer.join().unwrap();
    say(&format!("{IMAGES} images, {seen} pages found in them, {stored} pages stored meanwhile"));
    assert!(stored > 500 && seen > 1000);
    bench.close().await;
}

/// As above in a store that is full and evicts all the time: pages go, and none is ever wrong.
#[tokio::test]
async fn copied_while_it_evicts() {
    let directory = tempfile::tempdir().unwrap();
    let live = directory.path().join("live");
    let bench = Bench::new(fixture::open(limited(&live, 1 << 20), pread()).await, 64, PAGE);
    let ended = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&ended);
    let writer = std::thread::spawn(move || {
        let mut dice = Dice::new(8);
        let mut version = 0;
        while !over.load(Ordering::Relaxed) {
            version += 1;
            let first = dice.below(KEYS - 60);
            // A few versions, so that what is found can be told.
            let some: Vec<_> =
                (first..first + 60).map(|n| Page { version: version % 8, ..page(n) }).collect();
            drop(bench.store.store(bench.full_batch(&some), StoreOptions { overwrite: true }).wait());
        }
        bench
    });
    let mut dice = Dice::new(4);
    let mut seen = 0;
    while stat(&live).generation < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    for round in 0..IMAGES {
        let copy = directory.path().join("copy");
        // Torn between files too: this is worse than a crash.
        copy_tree(&live, &copy);
        if round % 2 == 1 && !fixture::files(&copy, "journal").is_empty() {
            tear(&copy, &mut dice);
        }
        let found = found(limited(&copy, 1 << 20), 8).await;
        seen += found.values().filter(|got| matches!(got, Got::Version(_))).count();
        verify(&copy);
        std::fs::remove_dir_all(copy).unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    let bench = writer.join().unwrap();
    say(&format!("{IMAGES} images of an evicting store, {seen} pages found in them"));
    assert!(seen > 500);
    bench.close().await;
}
