//! The machine's limit: a ring, one file, one thread, memory that is registered.
//!
//! One of the files that hand raw addresses to the kernel (ARCHITECTURE.md).

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use hicache_hashing::checksum;
use io_uring::{IoUring, opcode, types};
use rustix::fs::{FallocateFlags, fallocate};

use super::Competitor;
use super::files::cache_flags;
use super::memory::Memory;
use super::order::Shuffled;
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::{Spec, Work};

/// Operations in flight: as many as the engine keeps.
const DEPTH: u32 = 64;

/// The ring, and what it reads and writes.
pub(super) struct RawRing {
    spec: Spec,
    ring: IoUring,
    memory: Memory,
    file: File,
    path: PathBuf,
    order: Shuffled,
}

impl RawRing {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let memory = Memory::new(spec)?;
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(DEPTH)?;
        let whole = libc::iovec { iov_base: memory.lease.address().cast(), iov_len: memory.lease.len() };
        // SAFETY: the memory is a region's, which never moves; `memory` lives as long as the ring, and nobody else has a lease
        // of it.
        unsafe { ring.submitter().register_buffers(&[whole]) }?;
        let path = spec.directory.join("raw");
        let file = create(spec, &path)?;
        let mut raw = Self { spec: spec.clone(), ring, memory, file, path, order: Shuffled::new(spec.pages) };
        if spec.work != Work::FirstFill {
            allocate(&raw.file, spec.pages * spec.page_bytes as u64)?;
            let slots: Vec<u64> = (0..spec.pages).collect();
            for group in slots.chunks(spec.batch * spec.in_flight) {
                raw.group(group, |_| true)?;
            }
        }
        Ok(raw)
    }

    /// Moves slots of the file, in a window of [`DEPTH`], and waits for the last.
    fn group(&mut self, slots: &[u64], writes: impl Fn(usize) -> bool) -> Result<(), Problem> {
        let bytes = self.spec.page_bytes;
        let descriptor = types::Fd(self.file.as_raw_fd());
        let stride = bytes;
        let (mut begun, mut ended) = (0, 0);
        while ended < slots.len() {
            while begun < slots.len() && begun - ended < DEPTH as usize {
                let address = self.memory.lease.address().wrapping_add(begun * stride);
                let (length, offset) = (u32::try_from(bytes)?, slots[begun] * bytes as u64);
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

fn create(spec: &Spec, path: &std::path::Path) -> Result<File, Problem> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(cache_flags(spec).bits().cast_signed());
    Ok(options.open(path)?)
}

fn allocate(file: &File, bytes: u64) -> Result<(), Problem> {
    Ok(fallocate(file, FallocateFlags::empty(), 0, bytes)?)
}

impl Competitor for RawRing {
    fn round(&mut self) -> Result<Measure, Problem> {
        let Spec { work, batch, in_flight, page_bytes, round_pages, .. } = self.spec;
        let group = batch * in_flight;
        if work == Work::FirstFill {
            std::fs::remove_file(&self.path)?;
            self.file = create(&self.spec, &self.path)?;
        }
        let mut pages = 0;
        let watch = Stopwatch::start();
        if work == Work::FirstFill {
            allocate(&self.file, self.spec.round_bytes().next_multiple_of((group * page_bytes) as u64))?;
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
