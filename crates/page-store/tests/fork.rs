//! A process that forks while its store is open: the child is told so, and the parent goes on.

mod fixture;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use fixture::{Bench, config, keys, pages};
use hicache_core::{ErrorKind, Outcome, Storage, StoreOptions};

fn refused(error: &hicache_core::Error) -> bool {
    error.kind() == ErrorKind::Closed && error.to_string().contains("forked")
}

/// The answer of `close`, without waiting.
fn closed(bench: &Bench) -> Poll<hicache_core::Result<()>> {
    pin!(bench.store.close()).poll(&mut Context::from_waker(Waker::noop()))
}

/// The number of the first thing in the child that is not as it should be.
fn first_wrong(bench: &Bench) -> i32 {
    let all = pages(0..3);
    // No memory of the region is there, and none is touched.
    let piece = |i| bench.registration.page(i, 4096, hicache_core::Access::Write).unwrap();
    let batch = || (0..3).map(|i| hicache_core::PageRequest::new(all[i].key(), piece(i))).collect();
    let every = |outcomes: &[Outcome]| outcomes.iter().all(|outcome| outcome.error().is_some_and(refused));
    let checks: [&dyn Fn() -> bool; 5] = [
        &|| every(&bench.store.load(batch()).wait().outcomes),
        &|| every(&bench.store.store(batch(), StoreOptions::default()).wait().outcomes),
        &|| bench.store.exists_now(&keys(&all)).is_some_and(|answer| answer.is_err_and(|e| refused(&e))),
        &|| bench.store.register(bench.registration.region()).is_err_and(|e| refused(&e)),
        &|| matches!(closed(bench), Poll::Ready(Ok(()))),
    ];
    checks.iter().zip(1..).find(|(check, _)| !check()).map_or(0, |(_, number)| number)
}

#[tokio::test]
async fn a_child_is_refused_and_the_parent_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::open(config(directory.path())).await;
    bench.store(&pages(0..100)).await;
    // SAFETY: the child makes only the calls that are tested, has an alarm against waiting, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: takes no memory. Its signal ends the process.
        unsafe { libc::alarm(20) };
        let wrong = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| first_wrong(&bench)));
        // SAFETY: ends the process without the parent's exit handlers.
        unsafe { libc::_exit(wrong.unwrap_or(99)) };
    }
    let mut status = 0;
    // SAFETY: `child` is ours and is waited for once; `status` is a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status >> 8, 0, "check {} failed in the child", status >> 8);
    assert_eq!(status, 0, "the child hangs, or died: {status}");
    bench.store(&pages(100..200)).await;
    bench.load_all(&pages(0..200)).await;
    let weak = Arc::downgrade(&bench.store);
    bench.close().await;
    assert_eq!(weak.strong_count(), 0);
}
