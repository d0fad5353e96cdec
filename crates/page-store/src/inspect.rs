//! Reading a store from outside, running or dead: what `hicache verify`, `stat` and `list` show. Takes no lock and
//! changes nothing.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hicache_core::{Error, ListedPage, Namespace, PoolName, Result};
use hicache_hashing::{Fingerprint, checksum, to_hex};
use serde::Serialize;

use crate::catalog::{Lru, Mask};
use crate::format::{Manifest, Place, Put};
use crate::set::{NamesLog, Replayed, SegmentName, SetPaths, existing_sets, physical_bytes, replay};

/// One set of one namespace under a root, as it stands on disk.
#[derive(Debug)]
pub struct SetView {
    /// Namespace of the set.
    pub namespace: Namespace,
    /// Fingerprint of the namespace: the name of its directory.
    pub fingerprint: String,
    /// Directory of the set.
    pub directory: PathBuf,
    paths: SetPaths,
    known: Fingerprint,
    replayed: Replayed,
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
            let paths = SetPaths::new(set.clone());
            found.push(SetView {
                namespace: manifest.namespace.clone(),
                fingerprint: manifest.fingerprint.clone(),
                replayed: replay(&paths, known, Lru::boxed)?,
                directory: set,
                paths,
                known,
            });
        }
        // What one set hides is hidden in all of them.
        let mut mask = Mask::default();
        found[first..].iter().for_each(|set: &SetView| mask.merge(&set.replayed.mask));
        found[first..].iter_mut().for_each(|set| mask.apply_to(&mut set.replayed.catalog));
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
        self.replayed.catalog.pages()
    }

    /// Sizes.
    pub fn stat(&self) -> SetStat {
        let catalog = &self.replayed.catalog;
        SetStat {
            namespace: self.namespace.clone(),
            fingerprint: self.fingerprint.clone(),
            directory: self.directory.clone(),
            pages: catalog.pages(),
            page_bytes: catalog.page_bytes(),
            slots: catalog.classes().values().map(|class| class.slots).sum(),
            segments: self.replayed.segments.len() as u64,
            physical_bytes: physical_bytes(&self.directory).unwrap_or(0),
            generation: self.replayed.generation,
            bad_records: self.replayed.bad_records,
            bad_snapshots: self.replayed.bad_snapshots,
            lost_pages: self.replayed.lost_pages,
        }
    }

    fn puts(&self) -> impl Iterator<Item = Put> {
        let catalog = &self.replayed.catalog;
        std::iter::successors(catalog.next_live(0), |put| catalog.next_live(put.place.id().checked_add(1)?))
    }

    /// Goes through the pages whose name begins with `prefix`.
    ///
    /// # Errors
    /// `Io` if the names can't be read.
    pub fn list(&self, prefix: &str) -> Result<impl Iterator<Item = ListedPage>> {
        let names = NamesLog::open(self.paths.clone()).read()?;
        let pools = self.replayed.catalog.pools();
        Ok(self.puts().filter_map(move |put| {
            let pool = pools.get(usize::from(put.pool)).copied().unwrap_or(PoolName::KV);
            let text = names.get(&put.digest).filter(|_| pool == PoolName::TEXT);
            let name = text.cloned().unwrap_or_else(|| to_hex(&put.digest));
            name.starts_with(prefix).then(|| ListedPage {
                pool: pool.to_string(),
                name,
                bytes: u64::from(put.bytes),
            })
        }))
    }

    /// Reads and checks every page; `progress` is told after each how many bytes it had. Pages that seem wrong are
    /// looked up again afterwards: a store that is running may have replaced them meanwhile.
    ///
    /// # Errors
    /// `Io` if the set can't be read again.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<Verified> {
        let mut verified = Verified::default();
        let mut files = HashMap::new();
        let mut buffer = Vec::new();
        let mut doubtful = Vec::new();
        for put in self.puts() {
            if self.is_good(&put, &mut files, &mut buffer) {
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
        let now = replay(&self.paths, self.known, Lru::boxed)?;
        for put in doubtful {
            if now.catalog.peek(put.pool, &put.digest) != Some(put) {
                verified.superseded_pages += 1;
            } else if self.is_good(&put, &mut files, &mut buffer) {
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

    fn is_good(&self, put: &Put, files: &mut HashMap<u16, Option<File>>, buffer: &mut Vec<u8>) -> bool {
        let Place { segment, slot } = put.place;
        let Some(slot_bytes) = self.replayed.catalog.slot_bytes(segment) else { return false };
        let path = self.paths.segment(SegmentName { slot_bytes, segment });
        let Some(file) = files.entry(segment).or_insert_with(|| File::open(path).ok()) else { return false };
        buffer.resize(put.bytes as usize, 0);
        let offset = u64::from(slot) * u64::from(slot_bytes);
        file.read_exact_at(buffer, offset).is_ok() && checksum(buffer) == put.checksum
    }
}
