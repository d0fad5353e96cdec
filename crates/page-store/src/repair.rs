//! Mending what a damaged medium or a person left of a store: `hicache verify --repair`.
//!
//! A server mends as much as it needs when it opens a set. This does it for every set that nobody has open, reads every
//! page besides, and tells exactly what went.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use hicache_core::{Error, ListedPage, PoolName, Result};
use hicache_hashing::Fingerprint;
use serde::Serialize;

use crate::audit::{Audit, Seen};
use crate::format::{FoundManifest, Manifest, Put};
use crate::set::{NamesLog, Sequence, SetLock, SetPaths, existing_sets, renew};

/// What was done under a root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The sets that nobody had open, mended or found good.
    pub sets: Vec<RepairedSet>,
    /// Sets that a running process has. They were left alone: it mends for itself when it opens them.
    pub in_use: Vec<PathBuf>,
    /// Manifests that were put back from a copy that lay beside them.
    pub restored_manifests: Vec<PathBuf>,
    /// What is still wrong, and what mends it.
    pub left: Vec<String>,
}

/// What was done to one set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairedSet {
    /// Directory of the set.
    pub directory: PathBuf,
    /// Whether anything was changed.
    pub changed: bool,
    /// Pages that are there and right.
    pub good_pages: u64,
    /// Pages that were dropped because their bytes are not those that were stored.
    pub dropped_pages: Vec<ListedPage>,
    /// Pages that were dropped because their segment is gone or cut.
    pub lost_pages: u64,
    /// Pages that the medium did not give: they stay, and may be read again.
    pub unreadable_pages: u64,
    /// Records that were torn or damaged, and are gone.
    pub bad_records: u64,
    /// Snapshots that could not be used, and are gone.
    pub bad_snapshots: u64,
    /// Bytes of the names log that were no names, and are gone.
    pub bad_name_bytes: u64,
    /// Generation of the journal now.
    pub generation: u64,
    /// Bytes of pages read.
    pub read_bytes: u64,
    /// Files that served nothing any more, and were removed.
    pub removed: Vec<PathBuf>,
    /// Files that are not the store's. They are left.
    pub unknown: Vec<PathBuf>,
}

/// Mends every set under `root` that no process has open. `progress` is told after each page how many bytes it had.
///
/// # Errors
/// `Config` if nothing under `root` is a page store; `Io`.
pub fn repair(root: &Path, mut progress: impl FnMut(u64)) -> Result<Repaired> {
    let io = |error| Error::io("list", format!("root {}", root.display()), error);
    let mut namespaces = Vec::new();
    for entry in fs::read_dir(root).map_err(io)? {
        let directory = entry.map_err(io)?.path();
        let named = directory.file_name().and_then(|name| name.to_str()?.parse::<Fingerprint>().ok());
        namespaces.extend(named.filter(|_| directory.is_dir()).map(|fingerprint| (directory, fingerprint)));
    }
    if namespaces.is_empty() {
        return Err(Error::config(format!("{} holds no page store", root.display())));
    }
    namespaces.sort();
    let mut repaired = Repaired::default();
    for (directory, fingerprint) in namespaces {
        if !mend_manifest(&directory, &mut repaired)? {
            continue;
        }
        let mut sequence = None;
        for (_, set) in existing_sets(&directory)? {
            let Some(lock) = SetLock::try_take(&set)? else {
                repaired.in_use.push(set);
                continue;
            };
            match mend_set(SetPaths::new(set.clone()), fingerprint, &mut progress) {
                Ok((mended, highest)) => {
                    sequence = sequence.max(Some(highest));
                    repaired.sets.push(mended);
                }
                Err(error) => repaired.left.push(format!("{}: {error}", set.display())),
            }
            drop(lock);
        }
        if let Some(highest) = sequence {
            // Whoever runs looks at what was mended.
            Sequence::open(&directory, highest)?.sets_changed();
        }
    }
    Ok(repaired)
}

/// Sees to the manifest; answers whether the sets may be touched.
fn mend_manifest(directory: &Path, repaired: &mut Repaired) -> Result<bool> {
    let path = directory.join(Manifest::FILE);
    let why = match Manifest::find(directory) {
        Ok(FoundManifest::Manifest(_)) => return Ok(true),
        Ok(FoundManifest::Nothing) => "is missing".to_owned(),
        Ok(FoundManifest::Damaged(why)) => format!("is damaged ({why})"),
        // Another format, or another's directory: nothing in it is ours to change.
        Err(error) => {
            repaired.left.push(error.to_string());
            return Ok(false);
        }
    };
    // A process that died while it made the manifest has left it whole.
    let io = |error| Error::io("list", format!("namespace {}", directory.display()), error);
    for entry in fs::read_dir(directory).map_err(io)? {
        let aside = entry.map_err(io)?.path();
        let is_aside =
            aside.file_name().is_some_and(|name| name.to_string_lossy().starts_with(Manifest::ASIDE));
        if is_aside && Manifest::is_of(&aside, directory) {
            fs::rename(&aside, &path).map_err(io)?;
            repaired.restored_manifests.push(path);
            return Ok(true);
        }
    }
    repaired.left.push(format!(
        "{} {why}, and nothing here says of which namespace it was; the server that uses this namespace writes it anew \
         when it is started, and keeps the pages",
        path.display()
    ));
    Ok(true)
}

