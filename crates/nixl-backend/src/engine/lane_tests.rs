//! What becomes of everything when an I/O thread panics, and of direct I/O that is refused.

use std::fs::File;
use std::time::{Duration, Instant};

use hicache_core::{Direction, Engine, ErrorKind, Extent};

use super::inbox::{Command, Intake};
use super::*;
use crate::fixture::{
    all_done, attach, attach_file, bytes, emptied, hold_pages, library, open, posix, reads, registered,
    write_pages,
};

fn panic_lane(engine: &NixlEngine, lane: usize) {
    let inbox = &engine.inboxes[lane];
    assert!(inbox.push(Command::Panic).is_ok());
    let start = Instant::now();
    while inbox.intake() != Intake::Failed {
        assert!(start.elapsed() < Duration::from_secs(10), "the thread does not notice");
        thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_panic_abandons_what_waits_after_the_plugin_is_done() {
    let Some(library) = library() else { return };
    let engine = open(&library, NixlEngineConfig { depth: 4, ..posix("use_uring") });
    let registration = registered(&engine, 16, 4096);
    let region = Arc::clone(registration.region());
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let pipe = attach_file(&engine, File::from(reading));
    let extent = |slot| Extent { file: pipe.clone(), offset: 0, memory: emptied(&registration, slot, 4096) };
    // More than are let in flight, so that some are and some wait.
    let first = engine.submit(Direction::Read, (0..6).map(extent).collect());
    let second = engine.submit(Direction::Read, vec![extent(6)]);
    let file = attach(&engine);
    thread::sleep(Duration::from_millis(50));
    panic_lane(&engine, 0);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(region.leases(), 7, "nothing is answered while the plugin has some of it");
    for page in 0..4 {
        assert_eq!(rustix::io::write(&writing, &bytes(page, 4096)), Ok(4096));
    }
    for done in [first.await, second.await] {
        for outcome in done.outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert_eq!(outcome.kind(), ErrorKind::Abandoned);
        }
        assert!(done.outcomes.last().unwrap().is_err(), "that one was never begun");
        assert!(done.extents.iter().all(Option::is_some), "nothing moves, so the memory comes back");
    }
    assert_eq!(region.leases(), 0);
    let late = engine.submit(Direction::Read, reads(&file, &registration, (1, 4096), 0)).await;
    assert_eq!(late.outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(engine.register(&region).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(engine.close().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(engine.register(&region).unwrap_err().kind(), ErrorKind::Closed);
    let weak = Arc::downgrade(&region);
    drop((late, file, pipe, registration, region));
    assert_eq!(weak.strong_count(), 0);
}

#[test]
fn the_other_threads_go_on() {
    let Some(library) = library() else { return };
    let engine = open(&library, NixlEngineConfig { threads: 2, ..posix("use_aio") });
    let (registration, file) = (registered(&engine, 8, 4096), attach(&engine));
    panic_lane(&engine, 0);
    for round in 0..8 {
        write_pages(&engine, &file, &registration, (round, 8, 4096), 0);
    }
    let done = engine.submit(Direction::Read, reads(&file, &registration, (8, 4096), 0)).wait();
    hold_pages(&all_done(done), 7);
    assert_eq!(engine.register(registration.region()).unwrap_err().kind(), ErrorKind::Unavailable);
}

/// A plugin that gives no causes must be asked again: here the file system takes no direct I/O of the size that it says,
/// as if, since the unit is made smaller than it is.
#[test]
fn direct_io_that_fails_becomes_buffered() {
    let Some(library) = library() else { return };
    for queue in ["use_aio", "use_uring"] {
        let engine = open(&library, posix(queue));
        let registration = registered(&engine, 4, 8192);
        let file = attach(&engine);
        let token = file.token::<FileToken>().unwrap();
        if token.open.direct.is_none() {
            return println!("went without: direct I/O in {}", std::env::temp_dir().display());
        }
        token.open.pretend_unit(16);
        let part =
            |offset: u64| Extent { file: file.clone(), offset, memory: emptied(&registration, 0, 4112) };
        for round in 0..4 {
            assert!(
                token.open.takes_direct(0, &[]),
                "{queue}: one that fails may have passed, round {round}"
            );
            let done = engine.submit(Direction::Write, vec![part(16)]).wait();
            assert_eq!(*done.outcomes[0].as_ref().unwrap(), 4112, "{queue}");
        }
        assert!(!token.open.takes_direct(0, &[]), "{queue}: it is known from now on");
        all_done(engine.submit(Direction::Read, vec![part(16)]).wait());
    }
}

/// One that fails past the page cache is none too many: what works there goes on to.
#[test]
fn direct_io_that_failed_once_is_used_again() {
    let Some(library) = library() else { return };
    let engine = open(&library, posix("use_uring"));
    let registration = registered(&engine, 4, 64 << 10);
    let file = attach(&engine);
    let token = file.token::<FileToken>().unwrap();
    if token.open.direct.is_none() {
        return println!("went without: direct I/O in {}", std::env::temp_dir().display());
    }
    for _ in 0..10 {
        let unit = token.open.pretend_unit(16);
        let memory = emptied(&registration, 0, 4112);
        let part = Extent { file: file.clone(), offset: 16, memory };
        all_done(engine.submit(Direction::Write, vec![part]).wait());
        token.open.pretend_unit(unit);
        write_pages(&engine, &file, &registration, (0, 1, unit), 0);
        assert!(token.open.takes_direct(0, &[]));
    }
}

/// Each needs more than its share, and while they wait nothing is in flight whose end would make room.
#[test]
fn a_wide_read_and_a_wide_write_do_not_wait_for_each_other() {
    let Some(library) = library() else { return };
    let engine = open(&library, NixlEngineConfig { depth: 8, ..posix("use_uring") });
    let registration = registered(&engine, 16, 4096);
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (pipe, named) = (attach_file(&engine, File::from(reading)), tempfile::NamedTempFile::new().unwrap());
    named.as_file().set_len(1 << 20).unwrap();
    let file = attach_file(&engine, named.reopen().unwrap());
    let wide = |slots: std::ops::Range<usize>, offset| {
        let pieces =
            slots.map(|slot| registration.piece(slot, 0, 4096, hicache_core::Access::Write).unwrap());
        let memory = hicache_core::PageMemory::from_pieces(pieces).unwrap();
        Extent { file: file.clone(), offset, memory }
    };
    let held = Extent { file: pipe, offset: 0, memory: emptied(&registration, 15, 4096) };
    let held = engine.submit(Direction::Read, vec![held]);
    thread::sleep(Duration::from_millis(20));
    let read = engine.submit(Direction::Read, vec![wide(0..8, 0)]);
    let write = engine.submit(Direction::Write, vec![wide(8..11, 65_536)]);
    assert_eq!(rustix::io::write(&writing, &bytes(0, 4096)), Ok(4096));
    let (sender, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for transfer in [held, read, write] {
            all_done(transfer.wait());
        }
        sender.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(10)).expect("they wait for each other");
}
