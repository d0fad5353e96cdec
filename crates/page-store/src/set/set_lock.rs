//! Whose set it is: a lock held for life. A process that dies gives it up, and the next one continues the set.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use hicache_core::{Error, ErrorKind, Result};

const PREFIX: &str = "set-";
const MOST_SETS: u32 = 1 << 24;

/// A set that is ours while this lives.
#[derive(Debug)]
pub(crate) struct SetLock {
    directory: PathBuf,
    #[expect(dead_code, reason = "the lock is held as long as the file is open")]
    file: File,
}

impl SetLock {
    /// Takes the first free set of the namespace, or makes one if none is free.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn claim(namespace_directory: &Path) -> Result<Self> {
        // Between looking and making, another process may make the same one: then look again.
        for _ in 0..1000 {
            let sets = existing_sets(namespace_directory)?;
            for (_, directory) in &sets {
                if let Some(lock) = Self::try_take(directory)? {
                    return Ok(lock);
                }
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

    /// Takes one particular set; `None` if a process has it.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn try_take(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join("LOCK");
        let io = |error| Error::io("lock", format!("set {}", path.display()), error);
        // Opened close-on-exec, as the standard library does: a child program must not hold the set.
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let who = format!("pid {} since {}\n", std::process::id(), started.as_secs());
        // For people only; a full disk must not keep a cache from opening.
        let _ = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.set_len(0))
            .and_then(|()| file.write_all(who.as_bytes()));
        Ok(Some(Self { directory: directory.to_owned(), file }))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
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
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        // A file of such a name is no set, and from the highest number nobody could count on.
        if let Some(number) = number.filter(|&number| number < MOST_SETS && entry.path().is_dir()) {
            sets.push((number, entry.path()));
        }
    }
    sets.sort_unstable();
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_set_is_continued_and_a_held_one_is_not() {
        let namespace = tempfile::tempdir().unwrap();
        let first = SetLock::claim(namespace.path()).unwrap();
        let second = SetLock::claim(namespace.path()).unwrap();
        assert_ne!(first.directory(), second.directory());
        let freed = first.directory().to_owned();
        drop(first);
        assert_eq!(SetLock::claim(namespace.path()).unwrap().directory(), freed);
    }
}
