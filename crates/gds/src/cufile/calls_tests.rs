//! The binding, over functions that stand in for the library's.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::{Access, Direction, ErrorKind, Region};

use super::batch::{BatchOperation, Lost};
use super::library::{Functions, Library};
use super::standin_tests::{self as standin, Fault, driver, functions, set_fault};
use super::{BatchQueue, Buffer, Driver, Handle, OnStream};

const PAGE: usize = 4096;

fn file_with(pages: &[u8]) -> File {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile().unwrap();
    for (number, &byte) in pages.iter().enumerate() {
        file.write_all_at(&[byte; PAGE], (number * PAGE) as u64).unwrap();
    }
    file
}

fn handle(driver: &Arc<Driver>, file: &File) -> Arc<Handle> {
    Arc::new(Handle::register(driver, OwnedFd::from(file.try_clone().unwrap())).unwrap())
}

#[test]
fn a_driver_that_somebody_else_opened_is_taken() {
    let shared = driver(Functions { driver_open: standin::driver_is_open, ..functions() });
    assert_eq!(shared.version().unwrap().to_string(), "1.14");
    assert!(shared.properties().allows_compat());
    assert_eq!(shared.properties().nvidia_fs(), None);
}

#[test]
fn a_machine_without_modules_is_said_to_be_one() {
    let functions = Functions { driver_open: standin::driver_without_modules, ..functions() };
    let error = Driver::open(Library::standing_in(functions)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("/proc/modules"), "{error}");
}

#[test]
fn a_library_that_writes_longer_properties_harms_nothing() {
    let driver = driver(Functions { get_properties: standin::get_longer_properties, ..functions() });
    assert_eq!(driver.properties().max_batch(), 128);
}

#[test]
fn an_old_library_says_what_it_lacks() {
    let old = Functions { batch_set_up: None, read_async: None, get_version: None, ..functions() };
    let driver = driver(old);
    assert_eq!(driver.version(), None);
    assert!(driver.library().missing().contains(&"cuFileBatchIOSetUp"));
    let error = BatchQueue::new(&driver, 4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("cuFileBatchIOSetUp"), "{error}");
}

