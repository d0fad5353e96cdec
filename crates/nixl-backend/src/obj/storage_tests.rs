//! The storage on a store of our own that fails as it is told: what the plugin can do to it, without the plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hicache_core::{Access, ErrorKind, Outcome, PageRequest, Region, Storage, StoreOptions};
use hicache_testkit::conformance::{StorageTraits, StorageUnderTest, storage_suite};
use hicache_testkit::numbered_key;

use super::config::NixlObjConfig;
use super::fixture::{Fault, Ground, PAGE, Store, config, kinds, open_with};

#[tokio::test]
async fn conformance() {
    let make = async || {
        let store = Arc::new(Store::default());
        let config = NixlObjConfig { load_timeout_ms: 60_000, store_timeout_ms: 60_000, ..config() };
        StorageUnderTest::new(open_with(config, &store, "conformance").await.unwrap()).keeping(store)
    };
    let traits = StorageTraits { deletes: false, lists: false, counts: false, ..StorageTraits::default() };
    storage_suite("nixl:OBJ on a store of ours", &traits, make).await.assert_complete(29);
}

#[tokio::test]
async fn conformance_with_faults_that_pass() {
    let make = async || {
        let store = Arc::new(Store::default());
        let config = NixlObjConfig { load_timeout_ms: 60_000, store_timeout_ms: 60_000, ..config() };
        let storage = open_with(config, &store, "conformance").await.unwrap();
        let (mut number, mut spoilt) = (0, std::collections::HashSet::new());
        store.fail(move |operation, object| {
            number += 1;
            let hits = number % 7 == 0 && operation != "head" && spoilt.insert(object.to_owned());
            if hits { Fault::Fails } else { Fault::None }
        });
        StorageUnderTest::new(storage).keeping(store)
    };
    let traits = StorageTraits { deletes: false, lists: false, counts: false, ..StorageTraits::default() };
    storage_suite("nixl:OBJ with faults", &traits, make).await.assert_complete(29);
}

#[tokio::test]
async fn what_is_short_or_changed_is_corrupt_and_the_next_store_replaces_it() {
    let ground = Ground::new().await;
    assert!(ground.store(0..5, 1, false).await.iter().all(Outcome::is_done));
    ground.store.change(0, |object| object.truncate(object.len() - 1));
    ground.store.change(1, |object| object.truncate(100));
    ground.store.change(2, |object| *object.last_mut().unwrap() ^= 1);
    ground.store.change(3, |object| object[0] ^= 1);
    let corrupt = Some(ErrorKind::Corrupt);
    for _ in 0..3 {
        // Again and again: the buffers hold what was right before.
        let outcomes = ground.load(0..5, 1).await;
        assert_eq!(kinds(&outcomes), [corrupt, corrupt, corrupt, corrupt, None]);
        assert!(outcomes[4].is_done());
    }
    let keys: Vec<_> = (0..5).map(numbered_key).collect();
    assert_eq!(ground.storage.exists(&keys).await.unwrap(), [false, false, false, false, true]);
    assert!(ground.store(0..5, 2, false).await.iter().all(Outcome::is_done));
    assert!(ground.load(0..4, 2).await.iter().all(Outcome::is_done));
    assert!(ground.load(4..5, 1).await.iter().all(Outcome::is_done));
    assert_eq!(ground.storage.stat().corrupt_pages, 12);
    ground.storage.close().await.unwrap();
}

#[tokio::test]
async fn an_object_of_another_key_is_not_its_page() {
    let ground = Ground::new().await;
    ground.store(0..2, 1, false).await;
    let page = |(name, bytes): (&String, &Vec<u8>)| name.ends_with(".kv").then(|| bytes.clone());
    let other = ground.store.objects().iter().find_map(page).unwrap();
    (0..2).for_each(|number| ground.store.change(number, |object| *object = other.clone()));
    let outcomes = ground.load(0..2, 1).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_done()).count(), 1, "{outcomes:?}");
    ground.storage.close().await.unwrap();
}

