//! Calls that share a store, one that is slow, and one that never answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{ErrorKind, Outcome, Storage, StorageStat};
use hicache_testkit::numbered_key;

use super::config::NixlObjConfig;
use super::fixture::{Fault, Ground, Store, config, kinds, open_with};
use super::trial;

/// Ranks that start together probe the same bucket with the same object.
#[tokio::test]
async fn probes_at_the_same_time_do_not_fail_each_other() {
    let store = Arc::new(Store::default());
    let one = open_with(config(), &store, "probe").await.unwrap();
    let other = open_with(config(), &store, "probe").await.unwrap();
    trial::store(&*one, 1).unwrap();
    trial::store(&*other, 2).unwrap();
    trial::load(&*one).unwrap();
    trial::load(&*other).unwrap();
    one.close().await.unwrap();
    other.close().await.unwrap();
}

/// Each answer comes in a fraction of the time that it may take; all of them together take several times as long.
#[tokio::test]
async fn a_busy_store_is_no_store_that_fails() {
    let ground = Ground::with(NixlObjConfig { concurrency: 2, store_timeout_ms: 400, ..config() }).await;
    ground.store.fail(|_, _| Fault::Slow(Duration::from_millis(15)));
    let begun = Instant::now();
    let stored = ground.store(0..100, 1, false).await;
    assert!(stored.iter().all(Outcome::is_done), "{stored:?}");
    assert!(begun.elapsed() > Duration::from_millis(600), "it took no time: {:?}", begun.elapsed());
    let begun = Instant::now();
    let loaded = ground.load(0..100, 1).await;
    assert!(loaded.iter().all(Outcome::is_done), "{loaded:?}");
    assert!(begun.elapsed() > Duration::from_millis(600), "it took no time: {:?}", begun.elapsed());
    let keys: Vec<_> = (0..100).map(numbered_key).collect();
    assert_eq!(ground.storage.exists(&keys).await.unwrap(), [true; 100]);
    assert_eq!(ground.storage.exists_prefix(&keys).await.unwrap(), 100);
    let stat = ground.storage.stat();
    assert!(stat.breaker_opened == 0 && stat.failed_pages == 0 && stat.refused_pages == 0, "{stat:?}");
    ground.storage.close().await.unwrap();
}

