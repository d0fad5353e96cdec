//! Fills the table from a library that is opened at run time.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::mem::ManuallyDrop;
use std::path::Path;

use libloading::Library;
use libloading::os::unix::{Library as UnixLibrary, RTLD_LOCAL, RTLD_NOW};

use super::{SINCE_1_5_0, SYMBOLS, Table};

/// What was loaded.
pub(crate) struct Loaded {
    pub(crate) table: Table,
    /// Whether it is 1.5.0 or newer.
    pub(crate) since_1_5_0: bool,
}

/// Opens the library at `path` and takes its functions. It stays open for the life of the process: its plugins start
/// threads and keep state of the process that nothing can take down in order.
///
/// # Errors
/// Why not, in words: the loader's message, or the functions that are not there.
pub(crate) fn load(path: &Path) -> Result<Loaded, String> {
    // SAFETY: initialisers of the library run here. The operator named it, or it lies where NIXL's package puts it;
    // what runs then is what `import nixl` runs too.
    let library = unsafe { UnixLibrary::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    let library = ManuallyDrop::new(Library::from(library.map_err(|error| told(&error))?));
    let missing = missing_in(&library);
    if !missing.is_empty() {
        return Err(format!(
            "{} of {} functions are missing: {}",
            missing.len(),
            SYMBOLS.len(),
            missing.join(", ")
        ));
    }
    // SAFETY: functions of these names, which no other library has, are NIXL's; their types stand in its header and
    // have not changed from 1.0.1 to 1.5.2. The library is never closed, so the pointers stay good.
    let table = unsafe { Table::from_symbols(&library) }.map_err(|error| told(&error))?;
    Ok(Loaded { table, since_1_5_0: has(&library, SINCE_1_5_0) })
}

/// Whether the library of this name that the process has loaded is 1.5.0 or newer; `None` if it has none.
#[cfg(feature = "nixl-sys")]
pub(super) fn loaded_since_1_5_0(name: &str) -> Option<bool> {
    /// `RTLD_NOLOAD`: only what is there.
    const NO_LOAD: i32 = 4;
    // SAFETY: nothing is loaded, so nothing runs.
    let library = unsafe { UnixLibrary::open(Some(name), RTLD_NOW | RTLD_LOCAL | NO_LOAD) }.ok()?;
    Some(has(&ManuallyDrop::new(Library::from(library)), SINCE_1_5_0))
}

/// What went wrong, with the loader's own words, which are one level down.
fn told(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Functions of the table that `library` does not have.
fn missing_in(library: &Library) -> Vec<&'static str> {
    SYMBOLS.iter().copied().filter(|symbol| !has(library, symbol)).collect()
}

fn has(library: &Library, symbol: &str) -> bool {
    // SAFETY: the address is looked up and not used.
    unsafe { library.get::<unsafe extern "C" fn()>(symbol.as_bytes()) }.is_ok()
}
