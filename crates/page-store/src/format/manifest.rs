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

/// What became of the manifest at opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    Created,
    Found,
    /// What was there could not be read.
    Rewritten,
}

/// What is there in place of a manifest.
#[derive(Debug)]
pub(crate) enum Found {
    Nothing,
    /// A file that is no manifest: torn, empty, garbage.
    Damaged(serde_json::Error),
    Manifest(Manifest),
}

impl Manifest {
    pub(crate) const FILE: &'static str = "MANIFEST";
    /// Beginning of the names under which manifests are written aside.
    pub(crate) const ASIDE: &'static str = ".MANIFEST-";

    /// Looks for the manifest of `directory`, and checks it.
    ///
    /// # Errors
    /// `Config` for one of a newer format, or that contradicts the directory's name; `Io`.
    pub(crate) fn find(directory: &Path) -> Result<Found> {
        let path = directory.join(Self::FILE);
        let raw = match fs::read(&path) {
            Ok(raw) => raw,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(Error::io("read", format!("manifest {}", path.display()), error)),
        };
        let manifest = match Self::parse(&raw) {
            Parsed::Manifest(manifest) => manifest,
            Parsed::Newer(version) => {
                return Err(Error::config(format!(
                    "{} has format {version}, this build reads up to {FORMAT_VERSION}; use the newer build, or \
                     another root",
                    path.display(),
                )));
            }
            Parsed::No(why) => return Ok(Found::Damaged(why)),
        };
        let named = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !manifest.is_named(named) {
            let computed = manifest.namespace.fingerprint();
            return Err(Error::config(format!(
                "{} says fingerprint {} and a namespace of fingerprint {computed}, but its directory is {named}; \
                 the directory was renamed or the file was edited: restore it. If only the file is wrong, remove it: \
                 it is written anew when the namespace is opened, and the pages stay",
                path.display(),
                manifest.fingerprint
            )));
        }
        Ok(Found::Manifest(manifest))
    }

    /// What is in the bytes of a manifest, whoever it may be of.
    pub(crate) fn parse(raw: &[u8]) -> Parsed {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        // The version first: a newer format may have anything else in it.
        match serde_json::from_slice::<Version>(raw) {
            Ok(Version { format_version }) if format_version > FORMAT_VERSION => {
                Parsed::Newer(format_version)
            }
            Ok(_) => serde_json::from_slice(raw).map_or_else(Parsed::No, Parsed::Manifest),
            Err(why) => Parsed::No(why),
        }
    }

