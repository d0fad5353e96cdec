//! Pages of the device whose bytes are known, for the rows of the table that have files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use hicache_core::{Access, Error, ErrorKind, Lease, Region, Result, hashing};
use hicache_gds::Context;
use hicache_gds::cuda::copies::Copying;
use hicache_gds::cuda::{Queue, RawCopy};

use crate::rates::PAGE;

/// Pages of the device, and one of pinned memory.
pub(crate) struct Pages {
    pub(crate) device: Arc<Region>,
    pub(crate) host: Arc<Region>,
    queue: Queue,
}

pub(crate) fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Word `i` of page `slot`.
fn word(seed: u64, slot: usize, i: usize) -> [u8; 8] {
    let number = seed.rotate_left(40) ^ ((slot as u64) << 24 | i as u64);
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

fn compare_page(seed: u64, slot: usize, bytes: &[u8]) -> Result<()> {
    let words = bytes.as_chunks::<8>().0;
    match words.iter().enumerate().position(|(i, seen)| *seen != word(seed, slot, i)) {
        None => Ok(()),
        Some(at) => Err(wrong(format!("byte {} of page {slot} or one of the next 7 is wrong", at * 8))),
    }
}

impl Pages {
    pub(crate) fn new(context: &Arc<Context>, slots: usize) -> Result<Self> {
        Ok(Self {
            device: context.allocate(1, slots, PAGE)?,
            host: context.allocate_pinned(1, 1, PAGE)?,
            queue: Queue::new(context)?,
        })
    }

    /// A page between the device and pinned memory.
    pub(crate) fn copy(&self, slot: usize, staging: &Lease, to_device: bool) -> Result<()> {
        let memory = self.device.lease(slot, 0, PAGE, Access::Write)?;
        let (host, device) = (staging.address() as u64, memory.address() as u64);
        let (from, to) = if to_device { (host, device) } else { (device, host) };
        // SAFETY: both are leased for writing until the stream is past the copy; where it can't be waited for, the program ends.
        unsafe { Copying::one_by_one().queue(&self.queue, &[RawCopy { from, to, bytes: PAGE }]) }?;
        self.queue.synchronize()
    }

    /// Puts the bytes of `seed` onto all pages.
    pub(crate) fn fill(&self, seed: u64) -> Result<()> {
        for slot in 0..self.device.slots() {
            let mut staging = self.host.lease(0, 0, PAGE, Access::Write)?;
            let words = staging.bytes_mut()?.as_chunks_mut::<8>().0;
            words.iter_mut().enumerate().for_each(|(i, place)| *place = word(seed, slot, i));
            self.copy(slot, &staging, true)?;
        }
        Ok(())
    }

    /// Whether all pages have the bytes of `seed`.
    pub(crate) fn compare(&self, seed: u64) -> Result<()> {
        for slot in 0..self.device.slots() {
            let mut staging = self.host.lease(0, 0, PAGE, Access::Write)?;
            staging.bytes_mut()?.fill(0x5a);
            self.copy(slot, &staging, false)?;
            compare_page(seed, slot, staging.bytes()?)?;
        }
        Ok(())
    }

    /// The checksum of each page with the bytes of `seed`.
    pub(crate) fn sums(&self, seed: u64) -> Vec<u64> {
        let sum = |slot| {
            let bytes: Vec<u8> = (0..PAGE / 8).flat_map(|i| word(seed, slot, i)).collect();
            hashing::checksum(&bytes)
        };
        (0..self.device.slots()).map(sum).collect()
    }

    /// Whether the file has them.
    pub(crate) fn compare_file(&self, file: &File, seed: u64) -> Result<()> {
        let mut bytes = vec![0; PAGE];
        for slot in 0..self.device.slots() {
            file.read_exact_at(&mut bytes, (slot * PAGE) as u64)
                .map_err(|error| Error::io("read", "the file", error))?;
            compare_page(seed, slot, &bytes)?;
        }
        Ok(())
    }
}
