//! Memory stays leased while the kernel may use it, whoever drops what; and nothing spins.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests say what they saw and what they went without"
)]

mod fixture;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fixture::*;
use hicache_core::{Access, Direction, Engine, ErrorKind, Extent, Region};
use hicache_posix_uring::{PreadConfig, PreadEngine, UringConfig};

/// The io_uring engine, with room for a read that hangs and some others. `preadv` refuses pipes, so that the other
/// engine can't be made to hang.
fn ring() -> Option<(&'static str, Arc<dyn Engine>)> {
    let engine = uring(UringConfig { depth: 8, ..UringConfig::default() })?;
    Some(("uring", Arc::new(engine)))
}

/// Both engines, once each.
fn both() -> Vec<(&'static str, Arc<dyn Engine>)> {
    let pread: Arc<dyn Engine> = Arc::new(PreadEngine::open(PreadConfig::default()).unwrap());
    ring().into_iter().chain([("pread", pread)]).collect()
}

#[test]
fn every_handle_may_go_while_the_kernel_writes() {
    if let Some((name, engine)) = ring() {
        let (region, freed) = foreign(1 << 20);
        let registration = engine.register(&region).unwrap();
        let (reading, mut writing) = hanging();
        let pipe = attach_file(&*engine, reading);
        let file = attach(&*engine);
        // One read that hangs till the pipe is written, and writes that go on meanwhile.
        let hang = Extent { file: pipe.clone(), offset: 0, memory: foreign_page(&registration, 0, 4096) };
        drop(engine.submit(Direction::Read, vec![hang]));
        let pages = (1..64).map(|page| Extent {
            file: file.clone(),
            offset: page * 4096,
            memory: foreign_page(&registration, page as usize * 4096, 4096),
        });
        drop(engine.submit(Direction::Write, pages.collect()));
        let weak = Arc::downgrade(&region);
        drop((pipe, file, registration, engine, region));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!freed.load(Ordering::SeqCst), "{name}: freed while a read was in flight");
        assert_eq!(weak.upgrade().map(|region| region.leases()), Some(1), "{name}: the writes have ended");
        // The kernel writes into the memory now. AddressSanitizer would not see that, so the allocation must be there.
        writing.write_all(&[5; 4096]).unwrap();
        eventually("freeing", || freed.load(Ordering::SeqCst));
        // The engine had the only other end.
        eventually("closing", || writing.write_all(&[5; 4096]).is_err());
    }
}

#[tokio::test]
async fn everything_dropped_or_closed_in_the_middle() {
    for close in [false, true] {
        for (name, engine) in both() {
            let (region, freed) = foreign(16 << 20);
            let registration = engine.register(&region).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("pages");
            let options =
                std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            let file = engine.attach(Arc::new(options), &path).unwrap();
            let extents = (0..256).map(|page| {
                let mut memory = foreign_page(&registration, page * 65_536, 65_536);
                memory.copy_from(&bytes(page, 65_536)).unwrap();
                Extent { file: file.clone(), offset: page as u64 * 65_536, memory }
            });
            let transfer = engine.submit(Direction::Write, extents.collect());
            if close {
                engine.close().await.unwrap();
                drop(all_done(transfer.await));
            } else {
                drop(transfer);
            }
            drop((registration, region, file, engine));
            eventually("freeing", || freed.load(Ordering::SeqCst));
            let written = std::fs::read(&path).unwrap();
            let whole = (0..256).all(|page| written[page * 65_536..][..65_536] == bytes(page, 65_536));
            assert!(whole, "{name}: what was accepted is done");
        }
    }
}

#[test]
fn a_batch_that_is_dropped_at_once_is_done_all_the_same() {
    for (name, engine) in engines() {
        let file = attach(&*engine);
        let registration = registered(&*engine, 64, 65_536);
        let extents = (0..64).map(|page| Extent {
            file: file.clone(),
            offset: page as u64 * 65_536,
            memory: filled(&registration, page, 65_536, page),
        });
        drop(engine.submit(Direction::Write, extents.collect()));
        let region = Arc::clone(registration.region());
        eventually("the end of the leases", || region.leases() == 0);
        for page in [0, 31, 63] {
            let (count, memory) = read_page(&*engine, &file, &registration, page as u64 * 65_536, 65_536);
            assert!(count == 65_536 && memory == bytes(page, 65_536), "{name}");
        }
    }
}

#[test]
fn leases_come_back_as_slots() {
    if let Some((name, engine)) = ring() {
        let registration = registered(&*engine, 1, 4096);
        let (reading, mut writing) = hanging();
        let pipe = attach_file(&*engine, reading);
        let extent = Extent { file: pipe, offset: 0, memory: emptied(&registration, 0, 4096) };
        let transfer = engine.submit(Direction::Read, vec![extent]);
        drop(transfer);
        std::thread::sleep(Duration::from_millis(20));
        let busy = registration.page(0, 4096, Access::Read).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy, "{name}");
        writing.write_all(&[5; 4096]).unwrap();
        eventually("the end of the lease", || registration.page(0, 4096, Access::Read).is_ok());
    }
}

