//! Whether the files that a volume has open are still those that lie at its path. A directory that was removed, and a
//! file system that was unmounted while files were open, take writes as before; nobody will ever find them.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use super::Volume;
use crate::set::{FileId, lies_at};

/// Stores look at most so often: two calls of the system.
const EVERY: Duration = Duration::from_secs(1);

/// What was there when the volume was opened.
#[derive(Debug)]
pub(super) struct Presence {
    lock_path: PathBuf,
    lock: FileId,
    /// The file system of the root.
    device: u64,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    looked: Instant,
    gone: Option<Error>,
}

impl Presence {
    /// # Errors
    /// `Io`.
    pub(super) fn new(root: &Path, lock_path: PathBuf) -> Result<Self> {
        let io = |error| Error::io("examine", format!("set lock {}", lock_path.display()), error);
        let lock = FileId::of(&fs::metadata(&lock_path).map_err(io)?);
        let device = fs::metadata(root).map_err(io)?.dev();
        let now = Mutex::new(Now { looked: Instant::now(), gone: None });
        Ok(Self { lock_path, lock, device, now })
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_mount_point(path: &Path, metadata: &Metadata) -> bool {
    fs::metadata(path.join("..")).is_ok_and(|parent| parent.dev() != metadata.dev())
}

impl Volume {
    /// Looks whether the set is where it was, if nobody has for a second.
    ///
    /// # Errors
    /// `Unavailable`, saying what has become of the root and what to do.
    pub(crate) fn ensure_there(&self) -> Result<()> {
        {
            let now = self.presence.lock();
            if now.looked.elapsed() < EVERY {
                return now.gone.clone().map_or(Ok(()), Err);
            }
        }
        self.look_whether_there()
    }

    /// What the last look found.
    ///
    /// # Errors
    /// As [`Volume::ensure_there`].
    pub(crate) fn known_there(&self) -> Result<()> {
        self.presence.lock().gone.clone().map_or(Ok(()), Err)
    }

    /// Looks whether the set is where it was. A volume that was found gone is there again when the same files are.
    ///
    /// # Errors
    /// As [`Volume::ensure_there`].
    pub(crate) fn look_whether_there(&self) -> Result<()> {
        let seen = fs::metadata(&self.presence.lock_path);
        let gone = match seen {
            Ok(metadata) if FileId::of(&metadata) == self.presence.lock => None,
            Ok(_) => Some(self.gone("another set lies in its place: it was replaced, or mounted over", None)),
            Err(error) => Some(self.gone(self.what_is_missing(), Some(error))),
        };
        if gone.is_none() {
            let (file, generation) = {
                let state = self.lock();
                (state.journal.file(), state.journal.generation())
            };
            let lost = file.is_some_and(|file| !lies_at(&file, &self.paths.journal(generation)));
            self.journal_lost.store(lost, Ordering::Relaxed);
        }
        let mut now = self.presence.lock();
        now.looked = Instant::now();
        if now.gone.is_some() != gone.is_some() {
            let root = self.root().display();
            match &gone {
                Some(error) => tracing::error!(%root, %error, "the root is gone"),
                None => tracing::info!(%root, "the root is there again, with the same files"),
            }
        }
        now.gone = gone.clone();
        gone.map_or(Ok(()), Err)
    }

    fn what_is_missing(&self) -> &'static str {
        match fs::metadata(self.root()) {
            Err(_) => "its directory is not there: it was removed, or unmounted",
            Ok(root) if root.dev() != self.presence.device => {
                "its file system is not the one it was: it was unmounted"
            }
            Ok(_) => "the store's files in it were removed",
        }
    }

    fn gone(&self, what: &str, error: Option<io::Error>) -> Error {
        let root = self.root().display();
        let gone = Error::new(
            ErrorKind::Unavailable,
            format!(
                "root {root} is gone: {what}; mount it, or make the directory again, and the store goes on"
            ),
        );
        let gone = gone.with_backend("page-store").with_retryable(true);
        match error {
            Some(error) => match error.raw_os_error() {
                Some(errno) => gone.with_errno(errno).with_source(error),
                None => gone.with_source(error),
            },
            None => gone,
        }
    }

    /// Whether what lies at the root now may be opened in place of this volume, which is gone.
    ///
    /// # Errors
    /// As [`Volume::ensure_there`].
    pub(crate) fn may_be_replaced(&self) -> Result<()> {
        let namespace = self.root().join(self.fingerprint.to_string());
        match fs::metadata(self.root()) {
            // Nothing is made where nothing is: the directory above may be that of another disk.
            Err(error) => {
                Err(self.gone("its directory is not there: it was removed, or unmounted", Some(error)))
            }
            // A directory that a mount had covered is no root, however empty; another disk that is mounted there is.
            Ok(root)
                if root.dev() != self.presence.device
                    && !namespace.is_dir()
                    && !is_mount_point(self.root(), &root) =>
            {
                Err(self
                    .gone("another file system is there, without this store's files: it was unmounted", None))
            }
            Ok(_) => {
                let state = self.lock();
                let linked = |file: Arc<File>| file.metadata().is_ok_and(|journal| journal.nlink() > 0);
                let linked = state.journal.file().is_some_and(linked);
                // Those files may be the ones that a new volume would go on with: not while they are written.
                if linked && state.catalog.classes().values().any(|class| class.busy > 0) {
                    return Err(self.gone("operations on what was there are still under way", None));
                }
                Ok(())
            }
        }
    }
}
