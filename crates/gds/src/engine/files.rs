//! The descriptor that cuFile gets: the same inode, opened for direct I/O where that can be.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use hicache_core::{Error, Result};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fstat, open};

use crate::CUFILE;
use crate::cufile::{Driver, Handle};

/// Opens the inode of `file` once more and registers it: with `O_DIRECT`, which GPUDirect needs, else as it is.
///
/// # Errors
/// `Config` for a file opened with `O_APPEND`; what cuFile answers for the second way, with the reason that the first failed.
pub(super) fn register(driver: &Arc<Driver>, file: &File, path: &Path) -> Result<Handle> {
    let flags = fcntl_getfl(file).map_err(|error| {
        Error::io("attach", format!("the flags of {} can't be read", path.display()), error.into())
    })?;
    if flags.contains(OFlags::APPEND) {
        return Err(Error::config(format!(
            "{} is open for appending, where writes ignore their offset; open it without",
            path.display()
        ))
        .with_backend(CUFILE));
    }
    let why_not = match reopen(file, path, flags).map_err(|error| error.to_string()) {
        Ok(direct) => match Handle::register(driver, direct) {
            Ok(handle) => return Ok(handle),
            Err(error) => error.to_string(),
        },
        Err(reason) => reason,
    };
    tracing::debug!(path = %path.display(), reason = %why_not, "no direct I/O for cuFile");
    let plain = file.try_clone().map_err(|error| Error::io("attach", path.display().to_string(), error))?;
    Handle::register(driver, OwnedFd::from(plain)).map_err(|error| {
        let message =
            format!("{} can't be used: {}; for direct I/O: {why_not}", path.display(), error.message());
        Error::new(error.kind(), message).with_backend(CUFILE).with_operation("attach")
    })
}

fn reopen(file: &File, path: &Path, flags: OFlags) -> std::io::Result<OwnedFd> {
    let flags = (flags & OFlags::RWMODE) | OFlags::DIRECT | OFlags::CLOEXEC;
    // By descriptor it is this inode for certain; by name, where /proc is not mounted, it must be compared.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let first = match open(link.as_str(), flags, Mode::empty()) {
        Ok(descriptor) => return Ok(descriptor),
        Err(error) => error,
    };
    let descriptor = open(path, flags, Mode::empty()).map_err(|_| first)?;
    let (own, other) = (fstat(file)?, fstat(&descriptor)?);
    if (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino) { Ok(descriptor) } else { Err(first.into()) }
}
