//! Finding and opening libnixl.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hicache_core::{Error, ErrorKind, Result};

use crate::NIXL;
use crate::binding::{self, Table};
use crate::ending;

/// Both spellings of the C ABI's library.
const NAMES: [&str; 2] = ["libnixl_capi.so", "libnixl_capi.so.0"];

/// Where libnixl is looked for, in this order: the explicit path alone if there is one; else the folder of
/// `NIXL_LIB_DIR`, NIXL's packages in the site-packages folders, and the loader's own search path. Nothing of it is
/// read from the environment here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibrarySearch {
    /// The library itself, or the folder that has it. Nothing else is looked at then.
    pub path: Option<PathBuf>,
    /// The value of `NIXL_LIB_DIR`.
    pub library_folder: Option<PathBuf>,
    /// Folders in which Python packages are installed, the active interpreter's first.
    pub site_packages: Vec<PathBuf>,
    /// Major version of CUDA that this machine's driver serves. The package for it goes first; where there is no driver,
    /// that for CUDA 12. In each folder the other one is the second choice: a driver serves older versions too.
    pub cuda_major: Option<u32>,
}

impl LibrarySearch {
    /// Looks in `path` only: the library, or the folder that has it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// Files to try, in order. The last two are bare names, which the loader looks up itself.
    pub fn candidates(&self) -> Vec<PathBuf> {
        if let Some(path) = &self.path {
            return if path.is_dir() { in_folder(path).collect() } else { vec![path.clone()] };
        }
        let mut found: Vec<PathBuf> =
            self.library_folder.iter().flat_map(|folder| in_folder(folder)).collect();
        let packages = match self.cuda_major {
            Some(13..) => ["nixl_cu13", "nixl_cu12"],
            _ => ["nixl_cu12", "nixl_cu13"],
        };
        for site in &self.site_packages {
            for package in packages {
                // As meson-python and auditwheel name the folder of a wheel's libraries; the package itself last.
                let folders =
                    [format!(".{package}.mesonpy.libs"), format!("{package}.libs"), package.to_owned()];
                found.extend(folders.iter().flat_map(|folder| in_folder(&site.join(folder))));
            }
        }
        found.extend(NAMES.map(PathBuf::from));
        found
    }
}

fn in_folder(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    NAMES.map(|name| folder.join(name)).into_iter()
}

/// A libnixl of this process. It is never unloaded.
pub struct Library {
    table: Table,
    path: Option<PathBuf>,
    since_1_5_0: bool,
}

impl Library {
    /// Opens the first library of `search` that is there and complete. With the feature `nixl-sys` the linked one is
    /// taken, and `search` is not looked at.
    ///
    /// # Errors
    /// `Unavailable`, with every place that was looked at and what was wrong there.
    pub fn open(search: &LibrarySearch) -> Result<Arc<Self>> {
        Self::linked().unwrap_or_else(|| Self::search(search))
    }

    fn search(search: &LibrarySearch) -> Result<Arc<Self>> {
        let mut looked = Vec::new();
        for path in search.candidates() {
            // The loader looks up bare names; others must be there, and absolute, or it would look elsewhere.
            let bare = path.components().count() == 1 && search.path.is_none();
            let path = if bare { path } else { std::path::absolute(&path).unwrap_or(path) };
            if !bare && !path.exists() {
                looked.push(format!("{}: not there", path.display()));
                continue;
            }
            match binding::load(&path) {
                Ok(loaded) => {
                    tracing::debug!(path = %path.display(), since_1_5_0 = loaded.since_1_5_0, "libnixl is loaded");
                    ending::wait_at_the_end();
                    let (table, since_1_5_0) = (loaded.table, loaded.since_1_5_0);
                    return Ok(Arc::new(Self { table, path: Some(path), since_1_5_0 }));
                }
                Err(reason) => looked.push(format!("{}: {reason}", path.display())),
            }
        }
        let message = format!(
            "libnixl was not found; install it with `pip install nixl-cu12`, or name its folder. Looked at {}",
            looked.join("; ")
        );
        Err(Error::new(ErrorKind::Unavailable, message).with_backend(NIXL))
    }

