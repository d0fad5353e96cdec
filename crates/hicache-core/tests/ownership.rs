//! The rule that keeps memory safe: whoever moves the bytes owns the memory, and no handle that the caller drops, in
//! whatever order and at whatever time, takes it away.
//!
//! Every test drops the future and then every handle while the engine stands in one of its phases, and lets it go on
//! afterwards: it then writes into memory, or reads memory, that nobody else holds. The memory is on the heap, so that
//! under AddressSanitizer a premature end of it is an error of its own (`examples/asan_canary.rs` shows that it is);
//! without it, the owner that is freed says when, and what the memory held.

use std::any::Any;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hicache_core::{
    Access, Direction, Engine, EngineFile, ErrorKind, Extent, ExtentsDone, MemoryKind, PageMemory, Region,
    Registration, Transfer,
};
use hicache_testkit::{
    Content, EngineFault, FaultPlan, FaultyEngine, Gate, Phase, ThreadEngine, numbered_key,
};
use tempfile::NamedTempFile;

const BYTES: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(20);

/// Heap memory of "somebody else". When it is freed, its last bytes are left in `freed`.
struct Heap {
    base: NonNull<[u8]>,
    freed: Arc<Mutex<Option<Vec<u8>>>>,
}

// SAFETY: the allocation belongs to this value alone; access to it is ruled by the leases of the region over it.
unsafe impl Send for Heap {}
// SAFETY: as above; `&Heap` gives no access to the bytes.
unsafe impl Sync for Heap {}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: `base` came from `Box::into_raw`, and the region that used it is being dropped.
        let bytes = unsafe { Box::from_raw(self.base.as_ptr()) };
        *self.freed.lock().unwrap() = Some(bytes.to_vec());
    }
}

/// Everything that a caller holds.
struct Caller {
    engine: Arc<dyn Engine>,
    region: Arc<Region>,
    registration: Registration,
    file: EngineFile,
}

/// What a test looks at after the caller has dropped everything.
struct Watch {
    gate: Gate,
    freed: Arc<Mutex<Option<Vec<u8>>>>,
    path: NamedTempFile,
}

impl Watch {
    fn is_freed(&self) -> bool {
        self.freed.lock().unwrap().is_some()
    }

