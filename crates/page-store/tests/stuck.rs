//! Operations that never end, callers that don't wait, stores that go away meanwhile: nothing hangs, and memory is
//! free when the device is done with it, and not before.

mod fixture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::faulty::{CAPACITY, STUCK, balanced, eventually, faulty, impatient, kinds};
use fixture::{Bench, Foreign, Got, LONG, PAGE, Page, in_time, keys, limited, page, pages, pread, released};
use hicache_core::{Direction, Engine, ErrorKind, Outcome, Storage, StoreOptions};
use hicache_testkit::{EngineFault, FaultPlan, Gate, Phase, ThreadEngine};

#[tokio::test]
async fn a_swallowed_answer_opens_the_breaker_which_closes_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (bench, engine) = faulty(directory.path(), pread()).await;
    let all = pages(0..8);
    bench.store(&all).await;
    engine.set_plan(FaultPlan::script([(Direction::Read, 0, EngineFault::Swallowed)]));
    let begun = Instant::now();
    let stuck = in_time("a swallowed load", bench.store.load(bench.blank_batch(&all[..4]))).await;
    assert!(begun.elapsed() >= STUCK && begun.elapsed() < STUCK * 20, "{:?}", begun.elapsed());
    assert_eq!(kinds(&stuck), [Some(ErrorKind::Abandoned); 4]);
    assert!(stuck.memory.iter().all(Option::is_none));
    assert!(
        bench.registration.page(0, PAGE, hicache_core::Access::Write).is_err(),
        "the engine still has the slot"
    );
    // Others are told at once, with what and until when; writing goes on.
    let other = Bench::unaligned(Arc::clone(&bench.store), 8, PAGE);
    let asked = Instant::now();
    let refused = bench.store.load(other.blank_batch(&all[4..])).await;
    assert_eq!(kinds(&refused), [Some(ErrorKind::Unavailable); 4]);
    let error = refused.outcomes[0].error().unwrap();
    let (text, root) = (error.to_string(), directory.path().to_str().unwrap());
    assert!(error.is_retryable() && text.contains(root) && text.contains("next trial"), "{text}");
    drop(refused);
    assert_eq!(other.load(&[page(77)]).await, [Got::Absent], "a miss is known without the medium");
    other.store(&pages(20..22)).await;
    assert_eq!(bench.store.exists(&keys(&all)).await.unwrap(), [false; 8]);
    assert!(asked.elapsed() < STUCK);
    let stat = bench.store.stat();
    assert_eq!((stat.breaker_opened, stat.breakers_open, stat.refused_pages), (1, 1, 4));
    // Stuck for ever, and the store answers again all the same.
    tokio::time::sleep(STUCK * 2).await;
    assert_eq!(bench.store.exists(&keys(&all)).await.unwrap(), [true; 8], "a trial is due: let it come");
    other.load_all(&all).await;
    tokio::time::sleep(STUCK * 2).await;
    other.load_all(&all).await;
    assert_eq!(bench.store.stat().breakers_open, 0);
    engine.answer_swallowed();
    eventually("its memory comes back", || bench.registration.region().leases() == 0).await;
    bench.load_all(&all).await;
    balanced(&bench, directory.path(), 0).await;
    bench.close().await;
}

