//! Bytes go out and come back, through both engines, whatever their alignment and number.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests say what they saw and what they went without"
)]

mod fixture;

use std::sync::Arc;

use fixture::*;
use hicache_core::{Access, Direction, Engine, ErrorKind, Extent, ExtentsDone, PageMemory, Region};
use hicache_posix_uring::{PreadConfig, PreadEngine, UringConfig};

#[test]
fn aligned_and_unaligned_pages_in_one_batch() {
    for (name, engine) in engines() {
        let engine = &*engine;
        let file = attach(engine);
        let registration = registered(engine, 200, 20_000);
        // Offsets overlap nothing: a page has 32 KiB to itself, and begins anywhere in its first half.
        let lengths = [4096, 16_384, 8192, 1, 4097, 512, 12_288, 20_000, 511];
        let place = |page: usize| {
            let shift = [0, 0, 4096, 512, 1, 4095][page % 6];
            ((page * 32_768 + shift) as u64, lengths[page % lengths.len()])
        };
        let extents = (0..100).map(|page| {
            let (offset, len) = place(page);
            Extent { file: file.clone(), offset, memory: filled(&registration, page, len, page) }
        });
        all_done(engine.submit(Direction::Write, extents.collect()).wait());
        let extents = (0..100).rev().map(|page| {
            let (offset, len) = place(page);
            Extent { file: file.clone(), offset, memory: emptied(&registration, 100 + page, len) }
        });
        let read = all_done(engine.submit(Direction::Read, extents.collect()).wait());
        for (page, extent) in (0..100).rev().zip(&read) {
            assert!(content(&extent.memory) == bytes(page, extent.memory.bytes()), "{name}: page {page}");
        }
    }
}

#[test]
fn pages_in_several_pieces() {
    for (name, engine) in engines() {
        let engine = &*engine;
        let file = attach(engine);
        let registration = registered(engine, 2100, 8192);
        for (pieces, len) in [(2, 4096), (3, 8192), (5, 1000), (1024, 512), (1024, 7)] {
            let memory = |first: usize| {
                let pieces =
                    (0..pieces).map(|i| registration.piece(first + i, 0, len, Access::Write).unwrap());
                PageMemory::from_pieces(pieces).unwrap()
            };
            let mut out = memory(0);
            out.copy_from(&bytes(pieces, pieces * len)).unwrap();
            let extent = |memory| vec![Extent { file: file.clone(), offset: 4096, memory }];
            all_done(engine.submit(Direction::Write, extent(out)).wait());
            let read = all_done(engine.submit(Direction::Read, extent(memory(1050))).wait());
            assert!(
                content(&read[0].memory) == bytes(pieces, pieces * len),
                "{name}: {pieces} pieces of {len}"
            );
        }
    }
}

#[test]
fn the_end_of_the_file_is_a_count() {
    for (name, engine) in engines() {
        let engine = &*engine;
        let registration = registered(engine, 3, 65_536);
        for size in [0, 1, 4095, 4096, 10_000, 16_384, 60_001] {
            let file = attach(engine);
            if size > 0 {
                write_page(engine, &file, &registration, 0, 1, size);
            }
            let (count, memory) = read_page(engine, &file, &registration, 0, 65_536);
            assert_eq!(count, size as u64, "{name}");
            assert!(memory[..size] == bytes(1, size), "{name}");
            assert_eq!(read_page(engine, &file, &registration, 1 << 20, 4096).0, 0, "{name}");
            // In pieces, with the end within the second.
            let pieces = [0, 1, 2].map(|slot| registration.piece(slot, 0, 24_576, Access::Write).unwrap());
            let memory = PageMemory::from_pieces(pieces).unwrap();
            let done = engine.submit(Direction::Read, vec![Extent { file, offset: 0, memory }]).wait();
            assert_eq!(*done.outcomes[0].as_ref().unwrap(), size as u64, "{name}");
            assert!(content(&done.extents[0].as_ref().unwrap().memory)[..size] == bytes(1, size), "{name}");
        }
    }
}