    #[track_caller]
    fn wait_freed(&self) -> Vec<u8> {
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(bytes) = self.freed.lock().unwrap().take() {
                return bytes;
            }
            assert!(Instant::now() < until, "the memory was never freed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn content() -> Content {
    Content::new(&numbered_key(1), 1, BYTES)
}

/// A caller with memory of `fill`, and an open file with the content (to read) or empty (to write).
fn caller(direction: Direction, wrap: impl FnOnce(Arc<ThreadEngine>) -> Arc<dyn Engine>) -> (Caller, Watch) {
    let path = NamedTempFile::new().unwrap();
    let memory = match direction {
        Direction::Read => {
            std::fs::write(path.path(), content().bytes()).unwrap();
            vec![0xa5; BYTES]
        }
        Direction::Write => content().bytes(),
    };
    let thread = ThreadEngine::new().unwrap();
    let gate = thread.gate();
    let engine = wrap(thread);
    let freed = Arc::new(Mutex::new(None));
    let base = NonNull::new(Box::into_raw(memory.into_boxed_slice())).unwrap();
    let owner = Heap { base, freed: Arc::clone(&freed) };
    // SAFETY: the owner keeps the allocation, which does not move, and no test touches it but through leases.
    let region = unsafe { Region::foreign(base.cast(), BYTES, MemoryKind::Host, Box::new(owner)) }.unwrap();
    let registration = engine.register(&region).unwrap();
    let file = engine.attach(open(&path), path.path()).unwrap();
    (Caller { engine, region, registration, file }, Watch { gate, freed, path })
}

fn open(path: &NamedTempFile) -> Arc<File> {
    Arc::new(path.reopen().unwrap())
}

impl Caller {
    /// The whole memory in two pieces, to or from the start of the file.
    fn extent(&self) -> Extent {
        let piece = |offset, bytes| {
            // SAFETY: each test leases the memory once, in two parts that do not overlap.
            let piece = unsafe { self.registration.piece_of_range(offset, bytes, Access::Write) };
            piece.unwrap()
        };
        let memory = PageMemory::from_pieces([piece(0, 3_001), piece(3_001, BYTES - 3_001)]).unwrap();
        Extent { file: self.file.clone(), offset: 0, memory }
    }

    fn submit(&self, direction: Direction) -> Transfer<ExtentsDone> {
        self.engine.submit(direction, vec![self.extent()])
    }

    /// Drops every handle, in the `order`th of the orders that there are.
    fn drop_all(self, mut order: usize) {
        let Self { engine, region, registration, file } = self;
        let mut handles: Vec<Box<dyn Any>> =
            vec![Box::new(engine), Box::new(region), Box::new(registration), Box::new(file)];
        while !handles.is_empty() {
            let next = order % handles.len();
            order /= handles.len();
            drop(handles.remove(next));
        }
    }
}

const ORDERS: usize = 4 * 3 * 2;

/// The future and every handle go while the engine stands in `phase`; then the engine goes on.
fn drop_everything_in(phase: Phase, direction: Direction, order: usize, future_last: bool) {
    let (caller, watch) = caller(direction, |engine| engine);
    watch.gate.hold(phase);
    let transfer = caller.submit(direction);
    assert!(watch.gate.wait_reached(LIMIT), "the engine never came to {phase:?}");
    if future_last {
        caller.drop_all(order);
        drop(transfer);
    } else {
        drop(transfer);
        caller.drop_all(order);
    }
    if phase == Phase::Answered {
        // The engine has let go, and nobody took the answer: the memory went with the future.
        assert!(watch.is_freed(), "an answer that nobody took holds memory");
        watch.gate.release();
    } else {
        assert!(
            !watch.is_freed(),
            "{direction:?} in {phase:?}: the memory was freed while the engine used it"
        );
        // Time for whoever wrongly thinks that it is his to free.
        std::thread::yield_now();
        assert!(!watch.is_freed());
        watch.gate.release();
    }
    // What the engine was doing it finished, in that memory and that file, and the memory was then freed.
    assert_eq!(content().check(&watch.wait_freed()), Ok(()), "{direction:?} in {phase:?}: the memory");
    let file = std::fs::read(watch.path.path()).unwrap();
    assert_eq!(content().check(&file), Ok(()), "{direction:?} in {phase:?}: the file");
}

#[test]
fn every_handle_can_go_in_every_phase_and_order() {
    for phase in Phase::ALL {
        for direction in [Direction::Read, Direction::Write] {
            for order in 0..ORDERS {
                drop_everything_in(phase, direction, order, order % 2 == 0);
            }
        }
    }
}

#[test]
fn a_future_polled_before_it_is_dropped_leaves_no_trace() {
    let (caller, watch) = caller(Direction::Read, |engine| engine);
    watch.gate.hold(Phase::Moving);
    let mut transfer = caller.submit(Direction::Read);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::pin::Pin::new(&mut transfer).poll(&mut context).is_pending());
    assert!(watch.gate.wait_reached(LIMIT));
    drop(transfer);
    caller.drop_all(0);
    assert!(!watch.is_freed());
    watch.gate.release();
    assert_eq!(content().check(&watch.wait_freed()), Ok(()));
}

#[test]
fn a_lease_ends_with_the_operation_and_not_before() {
    let (caller, watch) = caller(Direction::Read, |engine| engine);
    watch.gate.hold(Phase::Moved);
    let transfer = caller.submit(Direction::Read);
    assert!(watch.gate.wait_reached(LIMIT));
    assert_eq!(caller.region.leases(), 2);
    drop(transfer);
    assert_eq!(caller.region.leases(), 2, "dropping the future ended a lease");
    watch.gate.release();
    let until = Instant::now() + LIMIT;
    while caller.region.leases() > 0 {
        assert!(Instant::now() < until, "the leases never ended");
        std::thread::yield_now();
    }
    assert!(!watch.is_freed(), "the caller still has the region");
    caller.drop_all(0);
    assert!(watch.is_freed());
}

#[test]
fn a_slot_of_our_own_stays_busy_while_the_engine_has_it() {
    let path = NamedTempFile::new().unwrap();
    std::fs::write(path.path(), content().bytes()).unwrap();
    let engine = ThreadEngine::new().unwrap();
    let registration = engine.register(&Region::allocate(1, BYTES).unwrap()).unwrap();
    let file = engine.attach(open(&path), path.path()).unwrap();
    let gate = engine.gate();
    for phase in [Phase::Queued, Phase::Begun, Phase::Moving, Phase::Moved] {
        gate.hold(phase);
        let memory = registration.page(0, BYTES, Access::Write).unwrap();
        let transfer = engine.submit(Direction::Read, vec![Extent { file: file.clone(), offset: 0, memory }]);
        assert!(gate.wait_reached(LIMIT));
        drop(transfer);
        for access in [Access::Read, Access::Write] {
            let refused = registration.page(0, BYTES, access).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Busy, "{phase:?}");
        }
        gate.release();
        let until = Instant::now() + LIMIT;
        while registration.region().leases() > 0 {
            assert!(Instant::now() < until, "the lease never ended");
            std::thread::yield_now();
        }
        let free = registration.page(0, BYTES, Access::Read).unwrap();
        assert_eq!(content().check_page(&free).unwrap(), Ok(()));
    }
}

/// As when a worker panics: the answer is `Abandoned` while the operation goes on. The memory must outlive the answer.
#[test]
fn a_lost_operation_keeps_its_memory() {
    for fault in [EngineFault::Dropped, EngineFault::Lost, EngineFault::Swallowed] {
        let mut wrapper = None;
        let (caller, watch) = caller(Direction::Read, |engine| {
            let faulty = FaultyEngine::new(engine, FaultPlan::every(Direction::Read, fault));
            wrapper = Some(Arc::clone(&faulty));
            faulty
        });
        let wrapper = wrapper.unwrap();
        watch.gate.hold(Phase::Moving);
        let mut transfer = Some(caller.submit(Direction::Read));
        assert!(watch.gate.wait_reached(LIMIT));
        if fault == EngineFault::Dropped {
            // Answered although half of the bytes are still to come.
            assert_abandoned(transfer.take().unwrap().wait());
        }
        caller.drop_all(0);
        assert!(!watch.is_freed(), "{fault:?}: freed while the engine used it");
        watch.gate.release();
        if fault == EngineFault::Lost {
            assert_abandoned(transfer.take().unwrap().wait());
        }
        let until = Instant::now() + LIMIT;
        while wrapper.held() == 0 {
            assert!(Instant::now() < until, "{fault:?}: nothing is held");
            std::thread::yield_now();
        }
        assert!(!watch.is_freed(), "{fault:?}: freed while it is not known that the operation is over");
        wrapper.release_lost();
        if let Some(transfer) = transfer {
            assert_abandoned(transfer.wait());
        }
        assert_eq!(content().check(&watch.wait_freed()), Ok(()), "{fault:?}");
    }
}

#[track_caller]
fn assert_abandoned(done: ExtentsDone) {
    assert_eq!(done.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(done.extents[0].is_none(), "memory that may be in use came back");
}
