//! Faults of the server, one kind at a time: what is wrong is reported, and never served.

mod fixture;

use std::time::{Duration, Instant};

use fixture::{Fault, Ground, Server, config, done};
use hicache_core::{ErrorKind, Outcome, Storage};
use http::Method;

fn kinds(outcomes: &[Outcome]) -> Vec<Option<ErrorKind>> {
    outcomes.iter().map(|outcome| outcome.error().map(hicache_core::Error::kind)).collect()
}

/// Every way in which a body can be wrong, once: it is asked for again, and what comes then is right.
#[tokio::test]
async fn a_bad_body_is_asked_for_again() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..8).await;
    let wrong = [
        Fault::Short(1),
        Fault::Short(fixture::PAGE - 1),
        Fault::Short(fixture::PAGE - 1000),
        Fault::Corrupt(0),
        Fault::Corrupt(fixture::PAGE - 1),
    ];
    for (number, fault) in wrong.into_iter().enumerate() {
        server.fail_first(8, Method::GET, fault.clone());
        let before = ground.storage.bad_bodies();
        assert_eq!(done(&ground.load(0..8).await), 8, "{fault:?}");
        assert_eq!(ground.storage.bad_bodies() - before, 8, "every bad body is counted: {fault:?}, {number}");
    }
    assert_eq!(ground.storage.stat().corrupt_pages, 0);
}

/// What stays wrong is reported, all of it, and none is served. The next store replaces it.
#[tokio::test]
async fn what_stays_wrong_is_reported_and_replaced() {
    let server = Server::start().await;
    for fault in [Fault::Corrupt(1000), Fault::Cut(1), Fault::Cut(30_000)] {
        let ground = Ground::open(config(&[&server])).await;
        ground.store(0..16).await;
        server.fail_gets(fault.clone());
        let outcomes = ground.load(0..16).await;
        assert_eq!(kinds(&outcomes), vec![Some(ErrorKind::Corrupt); 16], "{fault:?}");
        assert_eq!(ground.storage.stat().corrupt_pages, 16);
        server.heal();
        let before = server.bucket.lock().puts;
        ground.store(0..16).await;
        assert_eq!(server.bucket.lock().puts - before, 16, "each was put anew");
        assert_eq!(done(&ground.load(0..16).await), 16);
        ground.storage.close().await.unwrap();
    }
}

/// Bytes that changed at rest, in any place: found by their sum.
#[tokio::test]
async fn objects_that_rotted_are_found() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..64).await;
    {
        let mut content = server.bucket.lock();
        let pages = content.objects.iter_mut().filter(|(name, _)| name.ends_with(".kv"));
        for (i, (_, stored)) in pages.enumerate() {
            let at = i * stored.bytes.len() / 64;
            stored.bytes[at] ^= 1 << (i % 8);
        }
    }
    assert_eq!(kinds(&ground.load(0..64).await), vec![Some(ErrorKind::Corrupt); 64]);
}

