//! What `durability = "group"` waits for: everything that an answer stands on is on the disk before the answer.
//!
//! A page stands on its bytes, on its record, and on the names of the files that these are in. A name is on the disk
//! when its directory was synced, and not before, whatever some file systems do.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hicache_core::{Error, ErrorKind, Result};

use super::{Commit, State, Volume};
use crate::catalog::SlotId;
use crate::config::Durability;

/// What was written, and how much of it is on the disk for certain.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    /// Puts appended to journals.
    puts: u64,
    synced_puts: u64,
    /// Files made in the set's directory.
    names: u64,
    synced_names: u64,
    /// Journals that were sealed before their last puts were synced, with how many puts there were then.
    sealed: Vec<(u64, Arc<File>)>,
}

impl Durable {
    pub(crate) fn put(&mut self, pages: usize) {
        self.puts += pages as u64;
    }

    pub(crate) fn named(&mut self) {
        self.names += 1;
    }

    fn names_are_synced(&mut self, names: u64) {
        self.synced_names = self.synced_names.max(names);
    }

    /// The journal `file` is followed by another.
    pub(crate) fn sealed(&mut self, file: Arc<File>) {
        self.names += 1;
        if self.synced_puts < self.puts {
            self.sealed.push((self.puts, file));
        }
    }
}

impl Volume {
    pub(crate) fn is_group(&self) -> bool {
        self.options.durability == Durability::Group
    }

    /// Waits until the bytes of pages and the names of their segments are on the disk. Both come before their records:
    /// a record that leads nowhere would take the older page of its key with it.
    ///
    /// # Errors
    /// `Io`.
    pub(super) async fn sync_segments(&self, pages: &[Commit]) -> Result<()> {
        let (names, directory) = self.new_names(&self.lock());
        sync(pages.iter().map(|page| Arc::clone(page.segment.file())).collect(), directory).await?;
        self.lock().durable.names_are_synced(names);
        Ok(())
    }

    /// How many files were made, and the directory if it must be synced for their names.
    fn new_names(&self, state: &State) -> (u64, Option<PathBuf>) {
        let Durable { names, synced_names, .. } = state.durable;
        (names, (synced_names < names).then(|| self.paths.directory().to_owned()))
    }

    /// Waits until every page that is published now is on the disk. Nothing to do if it is already.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) async fn settle(&self) -> Result<()> {
        let (puts, names, files, directory) = {
            let state = self.lock();
            let durable = &state.durable;
            let mut files: Vec<_> = durable.sealed.iter().map(|(_, file)| Arc::clone(file)).collect();
            if durable.synced_puts < durable.puts {
                files.extend(state.journal.file());
            }
            let (names, directory) = self.new_names(&state);
            (durable.puts, names, files, directory)
        };
        if files.is_empty() && directory.is_none() {
            return Ok(());
        }
        sync(files, directory).await?;
        let mut state = self.lock();
        let durable = &mut state.durable;
        durable.synced_puts = durable.synced_puts.max(puts);
        durable.names_are_synced(names);
        let synced = durable.synced_puts;
        durable.sealed.retain(|&(puts, _)| puts > synced);
        Ok(())
    }

    /// Lets the slots of pages go that were replaced: what replaces them is on the disk.
    pub(super) fn let_go(&self, replaced: &[SlotId]) {
        if replaced.is_empty() {
            return;
        }
        let mut state = self.lock();
        for &slot in replaced {
            state.catalog.unpin(slot);
        }
        drop(state);
        self.released.notify_waiters();
    }
}

/// Brings files to the disk, each once, and then the names in a directory; off the worker.
pub(super) async fn sync(mut files: Vec<Arc<File>>, directory: Option<PathBuf>) -> Result<()> {
    files.sort_unstable_by_key(|file| Arc::as_ptr(file) as usize);
    files.dedup_by(|a, b| Arc::ptr_eq(a, b));
    let synced = tokio::task::spawn_blocking(move || {
        let synced = files.iter().try_for_each(|file| file.sync_data());
        synced.map_err(|error| Error::io("sync", "segments or journal", error))?;
        sync_directories(directory.as_slice())
    });
    synced.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Unexpected, "the sync was lost")))
}

/// The directories whose entries lead to `directory`: from itself to `root`, and if that is not there yet, on to the
/// first that is.
pub(super) fn leading_to(directory: &Path, root: &Path) -> Vec<PathBuf> {
    let mut leading = Vec::new();
    for path in directory.ancestors() {
        let named = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let there = named.is_dir();
        leading.push(named.to_owned());
        if there && root.starts_with(path) {
            break;
        }
    }
    leading
}

/// Brings the names in directories to the disk.
///
/// # Errors
/// `Io`.
pub(super) fn sync_directories(directories: &[PathBuf]) -> Result<()> {
    for path in directories {
        // All of it: of a directory, `fdatasync` may leave out the entries.
        let synced = File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(|error| Error::io("sync", format!("directory {}", path.display()), error))?;
    }
    Ok(())
}
