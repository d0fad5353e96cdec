//! Several stores on one root: what one of them stores, deletes, replaces and clears, the others see at their next call.
//! (Two stores in one process differ from two processes in nothing that they use; `tests/` has the processes.)

mod fixture;

use std::path::Path;

use fixture::{Bench, Got, Page, config, keys, limited, page, pages};
use hicache_core::{ErrorKind, Namespace, Storage, StoreOptions};
use hicache_page_store::{PageStoreConfig, Role, inspect};

fn reader(root: &Path) -> PageStoreConfig {
    PageStoreConfig { role: Role::Reader, ..config(root) }
}

async fn exist(bench: &Bench, pages: &[Page]) -> usize {
    bench.store.exists(&keys(pages)).await.unwrap().into_iter().filter(|there| *there).count()
}

#[tokio::test]
async fn what_one_stores_the_others_find() {
    let directory = tempfile::tempdir().unwrap();
    let reads = Bench::open(reader(directory.path())).await;
    let first = Bench::open(config(directory.path())).await;
    let second = Bench::open(config(directory.path())).await;
    for round in 0..20 {
        let (from, to) = (round * 20, round * 20 + 20);
        first.store(&pages(from..from + 10)).await;
        second.store(&pages(from + 10..to)).await;
        for bench in [&reads, &first, &second] {
            assert_eq!(exist(bench, &pages(0..to)).await as u64, to);
            bench.load_all(&pages(from..to)).await;
        }
    }
    let stat = reads.store.stat();
    assert_eq!((stat.pages, stat.foreign_pages, stat.foreign_hit_pages), (0, 400, 400));
    assert_eq!((first.store.stat().pages, first.store.stat().foreign_pages), (200, 200));
    // What is there is not stored again.
    second.store(&pages(0..400)).await;
    assert_eq!(second.store.stat().pages, 200);
    assert_eq!(inspect::sets(directory.path()).unwrap().len(), 2);
    let listed = reads.store.list("", None, 1000).await.unwrap().pages;
    assert_eq!(listed.len(), 400);
    for bench in [reads, first, second] {
        bench.close().await;
    }
}

