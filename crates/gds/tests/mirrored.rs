//! The engine by which device memory is tested, with host memory for the device's: what a GPU runs is right but for the GPU.

mod mirror;

use std::sync::Arc;

use hicache_core::Region;
use hicache_gds::{HostCopier, StagedConfig, StagedEngine};
use hicache_posix_uring::{PreadConfig, PreadEngine};
use hicache_testkit::conformance::{EngineTraits, EngineUnderTest, engine_suite};

use mirror::Mirror;

#[tokio::test]
async fn conformance() {
    let directory = tempfile::tempdir().unwrap();
    let make = async || {
        let below = Arc::new(PreadEngine::open(PreadConfig::default()).unwrap());
        let inner = StagedEngine::open(below, Arc::new(HostCopier), StagedConfig::default()).unwrap();
        let allocate = Box::new(|bytes| Region::allocate(1, bytes));
        EngineUnderTest::new(Arc::new(Mirror::new(Arc::new(inner), Arc::new(HostCopier), allocate)))
    };
    engine_suite("mirrored", &EngineTraits::new(directory.path()), make).await.assert_complete(24);
}
