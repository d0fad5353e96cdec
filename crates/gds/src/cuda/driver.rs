//! Whether there is a driver, and what it has.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::c_int;
use std::sync::Arc;

use cudarc::driver::sys;
use hicache_core::{Error, ErrorKind, Result};

use super::context::Context;
use crate::GDS;

/// Codes of `CUresult` that say more than that something failed.
const CODES: &[(u32, ErrorKind, &str)] = &[
    (1, ErrorKind::Config, "an argument is invalid"),
    (2, ErrorKind::NoSpace, "the memory does not suffice"),
    (3, ErrorKind::Unavailable, "the driver is not initialised"),
    (4, ErrorKind::Unavailable, "the driver is being shut down"),
    (34, ErrorKind::Unavailable, "the library is a stub; the driver itself is not installed"),
    (46, ErrorKind::Unavailable, "the device is busy or not available"),
    (100, ErrorKind::Unavailable, "no device is there"),
    (101, ErrorKind::Config, "no such device"),
    (201, ErrorKind::Config, "no such context"),
    (700, ErrorKind::Io, "the device used an address that is not its own; its context is lost"),
    (801, ErrorKind::Unsupported, "not supported"),
    (802, ErrorKind::Unavailable, "the system is not ready; is the fabric manager running?"),
    (803, ErrorKind::Unavailable, "the versions of the library and of the kernel module differ"),
    (804, ErrorKind::Unavailable, "forward compatibility is not supported on this device"),
];

/// Codes after which a context is gone with all its memory: the process ends, the context was destroyed, or the device has
/// stopped it for an error that is then the answer to every call.
const GONE: &[u32] = &[4, 201, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719];

/// Whether a code says that the context is gone.
pub(super) fn is_gone(code: u32) -> bool {
    GONE.contains(&code)
}

/// What `call` answered.
pub(super) fn check(call: &'static str, answer: sys::CUresult) -> Result<()> {
    check_code(call, answer as u32)
}

pub(super) fn check_code(call: &'static str, code: u32) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(failure(call, code)) }
}

/// The error for a code that is not success.
pub(super) fn failure(call: &'static str, code: u32) -> Error {
    let (kind, meaning) = CODES
        .iter()
        .find(|(known, ..)| *known == code)
        .map_or((ErrorKind::Io, "see CUresult in CUDA's documentation"), |&(_, kind, meaning)| {
            (kind, meaning)
        });
    Error::new(kind, format!("{call} answered {code}: {meaning}")).with_backend(GDS).with_operation(call)
}

/// The driver, loaded and initialised.
#[derive(Clone, Copy, Debug)]
pub struct Cuda {
    version: u32,
}

impl Cuda {
    /// Looks for the driver and initialises it. Never panics; the first call in a process may take a second.
    ///
    /// # Errors
    /// `Unavailable` without a driver, and for a driver that finds no device; the text says which.
    pub fn load() -> Result<Self> {
        // SAFETY: loads the library and runs its initialisers, which whoever asks for CUDA asks for.
        if !unsafe { sys::is_culib_present() } {
            let message = "no CUDA driver: libcuda.so.1 can't be loaded; install NVIDIA's driver";
            return Err(Error::new(ErrorKind::Unavailable, message).with_backend(GDS));
        }
        // SAFETY: the library is there. No arguments but flags, which must be 0.
        check("cuInit", unsafe { sys::cuInit(0) })?;
        let mut version: c_int = 0;
        // SAFETY: it writes one integer.
        check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
        Ok(Self { version: u32::try_from(version).unwrap_or(0) })
    }

    /// The CUDA version that the driver speaks: 12080 for 12.8.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How many devices this process sees; `CUDA_VISIBLE_DEVICES` may hide some.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn devices(&self) -> Result<u32> {
        let mut count: c_int = 0;
        // SAFETY: it writes one integer.
        check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// The primary context of a device, the one that PyTorch and the CUDA runtime use too.
    ///
    /// # Errors
    /// `Config` for a device that this process does not see; what the driver answers.
    pub fn context(&self, ordinal: u32) -> Result<Arc<Context>> {
        let devices = self.devices()?;
        if ordinal >= devices {
            let message =
                format!("device {ordinal} does not exist; this process sees {devices}, counted from 0");
            return Err(Error::config(message).with_backend(GDS));
        }
        Context::open(*self, ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kinds_and_unknown_ones_are_errors_too() {
        assert!(check_code("x", 0).is_ok());
        assert_eq!(check_code("x", 2).unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!(check_code("x", 100).unwrap_err().kind(), ErrorKind::Unavailable);
        let unknown = check_code("x", 12345).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::Io);
        assert!(unknown.to_string().contains("12345"), "{unknown}");
    }
}