    /// Reads the manifest of `directory`, if there is one, without knowing of which namespace it should be.
    ///
    /// # Errors
    /// As [`Manifest::find`]; `Config` for a file that is no manifest.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>> {
        match Self::find(directory)? {
            Found::Nothing => Ok(None),
            Found::Manifest(manifest) => Ok(Some(manifest)),
            Found::Damaged(why) => Err(Error::config(format!(
                "{} is not a manifest of a page store; the server that uses this namespace writes it anew when it is \
                 started, or move the directory away",
                directory.join(Self::FILE).display()
            ))
            .with_source(why)),
        }
    }

    /// Whether the file `aside` is a whole manifest of `directory`.
    pub(crate) fn is_of(aside: &Path, directory: &Path) -> bool {
        let Ok(Parsed::Manifest(manifest)) = fs::read(aside).map(|raw| Self::parse(&raw)) else {
            return false;
        };
        let named = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        manifest.is_named(named)
    }

    fn is_named(&self, fingerprint: &str) -> bool {
        self.fingerprint == fingerprint && self.namespace.fingerprint().to_string() == fingerprint
    }

    /// Makes sure that `directory` is the directory of `namespace`: writes its manifest or compares the one there. A
    /// file that is no manifest is replaced: nothing says that the directory is another namespace's, and what is in it
    /// carries the fingerprint too.
    ///
    /// # Errors
    /// As [`Manifest::find`]; `Config` showing both namespaces where they differ; `Io`.
    pub(crate) fn ensure(directory: &Path, namespace: &Namespace) -> Result<Opened> {
        let ours = Self {
            format_version: FORMAT_VERSION,
            fingerprint: namespace.fingerprint().to_string(),
            namespace: namespace.clone(),
        };
        match Self::find(directory)? {
            Found::Manifest(theirs) if theirs.namespace == ours.namespace => Ok(Opened::Found),
            Found::Manifest(theirs) => Err(Error::config(format!(
                "{} holds another namespace than asked for: there {:?}, asked {:?}",
                directory.display(),
                theirs.namespace,
                ours.namespace
            ))),
            Found::Nothing => {
                ours.write(directory, Over::Nothing)?;
                Ok(Opened::Created)
            }
            Found::Damaged(why) => {
                let path = directory.join(Self::FILE);
                tracing::warn!(path = %path.display(), %why, "the manifest is damaged; it is written anew");
                ours.write(directory, Over::WhatIsThere)?;
                Ok(Opened::Rewritten)
            }
        }
    }

    fn write(&self, directory: &Path, over: Over) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|source| {
            Error::new(ErrorKind::Unexpected, "the manifest can't be written").with_source(source)
        })?;
        static ASIDE: AtomicU64 = AtomicU64::new(0);
        let number = ASIDE.fetch_add(1, Ordering::Relaxed);
        let aside = directory.join(format!("{}{}-{number}", Self::ASIDE, std::process::id()));
        let path = directory.join(Self::FILE);
        let io = |error| Error::io("create", format!("manifest in {}", directory.display()), error);
        let written = File::create(&aside)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| match over {
                // Linked: whoever comes second finds a whole one, and its own is dropped.
                Over::Nothing => match fs::hard_link(&aside, &path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    // File systems without links: a rename is as atomic, and of two equal ones either may win.
                    Err(_) => fs::rename(&aside, &path),
                    Ok(()) => Ok(()),
                },
                Over::WhatIsThere => fs::rename(&aside, &path),
            });
        let _ = fs::remove_file(&aside);
        written.map_err(io)
    }
}

/// What a manifest is written over.
#[derive(Clone, Copy)]
enum Over {
    Nothing,
    WhatIsThere,
}

/// What the bytes of a manifest are.
#[derive(Debug)]
pub(crate) enum Parsed {
    Manifest(Manifest),
    /// Of a format above ours: which.
    Newer(u32),
    No(serde_json::Error),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    }

    #[test]
    fn what_is_no_manifest_is_written_anew() {
        let root = tempfile::tempdir().unwrap();
        let namespace = Namespace::new("m");
        let directory = root.path().join(namespace.fingerprint().to_string());
        fs::create_dir(&directory).unwrap();
        let path = directory.join(Manifest::FILE);
        Manifest::ensure(&directory, &namespace).unwrap();
        let good = fs::read(&path).unwrap();
        let cases: [&[u8]; 5] = [b"", b"garbage", b"{}", &[0; 300], &good[..good.len() / 2]];
        for bad in cases {
            fs::write(&path, bad).unwrap();
            let error = Manifest::read(&directory).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("not a manifest"), "{error}");
            assert_eq!(Manifest::ensure(&directory, &namespace).unwrap(), Opened::Rewritten);
            assert_eq!(fs::read(&path).unwrap(), good);
            assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "something was left aside");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(raw in prop::collection::vec(any::<u8>(), 0..400)) {
            crate::fuzzing::manifest(&raw);
        }

        #[test]
        fn a_damaged_manifest_is_never_another_namespaces(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let root = tempfile::tempdir().unwrap();
            let namespace = Namespace::new("m");
            let directory = root.path().join(namespace.fingerprint().to_string());
            fs::create_dir(&directory).unwrap();
            Manifest::ensure(&directory, &namespace).unwrap();
            let path = directory.join(Manifest::FILE);
            let mut raw = fs::read(&path).unwrap();
            let at = at.index(raw.len());
            raw[at] = byte;
            raw.truncate(cut.index(2 * raw.len()));
            fs::write(&path, &raw).unwrap();
            match Manifest::ensure(&directory, &namespace) {
                Ok(_) => assert_eq!(Manifest::read(&directory).unwrap().unwrap().namespace, namespace),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Config);
                    assert_eq!(fs::read(&path).unwrap(), raw, "refused and changed");
                }
            }
        }
    }
}
