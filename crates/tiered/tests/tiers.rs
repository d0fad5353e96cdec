//! What the tiers do for each other, and what they do not let each other suffer.

mod fixture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::{Ground, PAGE, done, eventually};
use hicache_core::{Direction, ErrorKind, MemoryStorage, Outcome, PageKey, Storage};
use hicache_testkit::{FaultPlan, StorageFault, numbered_key};
use hicache_tiered::{Tiered, TieredConfig};

#[tokio::test]
async fn what_is_stored_reaches_both_and_what_is_read_fills_the_near_one() {
    let ground = Ground::new(TieredConfig::default());
    assert_eq!(done(&ground.store(0..20, 1, false).await.outcomes), 20);
    eventually("pages in the far tier", || ground.bucket.stat().pages == 20).await;

    // Another machine: a near tier of its own, the same bucket.
    let other = Ground::over(Arc::new(MemoryStorage::new()), ground.bucket.clone(), TieredConfig::default());
    assert_eq!(done(&other.load(0..20, 1).await), 20);
    eventually("pages in the other near tier", || other.near.stat().pages == 20).await;
    let before = other.bucket.stat().hit_pages;
    assert_eq!(done(&other.load(0..20, 1).await), 20);
    assert_eq!(other.bucket.stat().hit_pages, before, "the second load is the near tier's");
    let counts = other.tiered.counts();
    assert_eq!((counts.near_hit_pages, counts.far_hit_pages, counts.filled_pages), (20, 20, 20));
    // It has seen that they are in the far tier: storing them again sends nothing.
    assert_eq!(done(&other.store(0..20, 1, false).await.outcomes), 20);
    other.tiered.close().await.unwrap();
    assert_eq!(ground.bucket.stat().stored_pages, 20);
    assert_eq!(ground.bucket.stat().present_pages, 0);
}

#[tokio::test]
async fn a_miss_is_remembered_briefly() {
    let ground = Ground::new(TieredConfig { absent_age_ms: 200, ..TieredConfig::default() });
    assert_eq!(done(&ground.load(0..5, 1).await), 0);
    assert_eq!(done(&ground.load(0..5, 1).await), 0);
    assert_eq!(ground.bucket.stat().missed_pages, 5, "the second load did not ask");
    assert_eq!(ground.tiered.counts().far_skipped_pages, 5);
    tokio::time::sleep(Duration::from_millis(220)).await;
    // What came to the bucket meanwhile is found when the memory of the miss has aged.
    let writer = Ground::over(Arc::new(MemoryStorage::new()), ground.bucket.clone(), TieredConfig::default());
    writer.store(0..5, 1, false).await;
    writer.tiered.close().await.unwrap_or_default();
    assert_eq!(writer.tiered.counts().far_stored_pages, 5);
}

#[tokio::test]
async fn a_far_tier_that_is_down_costs_its_hits_and_nothing_else() {
    let ground = Ground::new(TieredConfig { absent_age_ms: 0, ..TieredConfig::default() });
    ground.store(0..4, 1, false).await;
    eventually("pages in the far tier", || ground.bucket.stat().pages == 4).await;
    ground.near.clear().await.unwrap();
    ground.far.set_down(true);
    let outcomes = ground.load(0..4, 1).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Absent)), "{outcomes:?}");
    assert_eq!(ground.tiered.counts().far_cut_off, 1);
    // Stores and their loads go on; nothing waits for the far tier.
    let begun = Instant::now();
    assert_eq!(done(&ground.store(10..30, 1, false).await.outcomes), 20);
    assert_eq!(done(&ground.load(10..30, 1).await), 20);
    let keys: Vec<PageKey> = (10..32).map(numbered_key).collect();
    assert_eq!(ground.tiered.exists_prefix(&keys).await.unwrap(), 20);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    // It comes back by itself, and gets what it missed.
    ground.far.set_down(false);
    eventually("pages that came meanwhile", || ground.bucket.stat().pages == 24).await;
    assert_eq!(done(&ground.load(0..4, 1).await), 4);
    ground.tiered.close().await.unwrap();
}

