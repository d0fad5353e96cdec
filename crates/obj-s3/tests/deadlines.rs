//! How long anything may take, and whose fault it is that it takes longer.

mod fixture;

use std::time::{Duration, Instant};

use fixture::{Fault, Ground, Server, config, done};
use hicache_core::{Access, ErrorKind, Namespace, PageRequest, Region, Storage, StoreOptions};
use hicache_obj_s3::S3Storage;
use hicache_testkit::numbered_key;
use http::Method;

/// Bytes were flowing when the time of the batch was over: the pages are late, and the endpoint is as good as before.
#[tokio::test]
async fn a_deadline_is_no_fault_of_the_endpoint() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    config.load_timeout_ms = 800;
    let ground = Ground::open(config).await;
    ground.store(0..32).await;
    server.fail_gets(Fault::Drip(Duration::from_millis(50)));
    let outcomes = ground.load(0..32).await;
    let late = |outcome: &hicache_core::Outcome| outcome.error().unwrap().kind() == ErrorKind::Timeout;
    assert!(outcomes.iter().all(late), "{outcomes:?}");
    assert_eq!(ground.storage.stat().breaker_opened, 0);
    server.heal();
    assert_eq!(done(&ground.load(0..32).await), 32);
}

/// An endpoint that never says anything is found out all the same, also by loads that have hardly any time.
#[tokio::test]
async fn an_endpoint_that_says_nothing_is_left_alone_however_short_the_time() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    (config.load_timeout_ms, config.stall_timeout_ms) = (200, 1000);
    let ground = Ground::open(config).await;
    ground.store(0..8).await;
    server.fail_gets(Fault::Late(Duration::from_secs(60)));
    assert_eq!(done(&ground.load(0..8).await), 0);
    assert_eq!(ground.storage.stat().breaker_opened, 1);
}

/// A slow line is no fault of the store's: a page that moves is sent for as long as a store may take, also where the
/// signature covers its bytes.
#[tokio::test]
async fn a_slow_store_that_moves_is_not_cut() {
    // More than the buffers of a connection take in at once.
    const LONG: usize = 24 << 20;
    let server = Server::start().await;
    for unsigned in [false, true] {
        let mut config = config(&[&server]);
        config.store_timeout_ms = 9_000;
        config.unsigned_payload = Some(unsigned);
        config.prefix = format!("unsigned-{unsigned}");
        let storage = S3Storage::open(config, &Namespace::new("test")).await.unwrap();
        let registered = storage.register(&Region::allocate(1, LONG).unwrap()).unwrap();
        server.fail(|method, path| {
            (*method == Method::PUT && path.ends_with(".kv")).then_some(Fault::Sips(LONG as u64 / 5))
        });
        let (before, begun) = (server.requests(), Instant::now());
        let page = PageRequest::new(numbered_key(1), registered.page(0, LONG, Access::Write).unwrap());
        let batch = storage.store(vec![page], StoreOptions { overwrite: true }).await;
        assert!(batch.outcomes[0].is_done(), "unsigned {unsigned}: {:?}", batch.outcomes);
        assert_eq!(server.requests() - before, 1, "it was sent once");
        // Longer than a store may say nothing.
        assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
        storage.close().await.unwrap();
    }
}

/// Stores of one key wait for each other, and no longer than each of them may take.
#[tokio::test]
async fn stores_of_one_key_do_not_add_up() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    config.store_timeout_ms = 900;
    let ground = Ground::open(config).await;
    let others = [ground.beside(), ground.beside(), ground.beside()];
    server.fail(|method, path| {
        (*method == Method::PUT && path.ends_with(".kv")).then_some(Fault::Late(Duration::from_secs(60)))
    });
    let begun = Instant::now();
    let stores = others.iter().map(|ground| ground.try_store(0..1, 1, false));
    for batch in futures::future::join_all(stores).await {
        assert!(batch.outcomes[0].error().is_some() && batch.memory[0].is_some(), "{batch:?}");
    }
    assert!(begun.elapsed() < Duration::from_millis(1800), "{:?}", begun.elapsed());
}

/// A 503 that is not the store's own may be one of a balancer with nothing behind it: that is left alone.
#[tokio::test]
async fn an_empty_load_balancer_is_left_alone() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    config.load_timeout_ms = 500;
    let ground = Ground::open(config).await;
    ground.store(0..8).await;
    server.fail_gets(Fault::Strange(503, "<html>no server is available</html>"));
    assert_eq!(done(&ground.load(0..8).await), 0);
    assert_eq!(ground.storage.stat().breaker_opened, 1);
    server.heal();
    let until = Instant::now() + Duration::from_secs(5);
    while done(&ground.load(0..8).await) < 8 {
        assert!(Instant::now() < until, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What had no turn before the deadline is late, and no request is begun for it.
#[tokio::test]
async fn what_is_late_is_not_begun() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    (config.load_timeout_ms, config.concurrency) = (500, 4);
    let ground = Ground::open(config).await;
    ground.store(0..32).await;
    server.fail_gets(Fault::Drip(Duration::from_millis(50)));
    let before = server.requests();
    let outcomes = ground.load(0..32).await;
    let late = |outcome: &hicache_core::Outcome| outcome.error().unwrap().kind() == ErrorKind::Timeout;
    assert!(outcomes.iter().all(late), "{outcomes:?}");
    assert_eq!(server.requests() - before, 4);
}

/// Many wait for their turn when the endpoint is found to say nothing: they do not go on to ask it, one after the other.
#[tokio::test]
async fn who_waits_for_a_turn_when_it_is_left_alone_does_not_get_one() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    (config.stall_timeout_ms, config.concurrency) = (200, 4);
    let ground = Ground::open(config).await;
    ground.store(0..4).await;
    let others: Vec<Ground> = (0..8).map(|_| ground.beside()).collect();
    server.fail_gets(Fault::Late(Duration::from_secs(60)));
    let before = server.requests();
    let loads = futures::future::join_all(others.iter().map(|ground| ground.load(0..4))).await;
    assert!(loads.iter().all(|outcomes| done(outcomes) == 0));
    let asked = server.requests() - before;
    assert!(asked <= 12, "{asked} requests of an endpoint that says nothing");
}
