//! A file that cuFile knows, and the synchronous calls on it.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::{c_long, c_void};
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use hicache_core::{Direction, Result};

use super::abi::{CU_FILE_HANDLE_TYPE_OPAQUE_FD, CUfileDescr, CUfileHandle, DescriptorHandle};
use super::driver::Driver;
use super::status::{check, moved};

/// A registered file. It has a descriptor of its own, which is closed after cuFile has forgotten it.
pub struct Handle {
    raw: CUfileHandle,
    // After `drop`, so after the deregistration.
    _file: OwnedFd,
    driver: Arc<Driver>,
}

// SAFETY: cuFile's handles may be used by any thread, and by several at a time; this one is a token to us.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Makes `file` known. For GPUDirect it must be opened with `O_DIRECT`, for reading and writing.
    ///
    /// # Errors
    /// What cuFile answers: `Unsupported` for a file system that it refuses.
    pub fn register(driver: &Arc<Driver>, file: OwnedFd) -> Result<Self> {
        let mut descriptor = CUfileDescr {
            kind: CU_FILE_HANDLE_TYPE_OPAQUE_FD,
            handle: DescriptorHandle { handle: ptr::null_mut() },
            fs_ops: ptr::null(),
        };
        descriptor.handle.fd = file.as_raw_fd();
        let mut raw: CUfileHandle = ptr::null_mut();
        // SAFETY: both point to values of this frame, which the call reads and writes and does not keep; the descriptor
        // stays open until the handle is deregistered.
        check("cuFileHandleRegister", unsafe {
            (driver.library().functions.handle_register)(&raw mut raw, &raw mut descriptor)
        })?;
        Ok(Self { raw, _file: file, driver: Arc::clone(driver) })
    }

    pub(super) fn raw(&self) -> CUfileHandle {
        self.raw
    }

    /// The driver that it is registered with.
    pub fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Moves up to `bytes` bytes between `offset` of the file and `base + base_offset`, and returns when that is over. `base`
    /// is the start of memory that was registered, or any address of memory that was not.
    ///
    /// # Errors
    /// The system's error, or cuFile's.
    ///
    /// # Safety
    /// Until it returns, `bytes` bytes at `base + base_offset` must be valid for what the direction does with them: for a
    /// read nobody else may touch them, for a write nobody may write them.
    pub unsafe fn transfer(
        &self,
        direction: Direction,
        base: *mut u8,
        base_offset: usize,
        bytes: usize,
        offset: u64,
    ) -> Result<u64> {
        let functions = &self.driver.library().functions;
        // Extents are checked against the largest file, and no address is beyond the largest signed number.
        let (offset, base_offset) = (offset as c_long, base_offset as c_long);
        let errno = std::io::Error::last_os_error;
        match direction {
            Direction::Read => {
                // SAFETY: the handle is registered; the caller vouches for the memory.
                let read =
                    unsafe { (functions.read)(self.raw, base.cast::<c_void>(), bytes, offset, base_offset) };
                moved("cuFileRead", read, errno)
            }
            Direction::Write => {
                // SAFETY: as above.
                let written = unsafe {
                    (functions.write)(
                        self.raw,
                        base.cast_const().cast::<c_void>(),
                        bytes,
                        offset,
                        base_offset,
                    )
                };
                moved("cuFileWrite", written, errno)
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: registered by us, and nobody has it any more: operations hold the handle.
        unsafe { (self.driver.library().functions.handle_deregister)(self.raw) }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("raw", &self.raw).finish_non_exhaustive()
    }
}