#[tokio::test]
async fn nobody_waits_for_a_slow_far_tier_and_the_queue_has_a_bound() {
    let config = TieredConfig { queue_pages: 8, batches: 1, batch_pages: 2, ..TieredConfig::default() };
    let ground = Ground::new(config);
    ground.far.set_plan(FaultPlan::every(Direction::Write, StorageFault::Late(Duration::from_millis(200))));
    let begun = Instant::now();
    for start in 0..4 {
        assert_eq!(done(&ground.store(start * 16..start * 16 + 16, 1, false).await.outcomes), 16);
    }
    assert!(begun.elapsed() < Duration::from_millis(150), "{:?}", begun.elapsed());
    let counts = ground.tiered.counts();
    assert!(counts.waiting_pages <= 8 && counts.unsent_pages >= 64 - 8 - 2, "{counts:?}");
    // Close sends what waits.
    ground.tiered.close().await.unwrap();
    let counts = ground.tiered.counts();
    assert_eq!(counts.far_stored_pages + counts.unsent_pages, 64, "{counts:?}");
    assert!(counts.far_stored_pages >= 8);
}

#[tokio::test]
async fn corrupt_pages_of_the_far_tier_are_reported_and_its_failures_are_misses() {
    let ground = Ground::new(TieredConfig { absent_age_ms: 0, ..TieredConfig::default() });
    ground.store(0..3, 1, false).await;
    eventually("pages in the far tier", || ground.bucket.stat().pages == 3).await;
    ground.near.clear().await.unwrap();
    let fail = |kind| FaultPlan::script([(Direction::Read, 1, StorageFault::Fail(kind))]);
    ground.far.set_plan(fail(ErrorKind::Corrupt));
    let outcomes = ground.load(0..3, 1).await;
    assert_eq!(outcomes[1].error().unwrap().kind(), ErrorKind::Corrupt);
    assert_eq!((done(&outcomes), ground.tiered.counts().corrupt_pages), (2, 1));
    ground.far.set_plan(FaultPlan::every(Direction::Read, StorageFault::Fail(ErrorKind::Timeout)));
    let outcomes = ground.load(1..2, 1).await;
    assert!(matches!(outcomes[0], Outcome::Absent), "{outcomes:?}");
    assert_eq!(ground.tiered.counts().far_failed_pages, 1);
}

#[tokio::test]
async fn what_was_deleted_or_replaced_does_not_come_back() {
    let ground = Ground::new(TieredConfig { absent_age_ms: 0, ..TieredConfig::default() });
    ground.far.set_plan(FaultPlan::every(Direction::Write, StorageFault::Late(Duration::from_millis(30))));
    for round in 0..10 {
        ground.store(0..16, round, false).await;
        // Copies of them are under way to the far tier.
        let keys: Vec<PageKey> = (0..16).map(numbered_key).collect();
        let deleted = ground.tiered.delete(&keys).await.unwrap();
        assert_eq!(done(&deleted), 16);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!((ground.near.stat().pages, ground.bucket.stat().pages), (0, 0), "round {round}");
    }
    ground.store(0..4, 1, false).await;
    assert_eq!(done(&ground.store(0..4, 2, true).await.outcomes), 4);
    ground.near.clear().await.unwrap();
    assert_eq!(done(&ground.load(0..4, 2).await), 4);
    // Replacing needs both: an old page in the far tier would come back.
    ground.far.set_down(true);
    let refused = ground.store(0..1, 3, true).await;
    assert_eq!(refused.outcomes[0].error().unwrap().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_page_without_a_copy_is_read_again_from_the_near_tier() {
    let config = TieredConfig { staging_bytes: PAGE as u64, ..TieredConfig::default() };
    let ground = Ground::new(config);
    assert_eq!(done(&ground.store(0..50, 1, false).await.outcomes), 50);
    ground.tiered.close().await.unwrap();
    let counts = ground.tiered.counts();
    assert_eq!((counts.far_stored_pages, counts.unsent_pages), (50, 0), "{counts:?}");
}

#[test]
fn tiers_of_two_namespaces_and_bounds_of_nothing_are_refused() {
    let memory = || Arc::new(MemoryStorage::new());
    let config = TieredConfig { batches: 0, ..TieredConfig::default() };
    let error = Tiered::open(memory(), memory(), config).unwrap_err();
    assert!(error.to_string().contains("tiered.batches"), "{error}");
}
