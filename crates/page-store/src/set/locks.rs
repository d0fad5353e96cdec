//! Locks of files, taken in bounded time, and whether a file that was locked is still the one at its path.

use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Locks a file. False if somebody else held it all the time: whoever holds one of ours does so briefly, unless it is
/// stopped.
///
/// # Errors
/// What the file system says.
pub(super) fn lock_within(file: &File, within: Duration) -> io::Result<bool> {
    let until = Instant::now() + within;
    let mut pause = Duration::from_micros(100);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Whether `file` is what lies at `path`.
pub(crate) fn lies_at(file: &File, path: &Path) -> bool {
    let ids = file.metadata().and_then(|open| Ok((FileId::of(&open), FileId::of(&fs::metadata(path)?))));
    ids.is_ok_and(|(open, there)| open == there)
}
