//! How fast the POSIX plugin moves pages, beside our own ring on the same file: a look, no bench.
//!
//! `cargo run --release -p hicache-nixl-backend --example rates -- <site-packages> <directory>`

#![allow(clippy::print_stdout, reason = "what it is for")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hicache_core::{Access, Direction, Engine, Extent, Region};
use hicache_nixl_backend::{IoMode, Library, LibrarySearch, NixlEngine, NixlEngineConfig};
use hicache_posix_uring::{UringConfig, UringEngine};

const PAGE: usize = 512 << 10;
const BATCH: usize = 128;
const ROUNDS: usize = 9;

type Named = (String, Arc<dyn Engine>);

fn main() -> hicache_core::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [site, directory] = arguments.as_slice() else {
        println!("give the site-packages that has NIXL's wheel, and a directory of the disk");
        return Ok(());
    };
    let search = LibrarySearch { site_packages: vec![site.into()], ..LibrarySearch::default() };
    let library = Library::open(&search)?;
    for io in [IoMode::Auto, IoMode::Buffered] {
        let mut engines: Vec<Named> = Vec::new();
        for (queue, threads) in [("use_aio", 1), ("use_aio", 2), ("use_uring", 1), ("use_uring", 2)] {
            let config = NixlEngineConfig { io, threads, ..NixlEngineConfig::new("POSIX") };
            let engine = NixlEngine::open(&library, config.with_parameter(queue, true))?;
            engines.push((format!("NIXL {queue}, {threads} threads"), Arc::new(engine)));
        }
        let native = match io {
            IoMode::Buffered => hicache_posix_uring::IoMode::Buffered,
            IoMode::Auto | IoMode::Direct => hicache_posix_uring::IoMode::Auto,
        };
        let ring = UringEngine::open(UringConfig { io: native, ..UringConfig::default() })?;
        engines.push(("posix-uring".to_owned(), Arc::new(ring)));
        measure(io, &engines, Path::new(directory))?;
    }
    Ok(())
}

/// Gigabytes a second of each, the median of rounds in which all take turns.
fn measure(io: IoMode, engines: &[Named], directory: &Path) -> hicache_core::Result<()> {
    let mut seconds = vec![[Vec::new(), Vec::new()]; engines.len()];
    for _ in 0..ROUNDS {
        for ((_, engine), seconds) in engines.iter().zip(&mut seconds) {
            for (direction, into) in [Direction::Write, Direction::Read].into_iter().zip(seconds) {
                into.push(one(&**engine, direction, directory)?);
            }
        }
    }
    for ((name, _), seconds) in engines.iter().zip(&mut seconds) {
        let rates = seconds.each_mut().map(|seconds| {
            seconds.sort_by(f64::total_cmp);
            (BATCH * PAGE) as f64 / seconds[ROUNDS / 2] / 1e9
        });
        println!("{io:>8}  {name:<28} set {:5.2} GB/s  get {:5.2} GB/s", rates[0], rates[1]);
    }
    Ok(())
}

/// Seconds that one batch takes on a file that is there already.
fn one(engine: &dyn Engine, direction: Direction, directory: &Path) -> hicache_core::Result<f64> {
    let path = directory.join("hicache-rates");
    let failed = |error| hicache_core::Error::io("open", path.display().to_string(), error);
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = engine.attach(Arc::new(file.map_err(failed)?), &path)?;
    let registration = engine.register(&Region::allocate(BATCH, PAGE)?)?;
    let access = if direction == Direction::Read { Access::Write } else { Access::Read };
    let mut extents = Vec::new();
    for slot in 0..BATCH {
        let mut memory = registration.page(slot, PAGE, Access::Write)?;
        memory.copy_from(&vec![slot as u8; PAGE])?;
        drop(memory);
        let memory = registration.page(slot, PAGE, access)?;
        extents.push(Extent { file: file.clone(), offset: (slot * PAGE) as u64, memory });
    }
    let start = Instant::now();
    let done = engine.submit(direction, extents).wait();
    let seconds = start.elapsed().as_secs_f64();
    done.outcomes.into_iter().collect::<hicache_core::Result<Vec<_>>>()?;
    Ok(seconds)
}
