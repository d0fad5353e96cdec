//! Tests in a forked child, which has the memory of its parent and none of its threads.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hicache_core::{Access, Direction, Engine, EngineFile, ErrorKind, Extent, Region, Registration};

/// Longer than a child takes unless it hangs.
const SECONDS: u32 = 20;

/// Runs `inside` in a child.
///
/// # Panics
/// If it fails or hangs.
#[expect(clippy::panic, reason = "what it is for")]
pub fn forked(what: &str, inside: impl FnOnce() -> Result<(), String>) {
    // SAFETY: the child calls nothing that waits for a thread of the parent but what is tested here, which is why it
    // gets an alarm; the allocator's locks are the C library's affair. It ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        // SAFETY: takes no memory. Its signal ends the process.
        unsafe { libc::alarm(SECONDS) };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(inside))
            .unwrap_or_else(|_| Err("it panicked".to_owned()));
        if let Err(why) = &result {
            let text = format!("in the child: {why}\n");
            // SAFETY: the text is there for the call. Standard error by number, since its lock may be the parent's.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        }
        // SAFETY: ends the process without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    let mut status = 0;
    // SAFETY: `child` is ours and is waited for once; `status` is a place for its status.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    let hangs = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGALRM;
    match status {
        0 => {}
        _ if hangs => panic!("{what}: the child hangs"),
        status => panic!("{what}: the child failed: {status}"),
    }
}

/// Whether `result` is the refusal of a forked child.
///
/// # Errors
/// What it is else.
pub fn is_refused<T>(what: &str, result: hicache_core::Result<T>) -> Result<(), String> {
    match result {
        Ok(_) => Err(format!("{what} was done")),
        Err(error) if error.kind() == ErrorKind::Closed && error.to_string().contains("forked") => Ok(()),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

/// Three pages to write, for [`engine_refuses`].
///
/// # Panics
/// If the registration has not three slots of 4 KiB.
#[expect(clippy::unwrap_used, reason = "a test that can't be set up")]
pub fn three_writes(registration: &Registration, file: &EngineFile) -> Vec<Extent> {
    let memory = |i| registration.page(i, 4096, Access::Read).unwrap();
    (0..3).map(|i| Extent { file: file.clone(), offset: i as u64 * 4096, memory: memory(i) }).collect()
}

/// What must hold of a parent's engine in a child: each call is refused, none waits, and what it was given comes back.
///
/// # Errors
/// What does not hold.
pub fn engine_refuses(engine: Arc<dyn Engine>, three_writes: Vec<Extent>) -> Result<(), String> {
    let done = engine.submit(Direction::Write, three_writes).wait();
    if done.outcomes.len() != 3 || done.extents.iter().any(Option::is_none) {
        return Err("not every extent was answered and given back".to_owned());
    }
    for outcome in done.outcomes {
        is_refused("a write", outcome)?;
    }
    let other = |error: &dyn std::fmt::Display| error.to_string();
    let region = Region::allocate(1, 4096).map_err(|error| other(&error))?;
    is_refused("a registration", engine.register(&region))?;
    let file = tempfile::tempfile().map_err(|error| other(&error))?;
    is_refused("a file", engine.attach(Arc::new(file), "test".as_ref()))?;
    let closed = pin!(engine.close()).poll(&mut Context::from_waker(Waker::noop()));
    if !matches!(closed, Poll::Ready(Ok(()))) {
        return Err(format!("close says {closed:?}"));
    }
    drop(done.extents);
    drop(engine);
    Ok(())
}
