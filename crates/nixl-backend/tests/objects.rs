//! NIXL's OBJ plugin against a real object store: the suite, and what the plugin does not tell.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

mod fixture;
#[path = "fixture/forbidding.rs"]
mod forbidding;
#[path = "fixture/weed.rs"]
mod weed;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forbidding::Forbidding;
use hicache_core::{
    Access, Error, ErrorKind, Namespace, Outcome, PageRequest, Region, Registration, Storage, StoreOptions,
};
use hicache_nixl_backend::parameters::Secret;
use hicache_nixl_backend::{Agent, Library, MemoryType, NixlObjConfig, NixlObjStorage};
use hicache_testkit::conformance::{StorageTraits, StorageUnderTest, storage_suite};
use hicache_testkit::{Content, numbered_key};
use weed::Weed;

const PAGE: usize = 64 << 10;

/// The library and a server.
fn ground() -> Option<(Arc<Library>, Weed)> {
    fixture::library().zip(Weed::start())
}

fn open(
    library: &Arc<Library>,
    config: NixlObjConfig,
    model: &str,
) -> hicache_core::Result<Arc<NixlObjStorage>> {
    hicache_core::probing::block_on(NixlObjStorage::open(library, config, &Namespace::new(model)))
}

/// Of the cases that write thousands of objects a server on a busy machine would make minutes.
fn traits() -> StorageTraits {
    let limit = Duration::from_secs(300);
    StorageTraits {
        most_pages: 1000,
        deletes: false,
        lists: false,
        counts: false,
        case_limit: limit,
        ..StorageTraits::default()
    }
}

async fn suite(subject: &str, crt_min_limit: Option<u64>) {
    let Some((library, weed)) = ground() else { return };
    let number = AtomicUsize::new(0);
    let make = async || {
        // Each case has a place of its own.
        let prefix = format!("case-{}", number.fetch_add(1, Ordering::Relaxed));
        let mut config = weed.config(&prefix);
        config.parameters.crt_min_limit = crt_min_limit;
        StorageUnderTest::new(
            NixlObjStorage::open(&library, config, &Namespace::new("conformance")).await.unwrap(),
        )
    };
    storage_suite(subject, &traits(), make).await.assert_complete(28);
}

#[tokio::test]
async fn conformance_with_the_standard_client() {
    suite("nixl:OBJ", None).await;
}

/// Every page goes through the client of the AWS CRT.
#[tokio::test]
async fn conformance_with_the_crt_client() {
    suite("nixl:OBJ, CRT", Some(1)).await;
}

struct Pages {
    storage: Arc<NixlObjStorage>,
    registration: Registration,
}

impl Pages {
    fn new(storage: Arc<NixlObjStorage>) -> Self {
        let registration = storage.register(&Region::allocate(32, PAGE).unwrap()).unwrap();
        Self { storage, registration }
    }

    fn store(&self, numbers: std::ops::Range<u64>) -> Vec<Outcome> {
        let request = |(slot, number)| {
            let key = numbered_key(number);
            let mut memory = self.registration.page(slot, PAGE, Access::Write).unwrap();
            Content::new(&key, 1, PAGE).fill(&mut memory).unwrap();
            PageRequest::new(key, memory)
        };
        self.storage
            .store(numbers.enumerate().map(request).collect(), StoreOptions::default())
            .wait()
            .outcomes
    }

    /// Those that are `Done` have every byte.
    fn load(&self, numbers: std::ops::Range<u64>) -> Vec<Outcome> {
        let request = |(slot, number)| {
            let memory = self.registration.page(slot, PAGE, Access::Write).unwrap();
            PageRequest::new(numbered_key(number), memory)
        };
        let batch = self.storage.load(numbers.clone().enumerate().map(request).collect()).wait();
        for (i, number) in numbers.enumerate() {
            if batch.outcomes[i].is_done() {
                let memory = batch.memory[i].as_ref().unwrap();
                Content::new(&numbered_key(number), 1, PAGE).check_page(memory).unwrap().unwrap();
            }
        }
        batch.outcomes
    }
}

fn kinds(outcomes: &[Outcome]) -> Vec<Option<ErrorKind>> {
    outcomes.iter().map(|outcome| outcome.error().map(Error::kind)).collect()
}

