//! A process that forks: the child has the engine's memory and none of its threads. It is told so, and waits for nobody.

mod fixture;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fixture::*;
use hicache_core::{Direction, Engine, Region};
use hicache_nixl_backend::Agent;
use hicache_testkit::fork::{engine_refuses, forked, is_refused, three_writes};

#[test]
fn a_child_is_refused_and_waits_for_nobody() {
    let Some(library) = library() else { return };
    for (name, engine) in engines(&library) {
        let engine = Arc::new(engine);
        let (memory, file) = (registered(&*engine, 4, 4096), attach(&*engine));
        write_pages(&*engine, &file, &memory, (1, 4, 4096), 0);
        let theirs = three_writes(&memory, &file);
        forked(&name, || engine_refuses(Arc::clone(&engine) as Arc<dyn Engine>, theirs));
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
                    all_done(engine.submit(Direction::Write, three_writes(&memory, &file)).wait());
                }
            });
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..20 {
                let theirs = three_writes(&memory, &file);
                let engine = Arc::clone(&engine);
                forked(&format!("fork {round}"), || engine_refuses(engine, theirs));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}
