//! What a stream keeps and lets go of when something goes wrong; no device is needed for that.

use hicache_core::{Access, Block, CopyPlan, PageCopy, PageLeases, Place, Region};

use super::*;

fn batch(region: &Arc<Region>, step_done: Option<hicache_core::StepHook>) -> CopyBatch {
    let leases = |slot, access| PageLeases::from_iter([region.lease(slot, 0, 4096, access).unwrap()]);
    let page = PageCopy { from: leases(0, Access::Read), to: leases(1, Access::Write) };
    let place = Place { buffer: 0, offset: 0, strides: [0, 0] };
    let block = Block { from: place, to: place, bytes: 4096, counts: [1, 1] };
    let plan = CopyPlan::new(vec![vec![block]], vec![4096], vec![4096]).unwrap();
    CopyBatch { pages: vec![page], plan: Arc::new(plan), step_done }
}

#[test]
fn lost_copies_keep_their_memory_and_let_go_of_the_hook() {
    let region = Region::allocate(2, 4096).unwrap();
    let hook: hicache_core::StepHook = Arc::new(|_, _| {});
    let (gone, batch) = (Arc::downgrade(&hook), batch(&region, Some(hook)));
    let (completion, transfer) = Transfer::channel(1);
    drop(InFlight {
        batch: Some((batch, completion)),
        outcomes: Vec::new(),
        steps: Vec::new(),
        failed: None,
        loose: Vec::new(),
    });
    assert_eq!(transfer.wait().outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(
        gone.upgrade().is_none(),
        "who waits for the steps learns from the end of the hook that they don't come"
    );
    assert_eq!(region.lease(1, 0, 4096, Access::Read).unwrap_err().kind(), ErrorKind::Busy, "for ever");
}

#[derive(Debug)]
struct Panics;

impl Event for Panics {
    fn is_done(&self) -> bool {
        false
    }

    fn wait(&self, _: Duration) -> bool {
        std::panic::panic_any("on purpose")
    }
}

#[test]
fn a_wait_that_is_not_kept_fails_the_copies_behind_it() {
    let mut order = Order::default();
    let (done, failed, pending) = (DeviceEvent::default(), DeviceEvent::default(), DeviceEvent::default());
    done.end(true);
    failed.end(false);
    order.wait(&done, Duration::ZERO);
    assert!(order.broken().is_none() && done.is_done());
    for event in [&failed as &dyn Event, &pending, &Panics] {
        order.wait(event, Duration::from_millis(1));
        assert!(!event.is_done());
        order.wait(&done, Duration::ZERO);
        assert_eq!(
            order.broken().unwrap().kind(),
            ErrorKind::Timeout,
            "a later wait does not mend an earlier one"
        );
        order.restore();
        assert!(order.broken().is_none());
    }
}

#[test]
fn what_is_refused_comes_back_whole_and_its_steps_are_told() {
    let region = Region::allocate(2, 4096).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let hook: hicache_core::StepHook =
        Arc::new(move |number, whole| seen.lock().unwrap().push((number, whole)));
    let (completion, transfer) = Transfer::channel(1);
    refuse(batch(&region, Some(hook)), completion, &Error::new(ErrorKind::Timeout, "late"));
    let done = transfer.wait();
    assert_eq!(done.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Timeout);
    assert!(done.pages[0].is_some());
    assert_eq!(*told.lock().unwrap(), [(0, false)]);
}