/// The plugin calls a read of too short an object a success; the page is corrupt all the same.
#[test]
fn an_object_that_is_too_short_is_reported() {
    let Some((library, weed)) = ground() else { return };
    let config = weed.config("short");
    let pages = Pages::new(open(&library, config.clone(), "m").unwrap());
    assert!(pages.store(0..3).iter().all(Outcome::is_done));
    // Another client cuts two of them.
    let agent = Agent::new(&library, "cut").unwrap();
    let pairs = hicache_nixl_backend::Parameters::Obj(config.parameters).pairs();
    let backend = agent.create_backend("OBJ", pairs.as_slice()).unwrap();
    for (number, len) in [(0, 1000), (1, PAGE)] {
        let key = numbered_key(number);
        let fingerprint = Namespace::new("m").fingerprint();
        let name = format!("short/{fingerprint}/{}.kv", hicache_core::hashing::to_hex(&key.digest));
        assert!(backend.query(MemoryType::Object, &[&name]).unwrap()[0].is_some(), "{name}");
        cut(&backend, &name, len);
    }
    for _ in 0..2 {
        let outcomes = pages.load(0..3);
        assert_eq!(kinds(&outcomes), [Some(ErrorKind::Corrupt), Some(ErrorKind::Corrupt), None]);
    }
    assert!(pages.store(0..3).iter().all(Outcome::is_done));
    assert!(pages.load(0..3).iter().all(Outcome::is_done));
    pages.storage.close_now();
}

/// Leaves the first `len` bytes of an object.
fn cut(backend: &hicache_nixl_backend::BackendHandle, name: &str, len: usize) {
    use hicache_core::Direction;
    use hicache_nixl_backend::Progress;

    let region = Region::allocate(1, PAGE + 4096).unwrap();
    let token = Box::new(backend.register_region(&region).unwrap());
    let registration = Registration::new(hicache_core::OwnerId::new(), region, token);
    for direction in [Direction::Read, Direction::Write] {
        let memory = registration.page(0, len, Access::Write).unwrap();
        let objects = backend.register_objects(&[name]).unwrap();
        let mut request = backend.prepare_objects(direction, objects, vec![memory]).map_err(|e| e.0).unwrap();
        let mut progress = request.post().unwrap();
        while progress == Progress::Moving {
            std::thread::sleep(Duration::from_millis(1));
            progress = request.poll().unwrap();
        }
        assert!(request.finish().is_some());
    }
}

#[test]
fn buckets_and_credentials_that_are_not_right_are_refused_at_open() {
    let Some((library, weed)) = ground() else { return };
    let mut config = weed.config("refused");
    // Whoever administers this server makes a bucket by putting into it.
    config.parameters.bucket = Some("missing".into());
    config.parameters.access_key = Some(Secret::new(weed::ONE_BUCKET));
    let error = open(&library, config, "m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("bucket \"missing\" at http://127.0.0.1:"), "{error}");
    let mut config = weed.config("refused");
    config.parameters.secret_key = Some(Secret::new("another-secret"));
    let error = open(&library, config, "m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(
        error.to_string().contains("credentials") && !error.to_string().contains("another-secret"),
        "{error}"
    );
    // A bucket that is there, of somebody else.
    weed.make_bucket("theirs");
    let mut config = weed.config("refused");
    config.parameters.bucket = Some("theirs".into());
    config.parameters.access_key = Some(Secret::new(weed::ONE_BUCKET));
    let error = open(&library, config, "m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("bucket \"theirs\" at http://127.0.0.1:"), "{error}");
    // The right ones, then another namespace at the same place can't be: it has a place of its own.
    for model in ["m", "n", "m"] {
        open(&library, weed.config("refused"), model).unwrap().close_now();
    }
}

