//! One inode, opened for direct and for buffered I/O, and which of the two an extent takes.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hicache_core::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, fcntl_getfl, fstat, open, statx};
use rustix::io::Errno;

use super::config::IoMode;
use crate::request::Descriptor;

/// Alignment that direct I/O is taken to need where the kernel does not say; no device in use needs more.
pub(crate) const USUAL_ALIGNMENT: usize = 4096;

/// A file as the engine uses it. Its descriptors are its own: the same file may be attached twice, and a backend must
/// not know a descriptor twice.
pub(crate) struct OpenFile {
    /// For messages: the file may be gone from there.
    pub(crate) path: PathBuf,
    pub(crate) buffered: Arc<File>,
    pub(crate) direct: Option<Direct>,
    pub(crate) no_direct: Option<String>,
}

/// The file opened with `O_DIRECT`.
pub(crate) struct Direct {
    pub(crate) file: Arc<File>,
    memory_alignment: usize,
    /// Of lengths and file offsets. Whole pages and blocks of the file system: the kernel does not keep a direct
    /// operation and a buffered one consistent that share one of these, though their bytes are apart.
    unit: usize,
    /// As [`Self::unit`], for a test of what a file system refuses.
    #[cfg(test)]
    pretended: std::sync::atomic::AtomicUsize,
    refusals: Refusals,
}

/// Direct I/O that failed where buffered I/O then did not. One may have passed, as a device that was reset does; a file
/// system that takes none refuses every one. So several in a row end it, for a while: then one tries again.
#[derive(Debug, Default)]
struct Refusals {
    in_a_row: AtomicU32,
    until: Mutex<Option<Instant>>,
}

/// So many in a row.
const REFUSALS: u32 = 4;
/// And it is left alone for so long.
const LEFT_ALONE: Duration = Duration::from_secs(10);

impl Refusals {
    /// Whether to try direct I/O.
    fn admit(&self, now: Instant) -> bool {
        if self.in_a_row.load(Ordering::Relaxed) < REFUSALS {
            return true;
        }
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        match *until {
            Some(end) if now < end => false,
            // One that tries; the others wait for what it sees.
            _ => {
                *until = Some(now + LEFT_ALONE);
                true
            }
        }
    }

    /// It has worked; whether that is news.
    fn worked(&self) -> bool {
        self.in_a_row.load(Ordering::Relaxed) > 0 && self.in_a_row.swap(0, Ordering::Relaxed) >= REFUSALS
    }

    /// It has failed where buffered I/O did not; whether that ends it for now.
    fn refused(&self, now: Instant) -> bool {
        let ends = self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 == REFUSALS;
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + LEFT_ALONE);
        ends
    }
}

impl OpenFile {
    /// Opens `file` again for direct I/O, unless `io` says otherwise or the file system can't.
    ///
    /// # Errors
    /// `Config` for a file opened with `O_APPEND`, whose writes would ignore their offsets; `Io` if it can't be
    /// examined.
    pub(crate) fn new(file: &File, path: &Path, io: IoMode) -> Result<Self> {
        let failed = |what: &str, error: std::io::Error| {
            Error::io("attach", format!("{what} of {} can't be had", path.display()), error)
        };
        let flags = fcntl_getfl(file).map_err(|error| failed("the flags", error.into()))?;
        if flags.contains(OFlags::APPEND) {
            return Err(Error::config(format!(
                "{} is open for appending, where writes ignore their offset; open it without",
                path.display()
            )));
        }
        let buffered = file.try_clone().map_err(|error| failed("another descriptor", error))?;
        let direct = match io {
            IoMode::Buffered => Err("io is \"buffered\"".to_owned()),
            IoMode::Auto | IoMode::Direct => Direct::open(file, path, flags),
        };
        let (direct, no_direct) = match direct {
            Ok(direct) => (Some(direct), None),
            Err(reason) => (None, Some(reason)),
        };
        Ok(Self { path: path.to_owned(), buffered: Arc::new(buffered), direct, no_direct })
    }

    /// Whether these pieces, from `offset` in the file on, can go past the page cache.
    pub(crate) fn takes_direct(&self, offset: u64, pieces: &[Descriptor]) -> bool {
        self.direct.as_ref().is_some_and(|direct| direct.takes(offset, pieces))
    }

    /// Takes another unit, and says what it was.
    #[cfg(test)]
    pub(crate) fn pretend_unit(&self, unit: usize) -> usize {
        self.direct.as_ref().unwrap().pretended.swap(unit, Ordering::Relaxed)
    }

    /// Direct I/O has failed where buffered I/O did not.
    pub(crate) fn refuse_direct(&self) {
        if self.direct.as_ref().is_some_and(|direct| direct.refusals.refused(Instant::now())) {
            tracing::warn!(path = %self.path.display(), "aligned direct I/O fails here; going on buffered for now");
        }
    }

    /// Direct I/O has worked.
    pub(crate) fn direct_works(&self) {
        if self.direct.as_ref().is_some_and(|direct| direct.refusals.worked()) {
            tracing::info!(path = %self.path.display(), "direct I/O works again");
        }
    }
}

