//! The engine that tests use is itself an engine.

use hicache_core::{Completes, EngineCapabilities, MemoryKind};
use hicache_testkit::conformance::{EngineTraits, EngineUnderTest, engine_suite};
use hicache_testkit::{FaultPlan, FaultyEngine, ThreadEngine};

#[tokio::test]
async fn thread_engine() {
    let directory = tempfile::tempdir().unwrap();
    let make = async || EngineUnderTest::new(ThreadEngine::new().unwrap());
    engine_suite("thread", &EngineTraits::new(directory.path()), make).await.assert_complete(24);
}

#[tokio::test]
async fn thread_engine_that_can_do_little() {
    let directory = tempfile::tempdir().unwrap();
    let capabilities = EngineCapabilities {
        name: "thread",
        alignment: 4096,
        max_pieces: 1,
        max_extent_bytes: 1 << 20,
        max_in_flight: 1,
        memory: vec![MemoryKind::Host],
        completes: Completes::PerRequest,
        reports_lengths: false,
        proves_idle: false,
    };
    let make = async || EngineUnderTest::new(ThreadEngine::with_capabilities(capabilities.clone()).unwrap());
    let report = engine_suite("thread", &EngineTraits::new(directory.path()), make).await;
    report.assert_complete(22);
    assert_eq!(report.skipped().count(), 3);
}

#[tokio::test]
async fn a_wrapper_without_faults_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let make =
        async || EngineUnderTest::new(FaultyEngine::new(ThreadEngine::new().unwrap(), FaultPlan::none()));
    engine_suite("faulty", &EngineTraits::new(directory.path()), make).await.assert_complete(24);
}
