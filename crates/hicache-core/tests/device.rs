//! The CPU device: asynchronous, in order, late and failing when told to, and never done with memory too early.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use hicache_core::{
    Access, Block, CopyBatch, CopyPlan, CpuDevice, Device, DeviceFault, ErrorKind, PageCopy, PageLeases,
    Place, Region, StepHook, Stream,
};

const PAGE: usize = 4096;

struct Ground {
    device: Arc<CpuDevice>,
    stream: Arc<dyn Stream>,
    host: Arc<Region>,
    memory: Arc<Region>,
    plan: Arc<CopyPlan>,
}

/// Two planes on the device, one buffer on the host; a step for each plane.
fn ground() -> Ground {
    let device = CpuDevice::poisoning();
    let step = |i: usize| {
        let from = Place { buffer: 0, offset: i * PAGE, strides: [0; 2] };
        vec![Block { from, to: Place { buffer: i, offset: 0, strides: [0; 2] }, bytes: PAGE, counts: [1, 1] }]
    };
    let plan = CopyPlan::new(vec![step(0), step(1)], vec![2 * PAGE], vec![PAGE, PAGE]).unwrap();
    Ground {
        stream: device.stream("test").unwrap(),
        host: device.allocate_host(1, 4, 2 * PAGE).unwrap(),
        memory: device.allocate(2, 4, PAGE).unwrap(),
        device,
        plan: Arc::new(plan),
    }
}

impl Ground {
    fn page(&self, slot: usize) -> PageCopy {
        let mut from = self.host.lease(slot, 0, 2 * PAGE, Access::Write).unwrap();
        from.bytes_mut().unwrap()[..PAGE].fill(slot as u8 + 1);
        from.bytes_mut().unwrap()[PAGE..].fill(slot as u8 + 101);
        let to = self.memory.lease(slot, 0, PAGE, Access::Write).unwrap();
        PageCopy { from: PageLeases::from_iter([from.into_read()]), to: PageLeases::from_iter([to]) }
    }

    fn batch(&self, slots: &[usize], hook: Option<StepHook>) -> CopyBatch {
        let pages = slots.iter().map(|&slot| self.page(slot)).collect();
        CopyBatch { pages, plan: Arc::clone(&self.plan), step_done: hook }
    }

    fn holds(&self, slot: usize, bytes: [u8; 2]) {
        let lease = self.memory.lease(slot, 0, PAGE, Access::Read).unwrap();
        for (plane, byte) in bytes.into_iter().enumerate() {
            assert!(lease.plane(plane).unwrap().iter().all(|&b| b == byte), "slot {slot}, plane {plane}");
        }
    }
}

#[test]
fn pages_arrive_step_by_step() {
    let ground = ground();
    let (steps, seen) = channel();
    let hook: StepHook = Arc::new(move |step, whole| steps.send((step, whole)).unwrap());
    let done = ground.stream.copy(ground.batch(&[0, 2], Some(hook))).wait();
    assert!(done.outcomes.iter().all(Result::is_ok));
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [(0, true), (1, true)]);
    assert_eq!(ground.memory.leases(), 2, "the answer holds the leases");
    drop(done);
    ground.holds(0, [1, 101]);
    ground.holds(2, [3, 103]);
}

#[test]
fn it_is_asynchronous_and_streams_are_ordered_by_events() {
    let ground = ground();
    ground.device.set_faults(|operation| {
        (operation.stream == "test").then_some(DeviceFault::LateStart(Duration::from_millis(60)))
    });
    let begun = Instant::now();
    let first = ground.stream.copy(ground.batch(&[0], None));
    assert!(begun.elapsed() < Duration::from_millis(50));
    let event = ground.stream.record().unwrap();
    assert!(!event.is_done() && !event.wait(Duration::from_millis(1)));
    let other = ground.device.stream("other").unwrap();
    other.wait_event(Arc::clone(&event)).unwrap();
    let second = other.copy(ground.batch(&[1], None));
    drop(second.wait());
    assert!(event.is_done() && begun.elapsed() >= Duration::from_millis(60));
    drop(first.wait());
}

#[test]
fn what_is_told_to_fail_fails_and_gives_its_memory_back() {
    let ground = ground();
    ground.device.set_faults(|operation| match operation.number {
        0 => Some(DeviceFault::FailPage { page: 1, step: 1 }),
        1 => Some(DeviceFault::Fail),
        _ => None,
    });
    let (steps, seen) = channel();
    let hook: StepHook = Arc::new(move |step, whole| steps.send((step, whole)).unwrap());
    let done = ground.stream.copy(ground.batch(&[0, 1], Some(hook))).wait();
    assert!(done.outcomes[0].is_ok() && done.outcomes[1].is_err());
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [(0, true), (1, false)]);
    assert!(done.pages.iter().all(Option::is_some));
    drop(done);
    let done = ground.stream.copy(ground.batch(&[0, 1], None)).wait();
    assert!(done.outcomes.iter().all(Result::is_err));
    assert_eq!(ground.device.injected(), 2);
}

#[test]
fn what_is_lost_is_abandoned_and_its_memory_held_until_it_is_let_go() {
    let ground = ground();
    ground.device.set_faults(|operation| match operation.number {
        0 => Some(DeviceFault::NeverSubmitted),
        _ => Some(DeviceFault::Swallowed),
    });
    let never = ground.stream.copy(ground.batch(&[0], None)).wait();
    assert_eq!(never.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(never.pages[0].is_none());
    ground.memory.lease(0, 0, PAGE, Access::Write).expect("nothing is in flight");
    let swallowed = ground.stream.copy(ground.batch(&[1], None));
    assert!(ground.stream.record().unwrap().wait(Duration::from_secs(10)), "the stream goes on");
    assert_eq!(ground.memory.lease(1, 0, PAGE, Access::Write).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(ground.device.held(), 1);
    ground.device.release_lost();
    assert_eq!(swallowed.wait().outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Abandoned);
    ground.memory.lease(1, 0, PAGE, Access::Write).expect("let go");
}

#[test]
fn a_panicking_hook_costs_its_batch_and_nothing_else() {
    let ground = ground();
    let hook: StepHook = Arc::new(|_, _| panic!("on purpose"));
    let done = ground.stream.copy(ground.batch(&[0], Some(hook))).wait();
    assert_eq!(done.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(ground.stream.copy(ground.batch(&[0], None)).wait().outcomes[0].is_ok());
}

#[test]
fn pages_that_are_not_the_plans_are_refused_and_freed_pages_poisoned() {
    let ground = ground();
    let mut batch = ground.batch(&[0, 1, 2], None);
    batch.pages[0].to.clear();
    let read = ground.memory.lease(3, 0, PAGE, Access::Read).unwrap();
    batch.pages[1].to = PageLeases::from_iter([read]);
    let done = ground.stream.copy(batch).wait();
    let kinds: Vec<_> = done.outcomes.iter().map(|o| o.as_ref().err().map(|error| error.kind())).collect();
    assert_eq!(kinds, [Some(ErrorKind::Config), Some(ErrorKind::Config), None]);
    drop(done);
    let page = ground.memory.lease(2, 0, PAGE, Access::Write).unwrap();
    ground.device.page_freed(PageLeases::from_iter([page]));
    ground.holds(2, [CpuDevice::POISON; 2]);
}
