//! The table of rates. Each is the median of several rounds in one run, beside the limit that was measured in the same run.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::Instant;

use hicache_controller::{Attention, Layout, PageShape};
use hicache_core::{Access, CopyBatch, Device, Direction, Engine, Extent, PageCopy, PageLeases, Result};
use hicache_gds::cuda::copies::Copying;
use hicache_gds::cuda::{Queue, RawCopy};
use hicache_gds::{Calls, Context, CudaDevice, DeviceChecksums, ShortCopies};

use crate::Told;
use crate::conformance::{close, cufile, staged};
use crate::pages::{Pages, wrong};

const MIB: usize = 1 << 20;
/// Bytes of a page of the rows with files.
pub(crate) const PAGE: usize = 2 * MIB;

/// Rounds of a measurement.
fn rounds(told: &Told) -> usize {
    if told.short { 1 } else { 9 }
}

/// Bytes that a round moves.
fn bytes(told: &Told) -> usize {
    if told.short { 16 * MIB } else { 1024 * MIB }
}

/// GB/s of the median round, and the slowest and fastest.
fn measure(told: &Told, bytes: usize, mut round: impl FnMut() -> Result<()>) -> Result<[f64; 3]> {
    round()?; // The first one pays for what is then there.
    let mut rates = Vec::new();
    for _ in 0..rounds(told) {
        let begun = Instant::now();
        round()?;
        rates.push(bytes as f64 / begun.elapsed().as_secs_f64() / 1e9);
    }
    rates.sort_by(f64::total_cmp);
    Ok([rates[rates.len() / 2], rates[0], rates[rates.len() - 1]])
}

/// What was printed so far.
struct Table {
    /// Whether rates are held against what is wanted: those of a short run say nothing.
    judges: bool,
    good: bool,
}

impl Table {
    /// `wanted` is the limit of the same run, and the part of it that is to be reached.
    fn line(&mut self, name: &str, rate: Result<[f64; 3]>, wanted: Option<(f64, f64)>) {
        match rate {
            Ok([median, least, most]) => {
                let of_limit = wanted.map_or_else(String::new, |(limit, part)| {
                    let reached = median / limit;
                    let judged = match (self.judges, reached >= part) {
                        (false, _) => "not judged".to_owned(),
                        (true, true) => format!("reached {part}"),
                        (true, false) => {
                            self.good = false;
                            format!("MISSED {part}")
                        }
                    };
                    format!("  {reached:.2} of the limit, {judged}")
                });
                println!("{median:>8.2} GB/s  ({least:.2} to {most:.2})  {name}{of_limit}");
            }
            Err(error) => {
                self.good = false;
                println!("  failed       {name}: {error}");
            }
        }
    }
}

/// Whether everything could be measured, moved the right bytes and was as fast as is wanted.
pub(crate) fn run(context: &Arc<Context>, told: &Told, with_cufile: bool, batches: bool) -> Result<bool> {
    let mut table = Table { judges: !told.short, good: true };
    copies(context, told, &mut table)?;
    short_copies(context, told, &mut table);
    files(context, told, with_cufile, batches, &mut table)?;
    sums(context, told, &mut table)?;
    Ok(table.good)
}

/// One large copy, which is what the device's copy engine can, and pages beside it.
fn copies(context: &Arc<Context>, told: &Told, table: &mut Table) -> Result<()> {
    let bytes = bytes(told) / 4;
    let (host, device) = (context.allocate_pinned(1, 1, bytes)?, context.allocate(1, 1, bytes)?);
    let queue = Queue::new(context)?;
    let mut limits = Vec::new();
    for (name, to_device) in [("host to device, one copy", true), ("device to host, one copy", false)] {
        let [host, device] = [&host, &device].map(|region| region.lease(0, 0, bytes, Access::Write));
        let (host, device) = (host?, device?);
        let (host, device) = (host.address() as u64, device.address() as u64);
        let copy = if to_device { (host, device) } else { (device, host) };
        let rate = measure(told, bytes, || {
            // SAFETY: both are leased for writing, by leases that end after the stream is past the copy.
            unsafe { Copying::one_by_one().queue(&queue, &[RawCopy { from: copy.0, to: copy.1, bytes }]) }?;
            queue.synchronize()
        })?;
        limits.push(rate[0]);
        table.line(name, Ok(rate), None);
    }
    drop((host, device));
    for layers in [32, 64] {
        for (page_bytes, part) in [(64 << 10, 0.6), (2 * MIB, 0.9)] {
            if told.short && layers * page_bytes > 16 * MIB {
                continue; // One page is more than a short run moves.
            }
            for (name, to_device) in [("load, layer by layer", true), ("backup", false)] {
                let rate = pages(context, told, layers, page_bytes, to_device, ShortCopies::Auto);
                let name = format!("{name}: {layers} layers, {} KiB a page and layer", page_bytes >> 10);
                table.line(&name, rate, Some((limits[usize::from(!to_device)], part)));
            }
        }
    }
    Ok(())
}