/// Credentials that may not list the bucket are answered 403 for what is missing: every miss would be a failure.
#[test]
fn credentials_that_are_not_told_what_is_missing_are_refused_by_the_name_of_the_permission() {
    let Some((library, weed)) = ground() else { return };
    let server = Forbidding::start(weed.address().trim_start_matches("http://"));
    let behind = || {
        let mut config = weed.config("forbidden");
        config.parameters.endpoint_override = Some(server.address.clone());
        config
    };
    // Nothing is there yet, not even the manifest.
    for manifest_is_there in [false, true] {
        let before = server.refused.load(Ordering::Relaxed);
        let error = open(&library, behind(), "m").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("s3:ListBucket"), "{error}");
        assert_eq!(error.to_string().contains("gives the manifest"), manifest_is_there, "{error}");
        assert!(server.refused.load(Ordering::Relaxed) > before);
        open(&library, weed.config("forbidden"), "m").unwrap().close_now();
    }
}

/// A server that dies costs one deadline, then nothing; and it is found again.
#[test]
fn a_server_that_is_killed_is_missed_at_its_deadline_then_left_alone_then_found_again() {
    let Some((library, mut weed)) = ground() else { return };
    let config = NixlObjConfig { load_timeout_ms: 6000, store_timeout_ms: 20_000, ..weed.config("killed") };
    let pages = Pages::new(open(&library, config, "m").unwrap());
    assert!(pages.store(0..16).iter().all(Outcome::is_done));
    assert!(pages.load(0..16).iter().all(Outcome::is_done));
    weed.kill();
    let begun = Instant::now();
    let outcomes = pages.load(0..16);
    println!("the first load took {:?}: {:?}", begun.elapsed(), kinds(&outcomes));
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert!(outcomes.iter().all(|outcome| outcome.error().is_some()), "a server that is down has no misses");
    // The breaker is open, or is by the second load.
    pages.load(0..16);
    assert!(pages.storage.stat().breakers_open >= 1);
    let mut refused = 0;
    for _ in 0..10 {
        let begun = Instant::now();
        let outcomes = pages.load(0..16);
        assert!(outcomes.iter().all(|outcome| outcome.error().is_some()));
        refused += usize::from(begun.elapsed() < Duration::from_millis(100));
    }
    assert!(refused >= 8, "{refused} of 10 loads were answered at once");
    weed.restart();
    let until = Instant::now() + Duration::from_secs(90);
    while !pages.load(0..16).iter().all(Outcome::is_done) {
        assert!(Instant::now() < until, "it is not found again: {:?}", pages.load(0..16));
        std::thread::sleep(Duration::from_millis(200));
    }
    pages.storage.close_now();
}

/// A server that takes connections and does nothing, and then goes on: what hung keeps no place.
#[test]
fn a_server_that_stops_and_goes_on_is_found_again() {
    let Some((library, weed)) = ground() else { return };
    let config = NixlObjConfig { load_timeout_ms: 3000, store_timeout_ms: 30_000, ..weed.config("stopped") };
    let pages = Pages::new(open(&library, NixlObjConfig { concurrency: 4, ..config }, "m").unwrap());
    assert!(pages.store(0..16).iter().all(Outcome::is_done));
    weed.stop(true);
    let begun = Instant::now();
    let outcomes = pages.load(0..16);
    println!("the first load took {:?}: {:?}", begun.elapsed(), kinds(&outcomes));
    assert!(outcomes.iter().all(|outcome| outcome.error().is_some()), "a server that is down has no misses");
    // Four at a time; more than four are four deadlines at most, and a breaker.
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let mut refused = 0;
    for _ in 0..10 {
        let begun = Instant::now();
        assert!(pages.load(0..16).iter().all(|outcome| outcome.error().is_some()));
        refused += usize::from(begun.elapsed() < Duration::from_millis(100));
    }
    assert!(refused >= 7, "{refused} of 10 loads were answered at once");
    weed.stop(false);
    let until = Instant::now() + Duration::from_secs(60);
    while !pages.load(0..16).iter().all(Outcome::is_done) {
        assert!(Instant::now() < until, "it is not found again: {:?}", pages.load(0..16));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(pages.store(16..32).iter().all(Outcome::is_done));
    pages.storage.close_now();
}

/// Waits without a runtime.
trait CloseNow {
    fn close_now(&self);
}

impl CloseNow for Arc<NixlObjStorage> {
    fn close_now(&self) {
        hicache_core::probing::block_on(self.close()).unwrap();
    }
}
