//! The kernel that copies short runs: used by the device where it is right and reaches the memory, and not where it is wrong, can't
//! be loaded, or fails; the bytes are right, or the copy fails, in every case. In processes that have the library that stands in
//! for libcuda.
//!
//! The tests that are ignored run in those processes.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hicache_core::{
    Access, Block, CopyBatch, CopyPlan, Device, Error, ErrorKind, MemoryKind, PageCopy, PageLeases, Place,
    Region, Result, Stream,
};
use hicache_gds::{CudaDevice, ShortCopies};

mod ground;

use ground::{Ground, with_standin};

const RUNS: usize = 700;
/// Of a run; the next one starts as far behind it as it is long.
const RUN: usize = 333;
const SLOTS: usize = 8;
const SLOT: usize = 2 * RUNS * RUN;

/// All slots of one region, by runs, to another whose slots are the other way round, in two steps.
fn batch(from: &Arc<Region>, to: &Arc<Region>, run: usize) -> CopyBatch {
    let runs = SLOT / 2 / run;
    let place = |first: usize, apart: usize| Place { buffer: 0, offset: first, strides: [0, apart] };
    let half = runs / 2;
    // Spread out where they come from, side by side where they go.
    let step = |first: usize, count: usize| {
        vec![Block {
            from: place(first * 2 * run, 2 * run),
            to: place(first * run, run),
            bytes: run,
            counts: [1, count],
        }]
    };
    let plan = CopyPlan::new(vec![step(0, half), step(half, runs - half)], vec![SLOT], vec![SLOT]).unwrap();
    let leases = |region: &Arc<Region>, slot, access| {
        PageLeases::from_iter([region.lease(slot, 0, SLOT, access).unwrap()])
    };
    let pages = (0..SLOTS).map(|slot| PageCopy {
        from: leases(from, slot, Access::Read),
        to: leases(to, SLOTS - 1 - slot, Access::Write),
    });
    CopyBatch { pages: pages.collect(), plan: Arc::new(plan), step_done: None }
}

