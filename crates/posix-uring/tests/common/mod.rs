//! What the tests share: both engines, pages with known bytes, and a file to move them to.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hicache_core::{
    Access, Direction, Engine, EngineFile, Extent, ExtentsDone, MemoryKind, PageMemory, Region, Registration,
};
use hicache_posix_uring::{IoMode, PreadConfig, PreadEngine, UringConfig, UringEngine};

/// Both engines, in every mode, the ring ones also without what a kernel may refuse.
pub(crate) fn engines() -> Vec<(String, Arc<dyn Engine>)> {
    let mut engines: Vec<(String, Arc<dyn Engine>)> = Vec::new();
    for io in IoMode::ALL {
        let config = UringConfig { io, ..UringConfig::default() };
        let bare = UringConfig { register_buffers: false, registered_files: 0, depth: 3, ..config.clone() };
        let several = UringConfig { rings: 3, depth: 5, ..config.clone() };
        for (name, config) in [("uring", config), ("bare uring", bare), ("three rings", several)] {
            if let Some(engine) = uring(config) {
                engines.push((format!("{name}, {io}"), Arc::new(engine)));
            }
        }
        let pread = PreadEngine::open(PreadConfig { io, ..PreadConfig::default() }).unwrap();
        engines.push((format!("pread, {io}"), Arc::new(pread)));
    }
    engines
}

/// An io_uring engine, or `None`, said on the way, where the machine has none.
pub(crate) fn uring(config: UringConfig) -> Option<UringEngine> {
    match UringEngine::open(config) {
        Ok(engine) => Some(engine),
        Err(error) => {
            assert_eq!(error.kind(), hicache_core::ErrorKind::Unavailable, "{error}");
            skipped(&format!("io_uring: {error}"));
            None
        }
    }
}

/// Says what the test goes without.
pub(crate) fn skipped(what: &str) {
    eprintln!("SKIPPED {what}");
}

/// An unnamed file in `directory`, attached.
pub(crate) fn attach_in(engine: &dyn Engine, directory: &Path) -> EngineFile {
    let file = tempfile::tempfile_in(directory).unwrap();
    engine.attach(Arc::new(file), directory).unwrap()
}

/// An unnamed file, attached.
pub(crate) fn attach(engine: &dyn Engine) -> EngineFile {
    attach_in(engine, &std::env::temp_dir())
}

/// Attaches `file` under a made-up name.
pub(crate) fn attach_file(engine: &dyn Engine, file: File) -> EngineFile {
    engine.attach(Arc::new(file), Path::new("test")).unwrap()
}

/// A region of ours, registered.
pub(crate) fn registered(engine: &dyn Engine, slots: usize, bytes: usize) -> Registration {
    engine.register(&Region::allocate(slots, bytes).unwrap()).unwrap()
}

/// Byte `i` of the page with number `page`: different for every page, and not repeating within one.
pub(crate) fn byte(page: usize, i: usize) -> u8 {
    let x = (i as u64 ^ (page as u64) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8
}

/// The bytes of a page.
pub(crate) fn bytes(page: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| byte(page, i)).collect()
}

/// One slot, leased for writing, filled as page `page`.
pub(crate) fn filled(registration: &Registration, slot: usize, len: usize, page: usize) -> PageMemory {
    let mut memory = registration.page(slot, len, Access::Write).unwrap();
    memory.copy_from(&bytes(page, len)).unwrap();
    memory
}

/// One slot, leased for writing, with no trace of an earlier page.
pub(crate) fn emptied(registration: &Registration, slot: usize, len: usize) -> PageMemory {
    let mut memory = registration.page(slot, len, Access::Write).unwrap();
    memory.copy_from(&vec![0xee; len]).unwrap();
    memory
}

/// The bytes of an answered extent.
pub(crate) fn content(memory: &PageMemory) -> Vec<u8> {
    let mut content = vec![0; memory.bytes()];
    memory.copy_to(&mut content).unwrap();
    content
}

/// Expects every extent back, each with all of its bytes moved.
pub(crate) fn all_done(done: ExtentsDone) -> Vec<Extent> {
    let pairs = done.outcomes.into_iter().zip(done.extents);
    pairs
        .map(|(outcome, extent)| {
            let extent = extent.expect("the extent comes back");
            assert_eq!(outcome.unwrap(), extent.memory.bytes() as u64);
            extent
        })
        .collect()
}

/// Writes page `page` of `len` bytes at `offset` and waits.
pub(crate) fn write_page(
    engine: &dyn Engine,
    file: &EngineFile,
    registration: &Registration,
    offset: u64,
    page: usize,
    len: usize,
) {
    let extent = Extent { file: file.clone(), offset, memory: filled(registration, 0, len, page) };
    all_done(engine.submit(Direction::Write, vec![extent]).wait());
}

/// Reads `len` bytes at `offset`: the count and all of the memory.
pub(crate) fn read_page(
    engine: &dyn Engine,
    file: &EngineFile,
    registration: &Registration,
    offset: u64,
    len: usize,
) -> (u64, Vec<u8>) {
    let extent = Extent { file: file.clone(), offset, memory: emptied(registration, 0, len) };
    let mut done = engine.submit(Direction::Read, vec![extent]).wait();
    let count = done.outcomes.remove(0).unwrap();
    (count, content(&done.extents.remove(0).unwrap().memory))
}

/// Memory of somebody else, and a flag that says when it was freed.
pub(crate) fn foreign(len: usize) -> (Arc<Region>, Arc<AtomicBool>) {
    struct Owner {
        bytes: *mut [u8],
        freed: Arc<AtomicBool>,
    }
    // SAFETY: nobody but the region uses the pointer until the drop.
    unsafe impl Send for Owner {}
    // SAFETY: as above.
    unsafe impl Sync for Owner {}
    impl Drop for Owner {
        fn drop(&mut self) {
            // SAFETY: it comes from `Box::into_raw` below and is freed once. AddressSanitizer sees whoever is late.
            drop(unsafe { Box::from_raw(self.bytes) });
            self.freed.store(true, Ordering::SeqCst);
        }
    }
    let bytes = Box::into_raw(vec![0_u8; len].into_boxed_slice());
    let freed = Arc::new(AtomicBool::new(false));
    let owner = Owner { bytes, freed: Arc::clone(&freed) };
    let base = NonNull::new(bytes.cast::<u8>()).unwrap();
    // SAFETY: the owner keeps the bytes until the region is dropped, and the tests take one lease of a range at a time.
    let region = unsafe { Region::foreign(base, len, MemoryKind::Host, Box::new(owner)) }.unwrap();
    (region, freed)
}

/// A page in a range of foreign memory.
pub(crate) fn foreign_page(registration: &Registration, offset: usize, len: usize) -> PageMemory {
    // SAFETY: the tests take one lease of a range at a time.
    PageMemory::new(unsafe { registration.piece_of_range(offset, len, Access::Write) }.unwrap())
}

/// A pipe whose reading end an engine can be made to hang on: the file to attach, and the end to write.
pub(crate) fn hanging() -> (File, File) {
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (reading.into(), writing.into())
}

/// Waits until `condition` holds; fails after ten seconds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}
