//! What goes wrong with the library when it is used as it invites to be used, and does not go wrong here.

mod fixture;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fixture::*;
use hicache_core::{
    Access, Direction, Engine, EngineFile, ErrorKind, Extent, MemoryKind, PageMemory, Region, Registration,
};
use hicache_nixl_backend::{IoMode, NixlEngine, NixlEngineConfig};
use hicache_testkit::argument;

const PAGE: usize = 4096;

/// A read that ends when the test wants it to: from a pipe. Only io_uring leaves it in flight.
struct Held {
    file: EngineFile,
    writing: OwnedFd,
}

impl Held {
    fn new(engine: &NixlEngine) -> Self {
        let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        Self { file: attach_file(engine, File::from(reading)), writing }
    }

    fn extent(&self, registration: &Registration, slot: usize) -> Extent {
        Extent { file: self.file.clone(), offset: 0, memory: emptied(registration, slot, PAGE) }
    }

    fn release(self, pages: usize) {
        for page in 0..pages {
            assert_eq!(rustix::io::write(&self.writing, &bytes(page, PAGE)), Ok(PAGE));
        }
    }
}

fn uring() -> Option<NixlEngine> {
    Some(open(&library()?, posix("use_uring")))
}

#[test]
fn a_transfer_dropped_at_once_is_done_all_the_same() {
    let Some(library) = library() else { return };
    for (name, engine) in engines(&library) {
        let (registration, file) = (registered(&engine, 64, PAGE), attach(&engine));
        for round in 0..20 {
            let extent = |i: usize| Extent {
                file: file.clone(),
                offset: (i * PAGE) as u64,
                memory: filled(&registration, i, PAGE, round * 64 + i),
            };
            drop(engine.submit(Direction::Write, (0..64).map(extent).collect()));
            eventually(&format!("{name}: the leases end"), || registration.region().leases() == 0);
            let done = engine.submit(Direction::Read, reads(&file, &registration, (64, PAGE), 0)).wait();
            hold_pages(&all_done(done), round * 64);
        }
    }
}

#[test]
fn a_transfer_dropped_in_flight_keeps_its_memory_until_it_ends() {
    let Some(engine) = uring() else { return };
    let registration = registered(&engine, 4, PAGE);
    let held = Held::new(&engine);
    drop(engine.submit(Direction::Read, (0..2).map(|slot| held.extent(&registration, slot)).collect()));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(registration.region().leases(), 2, "still with the plugin");
    assert!(registration.page(0, PAGE, Access::Read).is_err());
    held.release(2);
    eventually("the leases end", || registration.region().leases() == 0);
    let mut found: Vec<_> =
        (0..2).map(|slot| content(&registration.page(slot, PAGE, Access::Read).unwrap())).collect();
    found.sort();
    let mut expected: Vec<_> = (0..2).map(|page| bytes(page, PAGE)).collect();
    expected.sort();
    assert!(found == expected);
}

#[test]
fn every_handle_dropped_in_flight() {
    let Some(engine) = uring() else { return };
    let registration = registered(&engine, 4, PAGE);
    let region = Arc::downgrade(registration.region());
    let held = Held::new(&engine);
    let transfer = engine.submit(Direction::Read, vec![held.extent(&registration, 0)]);
    let Held { file, writing } = held;
    drop((transfer, registration, file));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(region.strong_count() > 0, "the plugin has it");
    assert_eq!(rustix::io::write(&writing, &bytes(0, PAGE)), Ok(PAGE));
    eventually("the memory ends", || region.strong_count() == 0);
    // And the descriptor: nobody reads the pipe any more.
    eventually("the file is closed", || {
        let mut polled = [rustix::event::PollFd::new(&writing, rustix::event::PollFlags::OUT)];
        rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())).unwrap();
        polled[0].revents().contains(rustix::event::PollFlags::ERR)
    });
}

#[test]
fn the_engine_dropped_in_flight() {
    let Some(engine) = uring() else { return };
    let registration = registered(&engine, 1, PAGE);
    let held = Held::new(&engine);
    let transfer = engine.submit(Direction::Read, vec![held.extent(&registration, 0)]);
    drop(engine);
    std::thread::sleep(std::time::Duration::from_millis(20));
    held.release(1);
    hold_pages(&all_done(transfer.wait()), 0);
}

