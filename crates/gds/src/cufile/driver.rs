//! The driver of cuFile: opened once, asked for versions and properties.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::{c_int, c_uint};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hicache_core::{ErrorKind, Result};

use super::abi::{
    CU_FILE_ALLOW_COMPAT_MODE, CU_FILE_DRIVER_ALREADY_OPEN, CU_FILE_NVME_P2P_SUPPORTED,
    CU_FILE_NVME_SUPPORTED, CUFILE_NVFS, CUFILE_P2PDMA, CUfileDrvProps,
};
use super::buffer::Known;
use super::library::Library;
use super::status::check;

/// Version of the library, as its number says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 1000 a major version, 10 a minor one.
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// Whether bytes can go between disk and GPU past host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the nvidia-fs kernel module.
    NvFs,
    /// By the kernel's own PCI peer-to-peer transfers.
    P2pDma,
    /// They can't: cuFile copies through host memory. That is not GPUDirect Storage.
    Compat,
    /// Not at all.
    Nothing,
}

/// What the driver says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Properties {
    raw: CUfileDrvProps,
    /// The ways to local NVMe disks, by a library that tells.
    p2p: Option<c_uint>,
}

impl Properties {
    /// Version of nvidia-fs; `None` where the module is not loaded.
    pub fn nvidia_fs(&self) -> Option<(u32, u32)> {
        let version = (self.raw.nvfs.major_version, self.raw.nvfs.minor_version);
        (version != (0, 0)).then_some(version)
    }

    /// Most operations in a batch.
    pub fn max_batch(&self) -> u32 {
        self.raw.max_batch_io_size
    }

    /// Most KiB of device memory that may be registered.
    pub fn max_pinned_kib(&self) -> u32 {
        self.raw.max_device_pinned_mem_size
    }

    /// Whether local NVMe disks can be read by the kernel's PCI peer-to-peer transfers.
    pub fn has_p2p_dma(&self) -> bool {
        match self.p2p {
            Some(ways) => ways & (1 << CUFILE_P2PDMA) != 0,
            None => self.raw.nvfs.dstatusflags & (1 << CU_FILE_NVME_P2P_SUPPORTED) != 0,
        }
    }

    /// Whether files that can't be served directly go through host memory.
    pub fn allows_compat(&self) -> bool {
        self.raw.nvfs.dcontrolflags & (1 << CU_FILE_ALLOW_COMPAT_MODE) != 0
    }

    /// The peer-to-peer flags of local NVMe disks, in words; empty where the library has none, or does not tell.
    pub fn p2p_flags(&self) -> String {
        const NAMES: [(c_uint, &str); 4] =
            [(CUFILE_P2PDMA, "PCI P2PDMA"), (CUFILE_NVFS, "nvidia-fs"), (2, "DMABUF"), (3, "C2C")];
        let ways = self.p2p.unwrap_or(0);
        let names = NAMES.iter().filter(|(bit, _)| ways & (1 << bit) != 0).map(|(_, name)| *name);
        names.collect::<Vec<_>>().join(", ")
    }

    /// The best way that the driver knows, on this machine, to any file system; a file may still have to take a lesser one.
    pub fn way(&self) -> Way {
        // One bit each; the last that says anything of a file system is the one of peer-to-peer.
        let served = self.raw.nvfs.dstatusflags & !(1 << CU_FILE_NVME_P2P_SUPPORTED) != 0;
        let nvfs = self.p2p.is_some_and(|ways| ways & (1 << CUFILE_NVFS) != 0);
        if self.nvidia_fs().is_some() && (served || nvfs) {
            Way::NvFs
        } else if self.has_p2p_dma() {
            Way::P2pDma
        } else if self.allows_compat() {
            Way::Compat
        } else {
            Way::Nothing
        }
    }
}

/// The driver, open.
///
/// It is not closed again. It is one for the whole process, shared with whatever else uses cuFile there (a plugin of NIXL, a
/// tensor library, another engine of ours), versions differ in whether they count their users, and closing it under
/// somebody's operation fails that operation.
pub struct Driver {
    library: Arc<Library>,
    properties: Properties,
    version: Option<Version>,
    known: Mutex<Known>,
}

