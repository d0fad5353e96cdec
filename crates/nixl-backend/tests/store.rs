//! The page store on NIXL: the same files as on io_uring, and faults.

mod fixture;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fixture::*;
use hicache_core::{
    Access, Engine, Namespace, Outcome, PageMemory, PageRequest, Region, Registration, Storage, StoreOptions,
};
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_posix_uring::{PreadConfig, PreadEngine, UringConfig, UringEngine};
use hicache_testkit::{Content, EngineFault, FaultPlan, FaultyEngine, argument, numbered_key};

const PAGES: u64 = 64;
const PAGE: usize = 64 << 10;

async fn store_at(root: &Path, engine: Arc<dyn Engine>) -> Arc<PageStore> {
    let mut config = PageStoreConfig::new([root.to_owned()], Namespace::new("both"));
    config.capacity_bytes = Some(256 << 20);
    config.segment_bytes = 4 << 20;
    PageStore::open(config, vec![engine]).await.unwrap()
}

/// A page of `registration` in two pieces, as K and V are.
fn two_pieces(registration: &Registration, slot: usize) -> PageMemory {
    let half = |i: usize| registration.piece(2 * slot + i, 0, PAGE / 2, Access::Write).unwrap();
    PageMemory::from_pieces([half(0), half(1)]).unwrap()
}

async fn store_pages(store: &Arc<PageStore>, version: u64) -> Vec<Outcome> {
    let registration = store.register(&Region::allocate(2 * PAGES as usize, PAGE / 2).unwrap()).unwrap();
    let request = |number: u64| {
        let mut memory = two_pieces(&registration, number as usize);
        let key = numbered_key(number);
        Content::new(&key, version, PAGE).fill(&mut memory).unwrap();
        PageRequest::new(key, memory)
    };
    store.store((0..PAGES).map(request).collect(), StoreOptions { overwrite: true }).await.outcomes
}

fn all_stored(outcomes: Vec<Outcome>) {
    assert!(outcomes.iter().all(Outcome::is_done), "{outcomes:?}");
}

/// How many pages are there; those that are have every byte of `version`.
async fn check_pages(store: &Arc<PageStore>, version: u64) -> usize {
    let registration = store.register(&Region::allocate(2 * PAGES as usize, PAGE / 2).unwrap()).unwrap();
    let request =
        |number: u64| PageRequest::new(numbered_key(number), two_pieces(&registration, number as usize));
    let batch = store.load((0..PAGES).map(request).collect()).await;
    let mut found = 0;
    for (number, (outcome, memory)) in batch.outcomes.iter().zip(&batch.memory).enumerate() {
        if outcome.is_done() {
            let content = Content::new(&numbered_key(number as u64), version, PAGE);
            content.check_page(memory.as_ref().unwrap()).unwrap().unwrap();
            found += 1;
        }
    }
    found
}

fn native() -> Arc<dyn Engine> {
    match UringEngine::open(UringConfig::default()) {
        Ok(engine) => Arc::new(engine),
        Err(error) => {
            skipped(&format!("io_uring: {error}; the other side is pread"));
            Arc::new(PreadEngine::open(PreadConfig::default()).unwrap())
        }
    }
}

/// One directory, written by one engine and read by the other, both ways.
#[tokio::test]
async fn what_io_uring_wrote_nixl_reads_and_the_other_way_round() {
    let Some(library) = library() else { return };
    for queue in QUEUES {
        let root = tempfile::tempdir().unwrap();
        let nixl = || -> Arc<dyn Engine> { Arc::new(open(&library, posix(queue))) };
        for (version, (writer, reader)) in
            (1..).zip([(native(), nixl()), (nixl(), native()), (nixl(), nixl())])
        {
            let store = store_at(root.path(), writer).await;
            all_stored(store_pages(&store, version).await);
            store.close().await.unwrap();
            let store = store_at(root.path(), reader).await;
            assert_eq!(check_pages(&store, version).await, PAGES as usize, "{queue}, version {version}");
            store.close().await.unwrap();
        }
    }
}

/// Requests fail, are short, late and bent: every page that is answered is right, and those that were stored without a
/// fault are there.
#[tokio::test]
async fn faults_cost_pages_and_never_bytes() {
    let Some(library) = library() else { return };
    let rounds = argument("rounds").unwrap_or(6);
    for queue in QUEUES {
        let root = tempfile::tempdir().unwrap();
        let nixl = Arc::new(open(&library, posix(queue)));
        let faulty = FaultyEngine::new(nixl, FaultPlan::none());
        let store = store_at(root.path(), Arc::clone(&faulty) as Arc<dyn Engine>).await;
        all_stored(store_pages(&store, 1).await);
        assert_eq!(check_pages(&store, 1).await, PAGES as usize);
        for seed in 0..rounds {
            let faults = [
                EngineFault::Fail { errno: 5, after_moving: false },
                EngineFault::Fail { errno: 5, after_moving: true },
                EngineFault::Corrupt { bit: 12_345 },
                EngineFault::LateAnswer(Duration::from_millis(5)),
            ];
            faulty.set_plan(FaultPlan::random(seed, 100, faults));
            check_pages(&store, 1 + seed).await;
            faulty.set_plan(FaultPlan::random(seed + 100, 100, faults));
            // Some are refused, and some are stored with a bit turned over, which the loads above find.
            let _ = store_pages(&store, 2 + seed).await;
            faulty.set_plan(FaultPlan::none());
            all_stored(store_pages(&store, 2 + seed).await);
            assert_eq!(check_pages(&store, 2 + seed).await, PAGES as usize, "{queue}, round {seed}");
        }
        assert!(faulty.injected().total() > 0);
        store.close().await.unwrap();
    }
}

/// The last page of a segment is cut off behind the store's back. The plugin fails what lies there, and with it every
/// page of the same request; each is asked for again by itself.
#[tokio::test]
async fn a_page_that_cannot_be_read_costs_only_itself() {
    let Some(library) = library() else { return };
    for queue in QUEUES {
        let root = tempfile::tempdir().unwrap();
        let store = store_at(root.path(), Arc::new(open(&library, posix(queue)))).await;
        all_stored(store_pages(&store, 1).await);
        let segment = find_segment(root.path()).expect("there is a segment");
        let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
        // Slots are filled from the start.
        file.set_len((PAGES - 1) * PAGE as u64).unwrap();
        assert_eq!(check_pages(&store, 1).await as u64, PAGES - 1, "{queue}");
        store.close().await.unwrap();
    }
}

fn find_segment(folder: &Path) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return find_segment(&path);
        }
        path.file_name()?.to_str()?.starts_with("seg-").then_some(path)
    })
}
