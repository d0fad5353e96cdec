//! A call whose operation was lost waits for its own memory, whatever the store has forgotten meanwhile.
//!
//! The library can't be linked into a test, since only an interpreter has Python's symbols; this file of it can.

#[path = "../src/regions.rs"]
mod regions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hicache::{Access, MemoryStorage, PageKey, PageRequest, PoolName, Region, Storage};
use regions::Regions;

const HELD: Duration = Duration::from_millis(150);

fn request(storage: &MemoryStorage, region: &Arc<Region>, slot: usize) -> PageRequest {
    let registration = storage.register(region).unwrap();
    PageRequest::new(
        PageKey::new(PoolName::KV, [slot as u8; 32]),
        registration.page(slot, 4096, Access::Write).unwrap(),
    )
}

/// The registration goes while the device still writes: as after a close, or a deregister.
#[test]
fn memory_that_is_registered_no_more_is_waited_for() {
    let storage = MemoryStorage::new();
    let (first, second) = (Region::allocate(2, 4096).unwrap(), Region::allocate(2, 4096).unwrap());
    let requests =
        vec![request(&storage, &first, 0), request(&storage, &first, 1), request(&storage, &second, 0)];
    let regions = Regions::of(&requests);
    drop((first, second, storage));

    let mut memory: Vec<_> = requests.into_iter().map(|request| request.memory).collect();
    let lost = memory.pop();
    drop(memory);
    let begun = Instant::now();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(HELD);
            ended.store(true, Ordering::Release);
            drop(lost);
        });
        regions.wait_for_rest();
        assert!(ended.load(Ordering::Acquire), "it did not wait for the lost page");
    });
    assert!(begun.elapsed() >= HELD);
}

/// Another call's memory is that call's to wait for.
#[test]
fn other_memory_is_not_waited_for() {
    let storage = MemoryStorage::new();
    let (own, others) = (Region::allocate(1, 4096).unwrap(), Region::allocate(1, 4096).unwrap());
    let regions = Regions::of(&[request(&storage, &own, 0)]);
    let _under_way = request(&storage, &others, 0);
    regions.wait_for_rest();
}