/// Pages of short runs, by the kernel where it is right, and by the copy engines.
fn short_copies(context: &Arc<Context>, told: &Told, table: &mut Table) {
    for (name, to_device) in [("load, layer by layer", true), ("backup", false)] {
        for by in [ShortCopies::Auto, ShortCopies::Engines] {
            let rate = pages(context, told, 32, 8 << 10, to_device, by);
            table.line(&format!("{name}: 32 layers, 8 KiB a page and layer, {by:?}"), rate, None);
        }
    }
}

/// Pages between a pinned pool and one of the device, both with a buffer a layer, one step a layer.
fn pages(
    context: &Arc<Context>,
    told: &Told,
    layers: usize,
    bytes_a_layer: usize,
    to_device: bool,
    short_copies: ShortCopies,
) -> Result<[f64; 3]> {
    let gpu = CudaDevice::with(Arc::clone(context), short_copies);
    let shape = PageShape {
        attention: Attention::Mla,
        page_tokens: 64,
        layers,
        heads: 1,
        head_dim: bytes_a_layer / 64 / 2,
        element_bytes: 2,
    };
    let layout = Layout::LayerFirst;
    let slots = (bytes(told) / 2 / shape.page_bytes()).max(1);
    let host = gpu.allocate_host(layers, slots, bytes_a_layer)?;
    let device = gpu.allocate(layers, slots, bytes_a_layer)?;
    let plan =
        Arc::new(if to_device { shape.by_layer(layout, layout)? } else { shape.whole(layout, layout)? });
    let stream = gpu.stream("rates")?;
    measure(told, slots * shape.page_bytes(), || {
        let (from, to) = if to_device { (&host, &device) } else { (&device, &host) };
        let pages = (0..slots)
            .map(|slot| {
                Ok(PageCopy {
                    from: PageLeases::from_iter([from.lease(slot, 0, bytes_a_layer, Access::Read)?]),
                    to: PageLeases::from_iter([to.lease(slot, 0, bytes_a_layer, Access::Write)?]),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let batch = CopyBatch { pages, plan: Arc::clone(&plan), step_done: None };
        stream.copy(batch).wait().outcomes.into_iter().collect::<Result<Vec<()>>>().map(drop)
    })
}

/// Pages of 2 MiB between a file and the device, through each engine, and by hand.
fn files(
    context: &Arc<Context>,
    told: &Told,
    with_cufile: bool,
    batches: bool,
    table: &mut Table,
) -> Result<()> {
    let slots = bytes(told) / PAGE;
    let failed = |error| hicache_core::Error::io("rates", told.directory.display().to_string(), error);
    let file = Arc::new(tempfile::tempfile_in(&told.directory).map_err(failed)?);
    let pages = Pages::new(context, slots)?;
    let mut engines: Vec<(String, Result<Arc<dyn Engine>>)> = vec![(
        "staged".to_owned(),
        staged(context, DeviceChecksums::Auto).map(|engine| engine as Arc<dyn Engine>),
    )];
    if with_cufile {
        for threads in [1, 4, 16] {
            let engine = cufile(context, told, threads, Calls::Threads);
            engines.push((format!("cuFile, {threads} threads"), engine.map(|engine| engine as _)));
        }
        if batches {
            let engine = cufile(context, told, 2, Calls::Batches { depth: 32 });
            let engine = engine.map(|engine| engine as _);
            engines.push(("cuFile, 2 threads, batches of 32".to_owned(), engine));
        }
    } else {
        println!("not run: rates of cuFile, which can't be used here");
    }
    println!("not run: NIXL's GDS_MT, which this program does not carry");
    let mut seed = 0;
    for (name, engine) in engines {
        seed += 1;
        for direction in [Direction::Write, Direction::Read] {
            let rate = match &engine {
                Ok(engine) => through(told, &**engine, &file, &pages, direction, seed),
                Err(error) => Err(error.clone()),
            };
            table.line(&format!("{} {}", direction.as_str(), name), rate, None);
        }
        if let Ok(engine) = engine {
            close(&*engine)?;
        }
    }
    // What the engines read does not come from the page cache either.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(path);
    let name = if direct.is_ok() { "direct" } else { "from the page cache" };
    let rate = by_hand(told, direct.as_ref().unwrap_or(&file), &pages);
    table.line(&format!("read by pread, {name}, and a copy"), rate, None);
    Ok(())
}

/// Checksums of pages, as the page store asks an engine for them: on the device, and through pinned memory.
fn sums(context: &Arc<Context>, told: &Told, table: &mut Table) -> Result<()> {
    let slots = bytes(told) / PAGE / 4;
    let pages = Pages::new(context, slots)?;
    let seed = 77;
    pages.fill(seed)?;
    let expected = pages.sums(seed);
    for wanted in [DeviceChecksums::Auto, DeviceChecksums::Never] {
        let engine = staged(context, wanted)?;
        let registration = engine.register(&pages.device)?;
        for threads in [1, 4] {
            let rate = measure(told, slots * PAGE, || {
                let sum = |first: usize| {
                    (first..slots).step_by(threads).try_for_each(|slot| {
                        let sum = engine.checksum(&registration.page(slot, PAGE, Access::Read)?)?;
                        let same = sum == expected[slot];
                        if same { Ok(()) } else { Err(wrong(format!("the sum of page {slot} is wrong"))) }
                    })
                };
                std::thread::scope(|scope| {
                    let sum = &sum;
                    let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || sum(first))).collect();
                    let joined = running.into_iter().map(|thread| thread.join());
                    joined.collect::<Result<Vec<_>, _>>().map_err(|_| wrong("a thread panicked".to_owned()))
                })?
                .into_iter()
                .collect::<Result<Vec<()>>>()
                .map(drop)
            });
            table.line(&format!("sum pages of 2 MiB, {threads} threads, {wanted:?}"), rate, None);
        }
        println!("             {}", engine.checksum_counts());
        close(&*engine)?;
    }
    Ok(())
}

/// All pages in one direction, and whether the bytes of each are then those that they should be.
fn through(
    told: &Told,
    engine: &dyn Engine,
    file: &Arc<File>,
    pages: &Pages,
    direction: Direction,
    seed: u64,
) -> Result<[f64; 3]> {
    let registration = engine.register(&pages.device)?;
    let attached = engine.attach(Arc::clone(file), &told.directory)?;
    let slots = pages.device.slots();
    // What is not read or written keeps other bytes.
    pages.fill(if direction == Direction::Write { seed } else { !seed })?;
    let rate = measure(told, slots * PAGE, || {
        let extents = (0..slots)
            .map(|slot| {
                let memory = registration.page(slot, PAGE, Access::Write)?;
                Ok(Extent { file: attached.clone(), offset: (slot * PAGE) as u64, memory })
            })
            .collect::<Result<Vec<_>>>()?;
        let outcomes = engine.submit(direction, extents).wait().outcomes;
        outcomes.into_iter().try_for_each(|outcome| match outcome? {
            moved if moved == PAGE as u64 => Ok(()),
            moved => Err(wrong(format!("{moved} of {PAGE} bytes were moved"))),
        })
    })?;
    match direction {
        Direction::Write => pages.compare_file(file, seed)?,
        Direction::Read => pages.compare(seed)?,
    }
    Ok(rate)
}

/// What a user would write first: one thread, one page at a time.
fn by_hand(told: &Told, file: &File, pages: &Pages) -> Result<[f64; 3]> {
    let failed = |error| hicache_core::Error::io("read", "the file", error);
    measure(told, pages.device.slots() * PAGE, || {
        for slot in 0..pages.device.slots() {
            let mut staging = pages.host.lease(0, 0, PAGE, Access::Write)?;
            file.read_exact_at(staging.bytes_mut()?, (slot * PAGE) as u64).map_err(failed)?;
            pages.copy(slot, &staging, true)?;
        }
        Ok(())
    })
}
