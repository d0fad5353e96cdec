//! From the arguments to a store.

use std::sync::Arc;
use std::time::Duration;

use hicache_core::namespace::ParallelPosition;
use hicache_core::{Engine, ErrorKind, Namespace, Storage};
use hicache_page_store::{Durability, PageStore, PageStoreConfig};
use hicache_posix_uring::{PreadConfig, PreadEngine, UringConfig, UringEngine};
use hicache_testkit::{EngineFault, FaultPlan, FaultyEngine};

use super::{ActorArguments, EngineKind, FaultKind, Problem, Role};

/// Opens the store.
///
/// # Errors
/// What the store refuses.
pub(super) async fn open(arguments: &ActorArguments) -> Result<Arc<dyn Storage>, Problem> {
    let mut namespace = Namespace::new(&*arguments.namespace);
    if let Some(rank) = arguments.rank {
        namespace.parallel.insert("tp".into(), ParallelPosition { size: 2, rank: Some(rank) });
    }
    let mut config = PageStoreConfig::new([arguments.root.clone()], namespace);
    config.capacity_bytes = arguments.capacity;
    config.segment_bytes = arguments.segment_bytes;
    config.durability = if arguments.synced { Durability::Group } else { Durability::None };
    config.role = match arguments.role {
        Role::Writer => hicache_page_store::Role::Writer,
        Role::Reader => hicache_page_store::Role::Reader,
    };
    let engine = faulty(engine(arguments.engine)?, arguments);
    Ok(PageStore::open(config, vec![engine]).await?)
}

fn engine(kind: EngineKind) -> Result<Arc<dyn Engine>, Problem> {
    let pread = || PreadEngine::open(PreadConfig { threads: 2, ..PreadConfig::default() });
    if kind == EngineKind::Uring {
        match UringEngine::open(UringConfig::default()) {
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            engine => return Ok(Arc::new(engine?)),
        }
    }
    Ok(Arc::new(pread()?))
}

fn faulty(engine: Arc<dyn Engine>, arguments: &ActorArguments) -> Arc<dyn Engine> {
    let plan = match arguments.faults {
        FaultKind::None => return engine,
        FaultKind::Slow => FaultPlan::random(
            arguments.seed,
            2,
            [
                EngineFault::LateStart(Duration::from_millis(20)),
                EngineFault::LateAnswer(Duration::from_millis(20)),
            ],
        ),
        FaultKind::Failing => FaultPlan::random(
            arguments.seed,
            5,
            [
                EngineFault::Fail { errno: 5, after_moving: false },
                EngineFault::Fail { errno: 5, after_moving: true },
                EngineFault::Fail { errno: 28, after_moving: false },
                EngineFault::Short { bytes: 100 },
                EngineFault::Corrupt { bit: 4711 },
                EngineFault::NeverSubmitted,
            ],
        ),
    };
    FaultyEngine::new(engine, plan)
}
