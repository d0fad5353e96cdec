//! The reference backend goes through the suite and the model that every other storage goes through.

use std::sync::Arc;

use hicache_core::hashing::to_hex;
use hicache_core::{Access, ErrorKind, MemoryStorage, Outcome, PageRequest, Region, Storage, StoreOptions};
use hicache_testkit::conformance::{StorageTraits, StorageUnderTest, storage_suite};
use hicache_testkit::{Played, Semantics, Universe, numbered_key, operations, run_sequence};
use proptest::test_runner::{Config, TestCaseError, TestRunner};

#[tokio::test]
async fn conformance() {
    let make = async || StorageUnderTest::new(Arc::new(MemoryStorage::new()));
    storage_suite("memory", &StorageTraits::default(), make).await.assert_complete(33);
}

#[tokio::test]
async fn conformance_with_room_for_little() {
    let traits = StorageTraits { most_pages: 64, ..StorageTraits::default() };
    let make = async || StorageUnderTest::new(Arc::new(MemoryStorage::with_capacity(3 << 20)));
    let report = storage_suite("memory, 3 MiB", &traits, make).await;
    report.assert_complete(31);
    assert_eq!(report.skipped().count(), 2);
}

fn play(open: impl AsyncFn() -> Arc<dyn Storage>, evicts: bool) {
    let universe = Universe::default();
    let semantics = Semantics { evicts, forgets_at_reopen: true, ..Semantics::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut total = Played::default();
    let mut runner = TestRunner::new(Config { cases: 256, failure_persistence: None, ..Config::default() });
    let played = std::cell::RefCell::new(&mut total);
    let result = runner.run(&operations(&universe, 40), |ops| {
        let one =
            runtime.block_on(run_sequence(&open, semantics, &universe, &ops)).map_err(TestCaseError::fail)?;
        let mut total = played.borrow_mut();
        total.hits += one.hits;
        total.misses += one.misses;
        total.reopened += one.reopened;
        Ok(())
    });
    assert!(result.is_ok(), "{}", result.unwrap_err());
    assert!(
        total.hits > 1000 && total.misses > 1000 && total.reopened > 50,
        "too little happened: {total:?}"
    );
}

#[test]
fn it_is_what_the_model_says() {
    play(async || Arc::new(MemoryStorage::new()) as Arc<dyn Storage>, false);
}

#[test]
fn with_a_limit_it_forgets_and_is_never_wrong() {
    play(async || Arc::new(MemoryStorage::with_capacity(40_000)) as Arc<dyn Storage>, true);
}

#[tokio::test]
async fn with_a_limit_the_tails_go_first_and_what_is_used_stays() {
    let storage = MemoryStorage::with_capacity(4 * 100);
    let registration = storage.register(&Region::allocate(6, 100).unwrap()).unwrap();
    let store = async |numbers: std::ops::Range<u64>| {
        let request = |number: u64| {
            let memory = registration.page(number as usize % 6, 100, Access::Read).unwrap();
            PageRequest::new(numbered_key(number), memory)
        };
        let batch = storage.store(numbers.map(request).collect(), StoreOptions::default()).await;
        assert!(batch.outcomes.iter().all(Outcome::is_done));
    };
    let there = async || {
        let listed = storage.list("", None, 100).await.unwrap().pages;
        (0..20)
            .filter(|&n| listed.iter().any(|page| page.name == to_hex(&numbered_key(n).digest)))
            .collect::<Vec<_>>()
    };
    // Six pages of one chain where four fit: its head stays, for a tail without its head is of no use.
    store(0..6).await;
    assert_eq!(there().await, [0, 1, 2, 3]);
    // Asking counts as use, from the end to the front.
    assert_eq!(storage.exists(&[numbered_key(2), numbered_key(3)]).await.unwrap(), [true, true]);
    store(10..12).await;
    assert_eq!(there().await, [2, 3, 10, 11]);
    store(12..13).await;
    assert_eq!(there().await, [2, 10, 11, 12]);
    assert_eq!(storage.stat().evicted_pages, 5);
    // A page that never fits is refused, and nothing goes for it.
    let registration = storage.register(&Region::allocate(1, 500).unwrap()).unwrap();
    let memory = registration.page(0, 401, Access::Read).unwrap();
    let refused =
        storage.store(vec![PageRequest::new(numbered_key(15), memory)], StoreOptions::default()).await;
    assert_eq!(refused.outcomes[0].error().unwrap().kind(), ErrorKind::NoSpace);
    assert_eq!(there().await, [2, 10, 11, 12]);
}
