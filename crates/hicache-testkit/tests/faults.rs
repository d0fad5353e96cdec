//! Each fault does what it says, to what it says, and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{
    Access, Direction, Engine, EngineFile, ErrorKind, Extent, ExtentsDone, MemoryStorage, Outcome,
    PageRequest, Region, Registration, Storage, StoreOptions, Transfer,
};
use hicache_testkit::{
    Content, EngineFault, FaultPlan, FaultyEngine, FaultyStorage, Phase, StorageFault, ThreadEngine,
    numbered_key,
};
use tempfile::NamedTempFile;

const BYTES: usize = 4096;
const LIMIT: Duration = Duration::from_secs(20);

struct Table {
    engine: Arc<FaultyEngine>,
    thread: Arc<ThreadEngine>,
    registration: Registration,
    file: EngineFile,
    path: NamedTempFile,
}

fn content(number: u64) -> Content {
    Content::new(&numbered_key(number), 0, BYTES)
}

/// Three pages in a file, and an engine over them with this plan.
fn table(plan: FaultPlan<EngineFault>) -> Table {
    let path = NamedTempFile::new().unwrap();
    std::fs::write(path.path(), (0..3).flat_map(|number| content(number).bytes()).collect::<Vec<_>>())
        .unwrap();
    let thread = ThreadEngine::new().unwrap();
    let engine = FaultyEngine::new(Arc::clone(&thread) as Arc<dyn Engine>, plan);
    let registration = engine.register(&Region::allocate(3, BYTES).unwrap()).unwrap();
    let file = engine.attach(Arc::new(path.reopen().unwrap()), path.path()).unwrap();
    Table { engine, thread, registration, file, path }
}

impl Table {
    /// All three pages; of a write, other content than is there.
    fn submit(&self, direction: Direction) -> Transfer<ExtentsDone> {
        let extent = |slot: usize| {
            let mut memory = self.registration.page(slot, BYTES, Access::Write).unwrap();
            memory.copy_from(&[0xa5; BYTES]).unwrap();
            if direction == Direction::Write {
                content(slot as u64 + 10).fill(&mut memory).unwrap();
            }
            Extent { file: self.file.clone(), offset: (slot * BYTES) as u64, memory }
        };
        self.engine.submit(direction, (0..3).map(extent).collect())
    }

    fn in_file(&self, slot: usize) -> Vec<u8> {
        std::fs::read(self.path.path()).unwrap()[slot * BYTES..(slot + 1) * BYTES].to_vec()
    }

    fn leases(&self) -> usize {
        self.registration.region().leases()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, met: impl Fn() -> bool) {
        let until = Instant::now() + LIMIT;
        while !met() {
            assert!(Instant::now() < until, "{what} never came");
            std::thread::yield_now();
        }
    }
}

fn second(direction: Direction, fault: EngineFault) -> Table {
    table(FaultPlan::script([(direction, 1, fault)]))
}

fn memory(done: &ExtentsDone, slot: usize) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    done.extents[slot].as_ref().unwrap().memory.copy_to(&mut bytes).unwrap();
    bytes
}

/// Pages 0 and 2 of a read are as if nothing had happened.
#[track_caller]
fn neighbours_are_read(done: &ExtentsDone) {
    for slot in [0, 2] {
        assert_eq!(*done.outcomes[slot].as_ref().unwrap(), BYTES as u64);
        assert_eq!(content(slot as u64).check(&memory(done, slot)), Ok(()));
    }
}

#[test]
fn short_operations_move_less() {
    let table = second(Direction::Read, EngineFault::Short { bytes: 1000 });
    let done = table.submit(Direction::Read).wait();
    neighbours_are_read(&done);
    assert_eq!(*done.outcomes[1].as_ref().unwrap(), 1000);
    assert_eq!(memory(&done, 1)[..1000], content(1).bytes()[..1000]);
    assert_eq!(memory(&done, 1)[1000..], [0xa5; BYTES - 1000]);
    drop(done);
    let table = second(Direction::Write, EngineFault::Short { bytes: 1000 });
    let done = table.submit(Direction::Write).wait();
    assert_eq!(*done.outcomes[1].as_ref().unwrap(), 1000);
    assert_eq!(table.in_file(1)[..1000], content(11).bytes()[..1000]);
    assert_eq!(table.in_file(1)[1000..], content(1).bytes()[1000..]);
    assert_eq!(content(12).check(&table.in_file(2)), Ok(()));
    assert_eq!((table.engine.injected().short, table.engine.injected().total()), (1, 1));
}

