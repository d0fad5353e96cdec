//! The engine, over functions that stand in for cuFile's and host memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hicache_core::{
    Access, Direction, Engine, EngineFile, ErrorKind, Extent, MemoryKind, PageMemory, Region, Registration,
};
use hicache_testkit::conformance::{EngineTraits, EngineUnderTest, engine_suite};

use super::{Calls, CuFileConfig, CuFileEngine};
use crate::cufile::library::Functions;
use crate::cufile::standin_tests::{self as standin, Fault, Gate, driver, functions, set_fault};

const PAGE: usize = 4096;
const BATCHES: Calls = Calls::Batches { depth: 8 };

fn engine_on(functions: Functions, calls: Calls, threads: usize) -> CuFileEngine {
    let config = CuFileConfig { calls, threads, host_memory: true, ..CuFileConfig::default() };
    CuFileEngine::open(driver(functions), None, config).unwrap()
}

fn engine(calls: Calls) -> CuFileEngine {
    engine_on(functions(), calls, 3)
}

/// A file, kept by the test so that it can tell what goes wrong with it, and attached.
fn attached(engine: &dyn Engine) -> (Arc<File>, EngineFile) {
    let file = Arc::new(tempfile::tempfile().unwrap());
    let attached = engine.attach(Arc::clone(&file), Path::new("test")).unwrap();
    (file, attached)
}

fn registered(engine: &dyn Engine, slots: usize, bytes: usize) -> Registration {
    engine.register(&Region::allocate(slots, bytes).unwrap()).unwrap()
}

fn filled(registration: &Registration, slot: usize, bytes: usize, byte: u8) -> PageMemory {
    let mut memory = registration.page(slot, bytes, Access::Write).unwrap();
    memory.copy_from(&vec![byte; bytes]).unwrap();
    memory
}

fn holds(extent: &Extent, byte: u8) -> bool {
    let mut bytes = vec![0; extent.memory.bytes()];
    extent.memory.copy_to(&mut bytes).unwrap();
    bytes.iter().all(|&b| b == byte)
}

#[tokio::test]
async fn conformance_with_threads() {
    let directory = tempfile::tempdir().unwrap();
    let make = async || EngineUnderTest::new(Arc::new(engine(Calls::Threads)));
    // It needs alignment, so one of 25 does not apply.
    engine_suite("cufile threads", &EngineTraits::new(directory.path()), make).await.assert_complete(24);
}

#[tokio::test]
async fn conformance_with_batches() {
    let directory = tempfile::tempdir().unwrap();
    let make = async || EngineUnderTest::new(Arc::new(engine(BATCHES)));
    engine_suite("cufile batches", &EngineTraits::new(directory.path()), make).await.assert_complete(24);
}

#[tokio::test]
async fn conformance_with_memory_that_is_not_registered() {
    let directory = tempfile::tempdir().unwrap();
    let small = Functions { buf_register: standin::buf_register_too_large, ..functions() };
    let make = async || EngineUnderTest::new(Arc::new(engine_on(small.clone(), Calls::Threads, 2)));
    engine_suite("cufile unregistered", &EngineTraits::new(directory.path()), make).await.assert_complete(24);
}

#[test]
fn short_results_go_on_where_they_ended() {
    for calls in [Calls::Threads, BATCHES] {
        let engine = engine(calls);
        let (file, attached) = attached(&engine);
        let memory = registered(&engine, 4, 4 * PAGE);
        let _wrong = set_fault(&file, Fault::Short(PAGE));
        let writes = (0..2).map(|slot| Extent {
            file: attached.clone(),
            offset: (slot * 4 * PAGE) as u64,
            memory: filled(&memory, slot, 4 * PAGE, slot as u8 + 1),
        });
        let done = engine.submit(Direction::Write, writes.collect()).wait();
        assert!(
            done.outcomes.iter().all(|outcome| *outcome.as_ref().unwrap() == 4 * PAGE as u64),
            "{done:?}"
        );
        let reads = (0..2).map(|slot| Extent {
            file: attached.clone(),
            offset: (slot * 4 * PAGE) as u64,
            memory: filled(&memory, slot + 2, 4 * PAGE, 0xee),
        });
        let done = engine.submit(Direction::Read, reads.collect()).wait();
        for (number, extent) in done.extents.iter().enumerate() {
            assert_eq!(*done.outcomes[number].as_ref().unwrap(), 4 * PAGE as u64);
            assert!(holds(extent.as_ref().unwrap(), number as u8 + 1), "{calls:?}, extent {number}");
        }
    }
}

