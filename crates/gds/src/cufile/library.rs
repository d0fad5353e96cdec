//! `libcufile.so.0` and its functions.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::OsStr;
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use hicache_core::{Error, ErrorKind, Result};

use super::abi;
use super::status::check;
use crate::CUFILE;

/// Names that are tried where no path is given.
const NAMES: [&str; 2] = ["libcufile.so.0", "libcufile.so"];

/// Declares the table of functions, and how each is looked up: the first list must be there, the second may.
macro_rules! functions {
    ($($name:ident: $kind:ty = $symbol:literal,)+ ; $($later:ident: $later_kind:ty = $later_symbol:literal,)+) => {
        /// The functions. Those that came later than 1.0, or that the library may lack, are `None` then.
        #[derive(Clone)]
        pub(crate) struct Functions {
            $(pub(crate) $name: $kind,)+
            $(pub(crate) $later: Option<$later_kind>,)+
        }

        impl Functions {
            fn of(library: &libloading::Library, path: &str) -> Result<Self> {
                // SAFETY: each type is that of the function of this name in every version of `cufile.h` (the types and
                // their structures are compared with the headers in `tests/headers.rs`).
                unsafe {
                    Ok(Self {
                        $($name: *library.get::<$kind>(concat!($symbol, "\0").as_bytes()).map_err(|source| {
                            let message = format!("{path} has no function {}; is it cuFile's library?", $symbol);
                            Error::new(ErrorKind::Unavailable, message).with_backend(CUFILE).with_source(source)
                        })?,)+
                        $($later: library.get::<$later_kind>(concat!($later_symbol, "\0").as_bytes()).ok().map(|f| *f),)+
                    })
                }
            }
        }

        impl Library {
            /// Names of the functions that this version of the library does not have.
            pub fn missing(&self) -> Vec<&'static str> {
                [$((self.functions.$later.is_none(), $later_symbol)),+]
                    .into_iter()
                    .filter_map(|(missing, name)| missing.then_some(name))
                    .collect()
            }
        }
    };
}

functions! {
    driver_open: abi::Plain = "cuFileDriverOpen",
    get_properties: abi::GetProperties = "cuFileDriverGetProperties",
    handle_register: abi::HandleRegister = "cuFileHandleRegister",
    handle_deregister: abi::HandleDeregister = "cuFileHandleDeregister",
    buf_register: abi::BufRegister = "cuFileBufRegister",
    buf_deregister: abi::BufDeregister = "cuFileBufDeregister",
    read: abi::Read = "cuFileRead",
    write: abi::Write = "cuFileWrite",
    ;
    get_version: abi::GetVersion = "cuFileGetVersion",
    use_count: abi::UseCount = "cuFileUseCount",
    get_bool: abi::GetParameterBool = "cuFileGetParameterBool",
    set_bool: abi::SetParameterBool = "cuFileSetParameterBool",
    get_p2p_flags: abi::GetP2pFlags = "cuFileDriverGetP2PFlags",
    batch_set_up: abi::BatchSetUp = "cuFileBatchIOSetUp",
    batch_submit: abi::BatchSubmit = "cuFileBatchIOSubmit",
    batch_get_status: abi::BatchGetStatus = "cuFileBatchIOGetStatus",
    batch_cancel: abi::BatchCancel = "cuFileBatchIOCancel",
    batch_destroy: abi::BatchDestroy = "cuFileBatchIODestroy",
    read_async: abi::Async = "cuFileReadAsync",
    write_async: abi::Async = "cuFileWriteAsync",
    stream_register: abi::StreamRegister = "cuFileStreamRegister",
    stream_deregister: abi::StreamDeregister = "cuFileStreamDeregister",
}

/// cuFile's library. It is never unloaded: it has threads of its own.
pub struct Library {
    pub(crate) functions: Functions,
    path: String,
    _loaded: Option<ManuallyDrop<libloading::Library>>,
}

impl Library {
    /// Loads the library at `path`, or the one that the system's loader finds.
    ///
    /// Loading runs its initialisers and reads its configuration file; it opens no driver. What it then needs (a CUDA
    /// driver) it looks for by itself.
    ///
    /// # Errors
    /// `Unavailable` with what the loader says, and for a library that lacks one of the functions that 1.0 had.
    pub fn load(path: Option<&Path>) -> Result<Arc<Self>> {
        let names: Vec<&OsStr> = match path {
            Some(path) => vec![path.as_os_str()],
            None => NAMES.iter().map(OsStr::new).collect(),
        };
        let mut failures = Vec::new();
        for name in names {
            // SAFETY: what runs are the initialisers of NVIDIA's library, which whoever asks for cuFile asks for; a path
            // comes from the operator's configuration. It stays loaded for ever, so no function outlives it.
            match unsafe { libloading::Library::new(name) } {
                Ok(loaded) => {
                    let path = name.to_string_lossy().into_owned();
                    let loaded = ManuallyDrop::new(loaded);
                    let functions = Functions::of(&loaded, &path)?;
                    return Ok(Arc::new(Self { functions, path, _loaded: Some(loaded) }));
                }
                Err(error) => failures.push(said_by_the_loader(&error)),
            }
        }
        let message = format!("cuFile's library can't be loaded: {}", failures.join("; "));
        Err(Error::new(ErrorKind::Unavailable, message).with_backend(CUFILE))
    }

    /// A library whose functions are the test's.
    #[cfg(test)]
    pub(crate) fn standing_in(functions: Functions) -> Arc<Self> {
        Arc::new(Self { functions, path: "standing in".to_owned(), _loaded: None })
    }

    /// Forbids compatibility mode in this process, before the driver is opened: what then moves does not go through host memory.
    /// Versions before 1.14 lack the function; some of them take the variable `CUFILE_ALLOW_COMPAT_MODE` instead. Whether it was
    /// taken says [`super::driver::Properties::allows_compat`].
    ///
    /// # Errors
    /// What cuFile answers.
    pub fn forbid_compat(&self) -> Result<()> {
        match self.functions.set_bool {
            // SAFETY: two numbers.
            Some(set) => check("cuFileSetParameterBool", unsafe {
                set(abi::CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE, false)
            }),
            None => Ok(()),
        }
    }

    /// As what it was loaded.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The error for a function that this version does not have.
    pub(crate) fn lacks(&self, function: &'static str) -> Error {
        let message = format!("{} has no {function}; a newer version of cuFile has", self.path);
        Error::new(ErrorKind::Unsupported, message).with_backend(CUFILE)
    }
}

/// The loader's own words come as the cause.
fn said_by_the_loader(error: &libloading::Error) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), |cause| cause.to_string())
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("path", &self.path).field("missing", &self.missing()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_unavailable_with_its_name() {
        let error = Library::load(Some(Path::new("/nowhere/libcufile.so.0"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("/nowhere/libcufile.so.0"), "{error}");
    }

    #[test]
    fn another_library_is_found_out_by_the_function_that_it_lacks() {
        let error = Library::load(Some(Path::new("libm.so.6"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("libm.so.6 has no function cuFileDriverOpen"), "{error}");
    }
}
