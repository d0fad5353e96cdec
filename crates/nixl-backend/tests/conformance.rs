//! The engine, and the page store on it, go through the suites, on the real library.

mod fixture;

use std::sync::Arc;

use fixture::*;
use hicache_core::{Engine, Namespace};
use hicache_nixl_backend::{IoMode, Library, NixlEngineConfig};
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_testkit::conformance::{
    EngineTraits, EngineUnderTest, StorageTraits, StorageUnderTest, engine_suite, storage_suite,
};
use hicache_testkit::{EngineFault, FaultPlan, FaultyEngine};

/// Cases of the suite of engines that apply: no coarse alignment, no lengths.
const ENGINE_CASES: usize = 23;
/// All cases of the suite of storages.
const STORAGE_CASES: usize = 33;

async fn engine(subject: &str, config: NixlEngineConfig) {
    let Some(library) = library() else { return };
    let directory = tempfile::tempdir().unwrap();
    let make = async || EngineUnderTest::new(Arc::new(open(&library, config.clone())));
    let report = engine_suite(subject, &EngineTraits::new(directory.path()), make).await;
    report.assert_complete(ENGINE_CASES);
}

#[tokio::test]
async fn engine_with_aio() {
    engine("NIXL POSIX with AIO", posix("use_aio")).await;
}

#[tokio::test]
async fn engine_with_uring() {
    engine("NIXL POSIX with io_uring", posix("use_uring")).await;
}

#[tokio::test]
async fn engine_with_aio_buffered() {
    let config = NixlEngineConfig { io: IoMode::Buffered, ..posix("use_aio") };
    engine("NIXL POSIX with AIO, buffered", config).await;
}

#[tokio::test]
async fn engine_with_uring_buffered() {
    let config = NixlEngineConfig { io: IoMode::Buffered, ..posix("use_uring") };
    engine("NIXL POSIX with io_uring, buffered", config).await;
}

/// Few descriptors in flight, and several threads.
#[tokio::test]
async fn engine_with_three_shallow_threads() {
    let config = NixlEngineConfig { threads: 3, depth: 70, ..posix("use_uring") };
    engine("NIXL POSIX with three shallow threads", config).await;
}

async fn store(subject: &str, make_engine: impl Fn(&Arc<Library>) -> Arc<dyn Engine>) {
    let Some(library) = library() else { return };
    let make = async || {
        let directory = tempfile::tempdir().unwrap();
        let mut config = PageStoreConfig::new([directory.path().to_owned()], Namespace::new("conformance"));
        config.capacity_bytes = Some(1 << 30);
        config.segment_bytes = 8 << 20;
        let store = PageStore::open(config, vec![make_engine(&library)]).await.unwrap();
        StorageUnderTest::new(store).keeping(directory)
    };
    let report = storage_suite(subject, &StorageTraits::default(), make).await;
    report.assert_complete(STORAGE_CASES);
}

#[tokio::test]
async fn page_store_over_aio() {
    store("page-store over NIXL POSIX with AIO", |library| Arc::new(open(library, posix("use_aio")))).await;
}

#[tokio::test]
async fn page_store_over_uring() {
    store("page-store over NIXL POSIX with io_uring", |library| Arc::new(open(library, posix("use_uring"))))
        .await;
}

/// One operation in eight is answered late.
#[tokio::test]
async fn page_store_over_uring_with_late_answers() {
    store("page-store over a slow NIXL POSIX", |library| {
        let engine = Arc::new(open(library, posix("use_uring")));
        let late = EngineFault::LateAnswer(std::time::Duration::from_millis(3));
        FaultyEngine::new(engine, FaultPlan::random(7, 125, [late]))
    })
    .await;
}
