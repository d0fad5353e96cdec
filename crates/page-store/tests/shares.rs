//! The capacity among several stores: the sum of all holds, the dead give way, nobody starves.

mod fixture;

use std::time::{Duration, Instant};

use fixture::{Bench, du, limited, pages, say};
use hicache_core::{Namespace, Storage};
use hicache_page_store::{PageStoreConfig, inspect};

const CAPACITY: u64 = 8 << 20;

fn named(root: &std::path::Path, name: &str) -> PageStoreConfig {
    PageStoreConfig { namespace: Namespace::new(name), ..limited(root, CAPACITY) }
}

/// Stores pages until there are as many as there can be.
async fn fill(bench: &Bench, from: u64) -> u64 {
    for round in 0..40 {
        // Some may be refused while there is nothing for a newcomer yet.
        bench.try_store(&pages(from + round * 64..from + round * 64 + 64), false).await;
    }
    bench.store.stat().pages
}

#[tokio::test]
async fn the_dead_of_other_namespaces_give_way_oldest_first() {
    let directory = tempfile::tempdir().unwrap();
    let alone = {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench::open(named(directory.path(), "y")).await;
        let pages = fill(&bench, 0).await;
        bench.close().await;
        pages
    };
    for name in ["x", "z"] {
        let bench = Bench::open(named(directory.path(), name)).await;
        fill(&bench, 0).await;
        bench.close().await;
    }
    let bench = Bench::open(named(directory.path(), "y")).await;
    let beside = fill(&bench, 0).await;
    say(&format!("{alone} pages in an empty root, {beside} after two models that are gone"));
    // What is left of the others is their manifests.
    assert!(beside * 100 >= alone * 97, "{beside} of {alone}");
    assert!(du(directory.path()) <= CAPACITY);
    assert_eq!(inspect::sets(directory.path()).unwrap().len(), 1);
    bench.close().await;
}

#[tokio::test]
async fn a_part_of_a_dead_set_goes_and_the_rest_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let old = Bench::open(named(directory.path(), "x")).await;
    let had = fill(&old, 0).await;
    old.close().await;
    let new = Bench::open(named(directory.path(), "y")).await;
    new.store(&pages(0..256)).await;
    new.close().await;
    let old = Bench::open(named(directory.path(), "x")).await;
    let left = old.store.stat().pages;
    assert!(left < had && left * 10 >= had * 6, "{left} of {had}");
    // The newest have stayed.
    old.load_all(&pages(40 * 64 - 64..40 * 64)).await;
    let views = inspect::sets(directory.path()).unwrap();
    assert!(views.iter().all(|view| view.verify(drop).unwrap().corrupt_pages == 0));
    old.close().await;
}

#[tokio::test]
async fn whoever_comes_later_gets_a_share_also_from_one_that_sleeps() {
    let directory = tempfile::tempdir().unwrap();
    let greedy = Bench::open(named(directory.path(), "x")).await;
    let all = fill(&greedy, 0).await;
    let late = Bench::open(named(directory.path(), "y")).await;
    let began = Instant::now();
    let mut got = 0;
    while got * 100 < all / 2 * 90 && began.elapsed() < Duration::from_secs(15) {
        got = fill(&late, 0).await;
        assert!(du(directory.path()) <= CAPACITY);
    }
    say(&format!("{got} of {all} pages after {:?}", began.elapsed()));
    assert!(got * 100 >= all / 2 * 90, "{got} of {all}");
    // Neither takes from the other what it has by right.
    for round in 1..4 {
        let (mine, theirs) = (fill(&greedy, 10_000 * round).await, fill(&late, 10_000 * round).await);
        assert!(mine * 100 >= all / 2 * 85 && theirs * 100 >= all / 2 * 85, "{mine} and {theirs} of {all}");
        assert!(du(directory.path()) <= CAPACITY);
    }
    greedy.close().await;
    late.close().await;
}

#[tokio::test]
async fn the_smallest_limit_of_the_living_counts() {
    let directory = tempfile::tempdir().unwrap();
    let large = PageStoreConfig { capacity_bytes: Some(4 * CAPACITY), ..named(directory.path(), "x") };
    let large = Bench::open(large).await;
    let small = Bench::open(named(directory.path(), "y")).await;
    small.store(&pages(0..1)).await;
    fill(&large, 0).await;
    assert!(du(directory.path()) <= CAPACITY);
    assert_eq!(large.store.stat().capacity_bytes, Some(CAPACITY));
    small.close().await;
    // A root that was full is not summed again at once.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    fill(&large, 10_000).await;
    assert!(du(directory.path()) > CAPACITY);
    assert_eq!(large.store.stat().capacity_bytes, Some(4 * CAPACITY));
    large.close().await;
}