impl Driver {
    /// Opens the driver, or takes part in one that is open.
    ///
    /// **It may never return**: 1.17 and later spin where `/proc/modules` is missing. Ask [`crate::probe`] first, which
    /// tries in a process of its own.
    ///
    /// # Errors
    /// What cuFile answers; the kind says whether it is about this machine (`Unavailable`, `Unsupported`).
    pub fn open(library: Arc<Library>) -> Result<Arc<Self>> {
        // SAFETY: no arguments; the function is the library's, which stays loaded.
        let opened = unsafe { (library.functions.driver_open)() };
        if opened.err != CU_FILE_DRIVER_ALREADY_OPEN {
            check("cuFileDriverOpen", opened)?;
        }
        // A later version may write more than this source knows.
        #[repr(C)]
        struct WithRoom(CUfileDrvProps, [u64; 64]);
        let mut seen = WithRoom(CUfileDrvProps::default(), [0; 64]);
        // SAFETY: the library writes its structure to the start of `seen`, which is longer than that of any version so far.
        check("cuFileDriverGetProperties", unsafe {
            (library.functions.get_properties)((&raw mut seen).cast::<CUfileDrvProps>())
        })?;
        let version = Self::version_of(&library);
        let properties = Properties { raw: seen.0, p2p: p2p_of(&library) };
        Ok(Arc::new(Self { properties, version, library, known: Mutex::default() }))
    }

    /// Version of a library, without opening the driver.
    pub fn version_of(library: &Library) -> Option<Version> {
        let get = library.functions.get_version?;
        let mut version: c_int = 0;
        // SAFETY: it writes one integer.
        let answer = unsafe { get(&raw mut version) };
        (answer.err == 0).then(|| u32::try_from(version).ok().map(Version)).flatten()
    }

    /// What it says of itself.
    pub fn properties(&self) -> Properties {
        self.properties
    }

    /// Version of the library, if it tells.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// What is registered through this driver.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The library.
    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// Whether an error means that cuFile can't be used here, and not that one operation failed.
    pub fn is_about_the_machine(kind: ErrorKind) -> bool {
        matches!(kind, ErrorKind::Unavailable | ErrorKind::Unsupported)
    }
}

/// The ways to local NVMe disks, one bit each; the driver is open.
fn p2p_of(library: &Library) -> Option<c_uint> {
    let get = library.functions.get_p2p_flags?;
    let mut ways: c_uint = 0;
    // SAFETY: it writes one integer.
    let answer = unsafe { get(CU_FILE_NVME_SUPPORTED, &raw mut ways) };
    (answer.err == 0).then_some(ways)
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("library", &self.library.path())
            .field("version", &self.version.map(|version| version.to_string()))
            .field("way", &self.properties.way())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(version: (u32, u32), status: u32, control: u32) -> Properties {
        let mut raw = CUfileDrvProps::default();
        (raw.nvfs.major_version, raw.nvfs.minor_version) = version;
        raw.nvfs.dstatusflags = status;
        raw.nvfs.dcontrolflags = control;
        Properties { raw, p2p: None }
    }

    #[test]
    fn compat_mode_is_told_from_gpudirect() {
        assert_eq!(properties((2, 20), 1 << 4, 2).way(), Way::NvFs);
        assert_eq!(properties((2, 20), 0, 2).way(), Way::Compat, "the module without a disk that it serves");
        assert_eq!(properties((0, 0), 1 << 11, 2).way(), Way::P2pDma);
        assert_eq!(properties((0, 0), 1 << 4, 2).way(), Way::Compat);
        assert_eq!(properties((0, 0), 0, 0).way(), Way::Nothing);
    }

    /// 1.17 and later: the bit of the status is deprecated there, and says nothing.
    #[test]
    fn a_library_that_tells_its_ways_is_believed() {
        let told = |version, status, ways| Properties { p2p: Some(ways), ..properties(version, status, 2) };
        assert_eq!(told((0, 0), 0, 1 << CUFILE_P2PDMA).way(), Way::P2pDma);
        assert_eq!(told((0, 0), 1 << 11, 0).way(), Way::Compat);
        assert_eq!(told((2, 20), 0, 1 << CUFILE_NVFS).way(), Way::NvFs);
        assert_eq!(told((0, 0), 0, 3).p2p_flags(), "PCI P2PDMA, nvidia-fs");
        assert_eq!(told((0, 0), 0, 0).p2p_flags(), "");
    }

    #[test]
    fn a_version_reads_as_people_say_it() {
        assert_eq!(Version(1140).to_string(), "1.14");
        assert_eq!(Version(1060).to_string(), "1.6");
    }
}