#[tokio::test]
async fn foreign_memory_waits_for_the_device() {
    for (direction, late) in [
        (Direction::Read, true),
        (Direction::Read, false),
        (Direction::Write, true),
        (Direction::Write, false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (bench, engine) = faulty(directory.path(), pread()).await;
        bench.store(&pages(0..4)).await;
        let foreign = Foreign::new(&bench.store, 4, PAGE);
        engine.set_plan(FaultPlan::script([(direction, 0, EngineFault::Swallowed)]));
        let transfer = match direction {
            Direction::Read => bench.store.load(vec![foreign.full(0, Page { version: 9, ..page(0) })]),
            Direction::Write => bench.store.store(vec![foreign.full(0, page(9))], StoreOptions::default()),
        };
        let mut transfer = Box::pin(transfer);
        let early = tokio::time::timeout(STUCK * 4, &mut transfer).await;
        assert!(early.is_err(), "{direction:?}: answered while the device had the memory: {early:?}");
        assert_eq!(foreign.leases(), 1);
        // Others go on meanwhile, once the breaker has closed.
        in_time("others", async {
            while bench.load(&pages(0..4)).await.contains(&Got::Failed(ErrorKind::Unavailable)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        if late {
            engine.answer_swallowed();
        } else {
            engine.release_lost();
        }
        let batch = in_time("a released batch", transfer).await;
        assert_eq!(kinds(&batch), [(!late).then_some(ErrorKind::Abandoned)], "{direction:?}");
        drop(batch);
        assert_eq!(foreign.leases(), 0);
        balanced(&bench, directory.path(), u64::from(direction == Direction::Write && !late)).await;
        bench.close().await;
    }
}

/// Neither a close nor a drop of the store ends the wait for foreign memory.
#[tokio::test]
async fn foreign_memory_waits_beyond_the_end_of_the_store() {
    for close in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (bench, engine) = faulty(directory.path(), pread()).await;
        bench.store(&pages(0..4)).await;
        let foreign = Foreign::new(&bench.store, 4, PAGE);
        engine.set_plan(FaultPlan::script([(Direction::Read, 0, EngineFault::Swallowed)]));
        let mut transfer = Box::pin(bench.store.load(vec![foreign.full(0, page(0))]));
        if close {
            let closed = in_time("a close with something stuck", bench.store.close()).await;
            assert_eq!(closed.unwrap_err().kind(), ErrorKind::Abandoned);
        }
        drop(bench);
        let early = tokio::time::timeout(STUCK * 5, &mut transfer).await;
        assert!(early.is_err(), "answered while the device had the memory: {early:?}");
        engine.release_lost();
        assert_eq!(kinds(&in_time("the rest", transfer).await), [Some(ErrorKind::Abandoned)]);
        released(directory.path()).await;
        let bench = Bench::open(impatient(directory.path())).await;
        bench.load_all(&pages(0..4)).await;
        bench.close().await;
    }
}

/// With every slot of the store in hands that never let go, a store is told so; it doesn't wait for ever.
#[tokio::test]
async fn a_store_that_can_get_no_slot_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (bench, engine) = faulty(directory.path(), pread()).await;
    let slots = bench.store.slots(PAGE as u64).unwrap();
    engine.set_plan(FaultPlan::every(Direction::Write, EngineFault::Swallowed));
    let crowd = Bench::new(Arc::clone(&bench.store), slots as usize + 5, PAGE);
    // Few enough each to take slots at once.
    let mut rest = crowd.full_batch(&pages(0..slots + 5)).into_iter();
    for _ in 0..slots.div_ceil(100) {
        drop(crowd.store.store(rest.by_ref().take(100).collect(), StoreOptions::default()));
    }
    let foreign = Foreign::new(&bench.store, 4, PAGE);
    let waiting = bench.store.store(vec![foreign.full(0, page(9999))], StoreOptions::default());
    let batch = in_time("a store without a slot", waiting).await;
    let kind = batch.outcomes[0].error().expect("it can't be done").kind();
    assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::NoSpace), "{kind}");
    assert!(batch.memory[0].is_some());
    drop(batch);
    engine.set_plan(FaultPlan::none());
    engine.answer_swallowed();
    eventually("the crowd is done", || crowd.registration.region().leases() == 0).await;
    tokio::time::sleep(STUCK * 2).await;
    balanced(&bench, directory.path(), 0).await;
    drop(crowd);
    bench.close().await;
}

fn gated() -> (Arc<dyn Engine>, Gate) {
    let engine = ThreadEngine::new().unwrap();
    let gate = engine.gate();
    (engine, gate)
}

/// The caller lets go of everything while the engine is in any phase: the memory stays until the engine is done, the
/// work is finished, and the set is free afterwards.
#[tokio::test]
async fn everything_dropped_in_every_phase() {
    for phase in Phase::ALL {
        for direction in [Direction::Write, Direction::Read] {
            let directory = tempfile::tempdir().unwrap();
            let (engine, gate) = gated();
            let bench = Bench::new(fixture::open(limited(directory.path(), CAPACITY), engine).await, 8, PAGE);
            bench.store(&pages(0..4)).await;
            gate.hold(phase);
            let transfer = match direction {
                Direction::Read => bench.store.load(bench.blank_batch(&pages(0..4))),
                Direction::Write => {
                    bench.store.store(bench.full_batch(&pages(10..14)), StoreOptions::default())
                }
            };
            assert!(gate.wait_reached(LONG), "{phase:?}");
            drop(transfer);
            let region = Arc::downgrade(bench.registration.region());
            let store = Arc::downgrade(&bench.store);
            drop(bench);
            assert_eq!(store.strong_count(), 0, "dropping the store waits for nothing");
            if phase != Phase::Answered {
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert!(
                    region.upgrade().is_some_and(|region| region.leases() == 4),
                    "{phase:?} {direction:?}"
                );
            }
            gate.release();
            eventually("the memory is freed", || region.strong_count() == 0).await;
            released(directory.path()).await;
            let bench = Bench::open(limited(directory.path(), CAPACITY)).await;
            bench.load_all(&pages(0..4)).await;
            if direction == Direction::Write {
                bench.load_all(&pages(10..14)).await;
            }
            balanced(&bench, directory.path(), 0).await;
            bench.close().await;
        }
    }
}

/// Closing while a batch is held up waits for it.
#[tokio::test]
async fn a_close_waits_for_what_was_begun() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, gate) = gated();
    let bench = Bench::new(fixture::open(limited(directory.path(), CAPACITY), engine).await, 8, PAGE);
    gate.hold(Phase::Moving);
    let transfer = bench.store.store(bench.full_batch(&pages(0..4)), StoreOptions::default());
    assert!(gate.wait_reached(LONG));
    let closing = bench.store.close();
    let later = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        gate.release();
    };
    let (closed, ()) = in_time("a close", async { tokio::join!(closing, later) }).await;
    closed.unwrap();
    assert!(transfer.await.outcomes.iter().all(Outcome::is_done));
    let batch = bench.store.load(bench.blank_batch(&pages(0..4))).await;
    assert_eq!(kinds(&batch), [Some(ErrorKind::Closed); 4]);
    // Closed is closed: the set is free although handles are left.
    let again = Bench::open(limited(directory.path(), CAPACITY)).await;
    again.load_all(&pages(0..4)).await;
    again.close().await;
}