#[test]
fn batches_from_several_threads() {
    for (name, engine) in engines() {
        let file = attach(&*engine);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (engine, file, name) = (&*engine, &file, &name);
                scope.spawn(move || {
                    let registration = registered(engine, 32, 16_384);
                    for round in 0..10 {
                        let page = |slot: usize| thread * 1000 + round * 16 + slot;
                        let place = |slot: usize, memory| {
                            let offset = ((thread * 16 + slot) * 16_384) as u64;
                            Extent { file: file.clone(), offset, memory }
                        };
                        let out = (0..16).map(|i| place(i, filled(&registration, i, 16_384, page(i))));
                        all_done(engine.submit(Direction::Write, out.collect()).wait());
                        let back = (0..16).map(|i| place(i, emptied(&registration, 16 + i, 16_384)));
                        let read = all_done(engine.submit(Direction::Read, back.collect()).wait());
                        for (slot, extent) in read.iter().enumerate() {
                            assert!(content(&extent.memory) == bytes(page(slot), 16_384), "{name}: {slot}");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn ten_thousand_extents_and_none() {
    // One of each kind, since this is much data.
    for (name, engine) in engines().into_iter().take(4) {
        let engine = &*engine;
        let file = attach(engine);
        let registration = registered(engine, 10_000, 4096);
        let memory = |page| filled(&registration, page, 4096, page);
        let extents = (0..10_000).map(|page| Extent {
            file: file.clone(),
            offset: page as u64 * 4096,
            memory: memory(page),
        });
        drop(all_done(engine.submit(Direction::Write, extents.collect()).wait()));
        let memory = |slot| emptied(&registration, slot, 4096);
        let extents = (0..10_000).map(|page| Extent {
            file: file.clone(),
            offset: page as u64 * 4096,
            memory: memory(page),
        });
        let read = all_done(engine.submit(Direction::Read, extents.collect()).wait());
        assert!(
            read.iter().enumerate().all(|(page, extent)| content(&extent.memory) == bytes(page, 4096)),
            "{name}"
        );
        let ExtentsDone { outcomes, extents, .. } = engine.submit(Direction::Read, Vec::new()).wait();
        assert!(outcomes.is_empty() && extents.is_empty());
    }
}

#[test]
fn what_is_refused_does_not_stop_the_rest() {
    let (_, stranger) = engines().remove(0);
    let foreign_registration = registered(&*stranger, 1, 4096);
    for (name, engine) in engines() {
        let engine = &*engine;
        let file = attach(engine);
        let registration = registered(engine, 4, 4096);
        write_page(engine, &file, &registration, 0, 7, 4096);
        let extent = |memory, offset| Extent { file: file.clone(), offset, memory };
        let batch = vec![
            extent(registration.page(0, 4096, Access::Read).unwrap(), 0),
            extent(registration.page(1, 4096, Access::Write).unwrap(), 0),
            extent(foreign_registration.page(0, 4096, Access::Write).unwrap(), 0),
            extent(registration.page(2, 4096, Access::Write).unwrap(), u64::MAX - 1),
            Extent {
                file: attach(&*stranger),
                ..extent(registration.page(3, 4096, Access::Write).unwrap(), 0)
            },
        ];
        let done = engine.submit(Direction::Read, batch).wait();
        for (position, outcome) in done.outcomes.iter().enumerate() {
            match outcome {
                Ok(bytes) => assert_eq!((position, *bytes), (1, 4096), "{name}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Config, "{name}: {position}"),
            }
        }
        assert!(done.outcomes[1].is_ok());
        assert!(content(&done.extents[1].as_ref().unwrap().memory) == bytes(7, 4096));
        assert!(done.extents.iter().all(Option::is_some));
    }
}

#[test]
fn an_error_of_the_kernel_says_where() {
    for (name, engine) in engines() {
        let engine = &*engine;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("only-read");
        std::fs::write(&path, [1; 4096]).unwrap();
        let file = engine.attach(Arc::new(std::fs::File::open(&path).unwrap()), &path).unwrap();
        let registration = registered(engine, 1, 4096);
        assert_eq!(read_page(engine, &file, &registration, 0, 4096), (4096, vec![1; 4096]), "{name}");
        let extent = Extent { file, offset: 0, memory: filled(&registration, 0, 4096, 0) };
        let done = engine.submit(Direction::Write, vec![extent]).wait();
        let error = done.outcomes[0].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Io, Some(9)), "{name}: {error}");
        assert!(error.to_string().contains("only-read") && error.backend().is_some(), "{name}: {error}");
        assert!(done.extents[0].is_some());
    }
}

#[test]
fn a_file_opened_for_appending_is_refused() {
    for (name, engine) in engines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = std::fs::File::options().append(true).create(true).open(&path).unwrap();
        let error = engine.attach(Arc::new(file), &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{name}");
    }
}

#[test]
fn more_files_than_the_table_has() {
    let Some(engine) = uring(UringConfig { registered_files: 5, ..UringConfig::default() }) else { return };
    let registration = registered(&engine, 1, 4096);
    for _ in 0..3 {
        // The table is free again in each round, when the files of the one before are gone.
        let files: Vec<_> = (0..12).map(|_| attach(&engine)).collect();
        for (page, file) in files.iter().enumerate() {
            write_page(&engine, file, &registration, 0, page, 4096);
        }
        for (page, file) in files.iter().enumerate() {
            assert_eq!(read_page(&engine, file, &registration, 0, 4096), (4096, bytes(page, 4096)));
        }
    }
}

#[test]
fn foreign_memory() {
    for (name, engine) in engines() {
        let engine = &*engine;
        let (region, freed) = foreign(4 << 20);
        let registration = engine.register(&region).unwrap();
        drop(region);
        let file = attach(engine);
        // At odd addresses too.
        for (offset, len) in [(0, 65_536), (1, 65_536), (4096, 1_000_000), ((4 << 20) - 7, 7)] {
            let mut memory = foreign_page(&registration, offset, len);
            memory.copy_from(&bytes(offset, len)).unwrap();
            let extent = |memory| vec![Extent { file: file.clone(), offset: 0, memory }];
            let mut written = all_done(engine.submit(Direction::Write, extent(memory)).wait()).remove(0);
            written.memory.copy_from(&vec![0; len]).unwrap();
            let read = all_done(engine.submit(Direction::Read, vec![written]).wait());
            assert!(content(&read[0].memory) == bytes(offset, len), "{name}: {len} at {offset}");
        }
        assert!(!freed.load(std::sync::atomic::Ordering::SeqCst));
        drop(registration);
        eventually("freeing", || freed.load(std::sync::atomic::Ordering::SeqCst));
    }
}

#[test]
fn memory_is_registered_in_parts_and_forgotten() {
    let Some(engine) = uring(UringConfig::default()) else { return };
    if let Err(reason) = &engine.rings()[0].buffers {
        return skipped(&format!("registered memory: {reason}"));
    }
    // A little more than one part.
    let region = Region::allocate(129, 2 << 20).unwrap();
    let registration = engine.register(&region).unwrap();
    let file = attach(&engine);
    let whole = region.bytes() as u64;
    eventually("pinning", || engine.registered_bytes(&registration) == whole);
    let seen = engine.huge_pages(&registration).unwrap();
    eprintln!("huge pages: {} of {} resident bytes", seen.huge_bytes, seen.resident_bytes);
    assert_eq!(seen.bytes, whole);
    for slot in [0, 127, 128] {
        let extent =
            Extent { file: file.clone(), offset: 0, memory: filled(&registration, slot, 2 << 20, slot) };
        all_done(engine.submit(Direction::Write, vec![extent]).wait());
        assert!(read_page(&engine, &file, &registration, 0, 2 << 20).1 == bytes(slot, 2 << 20));
    }
    let weak = Arc::downgrade(&region);
    drop((registration, region));
    eventually("forgetting", || weak.strong_count() == 0);
}

#[test]
fn device_memory_is_refused() {
    for (name, engine) in engines() {
        let base = std::ptr::NonNull::<u8>::dangling();
        // SAFETY: nobody takes a lease of it.
        let region =
            unsafe { Region::foreign(base, 4096, hicache_core::MemoryKind::Device(0), Box::new(())) };
        let error = engine.register(&region.unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
    }
}

#[test]
fn bad_settings_open_nothing() {
    let bad = UringConfig { depth: 0, ..UringConfig::default() };
    assert_eq!(hicache_posix_uring::UringEngine::open(bad).unwrap_err().kind(), ErrorKind::Config);
    let bad = PreadConfig { threads: 0, ..PreadConfig::default() };
    assert_eq!(PreadEngine::open(bad).unwrap_err().kind(), ErrorKind::Config);
}