#[tokio::test]
async fn short_bodies_that_never_end_well_are_failures_by_the_deadline() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    config.load_timeout_ms = 500;
    let ground = Ground::open(config).await;
    ground.store(0..8).await;
    for fault in [Fault::Short(100), Fault::Reset, Fault::Stall(Duration::from_secs(60))] {
        server.fail_gets(fault.clone());
        let begun = Instant::now();
        let outcomes = ground.load(0..8).await;
        let most = Duration::from_millis(500) + Duration::from_millis(700);
        assert!(begun.elapsed() < most, "{fault:?} took {:?}", begun.elapsed());
        assert_eq!(done(&outcomes), 0, "{fault:?}");
        assert!(outcomes.iter().all(|outcome| outcome.error().is_some()), "{fault:?}: no failure is a miss");
        server.heal();
        // The breaker closes by itself.
        let until = Instant::now() + Duration::from_secs(10);
        while done(&ground.load(0..8).await) < 8 {
            assert!(Instant::now() < until, "{fault:?}: it does not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn storms_stalls_and_slow_first_bytes_pass() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..32).await;
    let passing = [
        (32, Fault::SlowDown),
        (20, Fault::Internal),
        (3, Fault::Reset),
        (4, Fault::Stall(Duration::from_secs(60))),
        (32, Fault::Late(Duration::from_millis(150))),
        (4, Fault::Late(Duration::from_secs(60))),
    ];
    for (number, fault) in passing {
        server.fail_first(number, Method::GET, fault.clone());
        let until = Instant::now() + Duration::from_secs(5);
        while done(&ground.load(0..32).await) < 32 {
            assert!(Instant::now() < until, "{fault:?}");
        }
    }
    // The same for what is stored.
    for (version, fault) in [Fault::SlowDown, Fault::Internal, Fault::Reset].into_iter().enumerate() {
        server.fail_first(3, Method::PUT, fault.clone());
        let batch = ground.try_store(0..32, version as u64 + 2, true).await;
        assert_eq!(done(&batch.outcomes), 32, "{fault:?}: {:?}", batch.outcomes);
    }
}

/// What says nothing any more is asked for again while its load has time: the load as a whole goes well.
#[tokio::test]
async fn what_stalls_is_asked_for_again_by_the_same_load() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    (config.load_timeout_ms, config.stall_timeout_ms) = (20_000, 300);
    let ground = Ground::open(config).await;
    ground.store(0..8).await;
    for fault in [Fault::Stall(Duration::from_secs(60)), Fault::Late(Duration::from_secs(60))] {
        server.fail_first(2, Method::GET, fault.clone());
        let begun = Instant::now();
        assert_eq!(done(&ground.load(0..8).await), 8, "{fault:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{fault:?}: {:?}", begun.elapsed());
    }
}

/// A secret that ends: every call says so without a miss, nothing of it is shown, and new requests are held back.
#[tokio::test]
async fn an_expired_secret_is_no_miss() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..8).await;
    server.set_expired(true);
    for _ in 0..3 {
        let outcomes = ground.load(0..8).await;
        assert_eq!(kinds(&outcomes), vec![Some(ErrorKind::Unavailable); 8], "{outcomes:?}");
        let batch = ground.try_store(20..22, 1, false).await;
        assert_eq!(kinds(&batch.outcomes), vec![Some(ErrorKind::Unavailable); 2]);
        let shown = format!("{outcomes:?} {:?}", batch.outcomes);
        assert!(!shown.contains(fixture::SECRET) && !shown.contains(fixture::KEY), "{shown}");
    }
    assert!(ground.storage.stat().refused_pages > 0, "the breaker holds requests back");
    server.set_expired(false);
    let until = Instant::now() + Duration::from_secs(10);
    while done(&ground.load(0..8).await) < 8 {
        assert!(Instant::now() < until, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_bucket_that_is_deleted_is_no_miss() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..4).await;
    server.bucket.lock().gone = true;
    let outcomes = ground.load(0..4).await;
    assert_eq!(kinds(&outcomes), vec![Some(ErrorKind::Unavailable); 4]);
    assert!(outcomes[0].error().unwrap().to_string().contains("NoSuchBucket"), "{outcomes:?}");
}

/// One endpoint of two is down, in every way: the other one serves, and soon nobody waits for the first.
#[tokio::test]
async fn another_endpoint_takes_over() {
    let server = Server::start().await;
    let other = Server::over(server.bucket.clone()).await;
    let ground = Ground::open(config(&[&server, &other])).await;
    ground.store(0..64).await;
    assert_eq!(done(&ground.load(0..64).await), 64);
    let (one, two) = (server.requests(), other.requests());
    assert!(one > 30 && two > 30, "load is shared: {one} and {two}");
    for fault in [Fault::Reset, Fault::Internal, Fault::Late(Duration::from_secs(60))] {
        other.fail(move |_, _| Some(fault.clone()));
        assert_eq!(done(&ground.load(0..64).await), 64);
        let before = other.requests();
        assert_eq!(done(&ground.load(0..64).await), 64);
        assert!(other.requests() - before <= 1, "it is left alone");
    }
    other.heal();
    // It comes back by itself, once something is asked.
    let (before, until) = (other.requests(), Instant::now() + Duration::from_secs(10));
    while ground.storage.stat().breakers_open > 0 || other.requests() < before + 8 {
        assert!(Instant::now() < until, "the endpoint does not come back");
        assert_eq!(done(&ground.load(0..64).await), 64);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Item 6: under a limit of requests a second nearly all of it is used, and little is refused.
#[tokio::test]
async fn a_limit_of_requests_is_found_and_kept() {
    const LIMIT: f64 = 300.0;
    let server = Server::start().await;
    let mut config = config(&[&server]);
    config.load_timeout_ms = 20_000;
    config.stall_timeout_ms = 5_000;
    let ground = Ground::open(config).await;
    ground.store(0..64).await;
    server.limit(LIMIT);
    let (requests, refused) = (server.requests(), server.refused());
    let begun = Instant::now();
    let mut loaded = 0;
    while begun.elapsed() < Duration::from_secs(8) {
        loaded += done(&ground.load(0..64).await);
    }
    let goodput = loaded as f64 / begun.elapsed().as_secs_f64() / LIMIT;
    let refused = (server.refused() - refused) as f64 / (server.requests() - requests) as f64;
    println!("goodput {goodput:.3} of the limit, {:.2} % refused", refused * 100.0);
    assert!(goodput >= 0.9 && refused < 0.05, "goodput {goodput:.3}, refused {refused:.3}");
}
