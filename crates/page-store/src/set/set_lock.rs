//! Whose set it is: a lock held for life. A process that dies gives it up, and the next one continues the set.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hicache_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::locks::lies_at;

const PREFIX: &str = "set-";
const LOCK: &str = "LOCK";
const STARVED: &str = "STARVED";

/// What a writer says of itself in its lock, for people and for the other writers. JSON, padded: it is overwritten in
/// one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WriterNote {
    pub(crate) pid: u32,
    /// Seconds since 1970; for people.
    pub(crate) since: u64,
    /// The limit that it was opened with.
    pub(crate) capacity_bytes: u64,
}

/// What nobody fills for so long is not kept free for it.
const CLAIM_LASTS: Duration = Duration::from_secs(60);
const NOTE_BYTES: usize = 128;
const MOST_SETS: u32 = 1 << 24;

/// A set that is ours while this lives.
#[derive(Debug)]
pub(crate) struct SetLock {
    directory: PathBuf,
    file: File,
    starved: Option<File>,
}

/// Whether somebody writes a set. Asked and changed under the root's lock, since asking takes the lock for a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Nobody does.
    Dead,
    /// Somebody does.
    Live {
        /// Its limit, if it could be read.
        capacity_bytes: Option<u64>,
        /// Whether it has less than its share, and claimed it within the last minute.
        starved: bool,
    },
}