fn fill(region: &Arc<Region>, seed: usize) {
    for slot in 0..SLOTS {
        let mut lease = region.lease(slot, 0, SLOT, Access::Write).unwrap();
        for (i, byte) in lease.bytes_mut().unwrap().iter_mut().enumerate() {
            *byte = ((i + (seed * SLOTS + slot) * SLOT).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
    }
}

/// Copies host to device to host, with kernels of any kind; whether the bytes are right.
fn there_and_back(stream: &dyn Stream, regions: &[Arc<Region>; 3], run: usize) -> Result<bool> {
    // Other bytes each time: what was copied before is not what is looked for.
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    let seed = TIMES.fetch_add(1, Ordering::Relaxed) * 2;
    let [host, device, result] = regions;
    fill(host, seed);
    fill(result, seed + 1);
    let runs = SLOT / 2 / run;
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for slot in 0..SLOTS {
        let (host, result) =
            (host.lease(slot, 0, SLOT, Access::Read)?, result.lease(slot, 0, SLOT, Access::Read)?);
        let mut wanted = result.bytes()?.to_vec();
        // Side by side on the device, and of those every other one back.
        for number in 0..runs.div_ceil(2) {
            wanted[number * run..][..run].copy_from_slice(&host.bytes()?[number * 4 * run..][..run]);
        }
        expected.push(wanted);
    }
    for (from, to) in [(host, device), (device, result)] {
        stream.copy(batch(from, to, run)).wait().outcomes.into_iter().collect::<Result<Vec<()>>>()?;
    }
    let mut same = true;
    for (slot, wanted) in expected.iter().enumerate() {
        let seen = result.lease(slot, 0, SLOT, Access::Read)?;
        // What comes back of the second half of the device's slot was never written there.
        let known = runs.div_ceil(2) * run;
        same &=
            seen.bytes()?[..known] == wanted[..known] && seen.bytes()?[runs * run..] == wanted[runs * run..];
    }
    Ok(same)
}

fn regions(ground: &Ground) -> [Arc<Region>; 3] {
    let pinned = || ground.context.allocate_pinned(1, SLOTS, SLOT).unwrap();
    [pinned(), ground.context.allocate(1, SLOTS, SLOT).unwrap(), pinned()]
}

#[test]
fn short_runs_are_copied_by_the_kernel() {
    with_standin("inside_short_runs_are_copied_by_the_kernel");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_short_runs_are_copied_by_the_kernel() {
    let Some(ground) = Ground::new() else { return };
    let device = CudaDevice::new(Arc::clone(&ground.context));
    let (stream, memory) = (device.stream("test").unwrap(), regions(&ground));
    let asked = |run| {
        let before = (ground.calls("cuLaunchKernel"), ground.calls("cuMemcpyAsync"));
        assert!(there_and_back(&*stream, &memory, run).unwrap(), "{run}");
        (ground.calls("cuLaunchKernel") - before.0, ground.calls("cuMemcpyAsync") - before.1)
    };
    // Eight slots of 350 runs a step are 2800, more than one launch takes; two steps, two ways.
    assert_eq!(asked(RUN), (8, 0));
    assert_eq!(asked(RUN), (8, 0), "with lists that were used before");
    assert_eq!(asked(30 << 10).0, 0, "long ones are not for it");
    assert_eq!(device.short_copies().1, None);

    // Pinned by somebody else, and not pinned: the copy engines.
    let foreign = |kind| {
        let own = ground.context.allocate_pinned(1, 1, SLOT).unwrap();
        // SAFETY: kept by its owner, and used by the copy alone.
        unsafe { Region::foreign(own.base(), SLOT, kind, Box::new(Arc::clone(&own))) }.unwrap()
    };
    for (kind, wanted) in [(MemoryKind::PinnedHost, 0), (MemoryKind::Host, 0), (MemoryKind::Device(0), 1)] {
        let region = foreign(kind);
        let mut one = batch(&memory[0], &memory[1], RUN);
        one.pages.truncate(1);
        // SAFETY: the only lease of it.
        one.pages[0].from =
            PageLeases::from_iter([unsafe { region.lease_range(0, SLOT, Access::Read) }.unwrap()]);
        let launched = ground.calls("cuLaunchKernel");
        stream.copy(one).wait().outcomes.remove(0).unwrap();
        assert_eq!(ground.calls("cuLaunchKernel") - launched, 2 * wanted, "{kind:?}");
    }

    let loaded = ground.calls("cuModuleLoadData");
    let without = CudaDevice::with(Arc::clone(&ground.context), ShortCopies::Engines);
    let launched = ground.calls("cuLaunchKernel");
    assert!(there_and_back(&*without.stream("test").unwrap(), &memory, RUN).unwrap());
    assert_eq!((ground.calls("cuLaunchKernel"), ground.calls("cuModuleLoadData")), (launched, loaded));
    assert_eq!(without.short_copies().1.as_deref(), Some("it is turned off"));
}

#[test]
fn a_kernel_that_is_wrong_copies_nothing() {
    with_standin("inside_a_kernel_that_is_wrong_copies_nothing");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_a_kernel_that_is_wrong_copies_nothing() {
    let Some(ground) = Ground::new() else { return };
    let memory = regions(&ground);
    let check = |reason: &str| {
        let device = CudaDevice::new(Arc::clone(&ground.context));
        let launched = ground.calls("cuLaunchKernel");
        assert!(there_and_back(&*device.stream("test").unwrap(), &memory, RUN).unwrap(), "{reason}");
        assert_eq!(ground.calls("cuLaunchKernel"), launched, "{reason}");
        let without = device.short_copies().1.unwrap();
        assert!(without.contains(reason), "{without}");
    };
    for (what, reason) in [
        ("copies", "did not copy what is known"),
        ("idle", "did not copy what is known"),
        ("odd copies", "gets known bytes wrong"),
    ] {
        ground.kernels_are(what);
        check(reason);
    }
    ground.kernels_are("");
    for (call, code) in [("cuModuleLoadData", 222), ("cuMemAlloc_v2", 2), ("cuLaunchKernel", 98)] {
        ground.fail(call, 1, code);
        check(&format!("answered {code}"));
    }
}

/// What the device says of the kernel then, what becomes of the pages, and how it is done.
type Break<'a> = (&'a str, Option<ErrorKind>, &'a dyn Fn());

#[test]
fn a_kernel_that_fails_later_copies_nothing_more() {
    with_standin("inside_a_kernel_that_fails_later_copies_nothing_more");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_a_kernel_that_fails_later_copies_nothing_more() {
    let Some(ground) = Ground::new() else { return };
    let memory = regions(&ground);
    // A launch that is refused costs nothing; what was queued and is not known to be right fails its pages.
    let breaks: [Break<'_>; 4] = [
        ("cuLaunchKernel answered 701", None, &|| ground.fail("cuLaunchKernel", 1, 701)),
        ("cuEventSynchronize answered 719", Some(ErrorKind::Io), &|| {
            ground.fail("cuEventSynchronize", 1, 719)
        }),
        ("did not copy what is known", Some(ErrorKind::Unexpected), &|| ground.kernels_are("idle")),
        ("did not copy what is known", Some(ErrorKind::Unexpected), &|| ground.kernels_are("copies")),
    ];
    for (reason, wanted, breaks) in breaks {
        ground.kernels_are("");
        let device = CudaDevice::new(Arc::clone(&ground.context));
        let stream = device.stream("test").unwrap();
        assert!(there_and_back(&*stream, &memory, RUN).unwrap());
        breaks();
        let failed = there_and_back(&*stream, &memory, RUN).map_err(|error: Error| error.kind());
        assert_eq!(failed.as_ref().err().copied(), wanted, "{reason}");
        assert!(failed.unwrap_or(true), "{reason}");
        assert!(device.short_copies().1.unwrap().contains(reason), "{reason}: {:?}", device.short_copies());
        // For good, though it would be right again; and nothing stays leased.
        ground.kernels_are("");
        let launched = ground.calls("cuLaunchKernel");
        assert!(there_and_back(&*stream, &memory, RUN).unwrap());
        assert_eq!(ground.calls("cuLaunchKernel"), launched, "{reason}");
    }
}

/// Nobody knows whether the kernel still copies: what it works with and its list are not used again.
#[test]
fn lost_copies_of_the_kernel_keep_their_memory() {
    with_standin("inside_lost_copies_of_the_kernel_keep_their_memory");
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside_lost_copies_of_the_kernel_keep_their_memory() {
    let Some(ground) = Ground::new() else { return };
    let memory = regions(&ground);
    let device = CudaDevice::new(Arc::clone(&ground.context));
    let stream = device.stream("test").unwrap();
    assert!(there_and_back(&*stream, &memory, RUN).unwrap());
    ground.fail("cuEventSynchronize", 1, 999);
    ground.fail("cuStreamSynchronize", 1, 999);
    let done = stream.copy(batch(&memory[0], &memory[1], RUN)).wait();
    assert!(done.outcomes.iter().all(|one| one.as_ref().unwrap_err().kind() == ErrorKind::Abandoned));
    assert!(memory[1].lease(0, 0, SLOT, Access::Write).is_err_and(|error| error.kind() == ErrorKind::Busy));
    let (kept, freed) = (Arc::downgrade(&memory[1]), Arc::downgrade(&memory[2]));
    drop((memory, stream, device));
    assert!(kept.upgrade().is_some() && freed.upgrade().is_none());
    // Both sides, and the lists of four launches; all else is freed, by a thread of its own.
    let left = || ground.calls("allocate") - ground.calls("release");
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        if left() == 6 {
            break;
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(left(), 6);
}
