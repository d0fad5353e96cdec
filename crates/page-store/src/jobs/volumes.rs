//! The volumes of a store. One whose root was gone is replaced when the root is there again.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use hicache_core::{Error, ErrorKind, Namespace, Result};
use rustix::io::Errno;

use super::Shared;
use crate::volume::{Volume, VolumeOptions};

/// The volumes, in the order of the roots. A batch takes the list once and keeps to it.
pub(crate) type VolumeList = Arc<[Arc<Volume>]>;

#[derive(Debug)]
pub(crate) struct Volumes {
    list: RwLock<VolumeList>,
    namespace: Namespace,
    options: VolumeOptions,
}

impl Volumes {
    /// Opens one for each root.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub(crate) fn open<'a>(
        roots: impl Iterator<Item = &'a Path>,
        namespace: &Namespace,
        options: VolumeOptions,
    ) -> Result<Self> {
        let open = |root| Volume::open(root, namespace, options).map_err(|error| with_mend(root, error));
        let list = roots.map(open).collect::<Result<_>>()?;
        Ok(Self { list: RwLock::new(list), namespace: namespace.clone(), options })
    }

    pub(crate) fn now(&self) -> VolumeList {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, number: usize, volume: Arc<Volume>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = list.to_vec();
        changed[number] = volume;
        *list = changed.into();
    }
}

/// Why a root can't be opened, where the system's word for it does not say what to do.
fn with_mend(root: &Path, error: Error) -> Error {
    let Some(errno) = error.errno().map(Errno::from_raw_os_error) else { return error };
    let (kind, mend) = match errno {
        Errno::ROFS => (
            ErrorKind::Unavailable,
            "is on a file system that is mounted read-only; mount it for writing, or name another root",
        ),
        Errno::ACCESS | Errno::PERM => {
            (ErrorKind::Config, "can't be written by this user; give it the directory, or name another root")
        }
        Errno::MFILE | Errno::NFILE => (
            ErrorKind::Unavailable,
            "needs more open files than the process may have; raise the limit (ulimit -n)",
        ),
        Errno::NOSPC | Errno::DQUOT => (
            ErrorKind::NoSpace,
            "has no room for the files that a store begins with; free some, or name another root",
        ),
        _ => return error,
    };
    Error::new(kind, format!("root {} {mend}", root.display()))
        .with_operation("open")
        .with_errno(errno.raw_os_error())
        .with_source(error)
}

impl Shared {
    /// Brings a volume back that was found gone: the same files if they are at its path again, else what is there now.
    /// Only a trial of the breaker comes here, so one at a time.
    ///
    /// # Errors
    /// `Unavailable` while it is gone; as [`Volume::open`].
    pub(super) async fn bring_back(&self, number: usize) -> Result<()> {
        let old = Arc::clone(&self.volumes.now()[number]);
        if old.look_whether_there().is_ok() {
            return Ok(());
        }
        old.may_be_replaced()?;
        // It would still put files where the new volume's are.
        old.snapshot_idle().await;
        let (root, namespace, options) =
            (old.root().to_owned(), self.volumes.namespace.clone(), self.volumes.options);
        let opening = tokio::task::spawn_blocking(move || Volume::open(&root, &namespace, options));
        let opened = opening.await;
        let new =
            opened.map_err(|_| Error::new(ErrorKind::Unexpected, "opening the root again was lost"))??;
        let counters = old.lock().counters;
        new.count(|new| new.add(&counters));
        tracing::info!(root = %old.root().display(), pages = new.lock().catalog.pages(), "the root was opened again");
        self.volumes.replace(number, new);
        Ok(())
    }
}
