//! A process that forks: the child has the engine's memory and none of its threads. It is told so, and waits for nobody.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hicache_core::{Access, Direction, Engine, ErrorKind, Extent, Region};
use hicache_gds::{HostCopier, StagedConfig, StagedEngine};
use hicache_posix_uring::{PreadConfig, PreadEngine};

/// Longer than a child takes unless it hangs.
const SECONDS: u32 = 20;

/// Runs `inside` in a child and fails if it fails or hangs.
fn forked(inside: impl FnOnce() -> Result<(), String>) {
    // SAFETY: the child calls nothing that waits for a thread of the parent but what is tested here, which is why it
    // gets an alarm; the allocator's locks are the C library's affair. It ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        // SAFETY: takes no memory. Its signal ends the process.
        unsafe { libc::alarm(SECONDS) };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(inside));
        let failed = !matches!(result, Ok(Ok(())));
        // SAFETY: ends the process without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(failed)) };
    }
    let mut status = 0;
    // SAFETY: `child` is ours and is waited for once; `status` is a place for its status.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "the child failed or hung");
}

fn refused<T>(result: hicache_core::Result<T>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() == ErrorKind::Closed && error.to_string().contains("forked") => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("it was done".to_owned()),
    }
}

#[test]
fn a_child_is_refused_and_waits_for_nobody() {
    let below = Arc::new(PreadEngine::open(PreadConfig::default()).unwrap());
    let engine = StagedEngine::open(below, Arc::new(HostCopier), StagedConfig::default()).unwrap();
    let file = engine.attach(Arc::new(tempfile::tempfile().unwrap()), "test".as_ref()).unwrap();
    let memory = engine.register(&Region::allocate(1, 4096).unwrap()).unwrap();
    let mut all = Some((engine, file, memory));
    forked(|| {
        let (engine, file, memory) = all.take().ok_or("gone")?;
        let page = memory.page(0, 4096, Access::Read).map_err(|error| error.to_string())?;
        let done = engine.submit(Direction::Write, vec![Extent { file, offset: 0, memory: page }]).wait();
        let mut done = done;
        refused(done.outcomes.remove(0))?;
        done.extents.remove(0).ok_or("the memory did not come back")?;
        refused(engine.register(memory.region()))?;
        refused(engine.attach(Arc::new(tempfile::tempfile().unwrap()), "test".as_ref()))?;
        let closed = pin!(engine.close()).poll(&mut Context::from_waker(Waker::noop()));
        if !matches!(closed, Poll::Ready(Ok(()))) {
            return Err("close waits".to_owned());
        }
        drop((engine, memory));
        Ok(())
    });
    // The parent goes on.
    let (engine, file, memory) = all.expect("the parent has its own");
    let page = memory.page(0, 4096, Access::Read).unwrap();
    let done = engine.submit(Direction::Write, vec![Extent { file, offset: 0, memory: page }]).wait();
    assert_eq!(*done.outcomes[0].as_ref().unwrap(), 4096);
}
