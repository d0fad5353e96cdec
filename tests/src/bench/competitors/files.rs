//! One file a page, as most connectors keep them, on two threads.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::Competitor;
use super::memory::Memory;
use super::order::Order;
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::{Spec, Work};

const THREADS: usize = 2;

/// Where pages lie: in 256 directories.
#[derive(Clone, Debug)]
pub(super) struct Directories(PathBuf);

impl Directories {
    pub(super) fn make(spec: &Spec) -> Result<Self, Problem> {
        let directories = Self(spec.directory.join(format!("{:?}", spec.kind)));
        for number in 0..256 {
            std::fs::create_dir_all(directories.path(number).parent().ok_or("no directory")?)?;
        }
        Ok(directories)
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.0.join(format!("{:02x}", number % 256)).join(format!("{number:016x}"))
    }
}

/// What a file is opened with to go past the page cache, or not.
pub(super) fn cache_flags(spec: &Spec) -> OFlags {
    if spec.direct { OFlags::DIRECT } else { OFlags::empty() }
}

/// Files, and memory for as many batches as are in flight.
pub(super) struct Files {
    spec: Spec,
    directories: Directories,
    memory: Memory,
    order: Order,
    /// Pages from here on are not there.
    next: u64,
    /// Pages below this were removed.
    first: u64,
}

impl Files {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let memory = Memory::new(spec)?;
        let directories = Directories::make(spec)?;
        let order = Order::shuffled(spec.pages);
        let mut files = Self { spec: spec.clone(), directories, memory, order, next: 0, first: 0 };
        if spec.work != Work::FirstFill {
            while files.next < spec.pages {
                files.write()?;
            }
        }
        Ok(files)
    }

    /// A group, each thread a part of it.
    fn group(
        &mut self,
        numbers: &[u64],
        work: impl Fn(PathBuf, &mut [u8]) -> std::io::Result<()> + Sync,
    ) -> Result<(), Problem> {
        let bytes = self.spec.page_bytes;
        let (directories, work) = (&self.directories, &work);
        let part = numbers.len().div_ceil(THREADS);
        let memory = self.memory.lease.bytes_mut()?;
        std::thread::scope(|scope| {
            let threads: Vec<_> = numbers
                .chunks(part)
                .zip(memory.chunks_mut(part * bytes))
                .map(|(numbers, memory)| {
                    scope.spawn(move || {
                        let slots = memory.chunks_mut(bytes);
                        numbers
                            .iter()
                            .zip(slots)
                            .try_for_each(|(&number, slot)| work(directories.path(number), slot))
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| Ok(thread.join().map_err(|_| "a thread panicked")??))
        })
    }

    fn read(&mut self) -> Result<(), Problem> {
        let numbers = self.order.take(self.spec.batch * self.spec.in_flight);
        let options = self.options().read(true).clone();
        self.group(&numbers, |path, slot| options.open(path)?.read_exact(slot))
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.custom_flags(cache_flags(&self.spec).bits().cast_signed());
        options
    }

    fn write(&mut self) -> Result<(), Problem> {
        let count = (self.spec.batch * self.spec.in_flight) as u64;
        let numbers: Vec<u64> = (self.next..self.next + count).collect();
        self.next += count;
        let options = self.options().write(true).create(true).truncate(true).clone();
        self.group(&numbers, |path, slot| options.open(path)?.write_all(slot))
    }

    /// The oldest go, as many as came.
    fn evict(&mut self) -> Result<(), Problem> {
        while self.next - self.first > self.spec.pages {
            std::fs::remove_file(self.directories.path(self.first))?;
            self.first += 1;
        }
        Ok(())
    }
}

impl Competitor for Files {
    fn round(&mut self) -> Result<Measure, Problem> {
        let Spec { work, batch, in_flight, page_bytes, round_pages, .. } = self.spec;
        if work == Work::FirstFill {
            for number in std::mem::replace(&mut self.first, self.next)..self.next {
                std::fs::remove_file(self.directories.path(number))?;
            }
        }
        let mut pages = 0;
        let watch = Stopwatch::start();
        while pages < round_pages {
            if work == Work::Get {
                self.read()?;
            } else {
                self.write()?;
            }
            if work == Work::Reuse {
                self.evict()?;
            }
            pages += (batch * in_flight) as u64;
        }
        Ok(watch.stop(pages * page_bytes as u64, pages))
    }
}
