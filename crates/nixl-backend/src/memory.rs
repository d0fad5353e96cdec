//! Memory, files and objects made known to a backend, and made unknown when the last handle is gone.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use hicache_core::{Error, ErrorKind, MemoryKind, Region, Result};

use crate::agent::BackendHandle;
use crate::binding::{self, MemoryCode};
use crate::handles::{RegistrationList, check};
use crate::request::Descriptor;

/// Kinds of memory, as the library counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryType {
    /// Memory of this process.
    Dram,
    /// Memory of a GPU.
    Vram,
    /// A block device.
    Block,
    /// Objects by key.
    Object,
    /// Files by descriptor.
    File,
}

impl MemoryType {
    /// All kinds, each at the place of its number.
    pub const ALL: [Self; 5] = [Self::Dram, Self::Vram, Self::Block, Self::Object, Self::File];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dram => "DRAM",
            Self::Vram => "VRAM",
            Self::Block => "BLOCK",
            Self::Object => "OBJECT",
            Self::File => "FILE",
        }
    }

    pub(crate) const fn code(self) -> MemoryCode {
        self as MemoryCode
    }

    pub(crate) fn from_code(code: MemoryCode) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }

    /// What the library calls memory of `kind`, and the number of its device.
    pub(crate) fn of(kind: MemoryKind) -> (Self, u64) {
        match kind {
            MemoryKind::Host | MemoryKind::PinnedHost => (Self::Dram, 0),
            MemoryKind::Device(ordinal) => (Self::Vram, u64::from(ordinal)),
        }
    }
}

/// What is registered, until it is dropped. In a forked child it is left to the parent.
pub(crate) struct Registered {
    list: RegistrationList,
    backend: BackendHandle,
    /// Memory that is kept as long, for those who keep this alone.
    region: Option<Arc<Region>>,
}

impl Registered {
    /// # Safety
    /// Memory in the list stays mapped, and descriptors in it stay open, for as long as this lives.
    unsafe fn new(
        backend: &BackendHandle,
        list: RegistrationList,
        what: impl FnOnce() -> String,
    ) -> Result<Self> {
        let agent = &backend.agent().0;
        agent.refuse_fork()?;
        let table = *agent.handle.library().table();
        // SAFETY: agent, list and options live; what the list names is there, as the caller promises.
        let status =
            unsafe { (table.register_memory)(agent.handle.raw(), list.raw(), backend.0.options.raw()) };
        check(status, ErrorKind::Io, what)
            .map_err(|error| backend.error(error.kind(), error.message()).with_operation("register"))?;
        Ok(Self { list, backend: backend.clone(), region: None })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let agent = &self.backend.agent().0;
        if agent.fork.is_child() {
            return;
        }
        let table = *agent.handle.library().table();
        // SAFETY: it was registered with this agent and these options, and is not used by a transfer any more: requests
        // keep what they use.
        let status = unsafe {
            (table.deregister_memory)(agent.handle.raw(), self.list.raw(), self.backend.0.options.raw())
        };
        if status != binding::SUCCESS {
            tracing::warn!(plugin = self.backend.plugin(), status, "a registration could not be undone");
        }
    }
}

/// Memory known to a backend. The region lives as long.
pub struct MemoryRegistration {
    // Before the region, since fields drop in order.
    _registered: Arc<Registered>,
    region: Arc<Region>,
}

impl MemoryRegistration {
    /// The memory.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

/// A file known to a backend by its descriptor, from its first byte to whatever it may grow to.
pub struct FileRegistration {
    _registered: Registered,
    file: Arc<File>,
}

impl FileRegistration {
    /// The number that transfers name it by.
    pub(crate) fn device(&self) -> u64 {
        self.file.as_raw_fd() as u64
    }
}

/// Objects known to a backend by their keys.
pub struct ObjectRegistration {
    _registered: Registered,
    first: u64,
    len: usize,
}

impl ObjectRegistration {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none; never so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number that transfers name object `index` by.
    pub(crate) fn device(&self, index: usize) -> u64 {
        self.first + index as u64
    }
}

impl fmt::Debug for ObjectRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectRegistration").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Most bytes of one object or file: what is registered is a range, and a transfer must lie in it.
pub(crate) const MOST_BYTES: usize = i64::MAX as usize;

impl BackendHandle {
    /// Makes a region known. No range of memory may be known to a backend twice, nor overlap another one: the library
    /// then finds neither. See the engine for views into one pool.
    ///
    /// # Errors
    /// `Io` if the plugin refuses; `Closed` in a forked child.
    pub fn register_region(&self, region: &Arc<Region>) -> Result<MemoryRegistration> {
        self.register_range(region, region.base().as_ptr() as usize, region.bytes())
    }

