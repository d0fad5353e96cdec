//! Errors as Python's exceptions.

use hicache::{Error, ErrorKind};
use pyo3::PyErr;
use pyo3::exceptions::{PyNotImplementedError, PyOSError, PyRuntimeError, PyValueError};

/// The exception for an error: `ValueError` for bad input, `NotImplementedError` for what is not supported,
/// `RuntimeError` for what is closed, `OSError` for the machine.
pub(crate) fn exception(error: &Error) -> PyErr {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Config => PyValueError::new_err(text),
        ErrorKind::Unsupported => PyNotImplementedError::new_err(text),
        ErrorKind::Closed | ErrorKind::Unexpected => PyRuntimeError::new_err(text),
        _ => PyOSError::new_err(text),
    }
}
