//! Regions: where they come from, and the slots that ours are cut in.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{Advice, MmapMut, MmapOptions};
use serde::{Deserialize, Serialize};

use super::lease::{Access, Lease};
use super::slot_state::SlotState;
use crate::error::{Error, ErrorKind, Result};

/// Slots start at multiples of this many bytes, so that direct I/O can use them.
pub const SLOT_ALIGNMENT: usize = 4096;

/// Size and alignment of a transparent huge page on the machines that have them.
const HUGE_PAGE: usize = 2 << 20;

/// Where memory lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryKind {
    /// Ordinary memory of this process.
    Host,
    /// Memory of this process that a device driver has pinned.
    PinnedHost,
    /// Memory of the device with this ordinal.
    Device(u32),
}

impl MemoryKind {
    /// Whether the CPU can read and write it.
    pub const fn is_host(self) -> bool {
        !matches!(self, Self::Device(_))
    }
}

/// What keeps the bytes alive. Never read again after construction: dropping it frees the memory.
enum Backing {
    Mapped(#[expect(dead_code, reason = "held for its drop")] MmapMut),
    Foreign(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>),
    /// Of a device's driver, given to us alone.
    Adopted(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>),
}

/// One allocation that does not move while it lives.
///
/// Our own regions are cut in slots, and a conflicting lease of a slot is `Busy`. Of foreign memory (SGLang's pool, a
/// tensor) only the number of leases is counted: whoever made the region vouches that leases don't conflict.
///
/// A region may have several *planes* of equal length, as a pool with one buffer a layer has: slot `i` is then the
/// `i`-th slot of every plane, and one lease is the right to all of them.
pub struct Region {
    /// Where each plane starts; never empty.
    planes: Box<[NonNull<u8>]>,
    bytes: usize,
    kind: MemoryKind,
    slot_bytes: usize,
    slots: Box<[SlotState]>,
    leases: AtomicUsize,
    backing: Backing,
}

// SAFETY: the region hands out addresses, never references, except through leases, whose states keep a writer apart
// from everybody else (foreign memory: the caller of `Region::foreign` vouches for that). The backing is Send + Sync.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("base", &self.base())
            .field("planes", &self.planes.len())
            .field("bytes", &self.bytes)
            .field("kind", &self.kind)
            .field("slots", &self.slots.len())
            .field("foreign", &self.is_foreign())
            .finish_non_exhaustive()
    }
}

impl Region {
    /// Allocates zeroed host memory of `slots` slots of at least `slot_bytes` bytes each, rounded up to
    /// [`SLOT_ALIGNMENT`]. Regions of 2 MiB and more ask for transparent huge pages. A forked child does not have the
    /// memory.
    ///
    /// # Errors
    /// `Config` for zero slots, zero bytes and sizes that overflow; `NoSpace` when the system has no such memory.
    pub fn allocate(slots: usize, slot_bytes: usize) -> Result<Arc<Self>> {
        Self::allocate_with(slots, slot_bytes, true)
    }

    /// As [`Region::allocate`], with a say on huge pages: measurements compare the two kinds.
    ///
    /// # Errors
    /// As [`Region::allocate`].
    pub fn allocate_with(slots: usize, slot_bytes: usize, huge_pages: bool) -> Result<Arc<Self>> {
        Self::map(1, slots, slot_bytes, huge_pages)
    }

