//! The capacity of a root. The file system is the ledger: under the root's lock, what all files take is summed before
//! one more segment is allocated, so a crash needs no repair.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hicache_core::{Error, Result};

/// Physical bytes of everything under `path`. What disappears meanwhile counts nothing.
pub(crate) fn physical_bytes(path: &Path) -> io::Result<u64> {
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
            sum += physical_bytes(&entry?.path())?;
        }
    }
    Ok(sum)
}

/// The limit on a root.
#[derive(Debug)]
pub(crate) struct Ledger {
    root: PathBuf,
    lock: File,
    capacity_bytes: u64,
}

/// The ledger while nobody else can allocate.
pub(crate) struct OpenLedger<'a> {
    ledger: &'a Ledger,
    /// Physical bytes under the root now.
    pub(crate) used: u64,
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
            None => {
                let space = rustix::fs::statvfs(root).map_err(|error| io(error.into()))?;
                let free = space.f_bavail.saturating_mul(space.f_frsize);
                physical_bytes(root).map_err(io)?.saturating_add(free / 10 * 9)
            }
        };
        Ok(Self { root: root.to_owned(), lock, capacity_bytes })
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Waits for the root's lock and sums.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn lock(&self) -> Result<OpenLedger<'_>> {
        let io = |error| Error::io("lock", format!("root {}", self.root.display()), error);
        self.lock.lock().map_err(io)?;
        match physical_bytes(&self.root) {
            Ok(used) => Ok(OpenLedger { ledger: self, used }),
            Err(error) => {
                let _ = self.lock.unlock();
                Err(io(error))
            }
        }
    }
}

impl OpenLedger<'_> {
    /// What may still be taken.
    pub(crate) fn left(&self) -> u64 {
        self.ledger.capacity_bytes.saturating_sub(self.used)
    }
}

impl Drop for OpenLedger<'_> {
    fn drop(&mut self) {
        let _ = self.ledger.lock.unlock();
    }
}