impl Direct {
    fn open(file: &File, path: &Path, flags: OFlags) -> Result<Self, String> {
        let stat = fstat(file).map_err(|error| error.to_string())?;
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::BlockDevice) {
            return Err("it is neither a regular file nor a block device".to_owned());
        }
        let (memory_alignment, needed) = alignment(file)?;
        // Network file systems report what they like to be given at once, up to megabytes; no local block is that large.
        const LARGEST_BLOCK: usize = 64 << 10;
        let block = usize::try_from(stat.st_blksize).unwrap_or(0).min(LARGEST_BLOCK);
        let unit = rustix::param::page_size().max(block).next_multiple_of(needed).max(memory_alignment);
        let flags = (flags & OFlags::RWMODE) | OFlags::DIRECT | OFlags::CLOEXEC;
        // By descriptor it is this inode for certain; by name, where /proc is not mounted, it must be compared.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let fd = open(link.as_str(), flags, Mode::empty()).or_else(|first| {
            let fd = open(path, flags, Mode::empty()).map_err(|_| first.to_string())?;
            let other = fstat(&fd).map_err(|error: Errno| error.to_string())?;
            let same = (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino);
            if same { Ok(fd) } else { Err(first.to_string()) }
        })?;
        let file = Arc::new(File::from(fd));
        Ok(Self {
            file,
            memory_alignment,
            unit,
            #[cfg(test)]
            pretended: unit.into(),
            refusals: Refusals::default(),
        })
    }

    fn unit(&self) -> usize {
        #[cfg(test)]
        return self.pretended.load(Ordering::Relaxed);
        #[cfg(not(test))]
        self.unit
    }

    fn takes(&self, offset: u64, pieces: &[Descriptor]) -> bool {
        // A plugin moves each piece by itself, so each starts and ends at a whole unit of the file.
        offset.is_multiple_of(self.unit() as u64)
            && pieces.iter().all(|piece| {
                piece.address.is_multiple_of(self.memory_alignment) && piece.bytes.is_multiple_of(self.unit())
            })
            && self.refusals.admit(Instant::now())
    }
}

/// Alignment in bytes that the kernel needs for direct I/O on `file`, of memory and of offsets and lengths.
fn alignment(file: &File) -> Result<(usize, usize), String> {
    let usual = (USUAL_ALIGNMENT, USUAL_ALIGNMENT);
    let Ok(stat) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return Ok(usual) };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(usual);
    }
    match (stat.stx_dio_mem_align, stat.stx_dio_offset_align) {
        (0, _) | (_, 0) => Err("the file system says that the file can't".to_owned()),
        (memory, offset) => Ok((memory as usize, offset as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(lengths: &[(usize, usize)]) -> Vec<Descriptor> {
        lengths.iter().map(|&(address, bytes)| Descriptor { address, bytes, device: 0 }).collect()
    }

    #[test]
    fn only_whole_units_go_past_the_page_cache() {
        let file = tempfile::tempfile().unwrap();
        let open = OpenFile::new(&file, Path::new("test"), IoMode::Auto).unwrap();
        let Some(direct) = &open.direct else {
            return eprintln!("went without: direct I/O in {}", std::env::temp_dir().display());
        };
        let unit = direct.unit;
        assert!(open.takes_direct(0, &pieces(&[(0, unit), (8 * unit, 2 * unit)])));
        assert!(!open.takes_direct(1, &pieces(&[(0, unit)])));
        assert!(!open.takes_direct(0, &pieces(&[(0, unit), (8 * unit, unit - 512)])));
        assert!(!open.takes_direct(0, &pieces(&[(1, unit)])));
        (0..REFUSALS).for_each(|_| open.refuse_direct());
        assert!(!open.takes_direct(0, &pieces(&[(0, unit)])));
    }

    #[test]
    fn several_refusals_in_a_row_end_direct_io_for_a_while() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        for _ in 0..10 {
            assert!(!refusals.refused(now) && refusals.admit(now), "one may have passed");
            assert!(!refusals.worked(), "it never ended");
        }
        let ends: Vec<bool> = (0..REFUSALS).map(|_| refusals.refused(now)).collect();
        assert_eq!(ends, [false, false, false, true]);
        assert!(!refusals.admit(now));
        let later = now + LEFT_ALONE;
        assert!(refusals.admit(later) && !refusals.admit(later), "one tries");
        assert!(!refusals.refused(later), "that is no news");
        assert!(!refusals.admit(later));
        let later = later + LEFT_ALONE;
        assert!(refusals.admit(later) && refusals.worked());
        assert!(refusals.admit(later) && refusals.admit(later));
    }

    #[test]
    fn descriptors_are_its_own() {
        let file = tempfile::tempfile().unwrap();
        let open = || OpenFile::new(&file, Path::new("test"), IoMode::Buffered).unwrap();
        let (one, other) = (open(), open());
        assert_ne!(one.buffered.as_raw_fd(), file.as_raw_fd());
        assert_ne!(one.buffered.as_raw_fd(), other.buffered.as_raw_fd());
        assert!(one.direct.is_none() && one.no_direct.is_some());
    }
}