#[tokio::test]
async fn a_reader_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let reads = Bench::open(reader(directory.path())).await;
    let refused = reads.try_store(&pages(0..1), false).await;
    assert_eq!(refused[0].error().unwrap().kind(), ErrorKind::Unsupported);
    assert_eq!(reads.store.delete(&keys(&pages(0..1))).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(reads.store.clear().await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(inspect::sets(directory.path()).unwrap().len(), 0);
    reads.close().await;
}

#[tokio::test]
async fn deletions_overwrites_and_clears_reach_every_set() {
    let directory = tempfile::tempdir().unwrap();
    let first = Bench::open(config(directory.path())).await;
    let second = Bench::open(config(directory.path())).await;
    let reads = Bench::open(reader(directory.path())).await;
    first.store(&pages(0..40)).await;
    second.store(&pages(40..80)).await;

    let gone = keys(&pages(30..50));
    assert!(second.store.delete(&gone).await.unwrap().iter().all(|outcome| outcome.is_done()));
    for bench in [&first, &second, &reads] {
        assert_eq!(bench.count(&pages(0..80)).await, 60);
        assert_eq!(exist(bench, &pages(30..50)).await, 0);
    }
    // The writer of the other set has retired them.
    assert_eq!(first.store.stat().pages, 30);

    let newer: Vec<Page> = (0..10).map(|number| Page { version: 2, ..page(number) }).collect();
    second.store_with(&newer, true).await;
    for bench in [&first, &second, &reads] {
        assert_eq!(bench.load_any(&newer, 3).await, vec![Got::Version(2); 10]);
    }
    let newest: Vec<Page> = (0..10).map(|number| Page { version: 3, ..page(number) }).collect();
    first.store_with(&newest, true).await;
    for bench in [&reads, &second, &first] {
        assert_eq!(bench.load_any(&newest, 4).await, vec![Got::Version(3); 10]);
    }

    assert_eq!(second.store.clear().await.unwrap(), 60);
    for bench in [&reads, &second, &first] {
        assert_eq!(bench.count(&pages(0..80)).await, 0);
    }
    first.store(&pages(0..5)).await;
    for bench in [&reads, &second, &first] {
        assert_eq!(bench.count(&pages(0..80)).await, 5);
    }
    for bench in [reads, first, second] {
        bench.close().await;
    }
    let again = Bench::open(config(directory.path())).await;
    assert_eq!(again.count(&pages(0..80)).await, 5);
    again.close().await;
}

#[tokio::test]
async fn a_deletion_outlives_snapshots_and_the_one_who_made_it() {
    let directory = tempfile::tempdir().unwrap();
    let small = || limited(directory.path(), 4 << 20);
    let first = Bench::open(small()).await;
    let second = Bench::open(small()).await;
    first.store(&pages(0..20)).await;
    // The first process hears nothing of it any more.
    let delete = second.store.delete(&keys(&pages(0..10))).await.unwrap();
    assert!(delete.iter().all(|outcome| outcome.is_done()));
    for round in 0..30 {
        second.store(&pages(1000 + round * 100..1100 + round * 100)).await;
    }
    second.close().await;
    drop(first);
    let images = Bench::open(small()).await;
    assert_eq!(images.count(&pages(0..10)).await, 0);
    images.close().await;
}

#[tokio::test]
async fn followers_keep_up_with_generations_evictions_and_reuse() {
    let directory = tempfile::tempdir().unwrap();
    let small = || limited(directory.path(), 2 << 20);
    let writes = Bench::open(small()).await;
    let reads = Bench::open(PageStoreConfig { role: Role::Reader, ..small() }).await;
    let mut seen = 0;
    for round in 0..60 {
        let batch = pages(round * 64..round * 64 + 64);
        writes.store(&batch).await;
        if round % 7 != 0 {
            continue;
        }
        // Whatever is there is right, and it is what the writer itself has.
        let all = pages(0..round * 64 + 64);
        let own = writes.count(&all).await;
        let followed = reads.count(&all).await;
        assert_eq!(own, followed, "after round {round}");
        seen += followed;
    }
    assert!(seen > 0);
    let generation = inspect::sets(directory.path()).unwrap()[0].stat().generation;
    assert!(generation > 2, "only {generation} generations");
    writes.close().await;
    reads.close().await;
}

#[tokio::test]
async fn the_sets_of_the_dead_are_adopted() {
    let directory = tempfile::tempdir().unwrap();
    let first = Bench::open(config(directory.path())).await;
    let second = Bench::open(config(directory.path())).await;
    let third = Bench::open(config(directory.path())).await;
    first.store(&pages(0..100)).await;
    second.store(&pages(100..200)).await;
    third.store(&pages(200..300)).await;
    third.store_with(&[Page { version: 2, ..page(0) }], true).await;
    let names: Vec<_> = (0..5).map(|number| format!("name {number}")).collect();
    let texts = names.iter().enumerate().map(|(slot, name)| {
        let memory = second.blank(slot, fixture::PAGE);
        hicache_core::PageRequest::named(name, memory).unwrap()
    });
    let stored = second.store.store(texts.collect(), StoreOptions::default()).await;
    assert!(stored.outcomes.iter().all(|outcome| outcome.is_done()));
    drop(stored);
    for bench in [first, second, third] {
        bench.close().await;
    }
    let one = Bench::open(config(directory.path())).await;
    assert_eq!(inspect::sets(directory.path()).unwrap().len(), 1);
    assert_eq!(one.store.stat().pages, 305);
    let mut all = pages(0..300);
    all[0].version = 2;
    one.load_all(&all).await;
    assert_eq!(one.store.list("name", None, 10).await.unwrap().pages.len(), 5);
    one.close().await;
    let again = Bench::open(config(directory.path())).await;
    assert_eq!(again.store.stat().pages, 305);
    again.load_all(&all).await;
    for view in inspect::sets(directory.path()).unwrap() {
        let verified = view.verify(drop).unwrap();
        assert_eq!((verified.good_pages, verified.corrupt_pages), (305, 0));
    }
    again.close().await;
}

#[tokio::test]
async fn a_namespace_is_not_seen_by_another() {
    let directory = tempfile::tempdir().unwrap();
    let other = PageStoreConfig { namespace: Namespace::new("other"), ..config(directory.path()) };
    let (first, other) = (Bench::open(config(directory.path())).await, Bench::open(other).await);
    first.store(&pages(0..10)).await;
    other.store(&pages(5..15)).await;
    assert_eq!(first.count(&pages(0..20)).await, 10);
    first.store.clear().await.unwrap();
    assert_eq!(other.count(&pages(0..20)).await, 10);
    first.close().await;
    other.close().await;
}

/// Files under `root` that are gone and still open somewhere in this process.
fn gone_and_open(root: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    let targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets
        .filter(|target| target.starts_with(root) && target.to_string_lossy().ends_with(" (deleted)"))
        .count()
}

#[tokio::test]
async fn a_reader_that_sleeps_keeps_no_removed_segment() {
    let directory = tempfile::tempdir().unwrap();
    let writer = Bench::open(config(directory.path())).await;
    let reads = Bench::open(reader(directory.path())).await;
    writer.store(&pages(0..200)).await;
    reads.load_all(&pages(0..200)).await;
    writer.store.clear().await.unwrap();
    assert!(gone_and_open(directory.path()) > 0, "the test sees nothing");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while gone_and_open(directory.path()) > 0 {
        assert!(std::time::Instant::now() < until, "segments that were removed are still open");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    reads.close().await;
    writer.close().await;
}

/// Everything in it comes at one look, in segments that nobody knew of before.
#[tokio::test]
async fn a_store_that_slept_for_long_finds_all_that_came_meanwhile() {
    const PAGES: u64 = 70_000;
    let directory = tempfile::tempdir().unwrap();
    let roomy = || limited(directory.path(), 1 << 30);
    let sleeper = Bench::open(roomy()).await;
    let writer = Bench::open(roomy()).await;
    assert_eq!(exist(&sleeper, &pages(0..1)).await, 0);
    for from in (0..PAGES).step_by(1000) {
        for part in (from..from + 1000).step_by(125) {
            writer.store(&pages(part..part + 125)).await;
        }
    }
    assert_eq!(exist(&sleeper, &pages(0..PAGES)).await as u64, PAGES);
    assert_eq!(sleeper.store.stat().foreign_pages, PAGES);
    sleeper.close().await;
    writer.close().await;
}