#[test]
fn what_fails_is_told_from_what_does_not() {
    for calls in [Calls::Threads, BATCHES] {
        let engine = engine(calls);
        let (good, failing) = (attached(&engine), attached(&engine));
        let memory = registered(&engine, 2, PAGE);
        let both = |fault: Fault| {
            let _wrong = set_fault(&failing.0, fault);
            let extents = vec![
                Extent { file: failing.1.clone(), offset: 0, memory: filled(&memory, 0, PAGE, 1) },
                Extent { file: good.1.clone(), offset: 0, memory: filled(&memory, 1, PAGE, 2) },
            ];
            let mut done = engine.submit(Direction::Write, extents).wait();
            assert!(done.extents.iter().all(Option::is_some), "the memory comes back");
            assert_eq!(*done.outcomes[1].as_ref().unwrap(), PAGE as u64);
            done.outcomes.swap_remove(0)
        };
        assert_eq!(both(Fault::Code(5012)).unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(both(Fault::TooMany).unwrap_err().kind(), ErrorKind::Unexpected);
        assert_eq!(both(Fault::Errno(libc::EIO, 1)).unwrap_err().kind(), ErrorKind::Io);
        if calls == Calls::Threads {
            // A batch has no errno.
            assert_eq!(both(Fault::Errno(libc::ENOSPC, 1)).unwrap_err().kind(), ErrorKind::NoSpace);
            assert_eq!(both(Fault::Errno(libc::EINTR, 3)).unwrap(), PAGE as u64, "three interruptions pass");
        }
    }
}

#[test]
fn a_lost_batch_keeps_its_memory_and_the_engine_goes_on() {
    let engine = engine_on(functions(), BATCHES, 1);
    let (file, attached) = attached(&engine);
    file.write_all_at(&[7; PAGE], 0).unwrap();
    let memory = registered(&engine, 2, PAGE);
    let extent =
        |slot: usize| Extent { file: attached.clone(), offset: 0, memory: filled(&memory, slot, PAGE, 0) };
    let wrong = set_fault(&file, Fault::BatchesGetLost);
    let done = engine.submit(Direction::Read, vec![extent(0)]).wait();
    assert_eq!(done.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(done.extents[0].is_none());
    assert_eq!(memory.page(0, PAGE, Access::Read).unwrap_err().kind(), ErrorKind::Busy, "for ever");
    assert!(!engine.capabilities().proves_idle);
    drop(wrong);
    let done = engine.submit(Direction::Read, vec![extent(1)]).wait();
    assert_eq!(*done.outcomes[0].as_ref().unwrap(), PAGE as u64);
    assert!(holds(done.extents[0].as_ref().unwrap(), 7));
}

#[tokio::test]
async fn what_a_lost_batch_uses_stays_known_to_cufile_when_the_engine_is_closed() {
    let engine = engine_on(functions(), BATCHES, 1);
    let (file, attached) = attached(&engine);
    let memory = registered(&engine, 1, PAGE);
    let start = memory.region().base().as_ptr().cast_const();
    let _wrong = set_fault(&file, Fault::BatchesGetLost);
    let extent = Extent { file: attached.clone(), offset: 0, memory: filled(&memory, 0, PAGE, 0) };
    let done = engine.submit(Direction::Read, vec![extent]).wait();
    assert!(done.extents[0].is_none());
    drop((attached, memory));
    engine.close().await.unwrap();
    assert!(standin::is_registered(start) && !standin::is_destroyed_under(&file));
}

/// Two views of one memory, as `Region::foreign` gives them.
#[test]
fn views_with_one_start_move_their_bytes_whichever_was_registered_first() {
    let whole = Region::allocate(4, PAGE).unwrap();
    let view = |bytes| {
        // SAFETY: the owner keeps the memory; the test uses one view at a time.
        unsafe { Region::foreign(whole.base(), bytes, MemoryKind::Host, Box::new(Arc::clone(&whole))) }
            .unwrap()
    };
    for order in [[PAGE, 4 * PAGE], [4 * PAGE, PAGE]] {
        let engine = engine_on(functions(), Calls::Threads, 2);
        let (file, attached) = attached(&engine);
        let [first, second] = order.map(|bytes| engine.register(&view(bytes)).unwrap());
        let last = order[1] - PAGE;
        let piece = |fill: u8| {
            // SAFETY: nobody else touches the memory; `whole` keeps it to the end of the test.
            let piece = unsafe { second.piece_of_range(last, PAGE, Access::Write) }.unwrap();
            let mut memory = PageMemory::new(piece);
            memory.copy_from(&[fill; PAGE]).unwrap();
            memory
        };
        let gate = Arc::new(Gate::default());
        let _wrong = set_fault(&file, Fault::Waits(Arc::clone(&gate)));
        let extent = Extent { file: attached.clone(), offset: 0, memory: piece(6) };
        let transfer = engine.submit(Direction::Write, vec![extent]);
        while gate.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        drop(first);
        std::thread::sleep(Duration::from_millis(50));
        let start = whole.base().as_ptr().cast_const();
        assert_eq!(standin::is_registered(start), engine.is_registered(&second), "under the call, {order:?}");
        gate.open();
        assert_eq!(*transfer.wait().outcomes[0].as_ref().unwrap(), PAGE as u64, "{order:?}");
        drop(second);
        let until = Instant::now() + Duration::from_secs(10);
        while standin::is_registered(start) {
            assert!(Instant::now() < until, "still registered");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn memory_stays_while_a_call_has_not_returned() {
    let engine = engine(Calls::Threads);
    let (file, attached) = attached(&engine);
    let gate = Arc::new(Gate::default());
    let _wrong = set_fault(&file, Fault::Waits(Arc::clone(&gate)));
    let memory = registered(&engine, 1, PAGE);
    let region = Arc::downgrade(memory.region());
    let transfer = engine.submit(
        Direction::Write,
        vec![Extent { file: attached.clone(), offset: 0, memory: filled(&memory, 0, PAGE, 9) }],
    );
    let start = memory.region().base().as_ptr().cast_const();
    drop((transfer, attached, memory, engine));
    while gate.waiting.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert!(region.upgrade().is_some_and(|region| region.leases() == 1) && standin::is_registered(start));
    gate.open();
    let until = Instant::now() + Duration::from_secs(10);
    while region.strong_count() > 0 || standin::is_registered(start) {
        assert!(Instant::now() < until, "the memory is still held");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut written = [0; PAGE];
    file.read_exact_at(&mut written, 0).unwrap();
    assert_eq!(written, [9; PAGE]);
}

#[tokio::test]
async fn close_makes_everything_unknown_to_cufile() {
    let engine = engine(Calls::Threads);
    let (_, attached) = attached(&engine);
    let memory = registered(&engine, 1, PAGE);
    let start = memory.region().base().as_ptr().cast_const();
    assert!(engine.is_registered(&memory) && standin::is_registered(start));
    engine.close().await.unwrap();
    assert!(!standin::is_registered(start), "before its last handle is dropped");
    drop((attached, memory));
}

#[test]
fn what_does_not_fit_is_refused_at_the_door() {
    let engine = engine(Calls::Threads);
    let appending = tempfile::NamedTempFile::new().unwrap();
    let file = File::options().append(true).read(true).open(appending.path()).unwrap();
    let error = engine.attach(Arc::new(file), appending.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let refused = Arc::new(tempfile::tempfile().unwrap());
    let _wrong = set_fault(&refused, Fault::NotRegistered(5008));
    let error = engine.attach(Arc::clone(&refused), Path::new("on a strange file system")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("on a strange file system"), "{error}");

    struct Nobody;
    let base = std::ptr::NonNull::dangling();
    // SAFETY: never used: the engine refuses memory of this kind.
    let device = unsafe { Region::foreign(base, PAGE, MemoryKind::Device(3), Box::new(Nobody)) }.unwrap();
    assert_eq!(engine.register(&device).unwrap_err().kind(), ErrorKind::Unsupported);
    for config in [
        CuFileConfig { threads: 0, host_memory: true, ..CuFileConfig::default() },
        CuFileConfig { threads: CuFileConfig::MAX_THREADS + 1, host_memory: true, ..CuFileConfig::default() },
        CuFileConfig { calls: Calls::Batches { depth: 0 }, host_memory: true, ..CuFileConfig::default() },
        CuFileConfig::default(),
    ] {
        let error = CuFileEngine::open(driver(functions()), None, config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    }
}
