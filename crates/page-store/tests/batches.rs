//! How a batch reaches the engine: pages that lie side by side as one operation, a long load in parts. What goes wrong
//! with an operation costs only what it must.

mod fixture;

use std::sync::{Arc, Mutex};

use fixture::faulty::{CAPACITY, balanced, impatient};
use fixture::{Bench, Got, PAGE, Page, in_time, limited, page, pages, pread};
use hicache_core::{Direction, Engine, ErrorKind};
use hicache_page_store::PageStoreConfig;
use hicache_testkit::{EngineFault, FaultPlan, FaultyEngine};

async fn bench(config: PageStoreConfig, slots: usize, page_bytes: usize) -> (Bench, Arc<FaultyEngine>) {
    let engine = FaultyEngine::new(pread(), FaultPlan::none());
    let store = fixture::open(config, Arc::clone(&engine) as Arc<dyn Engine>).await;
    (Bench::new(store, slots, page_bytes), engine)
}

/// Bytes of each operation from now on.
fn watched(engine: &FaultyEngine) -> Arc<Mutex<Vec<u64>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let bytes = Arc::clone(&seen);
    engine.set_plan(FaultPlan::custom(move |operation| {
        bytes.lock().unwrap().push(operation.bytes);
        None
    }));
    seen
}

/// Every operation that concerns the page `number` pages after the first one of the plan meets this.
fn wherever_it_is(number: u64, fault: EngineFault) -> FaultPlan<EngineFault> {
    let mut first = None;
    FaultPlan::custom(move |operation| {
        let bad = *first.get_or_insert(operation.offset) + number * PAGE as u64;
        (operation.offset..operation.offset + operation.bytes).contains(&bad).then_some(fault)
    })
}

#[tokio::test]
async fn pages_side_by_side_are_one_operation() {
    let directory = tempfile::tempdir().unwrap();
    let (bench, engine) = bench(fixture::config(directory.path()), 64, PAGE).await;
    let all = pages(0..64);
    let seen = watched(&engine);
    bench.store(&all).await;
    bench.load_all(&all).await;
    assert_eq!(*seen.lock().unwrap(), [64 * PAGE as u64; 2]);
    // In another order, or with others between them, they are not.
    let backwards: Vec<Page> = all.iter().rev().copied().collect();
    let every_other: Vec<Page> = all.iter().step_by(2).copied().collect();
    for (some, operations) in [(backwards, 64), (every_other, 32)] {
        let seen = watched(&engine);
        bench.load_all(&some).await;
        assert_eq!(*seen.lock().unwrap(), vec![PAGE as u64; operations]);
    }
    bench.close().await;
}

#[tokio::test]
async fn a_bad_page_costs_no_page_beside_it() {
    for direction in [Direction::Read, Direction::Write] {
        let directory = tempfile::tempdir().unwrap();
        let (bench, engine) = bench(impatient(directory.path()), 64, PAGE).await;
        for (round, fault) in (0..).zip([
            EngineFault::Fail { errno: 5, after_moving: false },
            EngineFault::Fail { errno: 5, after_moving: true },
            EngineFault::Short { bytes: 0 },
            EngineFault::Short { bytes: 100 },
        ]) {
            let all = pages(8 * round..8 * round + 8);
            let bad = wherever_it_is(3, fault);
            let failed = Got::Failed(ErrorKind::Io);
            if direction == Direction::Read {
                bench.store(&all).await;
                engine.set_plan(bad);
                let got = bench.load(&all).await;
                assert_eq!(got[3], failed, "{fault:?}");
                assert_eq!(
                    got.iter().filter(|got| **got == Got::Version(1)).count(),
                    7,
                    "{fault:?}: {got:?}"
                );
            } else {
                engine.set_plan(bad);
                let outcomes = bench.try_store(&all, false).await;
                assert_eq!(outcomes[3].error().unwrap().kind(), ErrorKind::Io, "{fault:?}");
                assert_eq!(outcomes.iter().filter(|outcome| outcome.is_done()).count(), 7, "{fault:?}");
            }
            assert!(engine.injected().total() > 0);
            engine.set_plan(FaultPlan::none());
            bench.store(&all).await;
            bench.load_all(&all).await;
        }
        balanced(&bench, directory.path(), 0).await;
        bench.close().await;
    }
}

