//! What was deleted, cleared or replaced stays so, whatever is under way meanwhile.

mod fixture;

use std::time::Duration;

use fixture::{Ground, PAGE, done, eventually};
use hicache_core::{Direction, PageKey, Storage};
use hicache_testkit::{FaultPlan, StorageFault, numbered_key};
use hicache_tiered::TieredConfig;

fn config() -> TieredConfig {
    TieredConfig { absent_age_ms: 0, ..TieredConfig::default() }
}

/// A page that only the far tier has, and that is loaded while it is being deleted: what the load found there does not
/// come back near, and counts as sent no more.
#[tokio::test]
async fn a_load_in_the_middle_of_a_deletion_brings_nothing_back() {
    for clears in [false, true] {
        let ground = Ground::new(config());
        ground.store(0..4, 1, false).await;
        eventually("pages in the far tier", || ground.bucket.stat().pages == 4).await;
        ground.near.clear().await.unwrap();
        ground.far_script.pause_deletes(Duration::from_millis(100));
        let keys: Vec<PageKey> = (0..4).map(numbered_key).collect();
        let deletion = async {
            match clears {
                true => assert_eq!(ground.tiered.clear().await.unwrap(), 4),
                false => assert_eq!(done(&ground.tiered.delete(&keys).await.unwrap()), 4),
            }
        };
        let load = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            ground.load(0..4, 1).await
        };
        let ((), loaded) = tokio::join!(deletion, load);
        assert_eq!(done(&loaded), 4, "the far tier still had them");
        let fills = || ground.tiered.counts().filled_pages + ground.tiered.counts().unfilled_pages;
        eventually("the end of what was to be kept near", || fills() == 4).await;
        assert_eq!((ground.near.stat().pages, ground.bucket.stat().pages), (0, 0), "clears: {clears}");
        ground.far_script.pause_deletes(Duration::ZERO);
        assert_eq!(done(&ground.store(0..4, 2, false).await.outcomes), 4);
        eventually("the pages in the far tier again", || ground.bucket.stat().pages == 4).await;
    }
}

/// A batch of copies that waits for the gate while everything is cleared is not sent.
#[tokio::test]
async fn a_batch_that_waits_for_a_clearing_sends_nothing_after_it() {
    let ground = Ground::new(TieredConfig { batches: 2, batch_pages: 2, ..config() });
    // The first batch ends long before the second: in between there is room for a third, which can't begin.
    let late = |ms| StorageFault::Late(Duration::from_millis(ms));
    ground
        .far
        .set_plan(FaultPlan::script([(Direction::Write, 0, late(40)), (Direction::Write, 2, late(200))]));
    assert_eq!(done(&ground.store(0..16, 1, false).await.outcomes), 16);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(ground.tiered.clear().await.unwrap(), 16);
    assert_eq!((ground.near.stat().pages, ground.bucket.stat().pages), (0, 0));
    ground.tiered.close().await.unwrap();
    assert_eq!(ground.bucket.stat().pages, 0, "{:?}", ground.tiered.counts());
}

/// The far tier has the new page, and its memory is lost: the near one must not go on with the old page.
#[tokio::test]
async fn an_old_page_goes_from_the_near_tier_when_the_new_one_can_not_come() {
    let ground = Ground::new(config());
    ground.store(0..2, 1, false).await;
    eventually("pages in the far tier", || ground.bucket.stat().pages == 2).await;
    ground.far_script.lose_memory();
    let replaced = ground.store(0..1, 2, true).await;
    assert!(replaced.outcomes[0].is_done() && replaced.memory[0].is_none(), "{replaced:?}");
    assert_eq!(done(&ground.load(0..1, 2).await), 1);

    let ground = Ground::new(config());
    ground.store(0..2, 1, false).await;
    eventually("pages in the far tier", || ground.bucket.stat().pages == 2).await;
    ground.near_script.refuse_overwrites();
    assert_eq!(done(&ground.store(0..1, 2, true).await.outcomes), 1);
    assert_eq!(done(&ground.load(0..1, 2).await), 1);
    // It can't even go: that is said.
    ground.near_script.refuse_deletes();
    let replaced = ground.store(1..2, 2, true).await;
    assert!(replaced.outcomes[0].error().is_some(), "{replaced:?}");
}

/// Two stores of one key at a time, with different bytes: what the near tier took is what the far one gets.
#[tokio::test]
async fn both_tiers_keep_the_same_of_two_stores_at_a_time() {
    let ground = Ground::new(config());
    let other = ground.beside();
    // The second comes first near, and is answered last.
    ground.near_script.pause_stores([(40, 0), (0, 120)]);
    let later = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        other.store(0..8, 2, false).await
    };
    let (one, two) = tokio::join!(ground.store(0..8, 1, false), later);
    assert_eq!(done(&one.outcomes) + done(&two.outcomes), 16);
    drop((one, two));
    eventually("pages in the far tier", || ground.bucket.stat().pages == 8).await;
    let near = ground.bytes(0..8).await;
    assert_eq!(near.len(), 8 * PAGE);
    ground.near.clear().await.unwrap();
    assert!(near == ground.bytes(0..8).await, "the far tier has other bytes than the near one had");
}
