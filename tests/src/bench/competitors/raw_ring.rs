//! The machine's limit: a ring, one thread, memory that is registered, and the files of the store that it is compared with.
//!
//! One of the files that hand raw addresses to the kernel (ARCHITECTURE.md).

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hicache_hashing::checksum;
use io_uring::{IoUring, opcode, types};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use super::Competitor;
use super::files::cache_flags;
use super::memory::Memory;
use super::order::Order;
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::{Spec, Work};

/// The ring, and what it reads and writes.
pub(super) struct RawRing {
    spec: Spec,
    ring: IoUring,
    memory: Memory,
    files: Vec<File>,
    /// The number of the file, and the offset.
    slots: Vec<(usize, u64)>,
    path: PathBuf,
    order: Order,
}

impl RawRing {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let memory = Memory::new(spec)?;
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(spec.depth)?;
        let whole = libc::iovec { iov_base: memory.lease.address().cast(), iov_len: memory.lease.len() };
        // SAFETY: the memory is a region's, which never moves; `memory` lives as long as the ring, and nobody else has a lease
        // of it.
        unsafe { ring.submitter().register_buffers(&[whole]) }?;
        let path = spec.directory.join("raw");
        let raw = Self {
            spec: spec.clone(),
            ring,
            memory,
            files: Vec::new(),
            slots: Vec::new(),
            path,
            order: Order::shuffled(0),
        };
        raw.with_files()
    }

    fn with_files(mut self) -> Result<Self, Problem> {
        let spec = self.spec.clone();
        if spec.work != Work::FirstFill {
            self.take_segments()?;
            if self.slots.is_empty() {
                self.new_file(spec.pages)?;
                allocate(&self.files[0], spec.pages * spec.page_bytes as u64)?;
                let slots: Vec<u64> = (0..spec.pages).collect();
                for group in slots.chunks(spec.batch * spec.in_flight) {
                    self.group(group, |_| true)?;
                }
            }
        }
        self.order = Order::new(&spec, self.slots.len() as u64);
        Ok(self)
    }

    fn new_file(&mut self, pages: u64) -> Result<(), Problem> {
        self.files = vec![create(&self.spec, &self.path)?];
        self.slots = (0..pages).map(|slot| (0, slot * self.spec.page_bytes as u64)).collect();
        Ok(())
    }

    /// The slots that were written of the store that is in the same directory, if there is one.
    fn take_segments(&mut self) -> Result<(), Problem> {
        let page_bytes = self.spec.page_bytes as u64;
        for path in segments(&self.spec.directory.join("store"))? {
            let file = options(&self.spec).open(&path)?;
            let mut offset = 0;
            // Where nothing was written nothing is read.
            while let Ok(data) = seek(&file, SeekFrom::Data(offset)) {
                let hole = seek(&file, SeekFrom::Hole(data))?;
                let whole = data.next_multiple_of(page_bytes)..hole / page_bytes * page_bytes;
                self.slots.extend(whole.step_by(self.spec.page_bytes).map(|at| (self.files.len(), at)));
                offset = hole;
            }
            self.files.push(file);
        }
        Ok(())
    }

    /// Moves slots, as many at once as the ring is deep, and waits for the last.
    fn group(&mut self, slots: &[u64], writes: impl Fn(usize) -> bool) -> Result<(), Problem> {
        let bytes = self.spec.page_bytes;
        let stride = bytes;
        let (mut begun, mut ended) = (0, 0);
        while ended < slots.len() {
            while begun < slots.len() && begun - ended < self.spec.depth as usize {
                let address = self.memory.lease.address().wrapping_add(begun * stride);
                let (file, offset) = self.slots[slots[begun] as usize];
                let (length, descriptor) = (u32::try_from(bytes)?, types::Fd(self.files[file].as_raw_fd()));
                let entry = if writes(begun) {
                    opcode::WriteFixed::new(descriptor, address, length, 0).offset(offset).build()
                } else {
                    opcode::ReadFixed::new(descriptor, address, length, 0).offset(offset).build()
                };
                let entry = entry.user_data(begun as u64);
                // SAFETY: the part of the region from `address` on is inside the lease, which outlives the ring; each operation
                // of a group has a part of its own, and the group is waited for before the next begins.
                unsafe { self.ring.submission().push(&entry) }?;
                begun += 1;
            }
            let flying = begun - ended;
            self.ring.submit_and_wait(if begun == slots.len() { flying } else { flying / 2 })?;
            let done: Vec<(u64, i32)> =
                self.ring.completion().map(|event| (event.user_data(), event.result())).collect();
            for (number, result) in done {
                if result != i32::try_from(bytes)? {
                    return Err(format!("an operation of the raw ring ended with {result}").into());
                }
                let number = number as usize;
                if self.spec.verify && !writes(number) {
                    let at = number * stride;
                    std::hint::black_box(checksum(&self.memory.lease.bytes()?[at..at + bytes]));
                }
                ended += 1;
            }
        }
        Ok(())
    }
}

fn options(spec: &Spec) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(cache_flags(spec).bits().cast_signed());
    options
}

fn create(spec: &Spec, path: &Path) -> Result<File, Problem> {
    Ok(options(spec).create(true).truncate(true).open(path)?)
}

/// Segment files below a directory; none where there is no directory.
fn segments(root: &Path) -> Result<Vec<PathBuf>, Problem> {
    let Ok(entries) = std::fs::read_dir(root) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(segments(&entry.path())?);
        } else if entry.file_name().to_string_lossy().starts_with("seg-") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn allocate(file: &File, bytes: u64) -> Result<(), Problem> {
    Ok(fallocate(file, FallocateFlags::empty(), 0, bytes)?)
}

impl Competitor for RawRing {
    fn round(&mut self) -> Result<Measure, Problem> {
        let Spec { work, batch, in_flight, page_bytes, round_pages, .. } = self.spec;
        let group = batch * in_flight;
        if work == Work::FirstFill {
            // The first round finds none.
            drop(std::fs::remove_file(&self.path));
            self.new_file(round_pages.next_multiple_of(group as u64))?;
        }
        let mut pages = 0;
        let watch = Stopwatch::start();
        if work == Work::FirstFill {
            allocate(&self.files[0], self.spec.round_bytes().next_multiple_of((group * page_bytes) as u64))?;
        }
        while pages < round_pages {
            let slots = match work {
                Work::FirstFill => (pages..pages + group as u64).collect(),
                _ => self.order.take(group),
            };
            match work {
                Work::Mixed => self.group(&slots, |number| number % 2 == 1)?,
                Work::Get => self.group(&slots, |_| false)?,
                _ => self.group(&slots, |_| true)?,
            }
            pages += group as u64;
        }
        Ok(watch.stop(pages * page_bytes as u64, pages))
    }
}