    /// As [`Region::allocate`], with `planes` planes of `slots` slots each.
    ///
    /// # Errors
    /// As [`Region::allocate`], and `Config` for no planes.
    pub fn allocate_planes(planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Self>> {
        Self::map(planes, slots, slot_bytes, true)
    }

    fn map(planes: usize, slots: usize, slot_bytes: usize, huge_pages: bool) -> Result<Arc<Self>> {
        let too_large = || {
            Error::config(format!(
                "a region of {planes} times {slots} slots of {slot_bytes} bytes is too large"
            ))
        };
        if planes == 0 || slots == 0 || slot_bytes == 0 {
            return Err(Error::config(format!(
                "a region of {planes} times {slots} slots of {slot_bytes} bytes holds nothing; each must be at least 1"
            )));
        }
        let stride = slot_bytes.checked_next_multiple_of(SLOT_ALIGNMENT).ok_or_else(too_large)?;
        let bytes = stride
            .checked_mul(slots)
            .and_then(|plane| plane.checked_mul(planes))
            .filter(|&n| n <= isize::MAX as usize - HUGE_PAGE)
            .ok_or_else(too_large)?;
        let slack = if bytes >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let mut mapping = MmapOptions::new().len(bytes + slack).map_anon().map_err(|source| {
            Error::new(ErrorKind::NoSpace, format!("no memory for a region of {bytes} bytes"))
                .with_source(source)
        })?;
        if huge_pages && slack > 0 {
            // Refused where the kernel was built without them; the region works all the same.
            let _ = mapping.advise(Advice::HugePage);
        } else if slack > 0 {
            let _ = mapping.advise(Advice::NoHugePage);
        }
        // A fork copies every page that a kernel has pinned, at once and whole. A child has no use for the memory: what
        // reads and writes it stays with the parent.
        let _ = mapping.advise(Advice::DontFork);
        let start = mapping.as_mut_ptr();
        let skip = if slack > 0 { start.align_offset(HUGE_PAGE) } else { 0 };
        // SAFETY: skip is below HUGE_PAGE and the mapping is that much longer than `bytes`.
        let base = NonNull::new(unsafe { start.add(skip) })
            .ok_or_else(|| Error::new(ErrorKind::Unexpected, "an anonymous mapping starts at address 0"))?;
        // Each start is inside the mapping; `wrapping_add` keeps the provenance and can't be null there.
        let plane = |i: usize| NonNull::new(base.as_ptr().wrapping_add(i * stride * slots)).unwrap_or(base);
        Ok(Arc::new(Self {
            planes: (0..planes).map(plane).collect(),
            bytes,
            kind: MemoryKind::Host,
            slot_bytes: stride,
            slots: (0..slots).map(|_| SlotState::new()).collect(),
            leases: AtomicUsize::new(0),
            backing: Backing::Mapped(mapping),
        }))
    }

    /// Memory of somebody else, kept alive by `owner`.
    ///
    /// # Safety
    /// `base` must be valid for reads and writes of `bytes` bytes (of device memory: on that device) until `owner` is
    /// dropped, and must not move; the pages behind the addresses must not be replaced either, since devices hold those.
    /// Dropping `owner` must not block: it may happen on an engine's thread. Whoever takes leases of it must see to it that a part under a write lease is
    /// touched by nobody else, and a part under a read lease is written by nobody.
    ///
    /// # Errors
    /// `Config` for a region of no bytes.
    pub unsafe fn foreign(
        base: NonNull<u8>,
        bytes: usize,
        kind: MemoryKind,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Result<Arc<Self>> {
        if bytes == 0 || bytes > isize::MAX as usize {
            return Err(Error::config(format!("a foreign region of {bytes} bytes can't be used")));
        }
        Ok(Arc::new(Self {
            planes: Box::new([base]),
            bytes,
            kind,
            slot_bytes: 0,
            slots: Box::default(),
            leases: AtomicUsize::new(0),
            backing: Backing::Foreign(owner),
        }))
    }

    /// Memory that a device's driver gave to us alone: one allocation a plane, each cut in `slots` slots of
    /// `slot_bytes` bytes, which are leased as our own are. `owner` frees it.
    ///
    /// # Safety
    /// Each plane must be valid for reads and writes of `slots * slot_bytes` bytes (of device memory: on that device)
    /// until `owner` is dropped, and must not move. Dropping `owner` must not block. Nobody may touch the memory but
    /// through leases of this region.
    ///
    /// # Errors
    /// `Config` for no planes, no slots, no bytes, or too many.
    pub unsafe fn adopt(
        planes: &[NonNull<u8>],
        slots: usize,
        slot_bytes: usize,
        kind: MemoryKind,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Result<Arc<Self>> {
        let bytes = slots.checked_mul(slot_bytes).filter(|&n| n > 0 && n <= isize::MAX as usize);
        let Some(bytes) = bytes.filter(|_| !planes.is_empty()) else {
            return Err(Error::config(format!(
                "{} planes of {slots} slots of {slot_bytes} bytes can't be a region; each must be at least 1",
                planes.len()
            )));
        };
        Ok(Arc::new(Self {
            planes: planes.into(),
            bytes,
            kind,
            slot_bytes,
            slots: (0..slots).map(|_| SlotState::new()).collect(),
            leases: AtomicUsize::new(0),
            backing: Backing::Adopted(owner),
        }))
    }

    /// First address.
    pub fn base(&self) -> NonNull<u8> {
        self.planes[0]
    }

    /// Number of planes; 1 unless asked for more.
    pub fn planes(&self) -> usize {
        self.planes.len()
    }

    pub(super) fn plane(&self, plane: usize) -> Option<NonNull<u8>> {
        self.planes.get(plane).copied()
    }

    /// Length in bytes from [`Region::base`] on; of adopted memory, of one plane.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the memory lives.
    pub fn kind(&self) -> MemoryKind {
        self.kind
    }

    /// Whether the memory is somebody else's.
    pub fn is_foreign(&self) -> bool {
        matches!(self.backing, Backing::Foreign(_))
    }

    /// Number of slots; 0 for foreign memory.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of one slot; 0 for foreign memory.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// How many leases are out. At 0 no byte moves; but a device may still know the memory, so foreign memory may be
    /// freed when its owner is dropped, not before.
    pub fn leases(&self) -> usize {
        self.leases.load(Ordering::Acquire)
    }

    /// Leases `bytes` bytes at `offset` of slot `slot`. The whole slot counts as leased.
    ///
    /// # Errors
    /// `Busy` if a conflicting lease is out, `Config` for a slot or a range that does not exist or an empty one.
    pub fn lease(
        self: &Arc<Self>,
        slot: usize,
        offset: usize,
        bytes: usize,
        access: Access,
    ) -> Result<Lease> {
        let Some(state) = self.slots.get(slot) else {
            return Err(Error::config(format!(
                "slot {slot} does not exist; the region has {}",
                self.slots.len()
            )));
        };
        if bytes == 0 || offset.checked_add(bytes).is_none_or(|end| end > self.slot_bytes) {
            return Err(Error::config(format!(
                "{bytes} bytes at {offset} do not fit a slot of {} bytes",
                self.slot_bytes
            )));
        }
        let taken = match access {
            Access::Read => state.try_read(),
            Access::Write => state.try_write(),
        };
        if !taken {
            return Err(Error::new(ErrorKind::Busy, format!("slot {slot} is leased; end that lease first")));
        }
        self.leases.fetch_add(1, Ordering::Relaxed);
        Ok(Lease::new(Arc::clone(self), slot * self.slot_bytes + offset, bytes, access, Some(slot)))
    }

    /// Leases a range of foreign memory.
    ///
    /// # Safety
    /// Until the lease ends, nobody else may write the range, and with [`Access::Write`] nobody else may read it.
    ///
    /// # Errors
    /// `Config` for a range outside the region, an empty one, and for a region of our own, which is leased by slot.
    pub unsafe fn lease_range(
        self: &Arc<Self>,
        offset: usize,
        bytes: usize,
        access: Access,
    ) -> Result<Lease> {
        if !self.is_foreign() {
            return Err(Error::config(
                "ranges are leased of foreign memory only; lease a slot of this region",
            ));
        }
        if bytes == 0 || offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(Error::config(format!(
                "{bytes} bytes at {offset} are not inside a region of {} bytes",
                self.bytes
            )));
        }
        self.leases.fetch_add(1, Ordering::Relaxed);
        Ok(Lease::new(Arc::clone(self), offset, bytes, access, None))
    }

    pub(super) fn end_lease(&self, slot: Option<usize>, access: Access) {
        if let Some(state) = slot.and_then(|slot| self.slots.get(slot)) {
            match access {
                Access::Read => state.end_read(),
                Access::Write => state.end_write(),
            }
        }
        self.leases.fetch_sub(1, Ordering::Release);
    }

    pub(super) fn downgrade(&self, slot: Option<usize>) {
        if let Some(state) = slot.and_then(|slot| self.slots.get(slot)) {
            state.write_to_read();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_and_apart() {
        let region = Region::allocate(3, 5000).unwrap();
        assert_eq!(region.slot_bytes(), 8192);
        assert_eq!(region.base().as_ptr() as usize % SLOT_ALIGNMENT, 0);
        let mut a = region.lease(0, 0, 5000, Access::Write).unwrap();
        let b = region.lease(1, 0, 5000, Access::Read).unwrap();
        a.bytes_mut().unwrap().fill(7);
        assert!(b.bytes().unwrap().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn large_regions_start_on_a_huge_page() {
        let region = Region::allocate(4, 1 << 20).unwrap();
        assert_eq!(region.base().as_ptr() as usize % HUGE_PAGE, 0);
    }

    #[test]
    fn a_slot_leased_twice_is_busy() {
        let region = Region::allocate(1, 1).unwrap();
        let first = region.lease(0, 0, 1, Access::Write).unwrap();
        assert_eq!(region.lease(0, 0, 1, Access::Read).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(region.lease(0, 0, 1, Access::Write).unwrap_err().kind(), ErrorKind::Busy);
        drop(first);
        let reads =
            [region.lease(0, 0, 1, Access::Read).unwrap(), region.lease(0, 0, 1, Access::Read).unwrap()];
        assert_eq!(region.lease(0, 0, 1, Access::Write).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(region.leases(), 2);
        drop(reads);
        assert_eq!(region.leases(), 0);
        region.lease(0, 0, 1, Access::Write).unwrap();
    }

    #[test]
    fn one_lease_is_the_right_to_a_slot_of_every_plane() {
        let region = Region::allocate_planes(3, 2, 100).unwrap();
        assert_eq!((region.planes(), region.slots()), (3, 2));
        let mut one = region.lease(1, 0, 100, Access::Write).unwrap();
        assert_eq!(region.lease(1, 0, 100, Access::Read).unwrap_err().kind(), ErrorKind::Busy);
        let mut zero = region.lease(0, 0, 100, Access::Write).unwrap();
        for plane in 0..3 {
            one.plane_mut(plane).unwrap().fill(plane as u8 + 1);
            zero.plane_mut(plane).unwrap().fill(9);
        }
        for plane in 0..3 {
            assert_eq!(one.plane(plane).unwrap(), [plane as u8 + 1; 100]);
        }
        assert!(one.plane(3).is_err() && one.plane_mut(3).is_err());
        assert!(Region::allocate_planes(0, 1, 1).is_err());
    }

    #[test]
    fn adopted_memory_is_leased_by_slot_and_freed_by_its_owner() {
        struct Cells([std::cell::UnsafeCell<[u8; 64]>; 2]);
        // SAFETY: the cells are touched through the region only.
        unsafe impl Send for Cells {}
        // SAFETY: as above.
        unsafe impl Sync for Cells {}
        let owner = Arc::new(Cells([[0; 64].into(), [0; 64].into()]));
        let planes = [0, 1].map(|i| NonNull::new(owner.0[i].get().cast::<u8>()).unwrap());
        let held = Box::new(Arc::clone(&owner));
        // SAFETY: the Arc keeps both arrays, and nothing else touches them.
        let region = unsafe { Region::adopt(&planes, 4, 16, MemoryKind::Host, held) }.unwrap();
        let mut lease = region.lease(2, 0, 16, Access::Write).unwrap();
        assert!(region.lease(2, 0, 16, Access::Read).is_err());
        lease.plane_mut(1).unwrap().fill(7);
        assert_eq!(lease.plane_address(1), Some(planes[1].as_ptr().wrapping_add(32)));
        assert!(!region.is_foreign());
        drop(region);
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(lease);
        assert_eq!(Arc::strong_count(&owner), 1);
    }

    #[test]
    fn bad_sizes_and_ranges_are_refused() {
        for (slots, bytes) in [(0, 1), (1, 0), (usize::MAX, 4096), (1, usize::MAX)] {
            assert_eq!(Region::allocate(slots, bytes).unwrap_err().kind(), ErrorKind::Config);
        }
        let region = Region::allocate(1, 4096).unwrap();
        for (slot, offset, bytes) in [(1, 0, 1), (0, 0, 4097), (0, 4096, 1), (0, 0, 0), (0, usize::MAX, 2)] {
            assert_eq!(
                region.lease(slot, offset, bytes, Access::Read).unwrap_err().kind(),
                ErrorKind::Config
            );
        }
    }

    #[test]
    fn foreign_memory_lives_as_long_as_its_last_lease() {
        let owner = Arc::new(vec![1_u8; 64].into_boxed_slice());
        let base = NonNull::new(owner.as_ptr().cast_mut()).unwrap();
        // SAFETY: the Arc keeps the slice alive and nobody writes it.
        let region =
            unsafe { Region::foreign(base, 64, MemoryKind::Host, Box::new(Arc::clone(&owner))) }.unwrap();
        // SAFETY: only reads happen here.
        let lease = unsafe { region.lease_range(8, 8, Access::Read) }.unwrap();
        drop(region);
        assert_eq!(Arc::strong_count(&owner), 2);
        assert_eq!(lease.bytes().unwrap(), [1; 8]);
        drop(lease);
        assert_eq!(Arc::strong_count(&owner), 1);
    }
}
