//! Regions of device memory, of pinned host memory, and of device memory that somebody else allocated.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::any::Any;
use std::ffi::{c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use cudarc::driver::sys;
use hicache_core::{Error, MemoryKind, Region, Result, SLOT_ALIGNMENT};

use super::context::Context;
use super::driver::check;
use crate::GDS;

/// Regions start at multiples of this: the pages of a GPU, which cuFile pins.
const GPU_PAGE: usize = 64 << 10;

/// Bytes of a slot, of a plane, and of all planes.
fn sizes(planes: usize, slots: usize, slot_bytes: usize) -> Result<(usize, usize, usize)> {
    let fits = || {
        let stride = slot_bytes.checked_next_multiple_of(SLOT_ALIGNMENT)?;
        let plane = stride.checked_mul(slots)?.checked_next_multiple_of(GPU_PAGE)?;
        let all = plane.checked_mul(planes)?.checked_add(GPU_PAGE)?;
        (all <= isize::MAX as usize && planes > 0 && slots > 0 && slot_bytes > 0)
            .then_some((stride, plane, all))
    };
    fits().ok_or_else(|| {
        Error::config(format!(
            "a region of {planes} times {slots} slots of {slot_bytes} bytes can't be; each must be at least 1, and all \
             together fit an address space"
        ))
        .with_backend(GDS)
    })
}

/// The starts of the planes, from an address that is not null.
fn starts(base: NonNull<u8>, planes: usize, plane_bytes: usize) -> Vec<NonNull<u8>> {
    // In range of the allocation; `wrapping_add` keeps the provenance and can't be null there.
    let start = |plane: usize| NonNull::new(base.as_ptr().wrapping_add(plane * plane_bytes)).unwrap_or(base);
    (0..planes).map(start).collect()
}

impl Context {
    /// Allocates memory of the device: `planes` planes of `slots` slots of at least `slot_bytes` bytes, rounded up to
    /// [`SLOT_ALIGNMENT`]. It holds anything.
    ///
    /// # Errors
    /// `Config` for sizes of 0 and such that overflow; `NoSpace` where the device has not so much.
    pub fn allocate(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        let (stride, plane, all) = sizes(planes, slots, slot_bytes)?;
        let _bound = self.bind()?;
        let mut address: sys::CUdeviceptr = 0;
        // SAFETY: a context is bound; it writes one address.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut address, all) })?;
        let owner = self.owner_of_device(address);
        let aligned = (address as usize).next_multiple_of(GPU_PAGE);
        let base = NonNull::new(ptr::without_provenance_mut::<u8>(aligned)).ok_or_else(null)?;
        let kind = MemoryKind::Device(self.ordinal());
        // SAFETY: a fresh allocation, long enough for the planes from the first page on, and given to nobody else; the owner
        // frees it, without blocking.
        unsafe { Region::adopt(&starts(base, planes, plane), slots, stride, kind, Box::new(owner)) }
    }

    /// Allocates memory of the host that the driver has pinned for all devices. It holds anything.
    ///
    /// # Errors
    /// As [`Context::allocate`]; `NoSpace` where the system lets no more be pinned.
    pub fn allocate_pinned(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        let (stride, plane, all) = sizes(planes, slots, slot_bytes)?;
        let _bound = self.bind()?;
        let mut address: *mut c_void = ptr::null_mut();
        const PORTABLE: c_uint = 1;
        // SAFETY: a context is bound; it writes one address.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&raw mut address, all, PORTABLE) })?;
        let owner = self.owner_of_host(address);
        let skip = (address as usize).next_multiple_of(GPU_PAGE) - address as usize;
        let base = NonNull::new(address.cast::<u8>().wrapping_add(skip)).ok_or_else(null)?;
        // SAFETY: as above, and the CPU can read and write it. Pinned memory comes zeroed from the system.
        unsafe {
            Region::adopt(
                &starts(base, planes, plane),
                slots,
                stride,
                MemoryKind::PinnedHost,
                Box::new(owner),
            )
        }
    }

    /// Memory of this device that somebody else allocated, such as a tensor, kept alive by `owner`.
    ///
    /// # Errors
    /// `Config` for an address that is not memory of this device (freed memory among them, as long as nobody was given it
    /// again), and for a range that reaches beyond its allocation.
    ///
    /// # Safety
    /// As [`Region::foreign`].
    pub unsafe fn foreign(
        &self,
        address: u64,
        bytes: usize,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Result<Arc<Region>> {
        self.check_memory(address, bytes)?;
        let base = usize::try_from(address)
            .ok()
            .and_then(|address| NonNull::new(ptr::without_provenance_mut(address)));
        let kind = MemoryKind::Device(self.ordinal());
        // SAFETY: the caller makes the same promise.
        unsafe { Region::foreign(base.ok_or_else(null)?, bytes, kind, owner) }
    }

    /// Whether bytes are memory of this device. Whoever has foreign memory may ask again before it is used: an address that is
    /// no memory any more would cost the context, and with it everybody's memory in it.
    ///
    /// # Errors
    /// `Config` as [`Context::foreign`].
    pub fn check_memory(&self, address: u64, bytes: usize) -> Result<()> {
        use sys::CUpointer_attribute as Attribute;
        let _bound = self.bind()?;
        let wrong = |what: String| {
            Error::config(format!("the {bytes} bytes at {address:#x}: {what}")).with_backend(GDS)
        };
        let unknown = |_| {
            wrong("CUDA does not know them; is that a tensor on a GPU, and is it still there?".to_owned())
        };
        let kind: u32 = attribute(Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address).map_err(unknown)?;
        if kind != sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32 {
            return Err(wrong("they are memory of the host, not of a device".to_owned()));
        }
        let ordinal: i32 =
            attribute(Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address).map_err(unknown)?;
        if u32::try_from(ordinal) != Ok(self.ordinal()) {
            return Err(wrong(format!("they are memory of device {ordinal}, not of {}", self.ordinal())));
        }
        let start: u64 =
            attribute(Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address).map_err(unknown)?;
        let length: usize =
            attribute(Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE, address).map_err(unknown)?;
        let end = address.checked_add(bytes as u64);
        if end.is_none_or(|end| end > start.saturating_add(length as u64)) {
            return Err(wrong(format!(
                "their allocation ends at {:#x}",
                start.saturating_add(length as u64)
            )));
        }
        Ok(())
    }
}

/// One attribute of the memory at an address. `T` is of the size that the driver writes for this attribute.
fn attribute<T: Default>(attribute: sys::CUpointer_attribute, address: u64) -> Result<T> {
    let mut value = T::default();
    // SAFETY: every caller above names the type that CUDA's documentation has for the attribute: an unsigned or a signed
    // integer of 4 bytes, an address, a size. Nothing at the address is touched.
    check("cuPointerGetAttribute", unsafe {
        sys::cuPointerGetAttribute((&raw mut value).cast::<c_void>(), attribute, address)
    })?;
    Ok(value)
}

fn null() -> Error {
    Error::new(hicache_core::ErrorKind::Unexpected, "an allocation starts at address 0").with_backend(GDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert_eq!(sizes(2, 3, 5000).unwrap(), (8192, 64 << 10, 3 * (64 << 10)));
        for (planes, slots, bytes) in
            [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, usize::MAX, 4096), (usize::MAX, 2, 1)]
        {
            assert!(sizes(planes, slots, bytes).is_err(), "{planes} {slots} {bytes}");
        }
        assert!(sizes(1, 1, usize::MAX).is_err());
    }
}
