//! A store that goes and comes back: what that costs meanwhile, and how soon it is in use again.

mod fixture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::{Fault, Ground, PAGE, Server, config, done};
use hicache_core::{
    Access, ErrorKind, MemoryStorage, Namespace, Outcome, PageRequest, Region, Registration, Storage,
};
use hicache_obj_s3::S3Storage;
use hicache_testkit::{Content, numbered_key};
use hicache_tiered::{Tiered, TieredConfig};

/// So long that pauses which double would be longer than what is waited for afterwards.
const DOWN: Duration = Duration::from_secs(4);
/// How soon it must be in use again.
const SOON: Duration = Duration::from_millis(2500);

/// In which way a store is down.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// Nobody is at its port.
    Closed,
    /// It takes requests and says nothing.
    Silent,
    /// It answers that it can't.
    Failing,
    /// A load balancer answers, with nothing behind it.
    Empty,
}

/// A bucket behind a near tier that keeps nothing: each hit is one of the far tier.
struct Tiers {
    tiered: Arc<Tiered>,
    registration: Registration,
}

impl Tiers {
    async fn open(server: &Server) -> Self {
        Ground::open(config(&[server])).await.store(0..4).await;
        let mut config = config(&[server]);
        (config.stall_timeout_ms, config.present_age_ms, config.absent_age_ms) = (200, 0, 0);
        let far = S3Storage::open(config, &Namespace::new("test")).await.unwrap();
        let near = Arc::new(MemoryStorage::with_capacity(1));
        let config = TieredConfig { absent_age_ms: 0, ..TieredConfig::default() };
        let tiered = Tiered::open(near, far, config).unwrap();
        let registration = tiered.register(&Region::allocate(4, PAGE).unwrap()).unwrap();
        Self { tiered, registration }
    }

    async fn load(&self) -> Vec<Outcome> {
        let request = |slot: usize| {
            let memory = self.registration.page(slot, PAGE, Access::Write).unwrap();
            PageRequest::new(numbered_key(slot as u64), memory)
        };
        let batch = self.tiered.load((0..4).map(request).collect()).await;
        for (number, _) in (0..).zip(&batch.outcomes).filter(|(_, outcome)| outcome.is_done()) {
            let memory = batch.memory[number as usize].as_ref().unwrap();
            Content::new(&numbered_key(number), 1, PAGE).check_page(memory).unwrap().unwrap();
        }
        batch.outcomes
    }
}

/// What was seen.
async fn goes_and_comes_back(outage: Outage) -> String {
    let mut server = Server::start().await;
    let (port, bucket) = (server.port(), server.bucket.clone());
    let tiers = Tiers::open(&server).await;
    assert_eq!(done(&tiers.load().await), 4);
    let down = Instant::now();
    match outage {
        Outage::Closed => server = Server::over(bucket.clone()).await,
        Outage::Silent => server.fail(|_, _| Some(Fault::Late(Duration::from_secs(60)))),
        Outage::Failing => server.fail(|_, _| Some(Fault::Internal)),
        Outage::Empty => server.fail(|_, _| Some(Fault::Strange(503, "<html>no server</html>"))),
    }
    // It takes a moment to see.
    let mut requests = 0;
    let mut slowest = Duration::ZERO;
    while down.elapsed() < DOWN {
        let begun = Instant::now();
        let outcomes = tiers.load().await;
        assert!(
            outcomes.iter().all(|outcome| matches!(outcome, Outcome::Absent)),
            "{outage:?}: {outcomes:?}"
        );
        if down.elapsed() < DOWN / 4 {
            requests = server.requests();
        } else {
            slowest = slowest.max(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let requests = server.requests() - requests;
    assert!(requests <= 8, "{outage:?}: {requests} requests in 3 s while it is down");
    assert!(slowest < Duration::from_millis(150), "{outage:?}: somebody waited {slowest:?}");
    match outage {
        Outage::Closed => server = Server::on(port, bucket).await,
        _ => server.heal(),
    }
    let back = Instant::now();
    while done(&tiers.load().await) < 4 {
        assert!(back.elapsed() < SOON, "{outage:?}: it was back for {SOON:?} and not in use");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = back.elapsed();
    assert_eq!(tiers.tiered.counts().far_cut_off, 1, "{outage:?}");
    drop(server);
    format!("{outage:?}: {requests} requests in 3 s while down, in use again after {after:?}")
}

/// While it is down it is asked about once a second and nobody waits for that; when it is back, its pages soon are.
#[tokio::test]
async fn a_store_that_is_back_is_soon_in_use() {
    let outages = [Outage::Closed, Outage::Silent, Outage::Failing, Outage::Empty];
    let seen = futures::future::join_all(outages.map(goes_and_comes_back)).await;
    println!("{seen:#?}");
}

/// Without a tier before it: who asks while it is left alone is refused at once, also when it is time to ask whether it
/// is well again.
#[tokio::test]
async fn nobody_waits_for_a_store_that_says_nothing() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    config.stall_timeout_ms = 800;
    let ground = Ground::open(config).await;
    ground.store(0..8).await;
    server.fail(|_, _| Some(Fault::Late(Duration::from_secs(60))));
    assert_eq!(done(&ground.load(0..8).await), 0);
    assert_eq!(ground.storage.stat().breakers_open, 1);
    let (begun, before) = (Instant::now(), server.requests());
    while begun.elapsed() < Duration::from_millis(2500) {
        let asked = Instant::now();
        let outcomes = ground.load(0..1).await;
        assert_eq!(outcomes[0].error().unwrap().kind(), ErrorKind::Unavailable);
        assert!(asked.elapsed() < Duration::from_millis(400), "it waited {:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = server.requests() - before;
    assert!((1..=4).contains(&asked), "{asked} questions in 2.5 s");
    server.heal();
    let back = Instant::now();
    while done(&ground.load(0..8).await) < 8 {
        assert!(back.elapsed() < SOON, "it does not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A bucket that is gone answers, and is asked no more than one that does not: a question is one that tells the two
/// apart.
#[tokio::test]
async fn a_bucket_that_went_is_left_alone_until_it_is_there() {
    let server = Server::start().await;
    let ground = Ground::open(config(&[&server])).await;
    ground.store(0..8).await;
    server.bucket.lock().gone = true;
    let begun = Instant::now();
    while ground.storage.stat().breakers_open == 0 {
        assert_eq!(done(&ground.load(0..8).await), 0);
        assert!(begun.elapsed() < Duration::from_secs(5), "it is not left alone");
    }
    let (begun, before) = (Instant::now(), server.requests());
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(done(&ground.load(0..8).await), 0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = server.requests() - before;
    assert!((1..=4).contains(&asked), "{asked} questions in 2 s");
    server.bucket.lock().gone = false;
    let back = Instant::now();
    while done(&ground.load(0..8).await) < 8 {
        assert!(back.elapsed() < SOON, "it does not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
