//! The page store goes through the suite over every engine that this machine runs.

use std::path::PathBuf;
use std::sync::Arc;

use hicache_core::{Completes, Engine, EngineCapabilities, ErrorKind, MemoryKind, Namespace, Result};
use hicache_page_store::{Durability, PageStore, PageStoreConfig};
use hicache_posix_uring::{PreadConfig, PreadEngine, UringConfig, UringEngine};
use hicache_testkit::ThreadEngine;
use hicache_testkit::conformance::{StorageTraits, StorageUnderTest, storage_suite};

/// All cases of the suite.
const ALL: usize = 33;

async fn run(
    subject: &str,
    roots: usize,
    engine: impl Fn() -> Result<Arc<dyn Engine>>,
    durability: Durability,
) {
    let make = async || {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..roots).map(|i| directory.path().join(i.to_string())).collect();
        let mut config = PageStoreConfig::new(paths, Namespace::new("conformance"));
        config.capacity_bytes = Some(1 << 30);
        config.segment_bytes = 8 << 20;
        config.durability = durability;
        let engine = engine().unwrap();
        StorageUnderTest::new(PageStore::open(config, vec![engine]).await.unwrap()).keeping(directory)
    };
    let report = storage_suite(subject, &StorageTraits::default(), make).await;
    report.assert_complete(ALL);
}

#[tokio::test]
async fn over_threads() {
    let engine = || -> Result<Arc<dyn Engine>> { Ok(ThreadEngine::new()?) };
    run("page-store over threads", 1, engine, Durability::None).await;
}

/// An engine that takes aligned single pieces only and can't prove that it is idle: everything odd is staged.
#[tokio::test]
async fn over_an_engine_that_needs_staging() {
    let engine = || -> Result<Arc<dyn Engine>> {
        Ok(ThreadEngine::with_capabilities(EngineCapabilities {
            alignment: 4096,
            max_pieces: 1,
            memory: vec![MemoryKind::Host],
            proves_idle: false,
            // As a library's plugins are: one status a request, and no counts.
            completes: Completes::PerRequest,
            reports_lengths: false,
            ..ThreadEngine::new()?.capabilities().clone()
        })?)
    };
    run("page-store over a narrow engine", 1, engine, Durability::None).await;
}

#[tokio::test]
async fn over_pread() {
    let engine = || -> Result<Arc<dyn Engine>> { Ok(Arc::new(PreadEngine::open(PreadConfig::default())?)) };
    run("page-store over pread", 1, engine, Durability::None).await;
}

#[tokio::test]
async fn over_io_uring() {
    match UringEngine::open(UringConfig::default()) {
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            println!("skipped: io_uring: {error}");
            return;
        }
        other => drop(other.unwrap()),
    }
    let engine = || -> Result<Arc<dyn Engine>> { Ok(Arc::new(UringEngine::open(UringConfig::default())?)) };
    run("page-store over io_uring", 1, engine, Durability::None).await;
}

#[tokio::test]
async fn over_three_roots_with_group_durability() {
    let engine = || -> Result<Arc<dyn Engine>> { Ok(Arc::new(PreadEngine::open(PreadConfig::default())?)) };
    run("page-store over three roots", 3, engine, Durability::Group).await;
}