#[test]
fn a_read_that_hangs_keeps_nobody_waiting() {
    if let Some((name, engine)) = ring() {
        let registration = registered(&*engine, 4, 4096);
        let (reading, mut writing) = hanging();
        let pipe = attach_file(&*engine, reading);
        let file = attach(&*engine);
        let hang =
            |slot| Extent { file: pipe.clone(), offset: 0, memory: emptied(&registration, slot, 4096) };
        let hung = engine.submit(Direction::Read, vec![hang(1), hang(2)]);
        let start = std::time::Instant::now();
        for page in 0..100 {
            write_page(&*engine, &file, &registration, page as u64 * 4096, page, 4096);
        }
        let each = start.elapsed() / 100;
        assert!(each < Duration::from_millis(50), "{name}: {each:?} a page beside a read that hangs");
        writing.write_all(&bytes(9, 8192)).unwrap();
        all_done(hung.wait());
    }
}

#[tokio::test]
async fn closing_waits_for_what_is_in_flight() {
    if let Some((name, engine)) = ring() {
        let registration = registered(&*engine, 2, 4096);
        let (reading, mut writing) = hanging();
        let pipe = attach_file(&*engine, reading);
        let extent = Extent { file: pipe.clone(), offset: 0, memory: emptied(&registration, 0, 4096) };
        let transfer = engine.submit(Direction::Read, vec![extent]);
        {
            let closing = engine.close();
            tokio::pin!(closing);
            let soon = tokio::time::timeout(Duration::from_millis(100), &mut closing).await;
            assert!(soon.is_err(), "{name}: closed with a read in flight");
            let extent = Extent { file: pipe.clone(), offset: 0, memory: emptied(&registration, 1, 4096) };
            let late = engine.submit(Direction::Read, vec![extent]).await;
            assert_eq!(late.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Closed, "{name}");
            assert!(late.extents[0].is_some());
            writing.write_all(&bytes(3, 4096)).unwrap();
            closing.await.unwrap();
        }
        let read = all_done(transfer.await);
        assert!(content(&read[0].memory) == bytes(3, 4096), "{name}");
        engine.close().await.unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        assert_eq!(engine.attach(file, "x".as_ref()).unwrap_err().kind(), ErrorKind::Closed);
        let region = Region::allocate(1, 1).unwrap();
        assert_eq!(engine.register(&region).unwrap_err().kind(), ErrorKind::Closed);
        // Tokens that outlive the engine's threads go quietly.
        let weak = Arc::downgrade(registration.region());
        drop((read, registration, pipe));
        assert_eq!(weak.strong_count(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_closed_engine_refuses() {
    for (name, engine) in both() {
        let registration = registered(&*engine, 1, 4096);
        let file = attach(&*engine);
        engine.close().await.unwrap();
        engine.close().await.unwrap();
        let extent = Extent { file, offset: 0, memory: emptied(&registration, 0, 4096) };
        let late = engine.submit(Direction::Read, vec![extent]).await;
        assert_eq!(late.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Closed, "{name}");
        assert!(late.extents[0].is_some());
        assert_eq!(engine.register(registration.region()).unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn an_idle_engine_does_nothing() {
    for (name, engine) in both() {
        let registration = registered(&*engine, 1, 4096);
        let file = attach(&*engine);
        write_page(&*engine, &file, &registration, 0, 1, 4096);
        let threads = || {
            let mut seen = Vec::new();
            for task in std::fs::read_dir("/proc/self/task").unwrap() {
                let path = task.unwrap().path();
                let Ok(comm) = std::fs::read_to_string(path.join("comm")) else { continue };
                if !comm.starts_with(&format!("hicache-{name}")) {
                    continue;
                }
                // Gone since.
                let Ok(status) = std::fs::read_to_string(path.join("status")) else { continue };
                let count = |field: &str| -> u64 {
                    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
                    line.trim().parse().unwrap()
                };
                let switches = count("voluntary_ctxt_switches:") + count("nonvoluntary_ctxt_switches:");
                seen.push((path, switches));
            }
            seen.sort();
            seen
        };
        // Other tests of this process have engines of their own, so the idle ones are among those seen.
        std::thread::sleep(Duration::from_millis(100));
        let before = threads();
        std::thread::sleep(Duration::from_secs(1));
        let after = threads();
        let idle = before.iter().filter(|thread| after.contains(thread)).count();
        assert!(
            idle >= engine.capabilities().max_in_flight.div_ceil(8).min(4),
            "{name}: {before:?} {after:?}"
        );
        eprintln!("{name}: {idle} threads had 0 context switches in a second");
    }
}
