//! Removing segments and whole sets, so that their space comes back at once and nobody finds half of one.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::paths::{SegmentName, SetPaths};

/// Removes a segment none of whose pages is named by a record any more. It is cut to nothing first: others may have it
/// open, and would keep its space.
///
/// # Errors
/// `Io`.
pub(crate) fn remove_segment_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => file.set_len(0)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    fs::remove_file(path)
}

/// Removes a set whose lock is held. Snapshots first, then journals from the oldest on: what a crash in between leaves
/// names no slot that was written since. Segments that are left are empty, and the next to take the set uses them.
///
/// # Errors
/// `Io`; some of it may be left.
pub(crate) fn remove_set(paths: &SetPaths) -> io::Result<()> {
    for generation in paths.generations(SetPaths::SNAPSHOT)? {
        fs::remove_file(paths.snapshot(generation))?;
    }
    for generation in paths.generations(SetPaths::JOURNAL)?.into_iter().rev() {
        fs::remove_file(paths.journal(generation))?;
    }
    for entry in fs::read_dir(paths.directory())? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if SegmentName::parse(&name).is_some() {
            remove_segment_file(&entry.path())?;
        } else if SetPaths::is_ours(&name) && name != "LOCK" {
            fs::remove_file(entry.path())?;
        }
    }
    // Last: as long as it is there, nobody else can take the set.
    fs::remove_file(paths.directory().join("LOCK"))?;
    fs::remove_dir(paths.directory())
}
