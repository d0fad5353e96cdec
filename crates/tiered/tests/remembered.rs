//! What is remembered of the far tier, and what ends that.

mod fixture;

use std::time::{Duration, Instant};

use fixture::{Ground, done, eventually};
use hicache_core::{Direction, ErrorKind, Outcome, PageKey, Storage};
use hicache_testkit::{FaultPlan, StorageFault, numbered_key};
use hicache_tiered::TieredConfig;

fn config() -> TieredConfig {
    TieredConfig { absent_age_ms: 0, ..TieredConfig::default() }
}

async fn sent(ground: &Ground, pages: u64) {
    ground.store(0..pages, 1, false).await;
    eventually("pages in the far tier", || ground.bucket.stat().pages == pages).await;
    ground.near.clear().await.unwrap();
}

/// Somebody else clears the bucket: whoever sees that a page is gone sends it again.
#[tokio::test]
async fn what_the_far_tier_has_lost_is_sent_again() {
    for way in 0..3 {
        let ground = Ground::new(config());
        sent(&ground, 4).await;
        ground.bucket.clear().await.unwrap();
        let keys: Vec<PageKey> = (0..4).map(numbered_key).collect();
        for number in 0..4 {
            match way {
                0 => assert_eq!(done(&ground.load(number..number + 1, 1).await), 0),
                1 => assert_eq!(
                    ground.tiered.exists(&keys[number as usize..=number as usize]).await.unwrap(),
                    [false]
                ),
                _ => assert_eq!(ground.tiered.exists_prefix(&keys[number as usize..]).await.unwrap(), 0),
            }
        }
        assert_eq!(done(&ground.store(0..4, 1, false).await.outcomes), 4);
        eventually("the pages in the far tier again", || ground.bucket.stat().pages == 4).await;
    }
}

/// A page that is bad there is sent again too: the far tier replaces what it knows to be bad.
#[tokio::test]
async fn what_is_bad_in_the_far_tier_is_sent_again() {
    let ground = Ground::new(config());
    sent(&ground, 1).await;
    ground.far.set_plan(FaultPlan::script([(Direction::Read, 0, StorageFault::Fail(ErrorKind::Corrupt))]));
    let outcomes = ground.load(0..1, 1).await;
    assert_eq!(outcomes[0].error().unwrap().kind(), ErrorKind::Corrupt);
    assert_eq!(done(&ground.store(0..1, 1, false).await.outcomes), 1);
    eventually("the page on its way again", || ground.bucket.stat().present_pages == 1).await;
}

/// An error of the far tier is no miss, and so nothing to remember.
#[tokio::test]
async fn a_question_that_failed_is_asked_again() {
    let ground = Ground::new(TieredConfig { absent_age_ms: 60_000, ..TieredConfig::default() });
    sent(&ground, 4).await;
    let keys: Vec<PageKey> = (0..4).map(numbered_key).collect();
    ground.far_script.fail_exists(true);
    assert_eq!(ground.tiered.exists(&keys).await.unwrap(), [false; 4]);
    assert_eq!(ground.tiered.exists_prefix(&keys).await.unwrap(), 0);
    ground.far_script.fail_exists(false);
    assert_eq!(ground.tiered.exists_prefix(&keys).await.unwrap(), 4);
    assert_eq!(ground.tiered.exists(&keys).await.unwrap(), [true; 4]);
}

/// A far tier that is down and remembers what it has does not look up: it is tried with a question that it must ask.
#[tokio::test]
async fn what_a_far_tier_remembers_does_not_speak_for_it() {
    let ground = Ground::new(config());
    sent(&ground, 1).await;
    ground.far_script.remember(numbered_key(0), true);
    ground.far_script.fail_exists(true);
    ground.far.set_plan(FaultPlan::every(Direction::Read, StorageFault::Fail(ErrorKind::Timeout)));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1300) {
        let outcomes = ground.load(0..1, 1).await;
        assert!(matches!(outcomes[0], Outcome::Absent), "{outcomes:?}");
        assert_eq!(ground.tiered.exists(&[numbered_key(0)]).await.unwrap().len(), 1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let counts = ground.tiered.counts();
    assert_eq!((counts.far_cut_off, counts.far_failed_pages), (1, 3), "it was cut off once, and stayed so");
    assert!(ground.far_script.asked() > 0, "it was tried");
}

/// Misses that are remembered say nothing of a far tier that fails whenever it is asked.
#[tokio::test]
async fn misses_that_are_remembered_do_not_reset_the_count_of_failures() {
    let ground = Ground::new(config());
    sent(&ground, 1).await;
    ground.far_script.remember(numbered_key(7), false);
    ground.far_script.fail_exists(true);
    for _ in 0..3 {
        assert_eq!(ground.tiered.exists(&[numbered_key(0)]).await.unwrap(), [false]);
        assert_eq!(ground.tiered.exists(&[numbered_key(7)]).await.unwrap(), [false]);
        assert_eq!(ground.tiered.exists_prefix(&[numbered_key(7)]).await.unwrap(), 0);
        assert_eq!(done(&ground.load(7..8, 1).await), 0);
    }
    assert_eq!(ground.tiered.counts().far_cut_off, 1);
}