#[test]
fn failures_carry_their_errno_and_move_or_do_not() {
    for after_moving in [false, true] {
        let table = second(Direction::Write, EngineFault::Fail { errno: 28, after_moving });
        let done = table.submit(Direction::Write).wait();
        let error = done.outcomes[1].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::NoSpace, Some(28)));
        let there = if after_moving { 11 } else { 1 };
        assert_eq!(content(there).check(&table.in_file(1)), Ok(()));
        assert!(done.outcomes[0].is_ok() && done.outcomes[2].is_ok());
        assert_eq!(table.engine.injected().failed, 1);
    }
}

#[test]
fn corruption_turns_one_bit() {
    let table = second(Direction::Read, EngineFault::Corrupt { bit: 8 * 77 + 3 });
    let done = table.submit(Direction::Read).wait();
    neighbours_are_read(&done);
    assert_eq!(*done.outcomes[1].as_ref().unwrap(), BYTES as u64);
    let mut bytes = memory(&done, 1);
    assert_eq!(content(1).check(&bytes).unwrap_err().offset, 77);
    bytes[77] ^= 8;
    assert_eq!(content(1).check(&bytes), Ok(()));
    drop(done);
    let table = second(Direction::Write, EngineFault::Corrupt { bit: 8 * 77 + 3 });
    let done = table.submit(Direction::Write).wait();
    assert_eq!(*done.outcomes[1].as_ref().unwrap(), BYTES as u64);
    assert_eq!(content(11).check(&memory(&done, 1)), Ok(()), "the caller's memory is not touched by a write");
    let mut bytes = table.in_file(1);
    assert_eq!(content(11).check(&bytes).unwrap_err().offset, 77);
    bytes[77] ^= 8;
    assert_eq!(content(11).check(&bytes), Ok(()));
}

#[test]
fn late_operations_are_late() {
    let delay = Duration::from_millis(80);
    for fault in [EngineFault::LateStart(delay), EngineFault::LateAnswer(delay)] {
        let table = second(Direction::Read, fault);
        let begun = Instant::now();
        let done = table.submit(Direction::Read).wait();
        assert!(begun.elapsed() >= delay, "{fault:?}");
        neighbours_are_read(&done);
        assert_eq!(content(1).check(&memory(&done, 1)), Ok(()));
        assert_eq!(table.engine.injected().late, 1);
    }
}

#[test]
fn a_lost_operation_keeps_its_own_memory_only() {
    let table = second(Direction::Read, EngineFault::Lost);
    let done = table.submit(Direction::Read).wait();
    neighbours_are_read(&done);
    assert_eq!(done.outcomes[1].as_ref().unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(done.extents[1].is_none());
    drop(done);
    assert_eq!((table.leases(), table.engine.held()), (1, 1));
    table.engine.release_lost();
    assert_eq!(table.leases(), 0);
}

#[test]
fn a_batch_never_submitted_is_abandoned_while_the_rest_goes_on() {
    let table = second(Direction::Write, EngineFault::NeverSubmitted);
    table.thread.gate().hold(Phase::Moving);
    let done = table.submit(Direction::Write).wait();
    assert!(done.extents.iter().all(Option::is_none));
    assert!(table.thread.gate().wait_reached(LIMIT));
    table.wait_for("the memory of what was never begun", || table.leases() == 2);
    table.thread.gate().release();
    table.wait_for("the memory of the rest", || table.leases() == 0);
    for (slot, there) in [(0, 10), (1, 1), (2, 12)] {
        assert_eq!(content(there).check(&table.in_file(slot)), Ok(()));
    }
}

#[test]
fn a_dropped_batch_is_abandoned_at_once_and_held() {
    let table = second(Direction::Read, EngineFault::Dropped);
    table.thread.gate().hold(Phase::Begun);
    let done = table.submit(Direction::Read).wait();
    assert!(done.outcomes.iter().all(|outcome| outcome.as_ref().unwrap_err().kind() == ErrorKind::Abandoned));
    assert_eq!(table.leases(), 3);
    table.thread.gate().release();
    table.wait_for("the end of the operations", || table.engine.held() == 1);
    assert_eq!(table.leases(), 3);
    table.engine.release_lost();
    assert_eq!(table.leases(), 0);
}

#[test]
fn a_swallowed_batch_is_answered_when_the_test_says_so() {
    for answer in [true, false] {
        let table = second(Direction::Read, EngineFault::Swallowed);
        let mut transfer = table.submit(Direction::Read);
        table.wait_for("the end of the operations", || table.engine.held() == 1);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::Pin::new(&mut transfer).poll(&mut context).is_pending());
        assert_eq!(table.leases(), 3);
        if answer {
            table.engine.answer_swallowed();
            let done = transfer.wait();
            neighbours_are_read(&done);
            assert_eq!(content(1).check(&memory(&done, 1)), Ok(()));
        } else {
            table.engine.release_lost();
            assert_eq!(transfer.wait().outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Abandoned);
        }
        assert_eq!(table.leases(), 0);
    }
}

