//! What cuFile's codes mean, and the error that a caller gets.

use std::ffi::c_int;

use hicache_core::{Error, ErrorKind};

use super::abi::{CU_FILE_CUDA_DRIVER_ERROR, CUFILEOP_BASE_ERR, CUfileError};
use crate::CUFILE;

/// Codes of `CUfileOpError`: what a caller can do about it, and what it means, in our words.
const CODES: &[(c_int, ErrorKind, &str)] = &[
    (5001, ErrorKind::Unavailable, "the driver is not initialised"),
    (5002, ErrorKind::Config, "a property is invalid"),
    (5003, ErrorKind::Config, "a property is out of range"),
    (5004, ErrorKind::Unavailable, "the versions of the library and of nvidia-fs don't fit"),
    (5005, ErrorKind::Unavailable, "the version of nvidia-fs can't be read"),
    (5006, ErrorKind::Unavailable, "the driver is being closed"),
    (5007, ErrorKind::Unsupported, "GPUDirect Storage does not work on this platform"),
    (5008, ErrorKind::Unsupported, "GPUDirect Storage does not work on this file"),
    (5009, ErrorKind::Unsupported, "GPUDirect Storage does not work with this GPU"),
    (5010, ErrorKind::Unavailable, "nvidia-fs failed"),
    (5011, ErrorKind::Io, "CUDA failed"),
    (5012, ErrorKind::Config, "that is no address of a device"),
    (5013, ErrorKind::Config, "memory of this kind can't be used"),
    (5014, ErrorKind::Config, "the range reaches beyond its allocation"),
    (5015, ErrorKind::Config, "the memory belongs to another CUDA context"),
    (5016, ErrorKind::NoSpace, "more memory than can be pinned"),
    (5017, ErrorKind::Config, "the range reaches beyond what is mapped"),
    (5018, ErrorKind::Unsupported, "files of this kind can't be used"),
    (5019, ErrorKind::Config, "the file is opened with flags that can't be used"),
    (5020, ErrorKind::Config, "the file is not opened for direct I/O"),
    (5022, ErrorKind::Config, "an argument is invalid"),
    (5023, ErrorKind::Config, "the memory is registered already"),
    (5024, ErrorKind::Config, "the memory is not registered"),
    (5025, ErrorKind::Unavailable, "permission to the driver or the file is denied"),
    (5026, ErrorKind::Config, "the driver is open already"),
    (5027, ErrorKind::Unavailable, "the file can't be registered (is /run/udev there?)"),
    (5028, ErrorKind::Config, "the file is registered already"),
    (5029, ErrorKind::Unavailable, "no GPU is there"),
    (5030, ErrorKind::Io, "internal error"),
    (5031, ErrorKind::Io, "no new descriptor"),
    (5033, ErrorKind::Unavailable, "it could not be set up (are a CUDA driver and /proc/modules there?)"),
    (
        5034,
        ErrorKind::Unsupported,
        "GPUDirect Storage is switched off for this file by cuFile's configuration",
    ),
    (5035, ErrorKind::Io, "the batch could not be submitted"),
    (5036, ErrorKind::NoSpace, "no memory of the GPU could be pinned"),
    (5037, ErrorKind::Unavailable, "the queue is full"),
    (5038, ErrorKind::Unsupported, "streams are not supported"),
    (5039, ErrorKind::Io, "unknown operation"),
];

/// What a code means.
pub fn meaning(code: c_int) -> &'static str {
    find(code).map_or("a code that this source does not know", |(_, meaning)| meaning)
}

fn find(code: c_int) -> Option<(ErrorKind, &'static str)> {
    CODES.iter().find(|(known, ..)| *known == code).map(|&(_, kind, meaning)| (kind, meaning))
}

/// What `call` answered.
///
/// # Errors
/// Whatever is not success: the kind says what to do, the text has the codes.
pub fn check(call: &'static str, answer: CUfileError) -> hicache_core::Result<()> {
    if answer.err == 0 { Ok(()) } else { Err(failure(call, answer.err, answer.cu_err)) }
}

/// The error for a code, whichever sign it has.
pub fn failure(call: &'static str, code: c_int, cuda: c_int) -> Error {
    let code = code.saturating_abs();
    let kind = find(code).map_or(ErrorKind::Io, |(kind, _)| kind);
    let of_cuda =
        if code == CU_FILE_CUDA_DRIVER_ERROR { format!(", CUDA's code {cuda}") } else { String::new() };
    let message = format!("{call} answered {code}: {}{of_cuda}", meaning(code));
    Error::new(kind, message).with_backend(CUFILE).with_operation(call)
}

/// What a read or write returned: bytes, or the error. `errno` is that of the calling thread, read at once.
///
/// # Errors
/// As [`failure`] for codes of cuFile; an error of the system for what is below them.
pub fn moved(
    call: &'static str,
    returned: isize,
    errno: impl FnOnce() -> std::io::Error,
) -> hicache_core::Result<u64> {
    if returned >= 0 {
        return Ok(returned as u64);
    }
    let code = c_int::try_from(returned.unsigned_abs()).unwrap_or(c_int::MAX);
    if code > CUFILEOP_BASE_ERR {
        return Err(failure(call, code, 0));
    }
    // -1 says that errno has it; some versions return the negative errno itself.
    let cause = if code == 1 { errno() } else { std::io::Error::from_raw_os_error(code) };
    Err(Error::io(call, format!("{call} failed"), cause).with_backend(CUFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(code: i32) -> impl FnOnce() -> std::io::Error {
        move || std::io::Error::from_raw_os_error(code)
    }

    #[test]
    fn counts_codes_and_errno_are_told_apart() {
        assert_eq!(moved("cuFileRead", 0, os(5)).unwrap(), 0);
        assert_eq!(moved("cuFileRead", 4096, os(5)).unwrap(), 4096);
        let failed = moved("cuFileRead", -1, os(5)).unwrap_err();
        assert_eq!((failed.kind(), failed.errno()), (ErrorKind::Io, Some(5)));
        let full = moved("cuFileWrite", -1, os(28)).unwrap_err();
        assert_eq!((full.kind(), full.errno()), (ErrorKind::NoSpace, Some(28)));
        let direct = moved("cuFileWrite", -22, os(0)).unwrap_err();
        assert_eq!((direct.kind(), direct.errno()), (ErrorKind::Io, Some(22)));
        let refused = moved("cuFileRead", -5012, os(5)).unwrap_err();
        assert_eq!((refused.kind(), refused.errno()), (ErrorKind::Config, None));
    }

    #[test]
    fn codes_of_later_versions_are_errors_like_others() {
        let error = check("cuFileDriverOpen", CUfileError { err: 5999, cu_err: 0 }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("5999"), "{error}");
        let error = check("cuFileRead", CUfileError { err: i32::MIN, cu_err: 0 }).unwrap_err();
        assert!(error.to_string().contains("does not know"), "{error}");
        let lowest = moved("cuFileRead", isize::MIN, os(5)).unwrap_err();
        assert_eq!(lowest.kind(), ErrorKind::Io);
    }

    #[test]
    fn the_code_of_cuda_is_told_where_it_counts() {
        let cuda = check("x", CUfileError { err: 5011, cu_err: 999 }).unwrap_err().to_string();
        assert!(cuda.contains("999"), "{cuda}");
        let other = check("x", CUfileError { err: 5029, cu_err: 999 }).unwrap_err().to_string();
        assert!(!other.contains("999"), "{other}");
        assert!(check("x", CUfileError { err: 0, cu_err: 999 }).is_ok());
    }
}