/// Mends a set whose lock is held. Answers the highest sequence in it too.
fn mend_set(
    paths: SetPaths,
    fingerprint: Fingerprint,
    progress: &mut impl FnMut(u64),
) -> Result<(RepairedSet, u64)> {
    let mut mended = RepairedSet { directory: paths.directory().to_owned(), ..RepairedSet::default() };
    mended.removed = paths.remove_leftovers();
    let audit = Audit::of(paths, fingerprint)?;
    let (paths, replayed) = (&audit.paths, &audit.replayed);
    let corrupt = read_pages(&audit, &mut mended, progress);
    let naming = audit.naming()?;
    mended.dropped_pages = corrupt.iter().map(|put| naming.listed(put)).collect();
    drop(naming);
    mended.lost_pages = replayed.lost_pages;
    mended.bad_records = replayed.bad_records;
    mended.bad_snapshots = replayed.bad_snapshots;
    mended.generation = replayed.generation;
    let io = |error| Error::io("list", format!("set {}", paths.directory().display()), error);
    let before = metadata_files(paths).map_err(io)?;
    // One journal, and at most one snapshot: anything else is a generation that was about to begin, or left over.
    if replayed.damaged()
        || !corrupt.is_empty()
        || before.len() > 2
        || replayed.journals.last().is_none_or(|last| last.sealed)
    {
        let places: HashSet<_> = corrupt.iter().map(|put| put.place).collect();
        mended.generation = renew(paths, fingerprint, replayed, |put| !places.contains(&put.place))?;
        let after = metadata_files(paths).map_err(io)?;
        mended.removed.extend(before.into_iter().filter(|path| !after.contains(path)));
        mended.changed = true;
    }
    mend_names(&audit, &corrupt, &mut mended)?;
    for (name, bytes) in &replayed.segments {
        if *bytes < u64::from(name.slot_bytes) && fs::remove_file(paths.segment(*name)).is_ok() {
            mended.removed.push(paths.segment(*name));
        }
    }
    mended.changed |= !mended.removed.is_empty();
    mended.unknown = unknown_files(&audit).map_err(io)?;
    Ok((mended, replayed.sequence))
}

/// Reads every page; answers those whose bytes are wrong.
fn read_pages(audit: &Audit, mended: &mut RepairedSet, progress: &mut impl FnMut(u64)) -> Vec<Put> {
    let mut corrupt = Vec::new();
    let mut reader = audit.reader();
    for put in audit.puts() {
        match reader.look(&put) {
            Seen::Good => mended.good_pages += 1,
            Seen::Wrong => corrupt.push(put),
            Seen::Unreadable(error) => {
                if mended.unreadable_pages == 0 {
                    tracing::warn!(set = %mended.directory.display(), %error, "a page can't be read; it stays");
                }
                mended.unreadable_pages += 1;
            }
        }
        mended.read_bytes += u64::from(put.bytes);
        progress(u64::from(put.bytes));
    }
    corrupt
}

/// Writes the names log anew if there is anything in it that is no name, or a name of a page that was dropped.
fn mend_names(audit: &Audit, corrupt: &[Put], mended: &mut RepairedSet) -> Result<()> {
    let catalog = &audit.replayed.catalog;
    let mut names = NamesLog::open(audit.paths.clone());
    mended.bad_name_bytes = names.bad_bytes()?;
    let text = catalog.pool_id(&PoolName::TEXT);
    let dropped = corrupt.iter().any(|put| Some(put.pool) == text);
    if mended.bad_name_bytes == 0 && !dropped {
        return Ok(());
    }
    names.compact(|digest| {
        let put = text.and_then(|pool| catalog.peek(pool, digest));
        put.is_some_and(|put| !corrupt.contains(&put))
    })?;
    mended.changed = true;
    Ok(())
}

/// Journals and snapshots.
fn metadata_files(paths: &SetPaths) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<_> = paths
        .generations(SetPaths::JOURNAL)?
        .into_iter()
        .map(|generation| paths.journal(generation))
        .collect();
    let snapshots = paths.generations(SetPaths::SNAPSHOT)?;
    files.extend(snapshots.into_iter().map(|generation| paths.snapshot(generation)));
    Ok(files)
}

/// What lies in the set's directory and is not the set's. A second file of one segment number is not.
fn unknown_files(audit: &Audit) -> std::io::Result<Vec<PathBuf>> {
    let ours: Vec<_> = audit.replayed.segments.iter().map(|(name, _)| audit.paths.segment(*name)).collect();
    let mut unknown = Vec::new();
    for entry in fs::read_dir(audit.paths.directory())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let segment = name.starts_with("seg-");
        if !SetPaths::is_ours(&name) || entry.path().is_dir() || segment && !ours.contains(&entry.path()) {
            unknown.push(entry.path());
        }
    }
    unknown.sort();
    Ok(unknown)
}