impl SetLock {
    /// Takes every free set of the namespace, in order; makes one if none is free. Under the root's lock.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn claim(namespace_directory: &Path) -> Result<(Self, Vec<Self>)> {
        // Without the root's lock (it could not be had in time) another process may make the same one: then look again.
        for _ in 0..1000 {
            let sets = existing_sets(namespace_directory)?;
            let mut free = Vec::new();
            for (_, directory) in &sets {
                free.extend(Self::try_take(directory)?);
            }
            if !free.is_empty() {
                let own = free.remove(0);
                return Ok((own, free));
            }
            let next = sets.last().map_or(0, |(number, _)| number + 1);
            let directory = namespace_directory.join(format!("{PREFIX}{next:04}"));
            match fs::create_dir(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(Error::io("create", format!("set {}", directory.display()), error));
                }
            }
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("no set of {} could be taken", namespace_directory.display()),
        ))
    }

    /// Takes a set if nobody has it.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn try_take(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(LOCK);
        let io = |error| Error::io("lock", format!("set {}", path.display()), error);
        // Opened close-on-exec, as the standard library does: a child program must not hold the set.
        let file = match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path) {
            Ok(file) => file,
            // Its directory has just been removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        match file.try_lock() {
            // Removed by its last holder, between the two calls.
            Ok(()) if !lies_at(&file, &path) => Ok(None),
            Ok(()) => {
                // What the one before wrote is not ours: its limit counts for nobody any more.
                let _ = file.set_len(0);
                Ok(Some(Self { directory: directory.to_owned(), file, starved: None }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    /// Says who has the set. Best effort: a full disk must not keep a cache from opening.
    pub(crate) fn note(&self, capacity_bytes: u64) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let note = WriterNote { pid: std::process::id(), since: since.as_secs(), capacity_bytes };
        let Ok(mut text) = serde_json::to_vec(&note) else { return };
        text.resize(NOTE_BYTES.max(text.len() + 1), b' ');
        if let Some(last) = text.last_mut() {
            *last = b'\n';
        }
        let written = self.file.write_all_at(&text, 0).and_then(|()| self.file.set_len(text.len() as u64));
        if let Err(error) = written {
            tracing::debug!(set = %self.directory.display(), %error, "the lock does not say who has it");
        }
    }

    /// Tells the other writers whether this one has less than its share and claims it. A lock, so that it ends with the
    /// process, of a file whose time says when the claim was last made.
    pub(crate) fn set_starved(&mut self, starved: bool) {
        if !starved {
            self.starved = None;
        } else if self.starved.is_none() {
            let path = self.directory.join(STARVED);
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            // Somebody may be asking at this moment; then the next try is in time.
            self.starved = file.ok().filter(|file| file.try_lock().is_ok());
        }
        if let Some(file) = &self.starved {
            // If that fails, the claim ends early, and is made again when it has to be.
            let _ = file.set_modified(SystemTime::now());
        }
    }

    pub(crate) fn is_starved(&self) -> bool {
        self.starved.is_some()
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Life {
    /// Whether somebody writes the set in `directory`.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let path = directory.join(LOCK);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Dead),
            // Another user's. Whether it lives is not ours to know, and nothing of it to take.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Self::Live { capacity_bytes: None, starved: false });
            }
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => return Ok(Self::Dead),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut text = [0; NOTE_BYTES];
        let length = file.read_at(&mut text, 0).unwrap_or(0);
        let note: Option<WriterNote> = serde_json::from_slice(text.get(..length).unwrap_or_default()).ok();
        let starved = File::open(directory.join(STARVED)).is_ok_and(|file| {
            matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) && is_fresh(&file)
        });
        Ok(Self::Live { capacity_bytes: note.map(|note| note.capacity_bytes), starved })
    }
}

/// Whether a claim is no older than it may be. One from the future counts: clocks jump.
fn is_fresh(claim: &File) -> bool {
    let made = claim.metadata().and_then(|metadata| metadata.modified());
    made.is_ok_and(|made| made.elapsed().map_or(true, |age| age < CLAIM_LASTS))
}

/// The sets of a namespace with their numbers, in order.
///
/// # Errors
/// `Io`.
pub(crate) fn existing_sets(namespace_directory: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let io = |error| Error::io("list", format!("namespace {}", namespace_directory.display()), error);
    let mut sets = Vec::new();
    for entry in fs::read_dir(namespace_directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        let number = entry.file_name().to_str().and_then(set_number);
        // A file of such a name is no set.
        if let Some(number) = number.filter(|_| entry.path().is_dir()) {
            sets.push((number, entry.path()));
        }
    }
    sets.sort_unstable();
    Ok(sets)
}

/// The number in the name of a set's directory.
pub(crate) fn set_number(name: &str) -> Option<u32> {
    // From the highest number nobody could count on.
    name.strip_prefix(PREFIX)?.parse().ok().filter(|&number| number < MOST_SETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_sets_are_taken_and_held_ones_are_not() {
        let namespace = tempfile::tempdir().unwrap();
        let (first, none) = SetLock::claim(namespace.path()).unwrap();
        assert!(none.is_empty());
        let (second, _) = SetLock::claim(namespace.path()).unwrap();
        let (third, _) = SetLock::claim(namespace.path()).unwrap();
        assert_ne!(first.directory(), second.directory());
        let freed = [first.directory().to_owned(), third.directory().to_owned()];
        drop((first, third));
        let (own, others) = SetLock::claim(namespace.path()).unwrap();
        assert_eq!(own.directory(), freed[0]);
        assert_eq!(others.iter().map(SetLock::directory).collect::<Vec<_>>(), [&freed[1]]);
    }

    #[test]
    fn others_see_who_lives_and_who_starves() {
        let namespace = tempfile::tempdir().unwrap();
        let (mut own, _) = SetLock::claim(namespace.path()).unwrap();
        let life = || Life::of(own.directory()).unwrap();
        assert_eq!(life(), Life::Live { capacity_bytes: None, starved: false });
        own.note(u64::MAX);
        assert_eq!(life(), Life::Live { capacity_bytes: Some(u64::MAX), starved: false });
        let directory = own.directory().to_owned();
        own.set_starved(true);
        assert_eq!(
            Life::of(&directory).unwrap(),
            Life::Live { capacity_bytes: Some(u64::MAX), starved: true }
        );
        own.set_starved(false);
        assert!(matches!(Life::of(&directory).unwrap(), Life::Live { starved: false, .. }));
        drop(own);
        assert_eq!(Life::of(&directory).unwrap(), Life::Dead);
        // Whoever has it next has not said anything yet.
        let _next = SetLock::try_take(&directory).unwrap().unwrap();
        assert_eq!(Life::of(&directory).unwrap(), Life::Live { capacity_bytes: None, starved: false });
    }
}
