//! One file a page through a ring: open, read or write, and close, linked, without a descriptor of the process.
//!
//! One of the files that hand raw addresses to the kernel (ARCHITECTURE.md).

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};

use super::Competitor;
use super::files::{Directories, cache_flags};
use super::memory::Memory;
use super::order::Order;
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::{Spec, Work};

/// Files in flight: three operations each.
const FILES: usize = 32;

/// The ring, and memory for as many batches as are in flight.
pub(super) struct LinkedFiles {
    spec: Spec,
    ring: IoUring,
    directories: Directories,
    memory: Memory,
    order: Order,
    next: u64,
    first: u64,
}

impl LinkedFiles {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let memory = Memory::new(spec)?;
        let ring = IoUring::builder().setup_single_issuer().build(u32::try_from(3 * FILES)?)?;
        ring.submitter().register_files_sparse(u32::try_from(FILES)?)?;
        let mut files = Self {
            spec: spec.clone(),
            ring,
            directories: Directories::make(spec)?,
            memory,
            order: Order::shuffled(spec.pages),
            next: 0,
            first: 0,
        };
        if spec.work != Work::FirstFill {
            while files.next < spec.pages {
                let numbers = files.fresh();
                files.group(&numbers, true)?;
            }
        }
        Ok(files)
    }

    fn fresh(&mut self) -> Vec<u64> {
        let count = (self.spec.batch * self.spec.in_flight) as u64;
        self.next += count;
        (self.next - count..self.next).collect()
    }

    fn group(&mut self, numbers: &[u64], write: bool) -> Result<(), Problem> {
        let paths: Vec<CString> = numbers
            .iter()
            .map(|&number| CString::new(self.directories.path(number).into_os_string().into_vec()))
            .collect::<Result<_, _>>()?;
        for (part, paths) in paths.chunks(FILES).enumerate() {
            for (file, path) in paths.iter().enumerate() {
                for entry in self.chain(path, part * FILES + file, file, write)? {
                    // SAFETY: the path lives until the part has been waited for; the memory is a slot of the lease, which nobody
                    // else uses and which outlives the ring.
                    unsafe { self.ring.submission().push(&entry) }?;
                }
            }
            self.ring.submit_and_wait(3 * paths.len())?;
            for event in self.ring.completion() {
                if event.result() < 0 {
                    return Err(format!("a linked operation ended with {}", event.result()).into());
                }
            }
        }
        Ok(())
    }

    fn chain(&self, path: &CString, slot: usize, file: usize, write: bool) -> Result<[Entry; 3], Problem> {
        let address = self.memory.lease.address().wrapping_add(slot * self.spec.page_bytes);
        let length = u32::try_from(self.spec.page_bytes)?;
        let at = types::DestinationSlot::try_from_slot_target(u32::try_from(file)?)
            .map_err(|slot| format!("slot {slot}"))?;
        let how = if write { libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC } else { libc::O_RDONLY };
        let how = how | cache_flags(&self.spec).bits().cast_signed();
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).flags(how).mode(0o644);
        let fixed = types::Fixed(u32::try_from(file)?);
        let moved = if write {
            opcode::Write::new(fixed, address, length).build()
        } else {
            opcode::Read::new(fixed, address, length).build()
        };
        Ok([
            open.file_index(Some(at)).build().flags(Flags::IO_LINK),
            moved.flags(Flags::IO_LINK),
            opcode::Close::new(fixed).build(),
        ])
    }

    fn remove(&mut self, end: u64) -> Result<(), Problem> {
        while self.first < end {
            std::fs::remove_file(self.directories.path(self.first))?;
            self.first += 1;
        }
        Ok(())
    }
}

impl Competitor for LinkedFiles {
    fn round(&mut self) -> Result<Measure, Problem> {
        let Spec { work, batch, in_flight, page_bytes, round_pages, pages: room, .. } = self.spec;
        if work == Work::FirstFill {
            self.remove(self.next)?;
        }
        let mut pages = 0;
        let watch = Stopwatch::start();
        while pages < round_pages {
            if work == Work::Get {
                let numbers = self.order.take(batch * in_flight);
                self.group(&numbers, false)?;
            } else {
                let numbers = self.fresh();
                self.group(&numbers, true)?;
            }
            if work == Work::Reuse {
                self.remove(self.next.saturating_sub(room))?;
            }
            pages += (batch * in_flight) as u64;
        }
        Ok(watch.stop(pages * page_bytes as u64, pages))
    }
}
