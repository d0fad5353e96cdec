//! The counter that orders records of different sets of a namespace: 8 bytes that every process maps.
//!
//! One of the files that dereference raw memory (ARCHITECTURE.md).

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use hicache_core::{Error, Result};
use memmap2::{MmapOptions, MmapRaw};

use crate::format::NUMBERS_END;

/// The mapped counter.
#[derive(Debug)]
pub(crate) struct Sequence {
    map: MmapRaw,
}

const BYTES: u64 = 8;

impl Sequence {
    /// Opens or makes the counter of a namespace directory and raises it to at least `least`.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn open(namespace_directory: &Path, least: u64) -> Result<Self> {
        let path = namespace_directory.join("SEQUENCE");
        let io = |error| Error::io("map", path.display().to_string(), error);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        // Two that make it at once: the second must not set back what the first has counted.
        file.lock().map_err(io)?;
        if file.metadata().map_err(io)?.len() < BYTES {
            // Written, not only lengthened: a hole would need a block at the first store into the mapping, and a full
            // disk would then be a signal instead of an error.
            std::os::unix::fs::FileExt::write_all_at(&file, &[0; BYTES as usize], 0).map_err(io)?;
        }
        let map = MmapOptions::new().len(BYTES as usize).map_raw(&file).map_err(io)?;
        let sequence = Self { map };
        if sequence.counter().load(Ordering::Acquire) >= NUMBERS_END {
            // No namespace has counted so far: the file is damaged, and what follows would overflow.
            tracing::warn!(path = %path.display(), "the counter is damaged; it goes on from what the records say");
            sequence.counter().store(least, Ordering::Release);
        }
        sequence.counter().fetch_max(least, Ordering::AcqRel);
        // Said, because the mapping keeps the file open beyond the descriptor, and its lock with it.
        file.unlock().map_err(io)?;
        Ok(sequence)
    }

    /// The next `count` numbers, as the first of them. Never 0.
    pub(crate) fn take(&self, count: u64) -> u64 {
        self.counter().fetch_add(count, Ordering::AcqRel).wrapping_add(1)
    }

    fn counter(&self) -> &AtomicU64 {
        // SAFETY: the mapping is 8 bytes, page-aligned, readable and writable, and lives as long as `self`. Other
        // processes touch it only through this same atomic. Nobody shortens the file: it is made once and never
        // truncated, and whoever cuts files of a live store by hand loses the process, as with any mapped file.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_map_it_never_take_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let one = Sequence::open(directory.path(), 10).unwrap();
        let other = Sequence::open(directory.path(), 5).unwrap();
        assert_eq!(one.take(2), 11);
        assert_eq!(other.take(1), 13);
        assert_eq!(Sequence::open(directory.path(), 0).unwrap().take(1), 14);
    }

    #[test]
    fn a_damaged_counter_goes_on_from_the_records() {
        let directory = tempfile::tempdir().unwrap();
        for (damage, first) in [(vec![0xff; 8], 8), (vec![0; 3], 8), (vec![0; 80], 8)] {
            std::fs::write(directory.path().join("SEQUENCE"), damage).unwrap();
            assert_eq!(Sequence::open(directory.path(), 7).unwrap().take(2), first);
        }
    }
}