#[tokio::test]
async fn a_run_that_is_lost_or_lies() {
    let directory = tempfile::tempdir().unwrap();
    let (bench, engine) = bench(impatient(directory.path()), 64, PAGE).await;
    let all = pages(0..8);
    bench.store(&all).await;
    let bit = (3 * PAGE * 8 + 77) as u64;
    engine.set_plan(FaultPlan::script([(Direction::Read, 0, EngineFault::Corrupt { bit })]));
    let mut want = [Got::Version(1); 8];
    want[3] = Got::Failed(ErrorKind::Corrupt);
    assert_eq!(bench.load(&all).await, want);
    bench.store(&all).await;

    engine.set_plan(FaultPlan::script([(Direction::Read, 0, EngineFault::Lost)]));
    let got = in_time("a load that loses a run", bench.load(&all)).await;
    assert_eq!(got, [Got::Failed(ErrorKind::Abandoned); 8]);
    engine.release_lost();
    bench.load_all(&all).await;

    // Nobody knows when a lost write ends: none of its slots is used again.
    engine.set_plan(FaultPlan::script([(Direction::Write, 0, EngineFault::Lost)]));
    let outcomes = bench.try_store(&pages(100..108), false).await;
    let lost = |outcome: &hicache_core::Outcome| {
        outcome.error().is_some_and(|error| error.kind() == ErrorKind::Abandoned)
    };
    let lost = outcomes.iter().filter(|outcome| lost(outcome)).count() as u64;
    assert!(lost > 1, "{outcomes:?}");
    engine.release_lost();
    engine.set_plan(FaultPlan::none());
    balanced(&bench, directory.path(), lost).await;
    bench.close().await;
}

/// Of a long batch that is alone the end is held back until the rest is there.
#[tokio::test]
async fn what_is_held_back_fails_by_itself() {
    const LONG_PAGE: usize = 2 << 20;
    let directory = tempfile::tempdir().unwrap();
    let config = PageStoreConfig { segment_bytes: 64 << 20, ..limited(directory.path(), 128 * CAPACITY) };
    let (bench, engine) = bench(config, 16, LONG_PAGE).await;
    let all: Vec<Page> = (0..16).map(|number| Page { bytes: LONG_PAGE, ..page(number) }).collect();
    bench.store(&all).await;
    bench.load_all(&all).await;
    for (fault, kind) in [
        (EngineFault::Fail { errno: 5, after_moving: false }, ErrorKind::Io),
        (EngineFault::Short { bytes: 4096 }, ErrorKind::Io),
        (EngineFault::Lost, ErrorKind::Abandoned),
        (EngineFault::Corrupt { bit: 1 << 20 }, ErrorKind::Corrupt),
    ] {
        for bad in [0, 7, 8, 13, 14, 15] {
            engine.set_plan(FaultPlan::script([(Direction::Read, bad, fault)]));
            let got = in_time("a load in parts", bench.load(&all)).await;
            let mut want = [Got::Version(1); 16];
            want[bad as usize] = Got::Failed(kind);
            assert_eq!(got, want, "{fault:?}");
            engine.release_lost();
            engine.set_plan(FaultPlan::none());
            bench.store(&all).await;
            bench.load_all(&all).await;
        }
    }
    // The engine's answers come late, or never: everything is answered, and everything comes back.
    engine.set_plan(FaultPlan::script([(Direction::Read, 2, EngineFault::Dropped)]));
    let got = in_time("a load that loses a part", bench.load(&all)).await;
    assert_eq!(got[..8], [Got::Failed(ErrorKind::Abandoned); 8]);
    assert_eq!(got[8..], [Got::Version(1); 8]);
    engine.release_lost();
    engine.set_plan(FaultPlan::none());
    bench.load_all(&all).await;
    bench.close().await;
}