    /// Makes a part of a region known.
    pub(crate) fn register_range(
        &self,
        region: &Arc<Region>,
        address: usize,
        bytes: usize,
    ) -> Result<MemoryRegistration> {
        let base = region.base().as_ptr() as usize;
        if address < base || bytes == 0 || address + bytes > base + region.bytes() {
            return Err(Error::new(ErrorKind::Unexpected, "a range beside its region was to be registered"));
        }
        let (kind, device) = MemoryType::of(region.kind());
        let mut list = RegistrationList::new(self.agent().library(), kind.code())?;
        list.add(address, bytes, device, &[])?;
        let what = || format!("{bytes} bytes of {} can't be registered", kind.as_str());
        // SAFETY: the range lies in the region, which is kept beside the registration and never moves.
        let mut registered = unsafe { Registered::new(self, list, what) }?;
        registered.region = Some(Arc::clone(region));
        let registered = Arc::new(registered);
        let mut known = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, weak)| weak.strong_count() > 0);
        known.push((Descriptor { address, bytes, device }, Arc::downgrade(&registered)));
        drop(known);
        Ok(MemoryRegistration { _registered: registered, region: Arc::clone(region) })
    }

    /// What `part` is registered by, if all of it is by one.
    pub(crate) fn registered(&self, part: &Descriptor) -> Option<Arc<Registered>> {
        let known = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |range: &Descriptor| {
            range.device == part.device
                && range.address <= part.address
                && part.address + part.bytes <= range.address + range.bytes
        };
        known.iter().filter(|(range, _)| holds(range)).find_map(|(_, weak)| weak.upgrade())
    }

    /// Makes a file known. No descriptor may be known to a backend twice.
    ///
    /// # Errors
    /// `Io` if the plugin refuses; `Closed` in a forked child.
    pub fn register_file(&self, file: Arc<File>) -> Result<FileRegistration> {
        let mut list = RegistrationList::new(self.agent().library(), MemoryType::File.code())?;
        list.add(0, MOST_BYTES, file.as_raw_fd() as u64, &[])?;
        // SAFETY: the file is kept beside the registration, and so is its descriptor.
        let registered = unsafe { Registered::new(self, list, || "a file can't be registered".to_owned()) }?;
        Ok(FileRegistration { _registered: registered, file })
    }

    /// Makes objects known by their keys. Costs no request to the store.
    ///
    /// # Errors
    /// `Config` for no keys; `Io` if the plugin refuses; `Closed` in a forked child.
    pub fn register_objects(&self, keys: &[impl AsRef<str>]) -> Result<ObjectRegistration> {
        // Plugins know an object by its number, for all requests of the backend.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if keys.is_empty() {
            return Err(Error::config("a registration of objects needs at least one key"));
        }
        let first = NEXT.fetch_add(keys.len() as u64, Ordering::Relaxed);
        let mut list = RegistrationList::new(self.agent().library(), MemoryType::Object.code())?;
        for (number, key) in (first..).zip(keys) {
            list.add(0, MOST_BYTES, number, key.as_ref().as_bytes())?;
        }
        let what = || format!("{} objects can't be registered", keys.len());
        // SAFETY: objects are neither memory nor descriptors of this process.
        let registered = unsafe { Registered::new(self, list, what) }?;
        Ok(ObjectRegistration { _registered: registered, first, len: keys.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_numbers_of_the_header() {
        let codes = MemoryType::ALL.map(|kind| (kind.as_str(), kind.code()));
        assert_eq!(codes, [("DRAM", 0), ("VRAM", 1), ("BLOCK", 2), ("OBJECT", 3), ("FILE", 4)]);
        assert!(MemoryType::ALL.iter().all(|&kind| MemoryType::from_code(kind.code()) == Some(kind)));
        assert_eq!(MemoryType::from_code(5), None);
    }
}
