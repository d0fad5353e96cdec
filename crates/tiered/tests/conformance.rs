//! The tiers go through the suite, healthy and with one of them down.

use std::sync::Arc;

use hicache_core::{MemoryStorage, Storage};
use hicache_testkit::conformance::{StorageTraits, StorageUnderTest, storage_suite};
use hicache_testkit::{FaultPlan, FaultyStorage};
use hicache_tiered::{Tiered, TieredConfig};

/// All cases of the suite.
const ALL: usize = 33;
/// Those without overwrite.
const WITHOUT_OVERWRITE: usize = 29;
/// Those without counts.
const WITHOUT_COUNTS: usize = 32;

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new())
}

#[tokio::test]
async fn over_two_memories() {
    let make =
        async || StorageUnderTest::new(Tiered::open(memory(), memory(), TieredConfig::default()).unwrap());
    let report = storage_suite("tiered", &StorageTraits::default(), make).await;
    report.assert_complete(ALL);
}

/// Next to no memory for copies and next to no queue: most pages are read again from the near tier, or not sent.
#[tokio::test]
async fn over_two_memories_with_narrow_bounds() {
    let make = async || {
        let config = TieredConfig {
            staging_bytes: 8192,
            queue_pages: 20,
            batch_pages: 3,
            batches: 2,
            remembered_keys: 5,
            ..TieredConfig::default()
        };
        StorageUnderTest::new(Tiered::open(memory(), memory(), config).unwrap())
    };
    let report = storage_suite("tiered with narrow bounds", &StorageTraits::default(), make).await;
    report.assert_complete(ALL);
}

/// A far tier that is down takes nothing but what needs it: replacing and deleting.
#[tokio::test]
async fn with_the_far_tier_down() {
    let make = async || {
        let far = FaultyStorage::new(memory(), FaultPlan::none());
        far.set_down(true);
        StorageUnderTest::new(Tiered::open(memory(), far, TieredConfig::default()).unwrap())
    };
    let traits = StorageTraits { overwrites: false, ..StorageTraits::default() };
    let report = storage_suite("tiered with its far tier down", &traits, make).await;
    report.assert_complete(WITHOUT_OVERWRITE);
}

/// Everything is found in the far tier: the near one holds next to nothing.
#[tokio::test]
async fn with_a_near_tier_that_forgets() {
    let make = async || {
        let near = Arc::new(MemoryStorage::with_capacity(1));
        StorageUnderTest::new(Tiered::open(near, memory(), TieredConfig::default()).unwrap())
    };
    let traits = StorageTraits { counts: false, ..StorageTraits::default() };
    let report = storage_suite("tiered with no room near", &traits, make).await;
    report.assert_complete(WITHOUT_COUNTS);
}
