//! The right to touch a part of a region.

use std::fmt;
use std::sync::Arc;

use super::allocation::Region;
use crate::error::{Error, Result};

/// What a lease allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Shared read.
    Read,
    /// Exclusive read and write.
    Write,
}

/// Shared read or exclusive write of a part of a [`Region`], until it is dropped. Not `Clone`: it is moved into the
/// engine that moves the bytes, and moved back when they have stopped moving.
pub struct Lease {
    region: Arc<Region>,
    offset: usize,
    bytes: usize,
    access: Access,
    slot: Option<usize>,
}

impl Lease {
    pub(super) fn new(
        region: Arc<Region>,
        offset: usize,
        bytes: usize,
        access: Access,
        slot: Option<usize>,
    ) -> Self {
        Self { region, offset, bytes, access, slot }
    }

    /// The region that this is a part of.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Where the part starts, in bytes from the region's base.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Length in bytes; never 0.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Always false: empty leases are refused.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What the lease allows.
    pub fn access(&self) -> Access {
        self.access
    }

    /// First address. Safe to have; whoever dereferences it, or hands it to a kernel or a device, must hold the lease
    /// until the access has ended, and must not write with [`Access::Read`].
    pub fn address(&self) -> *mut u8 {
        // `wrapping_add` because the range was checked when the lease was made, and an address alone needs no unsafe.
        self.region.base().as_ptr().wrapping_add(self.offset)
    }

    /// The bytes.
    ///
    /// # Errors
    /// `Config` for device memory, which the CPU can't read.
    pub fn bytes(&self) -> Result<&[u8]> {
        self.host_only()?;
        // SAFETY: offset and length were checked against the region, which the Arc keeps alive. A lease excludes
        // writers: of our own memory by the slot state, of foreign memory by the promise made to `lease_range`.
        // Engines own the lease while they write, so no `&Lease` of the caller exists then.
        Ok(unsafe { std::slice::from_raw_parts(self.address(), self.bytes) })
    }

    /// The bytes, to be changed.
    ///
    /// # Errors
    /// `Config` for a read lease and for device memory.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        self.host_only()?;
        if self.access != Access::Write {
            return Err(Error::config("a read lease can't be written; take a write lease"));
        }
        // SAFETY: as in `bytes`, and a write lease excludes everybody else; `&mut self` excludes our own borrows.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.address(), self.bytes) })
    }

    /// Number of planes of the region; the lease is of the same range in each. Above, the first is meant.
    pub fn planes(&self) -> usize {
        self.region.planes()
    }

    /// First address in one plane; to be used as [`Lease::address`].
    pub fn plane_address(&self, plane: usize) -> Option<*mut u8> {
        Some(self.region.plane(plane)?.as_ptr().wrapping_add(self.offset))
    }

    /// The bytes in one plane.
    ///
    /// # Errors
    /// `Config` for device memory and for a plane that does not exist.
    pub fn plane(&self, plane: usize) -> Result<&[u8]> {
        self.host_only()?;
        let address = self.plane_address(plane).ok_or_else(|| self.no_plane(plane))?;
        // SAFETY: as in `bytes`: the range was checked against the length that all planes have.
        Ok(unsafe { std::slice::from_raw_parts(address, self.bytes) })
    }

    /// The bytes in one plane, to be changed.
    ///
    /// # Errors
    /// As [`Lease::bytes_mut`], and `Config` for a plane that does not exist.
    pub fn plane_mut(&mut self, plane: usize) -> Result<&mut [u8]> {
        self.host_only()?;
        if self.access != Access::Write {
            return Err(Error::config("a read lease can't be written; take a write lease"));
        }
        let address = self.plane_address(plane).ok_or_else(|| self.no_plane(plane))?;
        // SAFETY: as in `bytes_mut`: the range was checked against the length that all planes have.
        Ok(unsafe { std::slice::from_raw_parts_mut(address, self.bytes) })
    }

    fn no_plane(&self, plane: usize) -> Error {
        Error::config(format!("plane {plane} does not exist; the region has {}", self.planes()))
    }

    /// Gives up writing and keeps reading, with no moment in between in which another could write.
    pub fn into_read(mut self) -> Self {
        if self.access == Access::Write {
            self.region.downgrade(self.slot);
            self.access = Access::Read;
        }
        self
    }

    fn host_only(&self) -> Result<()> {
        if self.region.kind().is_host() {
            return Ok(());
        }
        Err(Error::config(format!(
            "memory of {:?} can't be read by the CPU; copy it first",
            self.region.kind()
        )))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.region.end_lease(self.slot, self.access);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("offset", &self.offset)
            .field("bytes", &self.bytes)
            .field("access", &self.access)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
