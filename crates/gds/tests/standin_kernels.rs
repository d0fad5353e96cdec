//! The kernel that sums pages: used by the engines where it is right, and not where it is wrong, can't be loaded, or fails; the sums
//! are the CPU's in every case. In processes that have the library that stands in for libcuda.
//!
//! The tests that are ignored run in those processes.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::fmt;
use std::sync::{Arc, Mutex};

use hicache_core::hashing::Checksum;
use hicache_core::{Access, Engine, ErrorKind, PageMemory, Registration};
use hicache_gds::{
    ChecksumCounts, CuFileConfig, CuFileEngine, DeviceChecksums, Driver, Library, StagedConfig, StagedEngine,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

mod ground;

use ground::{Ground, with_standin};

const SLOT: usize = 12 << 20;

fn pattern(seed: u64) -> Vec<u8> {
    (0..SLOT as u64).map(|i| ((i ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// Warnings of this thread.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Two slots of the device whose bytes are known.
struct Pages {
    memory: Registration,
    bytes: [Vec<u8>; 2],
}

impl Pages {
    fn new(ground: &Ground, engine: &dyn Engine) -> Self {
        let region = ground.context.allocate(1, 2, SLOT).unwrap();
        let bytes = [pattern(1), pattern(2)];
        bytes.iter().enumerate().for_each(|(slot, bytes)| ground.put(&region, slot, bytes));
        Self { memory: engine.register(&region).unwrap(), bytes }
    }

    fn page(&self, pieces: &[(usize, usize, usize)]) -> (PageMemory, u64) {
        let mut wanted = Checksum::new();
        let pieces = pieces.iter().map(|&(slot, at, length)| {
            wanted.update(&self.bytes[slot][at..at + length]);
            self.memory.piece(slot, at, length, Access::Read).unwrap()
        });
        (PageMemory::from_pieces(pieces.collect::<Vec<_>>()).unwrap(), wanted.finish())
    }

    /// Sums of pages of several shapes; all of them must be right. How many.
    fn sum_all(&self, engine: &dyn Engine) -> u64 {
        let many: Vec<_> = (0..100).map(|i| (i % 2, i * 70_001 + i % 7, 4096 - i)).collect();
        let shapes: [&[(usize, usize, usize)]; 7] = [
            &[(0, 0, 65_536)],
            &[(1, 0, 1)],
            &[(1, 3, 65_537)],
            // Its parts are longer than those of others.
            &[(0, 0, SLOT)],
            &[(0, 2 << 20, 2 << 20), (1, 2 << 20, 2 << 20)],
            &[(1, 1023, 1025), (0, 7, 9), (1, 0, 8)],
            &many,
        ];
        for pieces in shapes {
            let (page, wanted) = self.page(pieces);
            assert_eq!(engine.checksum(&page).unwrap(), wanted, "{pieces:?}");
        }
        shapes.len() as u64
    }
}

fn warnings_of<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let warnings = Warnings::default();
    let seen = Arc::clone(&warnings.0);
    let result = tracing::subscriber::with_default(warnings, work);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (result, seen)
}

fn opened(ground: &Ground, device_checksums: DeviceChecksums) -> (StagedEngine, Vec<String>) {
    warnings_of(|| ground.staged_with(StagedConfig { device_checksums, ..StagedConfig::default() }))
}

/// Opens an engine, sums, and answers what it says, what was warned of, and how many pages there were.
fn summed(ground: &Ground, wanted: DeviceChecksums) -> (ChecksumCounts, Vec<String>, u64) {
    let ((engine, number), warned) = warnings_of(|| {
        let engine = ground.staged_with(StagedConfig { device_checksums: wanted, ..StagedConfig::default() });
        let number = Pages::new(ground, &engine).sum_all(&engine);
        (engine, number)
    });
    (engine.checksum_counts(), warned, number)
}

#[test]
fn a_kernel_that_is_right_is_used() {
    with_standin("inside_a_kernel_that_is_right_is_used");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_a_kernel_that_is_right_is_used() {
    let Some(ground) = Ground::new() else { return };
    let (counts, warned, number) = summed(&ground, DeviceChecksums::Auto);
    assert_eq!(counts, ChecksumCounts { by_kernel: number, through_host: 0, without_kernel: None });
    assert!(warned.is_empty(), "{warned:?}");
    assert!(ground.calls("cuLaunchKernel") > number as i64, "the trial launches too");

    let driver = Driver::open(Library::load(None).unwrap()).unwrap();
    let context = Some(Arc::clone(&ground.context));
    let cufile = CuFileEngine::open(driver, context, CuFileConfig { threads: 1, ..CuFileConfig::default() });
    let cufile = cufile.unwrap();
    let pages = Pages::new(&ground, &cufile);
    let launched = ground.calls("cuLaunchKernel");
    let number = pages.sum_all(&cufile);
    assert_eq!(cufile.checksum_counts().by_kernel, number);
    assert_eq!(ground.calls("cuLaunchKernel") - launched, number as i64, "one a page");

    let loaded = ground.calls("cuModuleLoadData");
    let (counts, warned, number) = summed(&ground, DeviceChecksums::Never);
    assert_eq!((counts.by_kernel, counts.through_host), (0, number));
    assert_eq!((counts.without_kernel.as_deref(), warned.len()), (Some("it is turned off"), 0));
    assert_eq!(ground.calls("cuModuleLoadData"), loaded, "it is not even loaded");
}

#[test]
fn a_kernel_that_is_wrong_is_not_used() {
    with_standin("inside_a_kernel_that_is_wrong_is_not_used");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_a_kernel_that_is_wrong_is_not_used() {
    let Some(ground) = Ground::new() else { return };
    for (what, reason) in [
        ("sums", "did not sum what is known"),
        ("idle", "did not sum what is known"),
        ("tails", "the kernel's checksum of"),
        ("unaligned", "the kernel's checksum of"),
        ("far", "the kernel's checksum of"),
    ] {
        ground.kernels_are(what);
        let (counts, warned, number) = summed(&ground, DeviceChecksums::Auto);
        assert_eq!((counts.by_kernel, counts.through_host), (0, number), "{what}");
        assert!(counts.without_kernel.unwrap().contains(reason), "{what}");
        assert!(warned.len() == 1 && warned[0].contains(reason), "{what}: {warned:?}");
    }
}

#[test]
fn a_kernel_that_can_not_be_had_is_not_used() {
    with_standin("inside_a_kernel_that_can_not_be_had_is_not_used");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_a_kernel_that_can_not_be_had_is_not_used() {
    let Some(ground) = Ground::new() else { return };
    // The first memory of the device that an engine takes is the trial's.
    for (call, code) in [("cuModuleLoadData", 222), ("cuMemAlloc_v2", 2), ("cuLaunchKernel", 98)] {
        ground.fail(call, 1, code);
        let (engine, warned) = opened(&ground, DeviceChecksums::Auto);
        let number = Pages::new(&ground, &engine).sum_all(&engine);
        let counts = engine.checksum_counts();
        assert_eq!((counts.by_kernel, counts.through_host), (0, number), "{call}");
        let reason = format!("answered {code}");
        assert!(counts.without_kernel.unwrap().contains(&reason), "{call}");
        assert!(warned.len() == 1 && warned[0].contains(&reason), "{call}: {warned:?}");
    }
}

#[test]
fn a_kernel_that_fails_later_is_given_up() {
    with_standin("inside_a_kernel_that_fails_later_is_given_up");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_a_kernel_that_fails_later_is_given_up() {
    let Some(ground) = Ground::new() else { return };
    // A launch that is refused, one that ends with an error of its stream, and two that tell success.
    let breaks: [(&str, &dyn Fn()); 4] = [
        ("cuLaunchKernel answered 701", &|| ground.fail("cuLaunchKernel", 1, 701)),
        ("cuStreamSynchronize answered 719", &|| ground.fail("cuStreamSynchronize", 1, 719)),
        ("did not sum what is known", &|| ground.kernels_are("idle")),
        ("did not sum what is known", &|| ground.kernels_are("sums")),
    ];
    for (reason, breaks) in breaks {
        ground.kernels_are("");
        let (engine, warned) = opened(&ground, DeviceChecksums::Auto);
        let pages = Pages::new(&ground, &engine);
        let before = pages.sum_all(&engine);
        assert!(warned.is_empty() && engine.checksum_counts().by_kernel == before, "{warned:?}");
        breaks();
        let (number, warned) = warnings_of(|| pages.sum_all(&engine));
        let counts = engine.checksum_counts();
        assert_eq!((counts.by_kernel, counts.through_host), (before, number), "{reason}");
        assert!(counts.without_kernel.unwrap().contains(reason), "{reason}");
        assert!(warned.len() == 1 && warned[0].contains(reason), "{reason}: {warned:?}");
        // For good, though it would be right again.
        ground.kernels_are("");
        let launched = ground.calls("cuLaunchKernel");
        let (number, warned) = warnings_of(|| pages.sum_all(&engine));
        assert_eq!(engine.checksum_counts().through_host, 2 * number);
        assert!(warned.is_empty() && ground.calls("cuLaunchKernel") == launched, "{warned:?}");
        // Others are not concerned.
        assert_eq!(opened(&ground, DeviceChecksums::Auto).0.checksum_counts().without_kernel, None);
    }
}

/// The kernel may still read the page: its memory is not freed. It does not write, so the sum can be had another way.
#[test]
fn a_page_whose_sum_was_lost_is_summed_all_the_same() {
    with_standin("inside_a_page_whose_sum_was_lost_is_summed_all_the_same");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_a_page_whose_sum_was_lost_is_summed_all_the_same() {
    let Some(ground) = Ground::new() else { return };
    let (engine, _) = opened(&ground, DeviceChecksums::Auto);
    let (pages, others) = (Pages::new(&ground, &engine), Pages::new(&ground, &engine));
    let (page, wanted) = pages.page(&[(0, 5, 70_000)]);
    ground.fail("cuStreamSynchronize", 1, 999);
    assert_eq!(engine.checksum(&page).unwrap(), wanted);
    assert!(engine.checksum_counts().without_kernel.unwrap().contains("answered 999"));
    let (kept, freed) = (Arc::downgrade(pages.memory.region()), Arc::downgrade(others.memory.region()));
    drop((page, pages, others));
    assert!(kept.upgrade().is_some() && freed.upgrade().is_none());
}

/// Nothing can be copied either; the trait answers an error, and never a sum.
#[test]
fn without_a_context_there_is_no_sum() {
    with_standin("inside_without_a_context_there_is_no_sum");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_without_a_context_there_is_no_sum() {
    let Some(ground) = Ground::new() else { return };
    let (engine, _) = opened(&ground, DeviceChecksums::Auto);
    let pages = Pages::new(&ground, &engine);
    ground.fail("cuStreamSynchronize", -1, 700);
    for _ in 0..2 {
        let (page, _) = pages.page(&[(0, 0, 70_000)]);
        assert_eq!(engine.checksum(&page).unwrap_err().kind(), ErrorKind::Abandoned);
    }
    let counts = engine.checksum_counts();
    assert_eq!((counts.by_kernel, counts.through_host), (0, 0));
}

#[test]
fn threads_sum_at_one_time() {
    with_standin("inside_threads_sum_at_one_time");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_threads_sum_at_one_time() {
    const THREADS: usize = 12;
    const PAGES: usize = 40;
    let Some(ground) = Ground::new() else { return };
    let (engine, _) = opened(&ground, DeviceChecksums::Auto);
    let pages = Pages::new(&ground, &engine);
    let streams = ground.calls("cuStreamCreate");
    let sum_all = |fail_at: Option<usize>| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (engine, pages, ground) = (&engine, &pages, &ground);
                scope.spawn(move || {
                    for number in 0..PAGES {
                        if thread == 0 && Some(number) == fail_at {
                            ground.fail("cuLaunchKernel", 1, 701);
                        }
                        let (page, wanted) =
                            pages.page(&[(thread % 2, thread * 100_003 + number * 4099, 20_000 + number)]);
                        assert_eq!(engine.checksum(&page).unwrap(), wanted);
                    }
                });
            }
        });
        engine.checksum_counts()
    };
    let all = (THREADS * PAGES) as u64;
    let counts = sum_all(None);
    assert_eq!((counts.by_kernel, counts.through_host), (all, 0));
    let made = ground.calls("cuStreamCreate") - streams;
    assert!(made < all as i64 / 2, "{made} streams: summers are kept");
    assert_eq!(ground.calls("cuModuleLoadData"), 1, "the code is shared");
    let counts = sum_all(Some(PAGES / 2));
    assert_eq!(counts.by_kernel + counts.through_host, 2 * all);
    assert!(counts.by_kernel > all && counts.through_host > 0, "{counts}");
}
