//! Fills the table from the symbols that the crate `nixl-sys` links.

use super::Table;
use super::dynamic::{Loaded, loaded_since_1_5_0};

/// The linked functions.
///
/// # Errors
/// What is linked are the stubs of `nixl-sys`, which end the process when they are called.
pub(crate) fn linked() -> Result<Loaded, String> {
    if nixl_sys::is_stub() {
        return Err(
            "the crate nixl-sys was built without an installed NIXL: its stubs are linked, which would end \
                    the process; build with NIXL_PREFIX, or without the feature"
                .to_owned(),
        );
    }
    // The stubs hand calls on to whatever library the loader found; else what is linked is of the crate's version.
    let since_1_5_0 = loaded_since_1_5_0("libnixl_capi.so").unwrap_or(true);
    Ok(Loaded { table: Table::from_linked(), since_1_5_0 })
}