/// Pages that come after their time show that the store answers.
#[tokio::test]
async fn late_pages_close_the_breaker() {
    let ground = Ground::new().await;
    ground.store(0..8, 1, false).await;
    ground.store.fail(|_, _| Fault::Slow(Duration::from_millis(600)));
    assert_eq!(kinds(&ground.load(0..8, 1).await), [Some(ErrorKind::Timeout); 8]);
    let until = Instant::now() + Duration::from_secs(10);
    let is_over = |stat: StorageStat| stat.breaker_opened == 1 && stat.breakers_open == 0;
    while !is_over(ground.storage.stat()) {
        assert!(Instant::now() < until, "it stays open, or never opened");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ground.storage.close().await.unwrap();
}

/// As many as may move at a time hang for ever: later ones are refused at once, and served when the store is back.
#[tokio::test]
async fn transfers_that_never_end_take_no_place() {
    let ground = Ground::new().await;
    ground.store(0..40, 1, false).await;
    ground.store.fail(|operation, _| if operation == "head" { Fault::None } else { Fault::Hangs });
    assert!(ground.load(0..40, 1).await.iter().all(|outcome| outcome.error().is_some()));
    let begun = Instant::now();
    assert_eq!(kinds(&ground.load(0..8, 1).await), [Some(ErrorKind::Unavailable); 8]);
    assert!(begun.elapsed() < Duration::from_millis(150), "{:?}", begun.elapsed());
    ground.store.heal();
    let until = Instant::now() + Duration::from_secs(10);
    while !ground.load(0..40, 1).await.iter().all(Outcome::is_done) {
        assert!(Instant::now() < until, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ground.store(100..140, 1, false).await.iter().all(Outcome::is_done));
}

/// All threads that ask hang: others take their places, and when those hang too, nobody waits.
#[tokio::test]
async fn questions_that_hang_take_no_place() {
    let ground = Ground::new().await;
    ground.store(0..8, 1, false).await;
    let mut hung = 0;
    ground.store.fail(move |operation, _| {
        hung += u32::from(operation == "head");
        if operation == "head" && hung <= 2 { Fault::Hangs } else { Fault::None }
    });
    let keys: Vec<_> = (0..8).map(numbered_key).collect();
    assert_eq!(ground.storage.exists(&keys).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(ground.storage.exists(&keys).await.unwrap(), [true; 8], "two new threads ask");
    ground.store.fail(|operation, _| if operation == "head" { Fault::Hangs } else { Fault::None });
    for _ in 0..4 {
        assert!(ground.storage.exists(&keys).await.is_err());
    }
    // Loads need no question.
    let until = Instant::now() + Duration::from_secs(10);
    while !ground.load(0..8, 1).await.iter().all(Outcome::is_done) {
        assert!(Instant::now() < until, "loads do not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begun = Instant::now();
    assert_eq!(ground.storage.exists(&keys).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_millis(150), "{:?}", begun.elapsed());
    ground.store.heal();
    let until = Instant::now() + Duration::from_secs(10);
    while ground.storage.exists(&keys).await.is_err() {
        assert!(Instant::now() < until, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ground.store(100..108, 1, false).await.iter().all(Outcome::is_done));
    ground.storage.close().await.unwrap();
}

/// While loads are left alone none waits for a place, though all of them are taken.
#[tokio::test]
async fn nothing_waits_for_a_place_while_the_store_is_left_alone() {
    let ground = Ground::with(NixlObjConfig { concurrency: 2, load_timeout_ms: 5_000, ..config() }).await;
    ground.store(0..4, 1, false).await;
    let hung = [0, 1].map(|number| hicache_core::hashing::to_hex(&numbered_key(number).digest));
    ground.store.fail(move |operation, object| match operation {
        "head" => Fault::None,
        _ if hung.iter().any(|name| object.contains(name)) => Fault::Hangs,
        _ => Fault::Fails,
    });
    let mut first = Box::pin(ground.load_at(0..1, 1, 0));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut first).await.is_err());
    let until = Instant::now() + Duration::from_secs(10);
    while ground.storage.stat().breakers_open == 0 {
        assert!(Instant::now() < until, "loads that fail open nothing");
        assert!(ground.load_at(3..4, 1, 3).await[0].error().is_some());
    }
    // The one that tries takes the other place.
    let mut second = Box::pin(ground.load_at(1..2, 1, 1));
    while tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_ok() {
        assert!(Instant::now() < until, "none tries");
        second = Box::pin(ground.load_at(1..2, 1, 1));
    }
    let begun = Instant::now();
    assert_eq!(kinds(&ground.load_at(2..3, 1, 2).await), [Some(ErrorKind::Unavailable)]);
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
}

/// What loads have opened no answer to a question closes: each load would then wait out its time again.
#[tokio::test]
async fn an_answered_question_brings_no_hung_load_back() {
    let ground = Ground::new().await;
    ground.store(0..8, 1, false).await;
    ground.store.fail(|operation, _| if operation == "read" { Fault::Hangs } else { Fault::None });
    assert_eq!(kinds(&ground.load(0..8, 1).await), [Some(ErrorKind::Timeout); 8]);
    let keys: Vec<_> = (0..8).map(numbered_key).collect();
    for _ in 0..5 {
        assert_eq!(ground.storage.exists(&keys).await.unwrap(), [true; 8]);
        let loaded = kinds(&ground.load(0..8, 1).await);
        let refused = loaded.iter().filter(|kind| **kind == Some(ErrorKind::Unavailable)).count();
        assert!(refused >= 7, "one may try: {loaded:?}");
        assert!(ground.store(100..101, 1, true).await[0].is_done(), "stores go on");
    }
}

/// A bucket that takes no pages: a full one, or one for reading.
#[tokio::test]
async fn refused_stores_stop_no_loads_and_ask_nothing() {
    let ground = Ground::new().await;
    ground.store(0..8, 1, false).await;
    ground.store.fail(|operation, _| if operation == "write" { Fault::Fails } else { Fault::None });
    let refused = |outcomes: Vec<Outcome>| outcomes.iter().all(|outcome| outcome.error().is_some());
    assert!(refused(ground.store(10..20, 1, false).await));
    let asked = ground.storage.head_requests();
    for _ in 0..5 {
        assert!(refused(ground.store(20..30, 1, false).await));
        assert!(ground.load(0..8, 1).await.iter().all(Outcome::is_done), "loads go on");
    }
    let asked = ground.storage.head_requests() - asked;
    assert!(asked <= 25, "{asked} of 50 pages that are not stored were asked for");
    let stat = ground.storage.stat();
    assert!(stat.breakers_open == 1 && stat.breaker_opened == 1, "only that of stores: {stat:?}");
    ground.store.heal();
    let until = Instant::now() + Duration::from_secs(10);
    while !ground.store(20..30, 1, false).await.iter().all(Outcome::is_done) {
        assert!(Instant::now() < until, "stores do not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ground.all_breakers_are_closed().await;
}

/// Transfers that hang have all buffers: others are refused, since nothing gives one back.
#[tokio::test]
async fn without_a_buffer_nothing_waits_for_ever() {
    let ground = Ground::with(NixlObjConfig { staging_bytes: 16 << 10, ..config() }).await;
    ground.store(0..4, 1, false).await;
    ground.store.fail(|operation, _| if operation == "head" { Fault::None } else { Fault::Hangs });
    assert_eq!(kinds(&ground.load(0..2, 1).await), [Some(ErrorKind::Timeout); 2]);
    ground.store.heal();
    let outcome = ground.load(2..3, 1);
    let outcome = tokio::time::timeout(Duration::from_secs(5), outcome).await.unwrap();
    let error = outcome[0].error().unwrap();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("staging_bytes"), "{error}");
}

/// What hangs may still put its object: no later store of the key overtakes it, nor waits for it.
#[tokio::test]
async fn no_store_overtakes_one_that_hangs() {
    let ground = Ground::new().await;
    ground.store.fail(|operation, _| if operation == "head" { Fault::None } else { Fault::Hangs });
    assert_eq!(kinds(&ground.store(0..1, 1, true).await), [Some(ErrorKind::Timeout)]);
    ground.store.heal();
    let begun = Instant::now();
    assert_eq!(kinds(&ground.store(0..1, 2, true).await), [Some(ErrorKind::Timeout)]);
    assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(ground.store(1..2, 1, true).await[0].is_done());
}

#[tokio::test]
async fn memory_that_is_lost_has_a_bound() {
    let bound = 1 << 20;
    let ground = Ground::with(NixlObjConfig { staging_bytes: bound, ..config() }).await;
    ground.store(0..1, 1, false).await;
    ground.store.fail(|operation, _| if operation == "head" { Fault::None } else { Fault::Loses });
    let mut last = Vec::new();
    for _ in 0..500 {
        // Absent: an answer, so that the breaker stays closed.
        ground.load(1..2, 1).await;
        last = ground.load(0..1, 1).await;
    }
    let lost = ground.storage.lost_bytes();
    assert!(lost > bound / 2 && lost <= bound, "{lost}");
    let error = last[0].error().unwrap();
    let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    assert!(error.kind() == ErrorKind::Unavailable && why.contains("bytes are lost"), "{error}: {why}");
}

/// A server that takes connections and never answers.
#[tokio::test]
async fn opening_has_a_deadline() {
    let store = Arc::new(Store::default());
    store.fail(|_, _| Fault::Hangs);
    let begun = Instant::now();
    let open = open_with(config(), &store, "test");
    let error = tokio::time::timeout(Duration::from_secs(10), open).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("bucket \"pages\" of AWS did not answer in time"), "{error}");
    assert!(begun.elapsed() >= Duration::from_millis(config().store_timeout_ms));
    store.heal();
}
