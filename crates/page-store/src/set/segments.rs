//! Segment files: slots of one size, without headers, allocated whole.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hicache_core::{Engine, EngineFile, Error, Result};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// A segment, open. Engines attach it when they first use it.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    path: PathBuf,
    file: Arc<File>,
    attached: Mutex<HashMap<usize, EngineFile>>,
}

impl SegmentFile {
    fn new(path: PathBuf, file: File) -> Self {
        Self { path, file: Arc::new(file), attached: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The file as engine number `number` knows it.
    ///
    /// # Errors
    /// As [`Engine::attach`].
    pub(crate) fn for_engine(&self, number: usize, engine: &dyn Engine) -> Result<EngineFile> {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = attached.get(&number) {
            return Ok(file.clone());
        }
        let file = engine.attach(Arc::clone(&self.file), &self.path)?;
        attached.insert(number, file.clone());
        Ok(file)
    }
}

/// Makes a segment of `bytes` bytes and takes its space. Where the file system can't (`EOPNOTSUPP`), the file is
/// only lengthened, and the answer says so: a full disk then shows at a write.
///
/// # Errors
/// `NoSpace`, `Io`; nothing is left behind.
pub(crate) fn create_segment(path: PathBuf, bytes: u64) -> Result<(SegmentFile, Allocation)> {
    let result = OpenOptions::new().read(true).write(true).create_new(true).open(&path).and_then(|file| {
        let allocation = match allocate(&file, bytes) {
            Ok(allocation) => allocation,
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
        };
        Ok((file, allocation))
    });
    match result {
        Ok((file, allocation)) => Ok((SegmentFile::new(path, file), allocation)),
        Err(error) => {
            Err(Error::io("allocate", format!("segment {} of {bytes} bytes", path.display()), error))
        }
    }
}

/// How a segment got its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// It is taken.
    Reserved,
    /// The file system can't reserve; the file is sparse.
    Sparse,
}

fn allocate(file: &File, bytes: u64) -> io::Result<Allocation> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(Allocation::Reserved),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                file.set_len(bytes)?;
                return Ok(Allocation::Sparse);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens a segment that is there. Answers its length too.
///
/// # Errors
/// `Io`.
pub(crate) fn open_segment(path: PathBuf) -> Result<(SegmentFile, u64)> {
    let opened = OpenOptions::new().read(true).write(true).open(&path).and_then(|file| {
        let length = file.metadata()?.len();
        Ok((file, length))
    });
    match opened {
        Ok((file, length)) => Ok((SegmentFile::new(path, file), length)),
        Err(error) => Err(Error::io("open", format!("segment {}", path.display()), error)),
    }
}

/// Opens a segment of another set, to be read. `None` if it is not there.
///
/// # Errors
/// `Io`.
pub(crate) fn open_segment_to_read(path: PathBuf) -> Result<Option<SegmentFile>> {
    match File::open(&path) {
        Ok(file) => Ok(Some(SegmentFile::new(path, file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", format!("segment {}", path.display()), error)),
    }
}
