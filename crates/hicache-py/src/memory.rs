//! Foreign memory: regions by address, pages in pieces, token ids in arrays.
//!
//! What Python gives is addresses. Whoever calls [`Memory::register`] vouches for a range: its `owner` keeps it mapped at
//! that place until it is dropped. In the package, `hicache/sglang/pools.py` reads the range from the tensor that it
//! passes as owner. `hicache/_held.py` passes no owner: it holds the tensor in every call that uses the range, and forgets
//! the range when the tensor goes. No address outside a registered range is ever used. Of memory of a GPU the driver is asked
//! as well, each time, since an address that is no memory any more would cost the whole context.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{PoisonError, RwLock};

use hicache::{
    Access, Error, ErrorKind, MemoryKind, PageMemory, Piece, Region, Registration, Result, Storage,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::devices::Devices;

/// The ranges that a storage knows.
#[derive(Default)]
pub(crate) struct Memory {
    ranges: RwLock<Ranges>,
    pub(crate) devices: Devices,
}

#[derive(Default)]
struct Ranges {
    last: u64,
    by_handle: BTreeMap<u64, Registration>,
}

impl Memory {
    /// Makes `bytes` bytes at `address` known to `storage`. Answers a handle.
    pub(crate) fn register(
        &self,
        storage: &dyn Storage,
        address: usize,
        bytes: usize,
        kind: MemoryKind,
        owner: Py<PyAny>,
    ) -> Result<u64> {
        let base = NonNull::new(address as *mut u8)
            .filter(|_| address.checked_add(bytes).is_some())
            .ok_or_else(|| Error::config(format!("{bytes} bytes at address {address:#x} are no memory")))?;
        let owner = Box::new(owner);
        // SAFETY: the Python caller vouches that the range belongs to `owner`, which keeps it where it is until it is
        // dropped (a tensor's storage does not move). Dropping a `Py` without the GIL only notes it for later. Leases
        // are taken in `page`, whose caller vouches for them. That memory of a device is memory of that device, the driver says.
        let region = unsafe {
            match kind {
                MemoryKind::Device(device) => {
                    self.devices.context(device)?.foreign(address as u64, bytes, owner)
                }
                MemoryKind::Host | MemoryKind::PinnedHost => Region::foreign(base, bytes, kind, owner),
            }
        }?;
        let registration = storage.register(&region)?;
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        ranges.last += 1;
        let handle = ranges.last;
        ranges.by_handle.insert(handle, registration);
        Ok(handle)
    }

    /// Forgets a range. It stays registered until the last operation on it has ended.
    pub(crate) fn deregister(&self, handle: u64) -> bool {
        let removed = self.ranges.write().unwrap_or_else(PoisonError::into_inner).by_handle.remove(&handle);
        removed.is_some() // Dropped here, behind the lock.
    }

    /// Forgets all ranges.
    pub(crate) fn clear(&self) {
        let removed =
            std::mem::take(&mut self.ranges.write().unwrap_or_else(PoisonError::into_inner).by_handle);
        drop(removed);
    }

    /// A page in pieces of (address, bytes), inside the range of `handle` or, without one, inside whichever range has
    /// them.
    ///
    /// The Python caller vouches that until the call which uses the page returns nobody else writes its bytes and, where
    /// `access` is for writing, nobody else reads them. SGLang gives a host slot to one operation at a time and reuses
    /// it after the call; a tensor that is passed to `get` or `set` is the caller's to leave alone.
    pub(crate) fn page(
        &self,
        handle: Option<u64>,
        pieces: impl Iterator<Item = (usize, usize)>,
        access: Access,
    ) -> Result<PageMemory> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let pieces = pieces.map(|(address, bytes)| {
            let (registration, offset) = ranges.find(handle, address, bytes)?;
            if let MemoryKind::Device(device) = registration.region().kind() {
                self.devices.context(device)?.check_memory(address as u64, bytes)?;
            }
            // SAFETY: the Python caller vouches for it, as said above.
            unsafe { registration.piece_of_range(offset, bytes, access) }
        });
        PageMemory::from_pieces(pieces.collect::<Result<Vec<Piece>>>()?)
    }
}

impl Ranges {
    fn find(&self, handle: Option<u64>, address: usize, bytes: usize) -> Result<(&Registration, usize)> {
        let inside = |registration: &&Registration| {
            let region = registration.region();
            let offset = address.checked_sub(region.base().as_ptr() as usize);
            offset.and_then(|offset| offset.checked_add(bytes)).is_some_and(|end| end <= region.bytes())
        };
        let found = match handle {
            Some(handle) => self.by_handle.get(&handle).filter(inside),
            None => self.by_handle.values().find(inside),
        };
        let registration = found.ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                format!("{bytes} bytes at {address:#x} are not in registered memory; the pool was freed or replaced"),
            )
        })?;
        Ok((registration, address - registration.region().base().as_ptr() as usize))
    }
}

/// Integers that token ids come as.
pub(crate) trait Id: Copy {}
impl Id for u32 {}
impl Id for i32 {}
impl Id for u64 {}
impl Id for i64 {}

/// `count` ids at `address`. The Python caller vouches that they are there and stay unchanged until its call returns:
/// it holds the array.
pub(crate) fn ids_at<'a, T: Id>(address: usize, count: usize) -> PyResult<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
    if address == 0 || !address.is_multiple_of(align_of::<T>()) || bytes.is_none() {
        return Err(PyValueError::new_err(format!(
            "{count} token ids at address {address:#x} are not an array"
        )));
    }
    // SAFETY: not null, aligned, of a length that fits, and every bit pattern is an integer; the Python caller vouches
    // for the rest, as said above.
    Ok(unsafe { std::slice::from_raw_parts(address as *const T, count) })
}
