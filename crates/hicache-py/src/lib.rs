//! The native half of the Python package `hicache`: private, and wrapped by the Python files beside it.
//!
//! | module | what is there |
//! |---|---|
//! | `store` | `Store`: a storage with foreign memory, for any number of Python threads |
//! | `opening` | from texts of JSON to a configuration and an open storage |
//! | `memory` | foreign memory: regions by address, pages in pieces, token ids in arrays |
//! | `devices` | the GPUs whose memory Python hands over |
//! | `regions` | the memory of one call, watched until the device is done with it |
//! | `keys` | keys as SGLang writes them |
//! | `hashes` | `page_hashes` |
//! | `probe` | `probe` |
//! | `records` | log records on their way to Python's `logging` |
//! | `errors` | errors as Python's exceptions |
//!
//! Every entry point releases the GIL while it works, and returns only when every operation of the call is terminal.

mod devices;
mod errors;
mod hashes;
mod keys;
mod memory;
mod opening;
mod probe;
mod records;
mod regions;
mod store;

use std::ffi::OsString;
use std::path::PathBuf;

use pyo3::prelude::*;

/// Runs the `hicache` command with `arguments`, the first of which is the name of the program; answers its exit code.
#[pyfunction]
fn run_command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| hicache_cli::run_to_code(arguments))
}

/// What the interpreter says of itself, so that NIXL is looked for where it is installed, and helpers are started by it.
fn this_python(py: Python<'_>) -> PyResult<hicache::Python> {
    let sys = py.import("sys")?;
    let entries: Vec<Bound<'_, PyAny>> = sys.getattr("path")?.extract()?;
    // Whatever else stands there, such as an importer's object, names no directory.
    let paths = entries.iter().filter_map(|entry| entry.extract::<PathBuf>().ok());
    let packages = |path: &PathBuf| path.ends_with("site-packages") || path.ends_with("dist-packages");
    Ok(hicache::Python {
        executable: sys.getattr("executable")?.extract::<Option<PathBuf>>()?.unwrap_or_default(),
        site_packages: paths.filter(packages).collect(),
    })
}

/// The module `hicache._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    hicache::loaded_into(this_python(module.py())?);
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<store::Store>()?;
    module.add_function(wrap_pyfunction!(run_command, module)?)?;
    module.add_function(wrap_pyfunction!(hashes::hash_pages, module)?)?;
    module.add_function(wrap_pyfunction!(hashes::hash_pages_at, module)?)?;
    module.add_function(wrap_pyfunction!(probe::probe, module)?)?;
    module.add_function(wrap_pyfunction!(opening::check_settings, module)?)?;
    module.add_function(wrap_pyfunction!(records::take_records, module)?)?;
    module.add_function(wrap_pyfunction!(records::keep_records, module)?)
}
