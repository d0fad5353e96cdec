//! What happens to memory when the driver fails, and in a forked child: in processes that have the library that stands in for
//! libcuda.
//!
//! The tests that are ignored run in those processes.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::fs::File;
use std::sync::{Arc, Mutex};

use hicache_core::{
    Access, Block, CopyBatch, CopyPlan, Device, Direction, Engine, EngineFile, ErrorKind, Extent, PageCopy,
    PageLeases, Place, Region, Registration,
};
use hicache_gds::{CuFileConfig, CuFileEngine, CudaDevice, Driver, Library, Summer};

mod ground;

use ground::{Ground, PAGE, with_standin};

fn is_busy(region: &Arc<Region>, slot: usize) -> bool {
    region.lease(slot, 0, PAGE, Access::Write).is_err_and(|error| error.kind() == ErrorKind::Busy)
}

#[test]
fn a_lost_sum_keeps_its_pages() {
    with_standin("inside_a_lost_sum_keeps_its_pages");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_a_lost_sum_keeps_its_pages() {
    let Some(ground) = Ground::new() else { return };
    let pages = ground.pages(2);
    let page = |slot| pages.page(slot, PAGE, Access::Read).unwrap();
    let mut summer = Summer::new(&ground.context).unwrap();
    assert!(summer.sum(vec![page(0), page(1)]).sums.is_ok());
    ground.fail("cuLaunchKernel", 1, 1);
    let refused = summer.sum(vec![page(0)]);
    assert_eq!(refused.sums.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(refused.pages.map(|pages| pages.len()), Some(1), "the stream was waited for");
    assert!(!is_busy(pages.region(), 0));

    ground.fail("cuStreamSynchronize", 1, 999);
    let lost = summer.sum(vec![page(0)]);
    assert_eq!(lost.sums.unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(lost.pages.is_none() && is_busy(pages.region(), 0), "the kernel may still read them");
    let after = summer.sum(vec![page(1)]);
    assert_eq!(after.sums.unwrap_err().kind(), ErrorKind::Closed, "the list of parts may still be read");
    assert!(after.pages.is_some());
    let weak = Arc::downgrade(pages.region());
    drop((after.pages, summer, pages));
    assert!(weak.upgrade().is_some(), "what the kernel may read is not freed");
    // Another one is not concerned.
    let pages = ground.pages(1);
    let page = pages.page(0, PAGE, Access::Read).unwrap();
    assert!(Summer::new(&ground.context).unwrap().sum(vec![page]).sums.is_ok());
}

/// The engine says that it proves idle, so that the page store lets it at memory of the caller's own.
#[test]
fn staged_copies_are_over_when_they_are_answered() {
    with_standin("inside_staged_copies_are_over_when_they_are_answered");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_staged_copies_are_over_when_they_are_answered() {
    let Some(ground) = Ground::new() else { return };
    let engine = ground.staged();
    assert!(engine.capabilities().proves_idle);
    let memory = engine.register(&ground.context.allocate(1, 2, PAGE).unwrap()).unwrap();
    let file = Arc::new(tempfile::tempfile().unwrap());
    let file = engine.attach(file, "test".as_ref()).unwrap();
    let one = |direction, slot| {
        let memory = memory.page(slot, PAGE, Access::Write).unwrap();
        let mut done =
            engine.submit(direction, vec![Extent { file: file.clone(), offset: 0, memory }]).wait();
        (done.outcomes.remove(0), done.extents.remove(0))
    };
    assert_eq!(one(Direction::Write, 0).0.unwrap(), PAGE as u64);
    // Who asks until the driver answers knows that nothing moves any more.
    ground.fail("cuStreamSynchronize", 3, 999);
    let (outcome, extent) = one(Direction::Read, 0);
    assert!(outcome.unwrap_err().to_string().contains("999"));
    drop(extent.unwrap());
    assert!(!is_busy(memory.region(), 0));
    assert_eq!(one(Direction::Read, 0).0.unwrap(), PAGE as u64, "nothing was lost");
    // A context that is gone takes its memory with it.
    ground.fail("cuStreamSynchronize", -1, 700);
    let (outcome, extent) = one(Direction::Read, 1);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(extent.is_none() && is_busy(memory.region(), 1));
}

fn copy_of(region: &Arc<Region>, from: usize, to: usize, told: &Arc<Mutex<Vec<(usize, bool)>>>) -> CopyBatch {
    let leases = |slot, access| PageLeases::from_iter([region.lease(slot, 0, PAGE, access).unwrap()]);
    let place = Place { buffer: 0, offset: 0, strides: [0, 0] };
    let block = Block { from: place, to: place, bytes: PAGE, counts: [1, 1] };
    let plan = CopyPlan::new(vec![vec![block]], vec![PAGE], vec![PAGE]).unwrap();
    let told = Arc::clone(told);
    CopyBatch {
        pages: vec![PageCopy { from: leases(from, Access::Read), to: leases(to, Access::Write) }],
        plan: Arc::new(plan),
        step_done: Some(Arc::new(move |number, whole| told.lock().unwrap().push((number, whole)))),
    }
}

#[test]
fn copies_that_fail_come_back_and_lost_ones_do_not() {
    with_standin("inside_copies_that_fail_come_back_and_lost_ones_do_not");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_copies_that_fail_come_back_and_lost_ones_do_not() {
    let Some(ground) = Ground::new() else { return };
    let region = ground.context.allocate(1, 4, PAGE).unwrap();
    let stream = CudaDevice::new(Arc::clone(&ground.context)).stream("copies").unwrap();
    let told = Arc::default();
    let copy = |from, to| {
        let mut done = stream.copy(copy_of(&region, from, to, &told)).wait();
        (done.outcomes.remove(0), done.pages.remove(0))
    };
    assert!(copy(0, 1).0.is_ok());
    ground.fail("cuEventSynchronize", 1, 719);
    let (outcome, page) = copy(0, 1);
    assert!(outcome.unwrap_err().to_string().contains("719"));
    drop(page.unwrap());
    assert!(!is_busy(&region, 1));
    ground.fail("cuEventSynchronize", 1, 719);
    ground.fail("cuStreamSynchronize", 1, 719);
    let (outcome, page) = copy(2, 3);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(page.is_none() && is_busy(&region, 3));
    assert!(copy(0, 1).0.is_ok(), "the stream goes on");
    assert_eq!(*told.lock().unwrap(), [(0, true), (0, false), (0, false), (0, true)]);
}

#[test]
fn a_forked_child_is_refused_and_calls_nothing() {
    with_standin("inside_a_forked_child_is_refused_and_calls_nothing");
}

fn refused<T>(what: &str, result: hicache_core::Result<T>) {
    match result {
        Err(error) if error.kind() == ErrorKind::Closed => {}
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what} was done in the child"),
    }
}

/// An engine, with memory and a file.
struct Engaged {
    engine: Arc<dyn Engine>,
    memory: Registration,
    file: EngineFile,
}

impl Engaged {
    fn new(engine: Arc<dyn Engine>, region: &Arc<Region>, file: &Arc<File>) -> Self {
        let memory = engine.register(region).unwrap();
        let file = engine.attach(Arc::clone(file), "test".as_ref()).unwrap();
        Self { engine, memory, file }
    }

    fn sum(&self) -> hicache_core::Result<u64> {
        self.engine.checksum(&self.memory.page(0, PAGE, Access::Read)?)
    }

    fn write(&self) -> hicache_core::Result<u64> {
        let memory = self.memory.page(0, PAGE, Access::Read).unwrap();
        let extent = Extent { file: self.file.clone(), offset: 0, memory };
        self.engine.submit(Direction::Write, vec![extent]).wait().outcomes.remove(0)
    }
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_a_forked_child_is_refused_and_calls_nothing() {
    let Some(ground) = Ground::new() else { return };
    let driver = Driver::open(Library::load(None).unwrap()).unwrap();
    let (region, file) =
        (ground.context.allocate(1, 4, PAGE).unwrap(), Arc::new(tempfile::tempfile().unwrap()));
    let context = Some(Arc::clone(&ground.context));
    let cufile = CuFileEngine::open(driver, context, CuFileConfig { threads: 1, ..CuFileConfig::default() });
    let engines = [
        Engaged::new(Arc::new(cufile.unwrap()), &region, &file),
        Engaged::new(Arc::new(ground.staged()), &region, &file),
    ];
    let stream = CudaDevice::new(Arc::clone(&ground.context)).stream("copies").unwrap();
    let mut summer = Summer::new(&ground.context).unwrap();
    let pages = ground.pages(1);
    // Everything has been at work.
    engines.iter().for_each(|engaged| assert_eq!(engaged.write().unwrap(), PAGE as u64));
    let sums = engines.each_ref().map(|engaged| engaged.sum().unwrap());
    let told = Arc::default();
    assert!(stream.copy(copy_of(&region, 0, 1, &told)).wait().outcomes[0].is_ok());
    // SAFETY: the child calls what is tested, which waits for no thread of the parent, and ends by `_exit`; an alarm ends it
    // where that is wrong.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: takes no memory.
        unsafe { libc::alarm(20) };
        let inside = move || {
            refused("binding", ground.context.bind());
            refused("allocating", ground.context.allocate(1, 1, PAGE));
            refused("another stream", CudaDevice::new(Arc::clone(&ground.context)).stream("more"));
            engines.iter().for_each(|engaged| refused("writing", engaged.write()));
            engines.iter().for_each(|engaged| refused("an engine's sum", engaged.sum()));
            let copied = stream.copy(copy_of(&region, 2, 3, &told)).wait().outcomes.remove(0);
            refused("copying", copied);
            refused("recording", stream.record());
            let summed = summer.sum(vec![pages.page(0, PAGE, Access::Read).unwrap()]);
            assert!(summed.pages.is_some());
            refused("summing", summed.sums);
            // The parent goes on using all of it.
            drop((engines, stream, summer, pages, region, ground));
        };
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(inside)).is_ok();
        // SAFETY: ends the process without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(!held)) };
    }
    let mut status = 0;
    // SAFETY: `child` is ours, waited for once, and `status` a place for its status.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "the child failed, hung, or called a library");
    engines.iter().for_each(|engaged| assert_eq!(engaged.write().unwrap(), PAGE as u64));
    assert_eq!(engines.each_ref().map(|engaged| engaged.sum().unwrap()), sums);
    let summed = summer.sum(vec![pages.page(0, PAGE, Access::Read).unwrap()]);
    assert!(summed.sums.is_ok() && stream.copy(copy_of(&region, 2, 3, &told)).wait().outcomes[0].is_ok());
}
