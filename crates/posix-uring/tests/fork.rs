//! A process that forks: the child has the engine's memory and none of its threads. It is told so, and waits for nobody.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

mod fixture;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fixture::*;
use hicache_core::{Direction, Engine, Extent};
use hicache_posix_uring::{PreadConfig, PreadEngine, UringConfig};
use hicache_testkit::fork::{engine_refuses, forked, three_writes};

/// What must hold in the child.
fn child(engine: Arc<dyn Engine>, extents: Vec<Extent>) -> Result<(), String> {
    engine_refuses(engine, extents)?;
    // One of its own works.
    let own = PreadEngine::open(PreadConfig::default()).map_err(|error| error.to_string())?;
    let (memory, file) = (registered(&own, 1, 4096), attach(&own));
    write_page(&own, &file, &memory, 0, 7, 4096);
    let (count, read) = read_page(&own, &file, &memory, 0, 4096);
    if count == 4096 && read == bytes(7, 4096) { Ok(()) } else { Err("its own engine fails".to_owned()) }
}

fn engines_once() -> Vec<(&'static str, Arc<dyn Engine>)> {
    let pread: Arc<dyn Engine> = Arc::new(PreadEngine::open(PreadConfig::default()).unwrap());
    let ring = uring(UringConfig { rings: 2, depth: 8, ..UringConfig::default() });
    let ring = ring.map(|engine| ("uring", Arc::new(engine) as Arc<dyn Engine>));
    ring.into_iter().chain([("pread", pread)]).collect()
}

#[test]
fn a_child_is_refused_and_waits_for_nobody() {
    for (name, engine) in engines_once() {
        let (memory, file) = (registered(&*engine, 4, 4096), attach(&*engine));
        write_page(&*engine, &file, &memory, 0, 1, 4096);
        let theirs = three_writes(&memory, &file);
        forked(name, || child(Arc::clone(&engine), theirs));
        // The parent goes on.
        write_page(&*engine, &file, &memory, 0, 2, 4096);
        assert_eq!(read_page(&*engine, &file, &memory, 0, 4096), (4096, bytes(2, 4096)));
    }
}

#[test]
fn dropping_everything_in_a_child_ends() {
    for (name, engine) in engines_once() {
        let (memory, file) = (registered(&*engine, 4, 4096), attach(&*engine));
        write_page(&*engine, &file, &memory, 0, 1, 4096);
        let mut all = Some((engine, memory, file));
        forked(name, || {
            drop(all.take());
            Ok(())
        });
        let (engine, memory, file) = all.expect("the parent has its own");
        write_page(&*engine, &file, &memory, 0, 2, 4096);
    }
}

/// Whatever lock the threads of the parent hold at the fork, the child does not wait for it.
#[test]
fn a_fork_under_load() {
    for (name, engine) in engines_once() {
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
                    forked(&format!("{name}, fork {round}"), || child(engine, theirs));
                }
            }));
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic);
            }
        });
    }
}
