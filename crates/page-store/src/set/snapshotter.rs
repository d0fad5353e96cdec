//! Writing a snapshot aside while the store goes on, and removing what it replaces.

use std::fs;
use std::io;

use hicache_core::{Error, ErrorKind, Result};
use hicache_hashing::Fingerprint;

use super::paths::SetPaths;
use crate::format::{Record, SnapshotWriter, read_snapshot};

/// Writes snapshot `generation` from `records`, fsyncs, renames and reads it back. `before` runs when all records are
/// known and nobody finds the snapshot yet.
///
/// # Errors
/// `Io`, `NoSpace`, `Corrupt` if what was read back is not what was written; then no snapshot is left.
pub(crate) fn write_snapshot(
    paths: &SetPaths,
    generation: u64,
    fingerprint: Fingerprint,
    records: impl Iterator<Item = Record>,
    before: impl FnOnce() -> io::Result<()>,
) -> Result<()> {
    let aside = paths.snapshot_aside();
    let path = paths.snapshot(generation);
    let write = || {
        let mut writer = SnapshotWriter::create(&aside, generation, fingerprint)?;
        let mut written = 1_u64;
        for record in records {
            writer.push(&record)?;
            written += 1;
        }
        writer.finish()?;
        before()?;
        fs::rename(&aside, &path)?;
        fs::File::open(paths.directory())?.sync_all()?;
        Ok(written)
    };
    let written = write().map_err(|error| {
        let _ = fs::remove_file(&aside);
        Error::io("write", path.display().to_string(), error)
    })?;
    match read_snapshot(&path, generation, fingerprint, drop) {
        Ok(read) if read == written => Ok(()),
        outcome => {
            let _ = fs::remove_file(&path);
            Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} read back as {outcome:?} after {written} records were written", path.display()),
            ))
        }
    }
}

/// Removes journals and snapshots of generations before `generation`.
pub(crate) fn remove_older(paths: &SetPaths, generation: u64) {
    for stem in [SetPaths::JOURNAL, SetPaths::SNAPSHOT] {
        let Ok(generations) = paths.generations(stem) else { continue };
        for old in generations.into_iter().filter(|&old| old < generation) {
            let path = if stem == SetPaths::JOURNAL { paths.journal(old) } else { paths.snapshot(old) };
            // One that can't be removed is removed next time; replay never needs it.
            let _ = fs::remove_file(path);
        }
    }
}