#[tokio::test]
async fn missing_is_told_from_failed() {
    let ground = Ground::new().await;
    ground.store(0..2, 1, false).await;
    let outcomes = ground.load(0..3, 1).await;
    assert!(outcomes[0].is_done() && matches!(outcomes[2], Outcome::Absent), "{outcomes:?}");
    ground.store.fail(|operation, _| if operation == "head" { Fault::None } else { Fault::Fails });
    let outcomes = ground.load(1..3, 1).await;
    assert_eq!(kinds(&outcomes), [Some(ErrorKind::Io), None], "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Absent));
    ground.store.fail(|_, _| Fault::Fails);
    assert_eq!(kinds(&ground.load(1..2, 1).await), [Some(ErrorKind::Unavailable)]);
    assert!(ground.storage.exists(&[numbered_key(0)]).await.is_err(), "an error is no miss");
    ground.storage.close().await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_down_costs_a_deadline_then_nothing_and_comes_back() {
    let ground = Ground::new().await;
    ground.store(0..8, 1, false).await;
    ground.store.fail(|_, _| Fault::Hangs);
    let begun = Instant::now();
    let outcomes = ground.load(0..8, 1).await;
    assert!(
        outcomes.iter().all(|o| o.error().is_some_and(|e| e.kind() == ErrorKind::Timeout)),
        "{outcomes:?}"
    );
    assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
    let keys = [numbered_key(0)];
    assert_eq!(ground.storage.exists_prefix(&keys).await.unwrap_err().kind(), ErrorKind::Timeout);
    let begun = Instant::now();
    for _ in 0..5 {
        let outcomes = ground.load(0..8, 1).await;
        assert_eq!(kinds(&outcomes), [Some(ErrorKind::Unavailable); 8]);
        assert_eq!(ground.storage.exists_prefix(&keys).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    let stat = ground.storage.stat();
    assert!(stat.breakers_open == 2 && stat.breaker_opened == 2 && stat.refused_pages >= 45, "{stat:?}");
    ground.store.heal();
    let until = Instant::now() + Duration::from_secs(10);
    while !ground.load(0..8, 1).await.iter().all(Outcome::is_done) {
        assert!(Instant::now() < until, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while ground.storage.exists(&keys).await.is_err() {
        assert!(Instant::now() < until, "questions do not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ground.all_breakers_are_closed().await;
    ground.storage.close().await.unwrap();
}

#[tokio::test]
async fn what_the_plugin_loses_is_never_used_again() {
    let ground = Ground::new().await;
    ground.store(0..1, 1, false).await;
    let lost = Arc::new(AtomicUsize::new(0));
    let counted = lost.clone();
    ground.store.fail(move |operation, _| match operation {
        "head" => Fault::None,
        _ if counted.fetch_add(1, Ordering::SeqCst) < 2 => Fault::Loses,
        _ => Fault::None,
    });
    assert_eq!(kinds(&ground.load(0..1, 1).await), [Some(ErrorKind::Io)]);
    assert!(ground.load(0..1, 1).await[0].is_done());
    ground.storage.close().await.unwrap();
}

/// Of k pages of 128 at most 2k + 8 are asked for.
#[tokio::test]
async fn a_prefix_is_asked_for_in_windows_that_double() {
    let ground = Ground::new().await;
    ground.store(0..100, 1, false).await;
    for (there, most) in [(0, 8), (3, 8), (10, 24), (100, 120)] {
        let keys: Vec<_> = (100 - there..228 - there).map(numbered_key).collect();
        let before = ground.storage.head_requests();
        assert_eq!(ground.storage.exists_prefix(&keys).await.unwrap() as u64, there);
        let asked = ground.storage.head_requests() - before;
        assert!(asked <= most.min(2 * there + 8).max(8), "{asked} for {there}");
    }
    let every_other: Vec<_> = (0..60).flat_map(|n| [numbered_key(n), numbered_key(n + 1000)]).collect();
    let there = ground.storage.exists(&every_other).await.unwrap();
    assert!(there.iter().enumerate().all(|(i, &there)| there == (i % 2 == 0)));
    ground.storage.close().await.unwrap();
}

#[tokio::test]
async fn a_bucket_that_is_not_right_is_refused_at_open() {
    let refused =
        async |store: &Arc<Store>, model: &str| open_with(config(), store, model).await.unwrap_err();
    let store = Arc::new(Store::default());
    // Missing: nothing is there, and nothing can be written.
    store.fail(|operation, _| if operation == "head" { Fault::None } else { Fault::Fails });
    let error = refused(&store, "m").await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("bucket \"pages\" of AWS can't be written to"), "{error}");
    store.fail(|_, _| Fault::Fails);
    assert_eq!(refused(&store, "m").await.kind(), ErrorKind::Config);
    store.heal();
    open_with(config(), &store, "m").await.unwrap().close().await.unwrap();
    // What is missing is forbidden.
    store.fail(|operation, object| match operation == "head" && !object.ends_with("manifest.json") {
        true => Fault::Fails,
        false => Fault::None,
    });
    let error = refused(&store, "m").await;
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("s3:ListBucket"), "{error}");
    store.heal();
    // The manifest of another namespace, at this one's place.
    let text = store.objects().values().next().unwrap().clone();
    let other = String::from_utf8(text).unwrap().replace("\"m\"", "\"n\"");
    store.objects().values_mut().for_each(|object| *object = other.clone().into_bytes());
    let error = refused(&store, "m").await;
    assert!(error.to_string().contains("\"n\"") && error.to_string().contains("nixl_obj.prefix"), "{error}");
}

#[tokio::test]
async fn nothing_at_the_address_is_said_at_once() {
    let store = Arc::new(Store::default());
    let mut config = config();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config.parameters.endpoint_override = Some(format!("http://127.0.0.1:{port}"));
    let error = open_with(config, &store, "m").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error
            .to_string()
            .contains(&format!("nothing answers for bucket \"pages\" at http://127.0.0.1:{port}"))
    );
}

#[tokio::test]
async fn a_reader_stores_nothing() {
    let store = Arc::new(Store::default());
    let config = NixlObjConfig { read_only: true, ..config() };
    let storage = open_with(config, &store, "m").await.unwrap();
    let registration = storage.register(&Region::allocate(1, PAGE).unwrap()).unwrap();
    let memory = registration.page(0, PAGE, Access::Write).unwrap();
    let batch = storage.store(vec![PageRequest::new(numbered_key(1), memory)], StoreOptions::default()).await;
    assert_eq!(kinds(&batch.outcomes), [Some(ErrorKind::Unsupported)]);
    assert!(store.objects().is_empty());
    storage.close().await.unwrap();
}

#[tokio::test]
async fn a_page_that_no_buffer_holds_is_refused_by_the_name_of_the_field() {
    let store = Arc::new(Store::default());
    let config = NixlObjConfig { staging_bytes: 64 << 10, ..config() };
    let storage = open_with(config, &store, "m").await.unwrap();
    let registration = storage.register(&Region::allocate(1, 64 << 10).unwrap()).unwrap();
    let memory = registration.page(0, 64 << 10, Access::Write).unwrap();
    let batch = storage.store(vec![PageRequest::new(numbered_key(1), memory)], StoreOptions::default()).await;
    let error = batch.outcomes[0].error().unwrap();
    assert!(
        error.kind() == ErrorKind::Config && error.to_string().contains("nixl_obj.staging_bytes"),
        "{error}"
    );
    storage.close().await.unwrap();
}
