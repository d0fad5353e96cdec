//! The capacity of a root. The file system is the ledger: under the root's lock, what all files take is summed before
//! one more segment is allocated, so a crash needs no repair.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hicache_core::{Error, ErrorKind, Result};

use super::census::Census;
use super::locks::lock_within;

/// Physical bytes of everything under `path`. What disappears meanwhile counts nothing.
pub(crate) fn physical_bytes(path: &Path) -> io::Result<u64> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut sum = own_bytes(&metadata);
    if metadata.is_dir() {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // What is below a directory that is nobody else's business (`lost+found`) does not count.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                return Ok(sum);
            }
            Err(error) => return Err(error),
        };
        for entry in entries {
            sum += physical_bytes(&entry?.path())?;
        }
    }
    Ok(sum)
}

/// What one file or directory takes, without what is in it.
pub(super) fn own_bytes(metadata: &fs::Metadata) -> u64 {
    // A file that could not be allocated beforehand (no fallocate there) counts with the length that it will have.
    let logical = if metadata.is_file() { metadata.len() } else { 0 };
    (metadata.blocks() * 512).max(logical)
}

/// What the file system of `path` has free for us. Some report nothing of that kind (ramfs): those have no limit.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(path)?;
    if space.f_blocks == 0 {
        return Ok(u64::MAX);
    }
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// The limit on a root.
#[derive(Debug)]
pub(crate) struct Ledger {
    root: PathBuf,
    lock: File,
    /// A lock of a file is its opener's, and so no lock among the threads of a process.
    threads: Mutex<()>,
    capacity_bytes: u64,
}

/// The ledger while nobody else can allocate.
#[derive(Debug)]
pub(crate) struct OpenLedger<'a> {
    ledger: &'a Ledger,
    /// Who is there, and what they take.
    pub(crate) census: Census,
    /// What the file system has free now.
    pub(crate) free: u64,
    #[expect(dead_code, reason = "held as long as the ledger is open")]
    held: RootLock<'a>,
}

/// The root's lock.
#[derive(Debug)]
pub(crate) struct RootLock<'a> {
    lock: &'a File,
    #[expect(dead_code, reason = "held as long as the lock is")]
    threads: MutexGuard<'a, ()>,
}

impl Ledger {
    /// Opens the root's lock. Without a limit, the capacity is what the root takes now and nine tenths of what its
    /// file system has free now.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn open(root: &Path, capacity_bytes: Option<u64>) -> Result<Self> {
        let io = |error| Error::io("open", format!("root {}", root.display()), error);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(root.join("LOCK"))
            .map_err(io)?;
        let capacity_bytes = match capacity_bytes {
            Some(bytes) => bytes,
            None => physical_bytes(root).map_err(io)?.saturating_add(free_bytes(root).map_err(io)? / 10 * 9),
        };
        Ok(Self { root: root.to_owned(), lock, threads: Mutex::new(()), capacity_bytes })
    }

    /// The limit that this store was opened with.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the root's lock, which nobody holds for long: whoever can't have it in time goes on without.
    ///
    /// # Errors
    /// `Busy`, `Io`.
    pub(crate) fn lock_root(&self, within: Duration) -> Result<RootLock<'_>> {
        let io = |error| Error::io("lock", format!("root {}", self.root.display()), error);
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if lock_within(&self.lock, within).map_err(io)? {
            return Ok(RootLock { lock: &self.lock, threads });
        }
        let text = format!(
            "the lock of root {} was not to be had within {within:?}; some process that uses it is stopped",
            self.root.display()
        );
        Err(Error::new(ErrorKind::Busy, text).with_retryable(true))
    }

    /// Takes the root's lock and sums. The set `own` is listed apart: what its metadata takes changes from one moment to
    /// the next, so whoever has it counts it with what it may come to take.
    ///
    /// # Errors
    /// `Busy`, `Io`.
    pub(crate) fn lock(&self, own: &Path, within: Duration) -> Result<OpenLedger<'_>> {
        let held = self.lock_root(within)?;
        let io = |error| Error::io("sum", format!("root {}", self.root.display()), error);
        let census = Census::take(&self.root, own).map_err(io)?;
        let free = free_bytes(&self.root).map_err(io)?;
        Ok(OpenLedger { ledger: self, census, free, held })
    }
}

impl OpenLedger<'_> {
    /// The limit that counts: the smallest of the living writers.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.census
            .least_capacity()
            .map_or(self.ledger.capacity_bytes, |least| least.min(self.ledger.capacity_bytes))
    }

    /// Sums again, after something was removed.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn sum_again(&mut self, own: &Path) -> Result<()> {
        let io = |error| Error::io("sum", format!("root {}", self.ledger.root.display()), error);
        self.census = Census::take(&self.ledger.root, own).map_err(io)?;
        self.free = free_bytes(&self.ledger.root).map_err(io)?;
        Ok(())
    }
}

impl Drop for RootLock<'_> {
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}
