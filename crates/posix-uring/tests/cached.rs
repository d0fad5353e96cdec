//! Reads of what the page cache has: right bytes, and right sums of them.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use hicache_core::{Access, Direction, Engine, Extent, ExtentsDone, PageMemory, Registration};
use hicache_hashing::checksum;
use hicache_posix_uring::{IoMode, PreadConfig, PreadEngine, UringConfig};
use rustix::fs::{Advice, fadvise, fdatasync};

mod fixture;

use fixture::{attach_file, bytes, content, registered, uring};

/// Both engines, through the page cache.
fn engines() -> Vec<Arc<dyn Engine>> {
    let pread = PreadEngine::open(PreadConfig { io: IoMode::Buffered, ..PreadConfig::default() }).unwrap();
    let mut engines: Vec<Arc<dyn Engine>> = vec![Arc::new(pread)];
    if let Some(engine) = uring(UringConfig { io: IoMode::Buffered, ..UringConfig::default() }) {
        engines.push(Arc::new(engine));
    }
    engines
}

/// A file with the page `number` of `len` bytes at offset 4096; on a disk, not in memory.
fn file_with(number: usize, len: usize) -> File {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all_at(&bytes(number, len), 4096).unwrap();
    file
}

fn page(registration: &Registration, lengths: &[usize]) -> PageMemory {
    let pieces = lengths.iter().enumerate();
    let pieces = pieces.map(|(slot, &len)| registration.piece(slot, 0, len, Access::Write).unwrap());
    let mut memory = PageMemory::from_pieces(pieces).unwrap();
    memory.copy_from(&vec![0xee; memory.bytes()]).unwrap();
    memory
}

fn read(engine: &dyn Engine, file: File, lengths: &[usize]) -> ExtentsDone {
    let registration = registered(engine, lengths.len(), 3 << 20);
    let file = attach_file(engine, file);
    let extent = Extent { file, offset: 4096, memory: page(&registration, lengths) };
    engine.submit(Direction::Read, vec![extent]).wait()
}

fn bytes_of(done: &ExtentsDone) -> Vec<u8> {
    content(&done.extents[0].as_ref().unwrap().memory)
}

#[test]
fn each_piece_has_its_sum() {
    let chunk = 128 << 10;
    let shapes: [&[usize]; 8] = [
        &[2 << 20],
        &[32 << 10],
        &[chunk, chunk],
        &[chunk + 1, chunk - 1, 5],
        &[1, 3 << 20, 7],
        &[16 << 10; 40],
        &[4096; 1024],
        &[300_001, 299_999],
    ];
    for engine in engines() {
        for lengths in shapes {
            let len = lengths.iter().sum();
            let done = read(&*engine, file_with(3, len), lengths);
            assert_eq!(*done.outcomes[0].as_ref().unwrap(), len as u64);
            let whole = bytes(3, len);
            assert!(bytes_of(&done) == whole, "{lengths:?}");
            let mut rest = whole.as_slice();
            let expected: Vec<u64> = lengths
                .iter()
                .map(|&len| {
                    let (piece, behind) = rest.split_at(len);
                    rest = behind;
                    checksum(piece)
                })
                .collect();
            assert_eq!(done.sums.len(), 1, "{}: {lengths:?}", engine.capabilities().name);
            assert_eq!(done.sums[0].as_deref(), Some(expected.as_slice()), "{lengths:?}");
        }
    }
}

#[test]
fn what_is_not_cached_is_read_all_the_same() {
    for engine in engines() {
        for cached in [0, 1 << 20] {
            let len = 2 << 20;
            let file = file_with(5, len);
            fdatasync(&file).unwrap();
            fadvise(&file, 4096 + cached, None, Advice::DontNeed).unwrap();
            let done = read(&*engine, file, &[len]);
            assert_eq!(*done.outcomes[0].as_ref().unwrap(), len as u64);
            assert!(bytes_of(&done) == bytes(5, len));
            if let Some(sums) = done.sums.first().and_then(|sums| sums.as_deref()) {
                // The kernel may have kept it, or it lies in memory anyway.
                assert_eq!(sums, [checksum(&bytes(5, len))]);
            }
        }
    }
}

#[test]
fn the_end_of_the_file_has_no_sum() {
    for engine in engines() {
        for there in [0, 1000, 128 << 10, (256 << 10) + 5] {
            let done = read(&*engine, file_with(7, there), &[1 << 20, 1 << 20]);
            assert_eq!(*done.outcomes[0].as_ref().unwrap(), there as u64);
            assert!(done.sums.iter().all(Option::is_none), "{there}");
            let seen = bytes_of(&done);
            assert!(seen[..there] == bytes(7, there) && seen[there..].iter().all(|&byte| byte == 0xee));
        }
    }
}

#[test]
fn small_and_written_extents_have_none() {
    for engine in engines() {
        assert!(read(&*engine, file_with(1, 4096), &[4096]).sums.iter().all(Option::is_none));
        let registration = registered(&*engine, 1, 3 << 20);
        let file = attach_file(&*engine, file_with(1, 1 << 20));
        let extent = Extent { file, offset: 4096, memory: page(&registration, &[1 << 20]) };
        let done = engine.submit(Direction::Write, vec![extent]).wait();
        assert!(done.sums.iter().all(Option::is_none));
    }
}

/// More than a ring's thread reads in one go, of several batches at once.
#[test]
fn many_at_once() {
    for engine in engines() {
        let (len, pages) = (512 << 10, 64);
        let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for page in 0..pages {
            file.write_all_at(&bytes(page, len), (page * len) as u64).unwrap();
        }
        let registration = registered(&*engine, pages, len);
        let file = attach_file(&*engine, file);
        let batches: Vec<_> = (0..4)
            .map(|batch| {
                let numbers = (0..pages).filter(move |page| page % 4 == batch);
                let extents = numbers.map(|page| {
                    let memory = registration.page(page, len, Access::Write).unwrap();
                    Extent { file: file.clone(), offset: (page * len) as u64, memory }
                });
                engine.submit(Direction::Read, extents.collect())
            })
            .collect();
        for (batch, transfer) in batches.into_iter().enumerate() {
            let done = transfer.wait();
            for (at, (extent, sums)) in done.extents.iter().zip(&done.sums).enumerate() {
                let expected = bytes(4 * at + batch, len);
                assert!(content(&extent.as_ref().unwrap().memory) == expected);
                assert_eq!(sums.as_deref(), Some([checksum(&expected)].as_slice()));
            }
            assert_eq!(done.sums.len(), pages / 4);
        }
    }
}
