//! The capacity of a root. The file system is the ledger: under the root's lock, what all files take is summed before
//! one more segment is allocated, so a crash needs no repair.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hicache_core::{Error, Result};

/// Physical bytes of everything under `path`. What disappears meanwhile counts nothing.
pub(crate) fn physical_bytes(path: &Path) -> io::Result<u64> {
    physical_bytes_without(path, None)
}

fn physical_bytes_without(path: &Path, without: Option<&Path>) -> io::Result<u64> {
    if without == Some(path) {
        return Ok(0);
    }
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    // A file that could not be allocated beforehand (no fallocate there) counts with the length that it will have.
    let logical = if metadata.is_file() { metadata.len() } else { 0 };
    let mut sum = (metadata.blocks() * 512).max(logical);
    if metadata.is_dir() {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        for entry in entries {
            sum += physical_bytes_without(&entry?.path(), without)?;
        }
    }
    Ok(sum)
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
pub(crate) struct OpenLedger<'a> {
    ledger: &'a Ledger,
    /// Physical bytes under the root now, apart from the set that asked.
    pub(crate) others: u64,
    /// What the file system has free now.
    pub(crate) free: u64,
    #[expect(dead_code, reason = "held as long as the ledger is open")]
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

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Waits for the root's lock and sums, without the set `own`: what its metadata takes changes from one moment to
    /// the next, so whoever has it counts it with what it may come to take.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn lock(&self, own: &Path) -> Result<OpenLedger<'_>> {
        let io = |error| Error::io("lock", format!("root {}", self.root.display()), error);
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock.lock().map_err(io)?;
        let others = physical_bytes_without(&self.root, Some(own));
        match others.and_then(|others| Ok((others, free_bytes(&self.root)?))) {
            Ok((others, free)) => Ok(OpenLedger { ledger: self, others, free, threads }),
            Err(error) => {
                let _ = self.lock.unlock();
                Err(io(error))
            }
        }
    }
}

impl Drop for OpenLedger<'_> {
    fn drop(&mut self) {
        let _ = self.ledger.lock.unlock();
    }
}
