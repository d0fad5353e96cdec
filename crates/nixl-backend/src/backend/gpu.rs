//! Whether there is a GPU and its driver: without them a GPU plugin may spin for ever.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::{c_int, c_uint};
use std::path::Path;

use hicache_core::{Error, ErrorKind, Result};

/// Whether the system has a device of NVIDIA's. Opens nothing.
///
/// # Errors
/// `Unavailable`, with where it was looked.
pub fn device_node() -> Result<()> {
    let nodes = (0..16).map(|number| format!("/dev/nvidia{number}")).chain(["/dev/dxg".to_owned()]);
    if nodes.into_iter().any(|node| Path::new(&node).exists()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        "no GPU: there is neither /dev/nvidia0 to /dev/nvidia15 nor /dev/dxg",
    ))
}

/// How many GPUs the driver has. May hang where the driver does: ask in a process that can be killed.
///
/// # Errors
/// `Unavailable` without libcuda or a device.
pub(super) fn cuda_devices() -> Result<u32> {
    let unavailable = |what: String| Error::new(ErrorKind::Unavailable, what);
    // SAFETY: the driver's library is loaded as every CUDA program loads it; both functions have had these signatures
    // since the first release of the driver API, and take nothing but numbers and a pointer to our own variable.
    unsafe {
        let cuda = libloading::Library::new("libcuda.so.1")
            .map_err(|error| unavailable(format!("libcuda.so.1 can't be loaded: {error}")))?;
        let missing = |error: libloading::Error| unavailable(format!("libcuda.so.1: {error}"));
        let init = cuda.get::<unsafe extern "C" fn(c_uint) -> c_int>(b"cuInit\0").map_err(missing)?;
        let count =
            cuda.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuDeviceGetCount\0").map_err(missing)?;
        let status = init(0);
        if status != 0 {
            return Err(unavailable(format!("the driver does not start: cuInit answered {status}")));
        }
        let mut devices = 0;
        let status = count(&mut devices);
        // The driver's threads outlive what started them.
        std::mem::forget(cuda);
        match u32::try_from(devices) {
            Ok(devices) if status == 0 && devices > 0 => Ok(devices),
            _ => Err(unavailable(format!("the driver has no GPU: {devices} devices, status {status}"))),
        }
    }
}