#[tokio::test]
async fn close_waits_for_what_is_in_flight() {
    let Some(engine) = uring() else { return };
    let engine = Arc::new(engine);
    let registration = registered(&*engine, 1, PAGE);
    let held = Held::new(&engine);
    let transfer = engine.submit(Direction::Read, vec![held.extent(&registration, 0)]);
    let other = Arc::clone(&engine);
    let closing = tokio::spawn(async move { other.close().await });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!closing.is_finished(), "close came back before the transfer");
    held.release(1);
    closing.await.unwrap().unwrap();
    hold_pages(&all_done(transfer.await), 0);
    assert_eq!(engine.register(registration.region()).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn more_than_the_plugin_has_room_for() {
    let Some(library) = library() else { return };
    for queue in QUEUES {
        let config = posix(queue).with_parameter("ios_pool_size", 64).with_parameter("kernel_queue_size", 16);
        let engine = open(&library, NixlEngineConfig { depth: 60_000, ..config });
        assert!(engine.capabilities().max_in_flight < 64, "{queue}");
        let (registration, file) = (registered(&engine, 1000, PAGE), attach(&engine));
        // What one round left in the plugin's pool would be missing in the next.
        for round in 0..10 {
            write_pages(&engine, &file, &registration, (round, 1000, PAGE), 0);
            let parts: Vec<_> = reads(&file, &registration, (1000, PAGE), 0);
            let done = engine.submit(Direction::Read, parts).wait();
            hold_pages(&all_done(done), round);
        }
    }
}

/// An extent that can't be written, beside others that can: its file was opened for reading.
#[test]
fn a_bad_descriptor_beside_good_ones() {
    let Some(library) = library() else { return };
    for queue in QUEUES {
        for io in [IoMode::Auto, IoMode::Buffered] {
            for bad_at in [0, 3, 7] {
                bad_beside_good(&open(&library, NixlEngineConfig { io, ..posix(queue) }), bad_at);
            }
        }
    }
}

fn bad_beside_good(engine: &NixlEngine, bad_at: usize) {
    let name = format!("{engine:?}, bad at {bad_at}");
    let registration = registered(engine, 8, PAGE);
    let named = tempfile::NamedTempFile::new().unwrap();
    // To its end, since the plugin fails a read that comes short.
    named.as_file().set_len((8 * PAGE) as u64).unwrap();
    let good = attach_file(engine, named.reopen().unwrap());
    let bad = attach_file(engine, File::open(tempfile::NamedTempFile::new().unwrap().path()).unwrap());
    for _ in 0..20 {
        let extent = |i: usize| Extent {
            file: if i == bad_at { bad.clone() } else { good.clone() },
            offset: (i * PAGE) as u64,
            memory: filled(&registration, i, PAGE, i),
        };
        let done = engine.submit(Direction::Write, (0..8).map(extent).collect()).wait();
        // One status for all; and all of the memory.
        assert!(done.extents.iter().all(Option::is_some), "{name}: {:?}", done.outcomes);
        let error = done.outcomes[bad_at].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{name}");
        assert!(error.to_string().contains("POSIX") && error.to_string().contains("bytes"), "{error}");
        // Each by itself: only the bad one fails, and it spoils nothing.
        let extents: Vec<_> = done.extents.into_iter().flatten().collect();
        let again: Vec<_> =
            extents.into_iter().map(|one| engine.submit(Direction::Write, vec![one])).collect();
        for (i, transfer) in again.into_iter().enumerate() {
            let done = transfer.wait();
            assert_eq!(done.outcomes[0].is_err(), i == bad_at, "{name}: {i} says {:?}", done.outcomes[0]);
        }
    }
    let done = engine.submit(Direction::Read, reads(&good, &registration, (8, PAGE), 0)).wait();
    let extents = all_done(done);
    hold_pages(&extents[..bad_at], 0);
    hold_pages(&extents[bad_at + 1..], bad_at + 1);
}

/// `rounds=200` by default, on four threads and one engine, each in a part of one file.
#[test]
fn four_threads() {
    let Some(library) = library() else { return };
    let rounds = argument("rounds").unwrap_or(200) as usize;
    for (queue, lanes) in [("use_aio", 1), ("use_uring", 1), ("use_uring", 2)] {
        let engine = open(&library, NixlEngineConfig { threads: lanes, ..posix(queue) });
        let file = attach(&engine);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (engine, file) = (&engine, file.clone());
                scope.spawn(move || {
                    let registration = registered(engine, 8, 2 * PAGE);
                    let offset = (thread * 8 * 2 * PAGE) as u64;
                    for round in 0..rounds {
                        let len = if round % 2 == 0 { 2 * PAGE } else { PAGE + 100 };
                        let first = (thread * rounds + round) * 8;
                        write_pages(engine, &file, &registration, (first, 8, len), offset);
                        let done = engine
                            .submit(Direction::Read, reads(&file, &registration, (8, len), offset))
                            .wait();
                        hold_pages(&all_done(done), first);
                    }
                });
            }
        });
    }
}

/// Views into one pool, as a caller may register them: the library itself finds neither of two that overlap.
#[test]
fn a_region_registered_twice_and_one_inside_it() {
    let Some(library) = library() else { return };
    for queue in QUEUES {
        let engine = open(&library, posix(queue));
        let file = attach(&engine);
        // Four slots of two pages; the view begins and ends in the middle of one.
        let pool = Region::allocate(4, 2 * PAGE).unwrap();
        // SAFETY: pages 1 to 4 of a pool that the view keeps; each is leased through one of the two at a time.
        let view = unsafe {
            let base = std::ptr::NonNull::new(pool.base().as_ptr().add(PAGE)).unwrap();
            Region::foreign(base, 4 * PAGE, MemoryKind::Host, Box::new(Arc::clone(&pool)))
        };
        let inside = engine.register(&view.unwrap()).unwrap();
        let around = [engine.register(&pool).unwrap(), engine.register(&pool).unwrap()];
        // One piece, two of the library's ranges.
        write_pages(&engine, &file, &around[0], (0, 4, 2 * PAGE), 0);
        // SAFETY: nothing else has a lease there now.
        let piece = unsafe { inside.piece_of_range(PAGE, 2 * PAGE, Access::Write) }.unwrap();
        let extent = Extent { file: file.clone(), offset: (2 * PAGE) as u64, memory: PageMemory::new(piece) };
        let done = all_done(engine.submit(Direction::Read, vec![extent]).wait());
        hold_pages(&done, 1);
        drop(done);
        let [first, second] = around;
        drop((first, inside));
        let done = engine.submit(Direction::Read, reads(&file, &second, (4, 2 * PAGE), 0)).wait();
        hold_pages(&all_done(done), 0);
    }
}
