//! A process that forks: the child has the engine's memory and none of its threads. It is told so, and waits for nobody.

mod fixture;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use fixture::*;
use hicache_core::{Access, Direction, Engine, EngineFile, ErrorKind, Extent, Region, Registration};
use hicache_nixl_backend::{Agent, NixlEngine};

/// Longer than a child takes unless it hangs.
const SECONDS: u32 = 20;

/// Runs `inside` in a child and fails if it fails or hangs.
fn forked(what: &str, inside: impl FnOnce() -> Result<(), String>) {
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
            let _ = rustix::io::write(rustix::stdio::stderr(), format!("in the child: {why}\n").as_bytes());
        }
        // SAFETY: ends the process without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    let mut status = 0;
    // SAFETY: `child` is ours and is waited for once; `status` is a place for its status.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    assert_eq!(status, 0, "{what}: the child failed, or hangs");
}

fn is_refused<T>(what: &str, result: hicache_core::Result<T>) -> Result<(), String> {
    match result {
        Ok(_) => Err(format!("{what} was done")),
        Err(error) if error.kind() == ErrorKind::Closed && error.to_string().contains("forked") => Ok(()),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

fn extents(registration: &Registration, file: &EngineFile) -> Vec<Extent> {
    let memory = |i| registration.page(i, 4096, Access::Read).unwrap();
    (0..3).map(|i| Extent { file: file.clone(), offset: i as u64 * 4096, memory: memory(i) }).collect()
}

/// What must hold in the child.
fn child(engine: Arc<NixlEngine>, extents: Vec<Extent>) -> Result<(), String> {
    let done = engine.submit(Direction::Write, extents).wait();
    if done.outcomes.len() != 3 || done.extents.iter().any(Option::is_none) {
        return Err("not every extent was answered and given back".to_owned());
    }
    for outcome in done.outcomes {
        is_refused("a write", outcome)?;
    }
    is_refused("a registration", engine.register(&Region::allocate(1, 4096).unwrap()))?;
    is_refused("a file", engine.attach(Arc::new(tempfile::tempfile().unwrap()), "test".as_ref()))?;
    let closed = pin!(engine.close()).poll(&mut Context::from_waker(Waker::noop()));
    if !matches!(closed, Poll::Ready(Ok(()))) {
        return Err(format!("close says {closed:?}"));
    }
    drop(done.extents);
    drop(engine);
    Ok(())
}

#[test]
fn a_child_is_refused_and_waits_for_nobody() {
    let Some(library) = library() else { return };
    for (name, engine) in engines(&library) {
        let engine = Arc::new(engine);
        let (memory, file) = (registered(&*engine, 4, 4096), attach(&*engine));
        write_pages(&*engine, &file, &memory, (1, 4, 4096), 0);
        let theirs = extents(&memory, &file);
        forked(&name, || child(Arc::clone(&engine), theirs));
        // The parent goes on.
        write_pages(&*engine, &file, &memory, (2, 4, 4096), 0);
        let done = engine.submit(Direction::Read, reads(&file, &memory, (4, 4096), 0)).wait();
        hold_pages(&all_done(done), 2);
    }
}

#[test]
fn everything_dropped_in_a_child() {
    let Some(library) = library() else { return };
    let engine = open(&library, posix("use_uring"));
    let agent = Agent::new(&library, "test").unwrap();
    let backend = agent.create_backend("POSIX", &[]).unwrap();
    let known = backend.register_region(&Region::allocate(1, 4096).unwrap()).unwrap();
    let (memory, file) = (registered(&engine, 4, 4096), attach(&engine));
    write_pages(&engine, &file, &memory, (1, 4, 4096), 0);
    let mut all = Some((engine, memory, file));
    let mut lower = Some((agent, backend, known));
    forked("drop", || {
        let (agent, backend, known) = lower.take().unwrap();
        is_refused("a list of plugins", agent.plugins())?;
        is_refused("a backend", agent.create_backend("POSIX", &[]))?;
        is_refused("a registration", backend.register_region(known.region()))?;
        drop((all.take(), agent, backend, known));
        Ok(())
    });
    let (engine, memory, file) = all.expect("the parent has its own");
    write_pages(&engine, &file, &memory, (2, 4, 4096), 0);
    drop(lower);
}

/// Whatever lock the threads of the parent hold at the fork, the child does not wait for it.
#[test]
fn a_fork_under_load() {
    let Some(library) = library() else { return };
    let engine = Arc::new(open(&library, posix("use_aio")));
    let (memory, file) = (registered(&*engine, 4, 4096), attach(&*engine));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (memory, file) = (registered(&*engine, 4, 4096), attach(&*engine));
                while !stop.load(Ordering::Relaxed) {
                    all_done(engine.submit(Direction::Write, extents(&memory, &file)).wait());
                }
            });
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..20 {
                let theirs = extents(&memory, &file);
                let engine = Arc::clone(&engine);
                forked(&format!("fork {round}"), || child(engine, theirs));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}
