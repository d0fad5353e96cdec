//! One inode, opened for direct and for buffered I/O, and which of the two an operation takes.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hicache_core::{Error, Extent, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, fcntl_getfl, fstat, open, statx};

use crate::config::IoMode;
use crate::table::Slot;

/// Alignment that direct I/O is taken to need where the kernel does not say; no device in use needs more.
const USUAL_ALIGNMENT: u32 = 4096;

/// A file as an engine uses it.
pub(crate) struct OpenFile {
    /// For messages: the file may be gone from there.
    pub(crate) path: PathBuf,
    pub(crate) buffered: Descriptor<Arc<File>>,
    pub(crate) direct: Option<Direct>,
    pub(crate) no_direct: Option<String>,
}

/// A descriptor and, with io_uring, its slot in the kernel's table.
pub(crate) struct Descriptor<F> {
    pub(crate) fd: F,
    pub(crate) slot: Option<Slot>,
}

/// The file opened with `O_DIRECT`.
pub(crate) struct Direct {
    pub(crate) descriptor: Descriptor<OwnedFd>,
    pub(crate) memory_alignment: usize,
    /// Of the lengths of pieces.
    length_alignment: usize,
    /// Of the offset and the whole length. Whole pages and blocks of the file system: the kernel does not keep a direct
    /// operation and a buffered one consistent that share one of these, though their bytes are apart.
    pub(crate) offset_alignment: usize,
    refused: AtomicBool,
}

/// How an operation gets at the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Direct,
    Buffered,
}

impl OpenFile {
    /// Opens `file` a second time for direct I/O, unless `io` says otherwise or the file system can't.
    ///
    /// # Errors
    /// `Config` for a file opened with `O_APPEND`, whose writes would ignore their offsets; `Io` if it can't be
    /// examined.
    pub(crate) fn new(file: Arc<File>, path: &Path, io: IoMode) -> Result<Self> {
        let failed = |what: &str, e: rustix::io::Errno| {
            Error::io("attach", format!("{what} of {} can't be read", path.display()), e.into())
        };
        let flags = fcntl_getfl(&*file).map_err(|e| failed("the flags", e))?;
        if flags.contains(OFlags::APPEND) {
            return Err(Error::config(format!(
                "{} is open for appending, where writes ignore their offset; open it without",
                path.display()
            )));
        }
        let direct = match io {
            IoMode::Buffered => Err("io is \"buffered\"".to_owned()),
            IoMode::Auto | IoMode::Direct => Direct::open(&file, path, flags),
        };
        let (direct, no_direct) = match direct {
            Ok(direct) => (Some(direct), None),
            Err(reason) => (None, Some(reason)),
        };
        let buffered = Descriptor { fd: file, slot: None };
        Ok(Self { path: path.to_owned(), buffered, direct, no_direct })
    }

    /// The way that offset and memory of the bytes after the first `done` of `extent` allow.
    pub(crate) fn way(&self, extent: &Extent, done: u64) -> Through {
        match &self.direct {
            Some(direct) if direct.takes(extent, done) => Through::Direct,
            _ => Through::Buffered,
        }
    }

    /// The descriptor for `way`, and its slot.
    pub(crate) fn descriptor(&self, way: Through) -> (BorrowedFd<'_>, Option<&Slot>) {
        match (way, &self.direct) {
            (Through::Direct, Some(direct)) => {
                (direct.descriptor.fd.as_fd(), direct.descriptor.slot.as_ref())
            }
            _ => (self.buffered.fd.as_fd(), self.buffered.slot.as_ref()),
        }
    }

    /// Uses direct I/O no more, since the kernel refuses what should have been aligned.
    pub(crate) fn refuse_direct(&self) {
        if let Some(direct) = &self.direct
            && !direct.refused.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(path = %self.path.display(), "the kernel refuses aligned direct I/O; going on buffered");
        }
    }

    /// The descriptors with their slots.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (BorrowedFd<'_>, &Slot)> {
        let buffered = self.buffered.slot.as_ref().map(|slot| (self.buffered.fd.as_fd(), slot));
        let direct = self.direct.as_ref().map(|direct| &direct.descriptor);
        let direct = direct.and_then(|d| d.slot.as_ref().map(|slot| (d.fd.as_fd(), slot)));
        buffered.into_iter().chain(direct)
    }
}

impl Direct {
    fn open(file: &File, path: &Path, flags: OFlags) -> Result<Self, String> {
        let stat = fstat(file).map_err(|e| e.to_string())?;
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::BlockDevice) {
            return Err("it is neither a regular file nor a block device".to_owned());
        }
        let (memory_alignment, needed) = alignment(file)?;
        // Network file systems report what they like to be given at once, up to megabytes; no local block is that large.
        const LARGEST_BLOCK: usize = 64 << 10;
        let block = usize::try_from(stat.st_blksize).unwrap_or(0).min(LARGEST_BLOCK);
        let unit = rustix::param::page_size().max(block);
        let offset_alignment = unit.next_multiple_of(needed);
        let flags = (flags & OFlags::RWMODE) | OFlags::DIRECT | OFlags::CLOEXEC;
        // By descriptor it is this inode for certain; by name, where /proc is not mounted, it must be compared.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let fd = open(link.as_str(), flags, Mode::empty()).or_else(|first| {
            let fd = open(path, flags, Mode::empty()).map_err(|_| first.to_string())?;
            let other = fstat(&fd).map_err(|e| e.to_string())?;
            if (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino) {
                Ok(fd)
            } else {
                Err(first.to_string())
            }
        })?;
        let descriptor = Descriptor { fd, slot: None };
        let length_alignment = needed.max(memory_alignment);
        let refused = AtomicBool::new(false);
        Ok(Self { descriptor, memory_alignment, length_alignment, offset_alignment, refused })
    }

    fn takes(&self, extent: &Extent, done: u64) -> bool {
        // Only the first piece that is left starts somewhere within; if `done` and everything is aligned, so is it.
        !self.refused.load(Ordering::Relaxed)
            && (extent.offset + done).is_multiple_of(self.offset_alignment as u64)
            && extent.memory.bytes().is_multiple_of(self.offset_alignment)
            && done.is_multiple_of(self.memory_alignment.max(self.offset_alignment) as u64)
            && extent.memory.pieces().iter().all(|piece| {
                (piece.lease().address() as usize).is_multiple_of(self.memory_alignment)
                    && piece.len().is_multiple_of(self.length_alignment)
            })
    }
}

/// Alignment in bytes that the kernel needs for direct I/O on `file`, of memory and of offsets and lengths.
fn alignment(file: &File) -> Result<(usize, usize), String> {
    let usual = (USUAL_ALIGNMENT as usize, USUAL_ALIGNMENT as usize);
    let Ok(stat) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return Ok(usual) };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(usual);
    }
    match (stat.stx_dio_mem_align, stat.stx_dio_offset_align) {
        (0, _) | (_, 0) => Err("the file system says that the file can't".to_owned()),
        (memory, offset) => Ok((memory as usize, offset as usize)),
    }
}
