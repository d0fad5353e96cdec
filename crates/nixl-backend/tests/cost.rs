//! What an engine costs while it does nothing, and while it waits for one transfer and for hundreds.

mod fixture;

use std::fs::File;
use std::time::{Duration, Instant};

use fixture::*;
use hicache_core::{Direction, Engine, Extent};
use hicache_nixl_backend::NixlEngineConfig;

/// Time on a CPU of all threads of this process whose name begins so. The tests of a binary share a process: this one
/// has one test.
fn on_cpu(name: &str) -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let nanoseconds = threads.filter_map(|thread| {
        let comm = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        comm.starts_with(name).then(|| stat.split(' ').next()?.parse::<u64>().ok()).flatten()
    });
    Duration::from_nanos(nanoseconds.sum())
}

#[test]
fn nothing_when_idle_and_little_while_a_transfer_is_in_flight() {
    let Some(library) = library() else { return };
    if !std::path::Path::new("/proc/self/schedstat").exists() {
        return println!("went without: the CPU time of threads; this kernel does not tell it");
    }
    let engine = open(&library, NixlEngineConfig { threads: 2, ..posix("use_uring") });
    let registration = registered(&engine, 64, 4096);
    let file = attach(&engine);
    write_pages(&engine, &file, &registration, (0, 64, 4096), 0);
    std::thread::sleep(Duration::from_millis(200));

    let (before, time) = (on_cpu("hicache-nixl"), Duration::from_secs(1));
    std::thread::sleep(time);
    let idle = on_cpu("hicache-nixl") - before;
    println!("idle: {idle:?} of {time:?}");
    assert!(idle < Duration::from_millis(1), "two threads took {idle:?} for nothing");

    drop((engine, registration, file));

    for requests in [1, 300] {
        let engine = open(&library, posix("use_uring"));
        let registration = registered(&engine, requests, 4096);
        // Reads that hang for as long as the test wants, each a request of its own.
        let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let pipe = attach_file(&engine, File::from(reading));
        let read = |slot| {
            let extent = Extent { file: pipe.clone(), offset: 0, memory: emptied(&registration, slot, 4096) };
            engine.submit(Direction::Read, vec![extent])
        };
        let transfers: Vec<_> = (0..requests).map(read).collect();
        std::thread::sleep(Duration::from_millis(500));
        let (before, start) = (on_cpu("hicache-nixl"), Instant::now());
        std::thread::sleep(time);
        let waiting = (on_cpu("hicache-nixl") - before).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("{requests} in flight: {:.1} % of a core", waiting * 100.0);
        assert!(waiting < 0.1, "waiting for {requests} requests takes {waiting} of a core");
        for _ in 0..requests {
            assert_eq!(rustix::io::write(&writing, &bytes(3, 4096)), Ok(4096));
        }
        for transfer in transfers {
            hold_pages(&all_done(transfer.wait()), 3);
        }
    }
}
