//! Reading a store from outside, running or dead: what `hicache verify`, `stat` and `list` show. Takes no lock and
//! changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use hicache_core::{Error, ListedPage, Namespace, Result};
use hicache_hashing::{Fingerprint, to_hex};
use serde::Serialize;

use crate::audit::{Audit, Seen};
use crate::catalog::Mask;
use crate::format::Manifest;
use crate::set::{SetPaths, existing_sets, physical_bytes};

/// One set of one namespace under a root, as it stands on disk.
#[derive(Debug)]
pub struct SetView {
    /// Namespace of the set.
    pub namespace: Namespace,
    /// Fingerprint of the namespace: the name of its directory.
    pub fingerprint: String,
    /// Directory of the set.
    pub directory: PathBuf,
    audit: Audit,
}

/// Sizes of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetStat {
    /// Namespace in clear.
    pub namespace: Namespace,
    /// Fingerprint of the namespace.
    pub fingerprint: String,
    /// Directory of the set.
    pub directory: PathBuf,
    /// Pages that a reader finds.
    pub pages: u64,
    /// Their bytes.
    pub page_bytes: u64,
    /// Slots in all segments.
    pub slots: u64,
    /// Segment files.
    pub segments: u64,
    /// What the set takes on the medium, in bytes.
    pub physical_bytes: u64,
    /// Generation of the journal.
    pub generation: u64,
    /// Records that were torn or damaged.
    pub bad_records: u64,
    /// Snapshots that could not be used.
    pub bad_snapshots: u64,
    /// Pages whose segment is gone.
    pub lost_pages: u64,
}

/// What a check of every page found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Pages whose bytes are those that were stored.
    pub good_pages: u64,
    /// Pages that were evicted, replaced or deleted while they were read.
    pub superseded_pages: u64,
    /// Pages whose bytes are others. A reader of the store gets a miss for each.
    pub corrupt_pages: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Where the first corrupt ones are, at most ten.
    pub examples: Vec<String>,
}

/// Every set of every namespace under `root`.
///
/// # Errors
/// `Config` if nothing under `root` is a page store, for a manifest of a newer format or one that contradicts its
/// directory; `Io`.
pub fn sets(root: &Path) -> Result<Vec<SetView>> {
    let io = |error| Error::io("list", format!("root {}", root.display()), error);
    let mut found = Vec::new();
    let mut namespaces = 0;
    for entry in fs::read_dir(root).map_err(io)? {
        let directory = entry.map_err(io)?.path();
        let named = directory.file_name().and_then(|name| name.to_str()?.parse::<Fingerprint>().ok());
        let Some(known) = named.filter(|_| directory.is_dir()) else { continue };
        let Some(manifest) = Manifest::read(&directory)? else { continue };
        namespaces += 1;
        let first = found.len();
        for (_, set) in existing_sets(&directory)? {
            found.push(SetView {
                namespace: manifest.namespace.clone(),
                fingerprint: manifest.fingerprint.clone(),
                audit: Audit::of(SetPaths::new(set.clone()), known)?,
                directory: set,
            });
        }
        // What one set hides is hidden in all of them.
        let mut mask = Mask::default();
        found[first..].iter().for_each(|set: &SetView| mask.merge(&set.audit.replayed.mask));
        found[first..].iter_mut().for_each(|set| mask.apply_to(&mut set.audit.replayed.catalog));
    }
    if namespaces == 0 {
        return Err(Error::config(format!("{} holds no page store", root.display())));
    }
    found.sort_by(|a, b| a.directory.cmp(&b.directory));
    Ok(found)
}

impl SetView {
    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.audit.replayed.catalog.pages()
    }

    /// Sizes.
    pub fn stat(&self) -> SetStat {
        let catalog = &self.audit.replayed.catalog;
        SetStat {
            namespace: self.namespace.clone(),
            fingerprint: self.fingerprint.clone(),
            directory: self.directory.clone(),
            pages: catalog.pages(),
            page_bytes: catalog.page_bytes(),
            slots: catalog.classes().values().map(|class| class.slots).sum(),
            segments: self.audit.replayed.segments.len() as u64,
            physical_bytes: physical_bytes(&self.directory).unwrap_or(0),
            generation: self.audit.replayed.generation,
            bad_records: self.audit.replayed.bad_records,
            bad_snapshots: self.audit.replayed.bad_snapshots,
            lost_pages: self.audit.replayed.lost_pages,
        }
    }

    /// Goes through the pages whose name begins with `prefix`.
    ///
    /// # Errors
    /// `Io` if the names can't be read.
    pub fn list(&self, prefix: &str) -> Result<impl Iterator<Item = ListedPage>> {
        let naming = self.audit.naming()?;
        let pages = self.audit.puts().map(move |put| naming.listed(&put));
        Ok(pages.filter(move |page| page.name.starts_with(prefix)))
    }

    /// Reads and checks every page; `progress` is told after each how many bytes it had. Pages that seem wrong are
    /// looked up again afterwards: a store that is running may have replaced them meanwhile.
    ///
    /// # Errors
    /// `Io` if the set can't be read again.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<Verified> {
        let mut verified = Verified::default();
        let mut reader = self.audit.reader();
        let mut doubtful = Vec::new();
        for put in self.audit.puts() {
            if matches!(reader.look(&put), Seen::Good) {
                verified.good_pages += 1;
            } else {
                doubtful.push(put);
            }
            verified.read_bytes += u64::from(put.bytes);
            progress(u64::from(put.bytes));
        }
        if doubtful.is_empty() {
            return Ok(verified);
        }
        let now = Audit::of(self.audit.paths.clone(), self.audit.fingerprint)?;
        for put in doubtful {
            if now.replayed.catalog.peek(put.pool, &put.digest) != Some(put) {
                verified.superseded_pages += 1;
            } else if matches!(reader.look(&put), Seen::Good) {
                verified.good_pages += 1;
            } else {
                verified.corrupt_pages += 1;
                if verified.examples.len() < 10 {
                    verified.examples.push(format!(
                        "page {} in slot {} of segment {} of {}",
                        to_hex(&put.digest),
                        put.place.slot,
                        put.place.segment,
                        self.directory.display()
                    ));
                }
            }
        }
        Ok(verified)
    }
}
