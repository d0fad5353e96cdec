//! The bytes that are moved where there is a device.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use hicache_core::{Access, Direction, Error, ErrorKind, Lease, Region, Result};
use rustix::fs::{Mode, OFlags, open};

use crate::GDS;
use crate::cuda::Context;
use crate::cufile::batch::BatchOperation;
use crate::cufile::{BatchQueue, Driver, Handle};
use crate::staged::{Copier, CopyFailure, CudaCopier, StagedCopy};

/// Bytes of a page of the probe.
const PAGE: usize = 64 << 10;
/// Pages of the probe; they differ.
const PAGES: usize = 2;

/// Pinned memory, memory of the device, and a lane between them.
struct Both {
    host: Arc<Region>,
    device: Arc<Region>,
    copier: CudaCopier,
}

impl Both {
    fn new(context: &Arc<Context>) -> Result<Self> {
        let copier = CudaCopier::new(Arc::clone(context));
        Ok(Self {
            host: copier.allocate_staging(PAGES, PAGE)?,
            device: context.allocate(1, PAGES, PAGE)?,
            copier,
        })
    }

    fn device(&self, page: usize) -> Result<Lease> {
        self.device.lease(page, 0, PAGE, Access::Write)
    }

    /// Puts these bytes onto a page of the device.
    fn put(&self, page: usize, fill: impl Fn(usize) -> u8) -> Result<()> {
        let mut host = self.host.lease(page, 0, PAGE, Access::Write)?;
        host.bytes_mut()?.iter_mut().enumerate().for_each(|(i, byte)| *byte = fill(i));
        self.copy(Direction::Read, &host, &self.device(page)?)
    }

    /// Whether a page of the device holds these bytes.
    fn expect(&self, page: usize, fill: impl Fn(usize) -> u8) -> Result<()> {
        let mut host = self.host.lease(page, 0, PAGE, Access::Write)?;
        host.bytes_mut()?.fill(0x5a);
        self.copy(Direction::Write, &host, &self.device(page)?)?;
        match host.bytes()?.iter().enumerate().position(|(i, &byte)| byte != fill(i)) {
            None => Ok(()),
            Some(at) => {
                let message = format!("byte {at} of page {page} is not the one that was written");
                Err(Error::new(ErrorKind::Corrupt, message).with_backend(GDS))
            }
        }
    }

    fn copy(&self, direction: Direction, host: &Lease, device: &Lease) -> Result<()> {
        let copy = StagedCopy { staging: host.address(), memory: device.address(), bytes: PAGE };
        // SAFETY: both are leased for writing until this returns; a copy that is lost ends the probe, and its process.
        unsafe { self.copier.lane()?.copy(direction, &[copy]) }.map_err(|failure| match failure {
            CopyFailure::Ended(error) | CopyFailure::Lost(error) => error,
        })
    }
}

/// Byte `i` of page `page`, in round `round`.
fn byte(round: u8, page: usize, i: usize) -> u8 {
    (i as u8) ^ ((i >> 8) as u8) ^ (page as u8 + 1).wrapping_mul(37) ^ round
}

/// Bytes to the device and back.
pub(super) fn staged(context: &Arc<Context>) -> Result<usize> {
    let both = Both::new(context)?;
    for page in 0..PAGES {
        both.put(page, |i| byte(0, page, i))?;
    }
    for page in 0..PAGES {
        both.expect(page, |i| byte(0, page, i))?;
    }
    Ok(PAGES * PAGE)
}

/// `must_be_direct` refuses what goes through the page cache: that is host memory.
fn file_in(driver: &Arc<Driver>, directory: &Path, must_be_direct: bool) -> Result<Arc<Handle>> {
    let failed = |error| Error::io("probe", format!("no file can be made in {}", directory.display()), error);
    let named = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    let direct = open(named.path(), OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
    let descriptor = match direct {
        Ok(descriptor) => descriptor,
        Err(errno) if must_be_direct => {
            let why = format!("{} takes no direct I/O", directory.display());
            return Err(Error::io("probe", why, errno.into()));
        }
        Err(_) => OwnedFd::from(named.reopen().map_err(failed)?),
    };
    // The name goes, the file stays until the handle does.
    Ok(Arc::new(Handle::register(driver, descriptor)?))
}

/// Pages from the device to a file and, the other way round, back.
pub(super) fn through_cufile(
    driver: &Arc<Driver>,
    context: &Arc<Context>,
    directory: &Path,
    must_be_direct: bool,
) -> Result<usize> {
    let both = Both::new(context)?;
    let file = file_in(driver, directory, must_be_direct)?;
    for page in 0..PAGES {
        both.put(page, |i| byte(1, page, i))?;
    }
    for direction in [Direction::Write, Direction::Read] {
        for page in 0..PAGES {
            // Read in the other order, so that whoever mixes pages up is found out.
            let at = if direction == Direction::Read { PAGES - 1 - page } else { page };
            let lease = both.device(page)?;
            // SAFETY: the page is leased for writing until the call has returned.
            let moved = unsafe { file.transfer(direction, lease.address(), 0, PAGE, (at * PAGE) as u64) }?;
            complete(moved)?;
        }
    }
    for page in 0..PAGES {
        both.expect(page, |i| byte(1, PAGES - 1 - page, i))?;
    }
    Ok(PAGES * PAGE)
}

/// Two operations of one batch, from different offsets of the file to different places in memory.
pub(super) fn in_batches(driver: &Arc<Driver>, context: &Arc<Context>, directory: &Path) -> Result<()> {
    let both = Both::new(context)?;
    let file = file_in(driver, directory, false)?;
    let mut queue = BatchQueue::new(driver, PAGES)?;
    for page in 0..PAGES {
        both.put(page, |i| byte(2, page, i))?;
    }
    for direction in [Direction::Write, Direction::Read] {
        let leases = (0..PAGES).map(|page| both.device(page)).collect::<Result<Vec<_>>>()?;
        let operations: Vec<_> = leases
            .iter()
            .enumerate()
            .map(|(page, lease)| BatchOperation {
                handle: Arc::clone(&file),
                direction,
                address: lease.address(),
                bytes: PAGE,
                offset: if direction == Direction::Read { (PAGES - 1 - page) * PAGE } else { page * PAGE }
                    as u64,
            })
            .collect();
        // SAFETY: the pages are leased for writing until it returns; after a loss the probe's process ends.
        match unsafe { queue.run(&operations) } {
            Ok(outcomes) => outcomes.into_iter().try_for_each(|outcome| complete(outcome?))?,
            Err(lost) => {
                std::mem::forget((leases, queue));
                return Err(lost.0);
            }
        }
    }
    for page in 0..PAGES {
        both.expect(page, |i| byte(2, PAGES - 1 - page, i))?;
    }
    Ok(())
}

fn complete(moved: u64) -> Result<()> {
    if moved == PAGE as u64 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Io, "short transfer").with_backend(GDS).with_bytes(PAGE as u64, moved))
}
