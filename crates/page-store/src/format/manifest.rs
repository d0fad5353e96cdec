//! The manifest of a namespace directory: its format and, in clear, what it is the cache of. JSON.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use hicache_core::{Error, ErrorKind, Namespace, Result};
use serde::{Deserialize, Serialize};

use super::FORMAT_VERSION;

/// The manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format_version: u32,
    pub(crate) fingerprint: String,
    pub(crate) namespace: Namespace,
}

/// Whether a manifest was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    Created,
    Found,
}

impl Manifest {
    pub(crate) const FILE: &'static str = "MANIFEST";

    /// Reads and checks the manifest of `directory`.
    ///
    /// # Errors
    /// `Config` for one that is not JSON of ours, of a newer format, or that contradicts the directory's name.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(Self::FILE);
        let raw = match fs::read(&path) {
            Ok(raw) => raw,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", format!("manifest {}", path.display()), error)),
        };
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        // The version first: a newer format may have anything else in it.
        let version: Version = serde_json::from_slice(&raw).map_err(|source| {
            Error::config(format!(
                "{} is not a manifest of a page store; move the directory away or choose another root",
                path.display()
            ))
            .with_source(source)
        })?;
        if version.format_version > FORMAT_VERSION {
            return Err(Error::config(format!(
                "{} has format {}, this build reads up to {FORMAT_VERSION}; use the newer build, or another root",
                path.display(),
                version.format_version
            )));
        }
        let manifest: Self = serde_json::from_slice(&raw).map_err(|source| {
            Error::config(format!("{} can't be read as a manifest; remove the directory", path.display()))
                .with_source(source)
        })?;
        let named = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let computed = manifest.namespace.fingerprint().to_string();
        if manifest.fingerprint != named || computed != named {
            return Err(Error::config(format!(
                "{} says fingerprint {} and a namespace of fingerprint {computed}, but its directory is {named}; \
                 the directory was renamed or edited: restore it or remove it",
                path.display(),
                manifest.fingerprint
            )));
        }
        Ok(Some(manifest))
    }

    /// Makes sure that `directory` is the directory of `namespace`: writes its manifest or compares the one there.
    ///
    /// # Errors
    /// As [`Manifest::read`]; `Config` showing both namespaces where they differ; `Io`.
    pub(crate) fn ensure(directory: &Path, namespace: &Namespace) -> Result<Opened> {
        let ours = Self {
            format_version: FORMAT_VERSION,
            fingerprint: namespace.fingerprint().to_string(),
            namespace: namespace.clone(),
        };
        if let Some(theirs) = Self::read(directory)? {
            if theirs.namespace != ours.namespace {
                return Err(Error::config(format!(
                    "{} holds another namespace than asked for: there {:?}, asked {:?}",
                    directory.display(),
                    theirs.namespace,
                    ours.namespace
                )));
            }
            return Ok(Opened::Found);
        }
        let text = serde_json::to_vec_pretty(&ours).map_err(|source| {
            Error::new(ErrorKind::Unexpected, "the manifest can't be written").with_source(source)
        })?;
        // Written aside and linked: whoever comes second finds a whole one, and its own is dropped.
        static ASIDE: AtomicU64 = AtomicU64::new(0);
        let number = ASIDE.fetch_add(1, Ordering::Relaxed);
        let aside = directory.join(format!(".MANIFEST-{}-{number}", std::process::id()));
        let io = |error| Error::io("create", format!("manifest in {}", directory.display()), error);
        let mut file = File::create(&aside).map_err(io)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io)?;
        let linked = fs::hard_link(&aside, directory.join(Self::FILE));
        let linked = match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // File systems without links: a rename is as atomic, and of two equal manifests either may win.
            Err(_) => fs::rename(&aside, directory.join(Self::FILE)),
            Ok(()) => Ok(()),
        };
        let _ = fs::remove_file(&aside);
        linked.map_err(io)?;
        Ok(Opened::Created)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused_and_shown() {
        let root = tempfile::tempdir().unwrap();
        let namespace = Namespace::new("m");
        let directory = root.path().join(namespace.fingerprint().to_string());
        fs::create_dir(&directory).unwrap();
        assert_eq!(Manifest::ensure(&directory, &namespace).unwrap(), Opened::Created);
        assert_eq!(Manifest::ensure(&directory, &namespace).unwrap(), Opened::Found);
        let other = Namespace::new("n");
        let error = Manifest::ensure(&directory, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("\"m\"") && error.to_string().contains("\"n\""), "{error}");

        let moved = root.path().join(other.fingerprint().to_string());
        fs::rename(&directory, &moved).unwrap();
        assert_eq!(Manifest::ensure(&moved, &other).unwrap_err().kind(), ErrorKind::Config);

        fs::write(moved.join("MANIFEST"), r#"{"format_version": 99, "what": 1}"#).unwrap();
        let error = Manifest::ensure(&moved, &other).unwrap_err();
        assert!(error.to_string().contains("format 99"), "{error}");
        fs::write(moved.join("MANIFEST"), "garbage").unwrap();
        assert_eq!(Manifest::ensure(&moved, &other).unwrap_err().kind(), ErrorKind::Config);
    }
}