#[tokio::test]
async fn close_waits_for_late_operations() {
    let table = second(Direction::Write, EngineFault::LateStart(Duration::from_millis(50)));
    let transfer = table.submit(Direction::Write);
    table.engine.close().await.unwrap();
    assert_eq!(content(11).check(&table.in_file(1)), Ok(()));
    assert!(transfer.await.outcomes.iter().all(Result::is_ok));
}

#[test]
fn random_plans_repeat_and_hit_about_as_often_as_said() {
    let count = |seed| {
        let table =
            table(FaultPlan::random(seed, 200, [EngineFault::Fail { errno: 5, after_moving: false }]));
        let failed = (0..200).map(|_| {
            let done = table.submit(Direction::Read).wait();
            done.outcomes.iter().map(Result::is_err).collect::<Vec<_>>()
        });
        failed.flatten().collect::<Vec<_>>()
    };
    let (first, again, other) = (count(1), count(1), count(2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let failed = first.iter().filter(|failed| **failed).count();
    assert!((60..180).contains(&failed), "{failed} of {} failed; about 120 should", first.len());
}

#[test]
fn storage_faults() {
    let script = [
        (Direction::Write, 1, StorageFault::Absent),
        (Direction::Write, 2, StorageFault::Fail(ErrorKind::Timeout)),
        (Direction::Read, 0, StorageFault::Corrupt(9)),
        (Direction::Read, 3, StorageFault::Fail(ErrorKind::Io)),
        (Direction::Read, 4, StorageFault::Late(Duration::from_millis(50))),
    ];
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()), FaultPlan::script(script));
    let registration = storage.register(&Region::allocate(5, BYTES).unwrap()).unwrap();
    let requests = || {
        let request = |slot: usize| {
            let mut memory = registration.page(slot, BYTES, Access::Write).unwrap();
            content(slot as u64).fill(&mut memory).unwrap();
            PageRequest::new(numbered_key(slot as u64), memory)
        };
        (0..5).map(request).collect::<Vec<_>>()
    };
    let stored = storage.store(requests(), StoreOptions::default()).wait();
    assert!(stored.outcomes[1].is_done());
    assert_eq!(stored.outcomes[2].error().unwrap().kind(), ErrorKind::Timeout);
    drop(stored);
    let begun = Instant::now();
    let loaded = storage.load(requests()).wait();
    assert!(begun.elapsed() >= Duration::from_millis(50));
    let wrong = content(0).check_page(loaded.memory[0].as_ref().unwrap()).unwrap().unwrap_err();
    assert_eq!(wrong.offset, 1);
    assert!(matches!(loaded.outcomes[1], Outcome::Absent) && matches!(loaded.outcomes[2], Outcome::Absent));
    assert_eq!(loaded.outcomes[3].error().unwrap().kind(), ErrorKind::Io);
    assert_eq!(content(4).check_page(loaded.memory[4].as_ref().unwrap()).unwrap(), Ok(()));
    assert_eq!(storage.injected(), 5);
}
