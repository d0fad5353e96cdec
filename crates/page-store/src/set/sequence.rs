//! The counters of a namespace that every process maps: one orders records of different sets, two tell that there is
//! something new to read.
//!
//! One of the files that dereference raw memory (ARCHITECTURE.md).

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hicache_core::{Error, ErrorKind, Result};
use memmap2::{MmapOptions, MmapRaw};

use super::locks::lock_within;
use crate::format::NUMBERS_END;

/// How long the file's lock is waited for: its holder writes 24 bytes.
const WITHIN: Duration = Duration::from_secs(10);

/// The mapped counters.
#[derive(Debug)]
pub(crate) struct Sequence {
    map: MmapRaw,
}

/// What a counter counts, and which of them it is.
#[derive(Clone, Copy)]
enum Counter {
    /// Numbers that were given to records.
    Sequence,
    /// Appends to any journal.
    Published,
    /// Sets made and removed.
    Sets,
}

const COUNTERS: usize = 3;
const BYTES: usize = COUNTERS * 8;

impl Sequence {
    /// Opens or makes the counters of a namespace directory and raises the sequence to at least `least`.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn open(namespace_directory: &Path, least: u64) -> Result<Self> {
        let path = Self::path(namespace_directory);
        let io = |error| Error::io("map", path.display().to_string(), error);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        // Two that make it at once: the second must not set back what the first has counted.
        if !lock_within(&file, WITHIN).map_err(io)? {
            let text = format!("{} is locked for {WITHIN:?} by a process that is stopped", path.display());
            return Err(Error::new(ErrorKind::Busy, text).with_retryable(true));
        }
        let length = usize::try_from(file.metadata().map_err(io)?.len()).unwrap_or(BYTES);
        if let Some(missing) = [0; BYTES].get(length..).filter(|missing| !missing.is_empty()) {
            // Written, not only lengthened: a hole would need a block at the first store into the mapping, and a full
            // disk would then be a signal instead of an error.
            file.write_all_at(missing, length as u64).map_err(io)?;
        }
        let map = MmapOptions::new().len(BYTES).map_raw(&file).map_err(io)?;
        let sequence = Self { map };
        let counter = sequence.counter(Counter::Sequence);
        if counter.load(Ordering::Acquire) >= NUMBERS_END {
            // No namespace has counted so far: the file is damaged, and what follows would overflow.
            tracing::warn!(path = %path.display(), "the counter is damaged; it goes on from what the records say");
            counter.store(least, Ordering::Release);
        }
        sequence.raise(least);
        // Said, because the mapping keeps the file open beyond the descriptor, and its lock with it.
        file.unlock().map_err(io)?;
        Ok(sequence)
    }

    /// Where the counters of a namespace are.
    pub(crate) fn path(namespace_directory: &Path) -> PathBuf {
        namespace_directory.join("SEQUENCE")
    }

    /// The next `count` numbers, as the first of them. Never 0.
    pub(crate) fn take(&self, count: u64) -> u64 {
        self.counter(Counter::Sequence).fetch_add(count, Ordering::AcqRel).wrapping_add(1)
    }

    /// No number up to `least` is given out from now on.
    pub(crate) fn raise(&self, least: u64) {
        if least < NUMBERS_END {
            self.counter(Counter::Sequence).fetch_max(least, Ordering::AcqRel);
        }
    }

    /// Changes whenever there may be something new in some journal. Read before the journals are.
    pub(crate) fn published(&self) -> u64 {
        self.counter(Counter::Published).load(Ordering::Acquire)
    }

    /// There is something new in a journal.
    pub(crate) fn publish(&self) {
        self.counter(Counter::Published).fetch_add(1, Ordering::AcqRel);
    }

    /// Changes whenever a set was made or removed.
    pub(crate) fn sets(&self) -> u64 {
        self.counter(Counter::Sets).load(Ordering::Acquire)
    }

    /// A set was made or removed.
    pub(crate) fn sets_changed(&self) {
        self.counter(Counter::Sets).fetch_add(1, Ordering::AcqRel);
        self.publish();
    }

    fn counter(&self, counter: Counter) -> &AtomicU64 {
        let at = self.map.as_mut_ptr().wrapping_add(8 * counter as usize);
        // SAFETY: the mapping is 24 bytes, page-aligned, readable and writable, and lives as long as `self`; the three
        // numbers of `Counter` stay inside it. Other processes touch it only through these same atomics. Nobody
        // shortens the file: it is made once and never truncated, and whoever cuts files of a live store by hand loses
        // the process, as with any mapped file.
        unsafe { AtomicU64::from_ptr(at.cast()) }
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
    fn what_one_publishes_the_other_sees() {
        let directory = tempfile::tempdir().unwrap();
        let one = Sequence::open(directory.path(), 0).unwrap();
        let other = Sequence::open(directory.path(), 0).unwrap();
        let (published, sets) = (other.published(), other.sets());
        one.publish();
        assert_ne!(other.published(), published);
        assert_eq!(other.sets(), sets);
        one.sets_changed();
        assert_ne!(other.sets(), sets);
    }

    #[test]
    fn a_short_or_damaged_file_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("SEQUENCE"), 7_u64.to_le_bytes()).unwrap();
        assert_eq!(Sequence::open(directory.path(), 0).unwrap().take(1), 8);
        std::fs::write(directory.path().join("SEQUENCE"), [0xff; 24]).unwrap();
        assert_eq!(Sequence::open(directory.path(), 20).unwrap().take(1), 21);
    }
}
