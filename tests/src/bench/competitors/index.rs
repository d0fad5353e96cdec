//! The index: asking it, and opening it.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use hicache_core::{PageKey, Storage};
use hicache_testkit::numbered_key;

use super::Competitor;
use super::order::Order;
use super::store::Bench;
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::Spec;

/// Keys of a call.
const KEYS: usize = 10_000;
/// Calls of a round.
const CALLS: usize = 20;

/// Calls of `exists`, for pages that are there.
pub(super) struct Exists {
    bench: Bench,
    order: Order,
}

impl Exists {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let mut bench = Bench::open(spec, spec.pages * 2)?;
        bench.fill(spec.pages)?;
        Ok(Self { bench, order: Order::shuffled(spec.pages) })
    }
}

impl Competitor for Exists {
    fn round(&mut self) -> Result<Measure, Problem> {
        let lists: Vec<Vec<PageKey>> =
            (0..CALLS).map(|_| self.order.take(KEYS).into_iter().map(numbered_key).collect()).collect();
        let watch = Stopwatch::start();
        for keys in &lists {
            let there = self.bench.runtime.block_on(self.bench.store.exists(keys))?;
            if there.contains(&false) {
                return Err("a page is not there".into());
            }
        }
        let mut measure = watch.stop(0, (KEYS * CALLS) as u64);
        let keys_per_s = (KEYS * CALLS) as f64 / measure.seconds;
        measure.figures.insert("million_keys_per_s".to_owned(), keys_per_s / 1e6);
        Ok(measure)
    }
}

/// Opening a store with many pages, as after a restart.
pub(super) struct Open {
    spec: Spec,
}

impl Open {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        fill_once(spec)?;
        Ok(Self { spec: spec.clone() })
    }
}

/// Both that open and that read the same files want them; whoever comes first makes them.
fn fill_once(spec: &Spec) -> Result<(), Problem> {
    if spec.directory.join("store").is_dir() {
        return Ok(());
    }
    let mut bench = Bench::open(spec, spec.pages * 5 / 4)?;
    bench.fill(spec.pages)?;
    bench.runtime.block_on(bench.store.close())?;
    Ok(())
}

impl Competitor for Open {
    fn round(&mut self) -> Result<Measure, Problem> {
        let watch = Stopwatch::start();
        let bench = Bench::open(&self.spec, self.spec.pages * 5 / 4)?;
        let measure = watch.stop(0, self.spec.pages);
        let pages = bench.store.stat().pages;
        if pages != self.spec.pages {
            return Err(format!("{pages} pages were opened, {} were stored", self.spec.pages).into());
        }
        bench.runtime.block_on(bench.store.close())?;
        Ok(measure)
    }
}

/// Reads journals and snapshots, and does nothing with them.
pub(super) struct Cat {
    spec: Spec,
}

impl Cat {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        fill_once(spec)?;
        Ok(Self { spec: spec.clone() })
    }

    fn index_files(&self) -> Result<Vec<PathBuf>, Problem> {
        let mut found = Vec::new();
        let mut folders = vec![self.spec.directory.join("store")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let (entry, is_index) =
                    (entry?, |name: &str| name.starts_with("journal-") || name.starts_with("snapshot-"));
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if entry.file_name().to_str().is_some_and(is_index) {
                    found.push(entry.path());
                }
            }
        }
        Ok(found)
    }
}

impl Competitor for Cat {
    fn round(&mut self) -> Result<Measure, Problem> {
        let files = self.index_files()?;
        let mut buffer = vec![0; 128 << 10];
        let mut bytes = 0;
        let watch = Stopwatch::start();
        for path in files {
            let mut file = fs::File::open(path)?;
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    read => bytes += read as u64,
                }
            }
        }
        Ok(watch.stop(bytes, self.spec.pages))
    }
}