#[test]
fn memory_is_registered_once_and_stays_while_anybody_shares_it() {
    let (driver, region) = (driver(functions()), Region::allocate(2, PAGE).unwrap());
    let start = region.base().as_ptr().cast_const();
    let first = Buffer::register(&driver, None, &region).unwrap();
    let second = Buffer::register(&driver, None, &region).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    drop(first);
    assert!(standin::is_registered(start), "the other one's operations use it");
    let other = self::driver(functions());
    let error = Buffer::register(&other, None, &region).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "nobody knows when somebody else undoes theirs");
    let weak = Arc::downgrade(&region);
    drop(region);
    assert!(weak.upgrade().is_some(), "registered memory lives");
    drop(second);
    assert!(!standin::is_registered(start) && weak.upgrade().is_none());
    let planes = Region::allocate_planes(2, 1, PAGE).unwrap();
    assert_eq!(Buffer::register(&driver, None, &planes).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn a_file_that_cufile_refuses_is_unsupported() {
    let (driver, file) = (driver(functions()), file_with(&[1]));
    let _wrong = set_fault(&file, Fault::NotRegistered(5008));
    let error = Handle::register(&driver, OwnedFd::from(file.try_clone().unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_batch_moves_what_it_says_where_it_says() {
    let (driver, file) = (driver(functions()), file_with(&[1, 2, 3, 4, 5]));
    let handle = handle(&driver, &file);
    let region = Region::allocate(5, PAGE).unwrap();
    let mut leases: Vec<_> = (0..5).map(|slot| region.lease(slot, 0, PAGE, Access::Write).unwrap()).collect();
    // The last one reaches over the end of the file.
    let order = [(0, 3), (1, 0), (2, 4), (3, 1), (4, 5)];
    let operations: Vec<_> = order
        .iter()
        .map(|&(slot, page)| BatchOperation {
            handle: Arc::clone(&handle),
            direction: Direction::Read,
            address: leases[slot].address(),
            bytes: PAGE,
            offset: (page * PAGE) as u64,
        })
        .collect();
    let mut queue = BatchQueue::new(&driver, 5).unwrap();
    for _ in 0..2 {
        leases.iter_mut().for_each(|lease| lease.bytes_mut().unwrap().fill(0xee));
        // SAFETY: the leases are held until it returns.
        let moved = unsafe { queue.run(&operations) }.unwrap();
        let moved: Vec<u64> = moved.into_iter().map(|moved| moved.unwrap()).collect();
        assert_eq!(moved, [PAGE as u64, PAGE as u64, PAGE as u64, PAGE as u64, 0]);
        for (lease, byte) in leases.iter().zip([4, 1, 5, 2, 0xee]) {
            assert!(lease.bytes().unwrap().iter().all(|&b| b == byte), "{byte}");
        }
    }
    assert_eq!(BatchQueue::new(&driver, 0).unwrap_err().kind(), ErrorKind::Config);
}

/// One read in a batch of which this goes wrong; what it says, and whether the bytes are there.
fn one_read_with(fault: Fault) -> (Result<Vec<hicache_core::Result<u64>>, Lost>, bool) {
    let (driver, file) = (driver(functions()), file_with(&[1]));
    let handle = handle(&driver, &file);
    let _wrong = set_fault(&file, fault);
    let region = Region::allocate(1, PAGE).unwrap();
    let mut lease = region.lease(0, 0, PAGE, Access::Write).unwrap();
    lease.bytes_mut().unwrap().fill(0xee);
    let (direction, address) = (Direction::Read, lease.address());
    let operation =
        BatchOperation { handle: Arc::clone(&handle), direction, address, bytes: PAGE, offset: 0 };
    let mut queue = BatchQueue::new(&driver, 1).unwrap();
    queue.set_longest_silence(Duration::from_millis(50));
    // SAFETY: the lease is held for ever where it says that this must be.
    let answer = unsafe { queue.run(&[operation]) };
    drop(queue);
    assert!(!standin::is_destroyed_under(&file), "a queue whose operations are not over stays");
    let is_there = lease.bytes().unwrap().iter().all(|&byte| byte == 1);
    if answer.is_err() {
        std::mem::forget((lease, handle));
    }
    (answer, is_there)
}

#[test]
fn a_batch_that_is_lost_says_so() {
    let lost = one_read_with(Fault::BatchesGetLost).0.unwrap_err();
    assert!(lost.0.to_string().contains("5030"), "{:?}", lost.0);
}

#[test]
fn an_operation_that_took_too_long_is_lost() {
    let lost = one_read_with(Fault::BatchesTimeOut).0.unwrap_err();
    assert!(lost.0.to_string().contains("took too long"), "{:?}", lost.0);
}

#[test]
fn an_operation_of_which_nothing_is_told_is_lost_in_time() {
    let lost = one_read_with(Fault::BatchesStaySilent).0.unwrap_err();
    assert_eq!(lost.0.kind(), ErrorKind::Timeout);
}

#[test]
fn what_was_submitted_with_an_error_is_waited_for_or_lost() {
    let (answer, is_there) = one_read_with(Fault::BatchesAreTakenAllTheSame);
    assert_eq!(*answer.unwrap()[0].as_ref().unwrap(), PAGE as u64);
    assert!(is_there, "it may not return before the bytes have moved");
    let lost = one_read_with(Fault::BatchesAreRefused).0.unwrap_err();
    assert!(lost.0.to_string().contains("cuFileBatchIOSubmit"), "{:?}", lost.0);
}

#[test]
fn what_a_stream_reads_and_writes_lives_until_its_turn() {
    let (driver, file) = (driver(functions()), file_with(&[1, 2]));
    let (handle, region) = (handle(&driver, &file), Region::allocate(2, PAGE).unwrap());
    let leases = [0, 1].map(|slot| region.lease(slot, 0, PAGE, Access::Write).unwrap());
    let stream = std::ptr::without_provenance_mut(77);
    // SAFETY: the leases are held to the end of the test.
    let submit = |slot: usize| unsafe {
        OnStream::submit(
            &handle,
            Direction::Read,
            leases[slot].address(),
            0,
            PAGE,
            (slot * PAGE) as u64,
            stream,
        )
    };
    let (kept, dropped) = (submit(0).unwrap(), submit(1).unwrap());
    drop(dropped);
    drop(driver);
    standin::run_stream(77);
    // SAFETY: its turn has come.
    assert_eq!(unsafe { kept.finish() }.unwrap(), PAGE as u64);
    assert!(leases[0].bytes().unwrap().iter().all(|&b| b == 1));
    assert!(leases[1].bytes().unwrap().iter().all(|&b| b == 2));
    // SAFETY: as above; the library has no such call.
    let lacking =
        unsafe { OnStream::submit(&handle, Direction::Write, leases[0].address(), 0, PAGE, 0, stream) };
    assert_eq!(lacking.unwrap_err().kind(), ErrorKind::Unsupported);
}