    #[cfg(not(feature = "nixl-sys"))]
    fn linked() -> Option<Result<Arc<Self>>> {
        None
    }

    #[cfg(feature = "nixl-sys")]
    fn linked() -> Option<Result<Arc<Self>>> {
        let library = binding::linked().map(|loaded| {
            Arc::new(Self { table: loaded.table, path: None, since_1_5_0: loaded.since_1_5_0 })
        });
        Some(library.map_err(|reason| Error::new(ErrorKind::Unavailable, reason).with_backend(NIXL)))
    }

    /// The file it was loaded from; `None` if it is linked.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether it is 1.5.0 or newer: from there on, a request that has failed has nothing in flight any more.
    pub fn is_since_1_5_0(&self) -> bool {
        self.since_1_5_0
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("path", &self.path)
            .field("since_1_5_0", &self.since_1_5_0)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_looked_for_by_the_major_version_of_cuda() {
        let site = vec![PathBuf::from("/site")];
        let search =
            LibrarySearch { site_packages: site, library_folder: Some("/lib".into()), ..Default::default() };
        let listed = |search: &LibrarySearch| -> Vec<String> {
            search.candidates().iter().map(|path| path.display().to_string()).collect()
        };
        let without = listed(&search);
        assert_eq!(without[..2], ["/lib/libnixl_capi.so", "/lib/libnixl_capi.so.0"]);
        assert_eq!(without[2], "/site/.nixl_cu12.mesonpy.libs/libnixl_capi.so");
        assert_eq!(without[without.len() - 2..], ["libnixl_capi.so", "libnixl_capi.so.0"]);
        // The active Python's packages before those of another one, and then by the driver.
        let sites = vec![PathBuf::from("/site"), PathBuf::from("/user")];
        for (major, wanted) in [
            (None, ["/site/.nixl_cu12", "/site/.nixl_cu13", "/user/.nixl_cu12", "/user/.nixl_cu13"]),
            (Some(12), ["/site/.nixl_cu12", "/site/.nixl_cu13", "/user/.nixl_cu12", "/user/.nixl_cu13"]),
            (Some(13), ["/site/.nixl_cu13", "/site/.nixl_cu12", "/user/.nixl_cu13", "/user/.nixl_cu12"]),
        ] {
            let search =
                LibrarySearch { cuda_major: major, site_packages: sites.clone(), ..LibrarySearch::default() };
            let wheels: Vec<String> = listed(&search)
                .into_iter()
                .filter(|path| path.ends_with("mesonpy.libs/libnixl_capi.so"))
                .collect();
            let wanted = wanted.map(|start| format!("{start}.mesonpy.libs/libnixl_capi.so"));
            assert_eq!(wheels, wanted, "{major:?}");
        }
    }

    #[test]
    #[cfg(not(feature = "nixl-sys"))]
    fn a_missing_library_is_an_error_with_every_place() {
        let empty = tempfile::tempdir().unwrap();
        let error = Library::open(&LibrarySearch::at(empty.path())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        for name in NAMES {
            let place = empty.path().join(name).display().to_string();
            assert!(error.to_string().contains(&format!("{place}: not there")), "{error}");
        }
    }

    #[test]
    #[cfg(not(feature = "nixl-sys"))]
    fn what_is_no_library_and_what_is_another_one_is_said() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAMES[0]), b"not a library").unwrap();
        let error = Library::open(&LibrarySearch::at(folder.path())).unwrap_err().to_string();
        assert!(error.contains("ELF") || error.contains("too short"), "{error}");
        let libc =
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"];
        let Some(libc) = libc.into_iter().find(|path| Path::new(path).exists()) else {
            return eprintln!("went without: a library of another kind; libc is not where it usually is");
        };
        let error = Library::open(&LibrarySearch::at(libc)).unwrap_err().to_string();
        assert!(error.contains("functions are missing: nixl_capi_create_configured_agent"), "{error}");
    }
}
