//! What becomes of everything when a ring thread panics.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{Access, Direction, Engine, ErrorKind, Extent, Region};

use crate::config::UringConfig;
use crate::engine::UringEngine;
use crate::inbox::{Command, Intake};

fn engine(rings: usize) -> Option<UringEngine> {
    let engine = UringEngine::open(UringConfig { depth: 4, rings, ..UringConfig::default() });
    if let Err(error) = &engine {
        println!("skipped: io_uring: {error}");
    }
    engine.ok()
}

fn panic_ring(engine: &UringEngine, ring: usize) {
    let inbox = &engine.inboxes()[ring];
    assert!(inbox.push(Command::Panic).is_ok());
    let start = Instant::now();
    while inbox.intake() != Intake::Failed {
        assert!(start.elapsed() < Duration::from_secs(10), "the thread does not notice");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_panic_abandons_what_is_in_flight_after_the_kernel_is_done() {
    let Some(engine) = engine(1) else { return };
    let region = Region::allocate(16, 4096).unwrap();
    let registration = engine.register(&region).unwrap();
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let pipe = engine.attach(Arc::new(File::from(reading)), Path::new("pipe")).unwrap();
    let extent = |slot| {
        let memory = registration.page(slot, 4096, Access::Write).unwrap();
        Extent { file: pipe.clone(), offset: 0, memory }
    };
    // More than fit the ring, so that some are in flight and some wait.
    let first = engine.submit(Direction::Read, (0..6).map(extent).collect());
    let second = engine.submit(Direction::Read, vec![extent(6)]);
    let file = Arc::new(tempfile::tempfile().unwrap());
    let file = engine.attach(file, Path::new("file")).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    panic_ring(&engine, 0);
    for done in [first.await, second.await] {
        for outcome in &done.outcomes {
            assert_eq!(outcome.as_ref().unwrap_err().kind(), ErrorKind::Abandoned);
        }
        assert!(done.extents.iter().all(Option::is_some), "the memory is proven idle, so it comes back");
    }
    assert_eq!(region.leases(), 0);
    drop(writing);
    let late = engine.submit(Direction::Read, vec![Extent { file, ..extent(0) }]).await;
    assert_eq!(late.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(engine.register(&region).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(engine.close().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let extent = late.extents.into_iter().flatten().collect();
    let late = engine.submit(Direction::Read, extent).await;
    assert_eq!(late.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(engine.register(&region).unwrap_err().kind(), ErrorKind::Closed);
    let weak = Arc::downgrade(&region);
    drop((late, pipe, registration, region));
    assert_eq!(weak.strong_count(), 0);
}

#[test]
fn the_other_rings_go_on() {
    let Some(engine) = engine(2) else { return };
    let region = Region::allocate(8, 4096).unwrap();
    let registration = engine.register(&region).unwrap();
    panic_ring(&engine, 0);
    let file = Arc::new(tempfile::tempfile().unwrap());
    let file = engine.attach(file, Path::new("file")).unwrap();
    for slot in 0..8 {
        let memory = registration.page(slot, 4096, Access::Write).unwrap();
        let done =
            engine.submit(Direction::Write, vec![Extent { file: file.clone(), offset: 0, memory }]).wait();
        assert_eq!(*done.outcomes[0].as_ref().unwrap(), 4096);
    }
}

#[test]
fn a_panic_of_an_owner_that_is_dropped_hurts_nobody_else() {
    struct Owner(#[expect(dead_code, reason = "held")] Box<[u8]>);
    impl Drop for Owner {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                std::panic::panic_any("on purpose");
            }
        }
    }
    let Some(engine) = engine(1) else { return };
    let bytes = vec![0; 4096].into_boxed_slice();
    let base = std::ptr::NonNull::new(bytes.as_ptr().cast_mut()).unwrap();
    let kind = hicache_core::MemoryKind::Host;
    // SAFETY: the owner keeps the bytes; the one lease is the engine's, which is told of no read.
    let region = unsafe { Region::foreign(base, 4096, kind, Box::new(Owner(bytes))) }.unwrap();
    let registration = engine.register(&region).unwrap();
    // A full pipe, so that the write ends when the test wants it to.
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let full = rustix::pipe::fcntl_setpipe_size(&writing, 4096).unwrap();
    assert_eq!(rustix::io::write(&writing, &vec![0; full]), Ok(full));
    let pipe = engine.attach(Arc::new(File::from(writing)), Path::new("pipe")).unwrap();
    // SAFETY: as above.
    let piece = unsafe { registration.piece_of_range(0, 4096, Access::Read) }.unwrap();
    let memory = hicache_core::PageMemory::new(piece);
    let weak = Arc::downgrade(&region);
    drop((registration, region));
    // Nobody waits, so the last handle of the memory ends on the ring thread.
    drop(engine.submit(Direction::Write, vec![Extent { file: pipe, offset: 0, memory }]));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(rustix::io::read(&reading, &mut vec![0; full]), Ok(full));
    let start = Instant::now();
    while weak.strong_count() > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "the memory is not dropped");
        std::thread::sleep(Duration::from_millis(1));
    }
    let registration = engine.register(&Region::allocate(1, 4096).unwrap()).unwrap();
    let memory = registration.page(0, 4096, Access::Write).unwrap();
    let file = engine.attach(Arc::new(tempfile::tempfile().unwrap()), Path::new("file")).unwrap();
    let done = engine.submit(Direction::Write, vec![Extent { file, offset: 0, memory }]).wait();
    assert_eq!(*done.outcomes[0].as_ref().unwrap(), 4096);
}

#[tokio::test]
async fn files_are_closed_and_memory_is_unpinned_when_close_returns() {
    for _ in 0..10 {
        let Some(engine) = engine(1) else { return };
        let registration = engine.register(&Region::allocate(1, 4096).unwrap()).unwrap();
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (reading, writing) = rustix::pipe::pipe_with(flags).unwrap();
        let pipe = engine.attach(Arc::new(File::from(writing)), Path::new("pipe")).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        engine.close().await.unwrap();
        drop((pipe, registration));
        // The end of the file: nobody has the writing end.
        assert_eq!(rustix::io::read(&reading, &mut [0]), Ok(0));
    }
}

#[tokio::test]
async fn what_hangs_on_one_disk_keeps_no_write_from_another() {
    let Some(engine) = engine(1) else { return };
    let region = Region::allocate(4, 4096).unwrap();
    let registration = engine.register(&region).unwrap();
    let extent = |file: &hicache_core::EngineFile, slot, access| {
        let memory = registration.page(slot, 4096, access).unwrap();
        vec![Extent { file: file.clone(), offset: 0, memory }]
    };
    let pipe = || {
        let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        (File::from(reading), File::from(writing))
    };
    // Nothing comes out of the one, and nothing more fits the other.
    let ((empty, feeds), (drains, full)) = (pipe(), pipe());
    rustix::pipe::fcntl_setpipe_size(&full, 4096).unwrap();
    rustix::io::write(&full, &[0; 4096]).unwrap();
    let attach = |file, name| engine.attach(Arc::new(file), Path::new(name)).unwrap();
    let (empty, full) = (attach(empty, "empty"), attach(full, "full"));
    let file = attach(tempfile::tempfile().unwrap(), "file");
    let read = engine.submit(Direction::Read, extent(&empty, 0, Access::Write));
    let stuck = engine.submit(Direction::Write, extent(&full, 1, Access::Read));
    // Of a ring of four a quarter is for writes while something is read.
    let write = engine.submit(Direction::Write, extent(&file, 2, Access::Read));
    let done = tokio::time::timeout(Duration::from_secs(10), write).await.expect("it is held back for ever");
    assert_eq!(*done.outcomes[0].as_ref().unwrap(), 4096);
    drop((feeds, drains));
    drop((read.await, stuck.await, done));
    assert_eq!(region.leases(), 0);
}
