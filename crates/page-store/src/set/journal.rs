//! The journal of a set: records appended, generation after generation.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use hicache_core::{Error, ErrorKind, Result};
use hicache_hashing::Fingerprint;
use rustix::fs::FallocateFlags;

use super::paths::SetPaths;
use crate::format::{FORMAT_VERSION, RECORD_BYTES, Record};

/// Space is taken in such steps, ahead of the records: when the disk is full, evictions can still be written down,
/// and those are what makes room.
const STEP_BYTES: u64 = 16 << 10;

/// The end of the journal. Records are written at its own offset, so that what a failed write left behind is
/// overwritten by the next one.
#[derive(Debug)]
pub(crate) struct Journal {
    /// `None` for a store that only reads.
    file: Option<Arc<File>>,
    generation: u64,
    bytes: u64,
    allocated: u64,
    /// A write failed, and what it left behind is still there: a follower might read it.
    torn: bool,
    buffer: Vec<u8>,
}

impl Journal {
    /// Begins generation `generation` with a header.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub(crate) fn begin(paths: &SetPaths, generation: u64, fingerprint: Fingerprint) -> Result<Self> {
        let path = paths.journal(generation);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(|error| Error::io("create", path.display().to_string(), error))?;
        let mut journal = Self { file: Some(Arc::new(file)), generation, ..Self::none() };
        let header = Record::Header { version: FORMAT_VERSION, generation, fingerprint };
        if let Err(error) = journal.append([header]) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(journal)
    }

    /// Goes on with a journal whose `bytes` bytes are whole records; anything behind them is cut.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn resume(paths: &SetPaths, generation: u64, bytes: u64) -> Result<Self> {
        let path = paths.journal(generation);
        let io = |error| Error::io("open", path.display().to_string(), error);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
        if file.metadata().map_err(io)?.len() != bytes {
            file.set_len(bytes).map_err(io)?;
        }
        Ok(Self { file: Some(Arc::new(file)), generation, bytes, allocated: bytes, ..Self::none() })
    }

    /// The journal of a store that only reads: it refuses every record.
    pub(crate) fn none() -> Self {
        Self { file: None, generation: 0, bytes: 0, allocated: 0, torn: false, buffer: Vec::new() }
    }

    /// Ends a journal that somebody left unsealed, so that those who follow it go on with `next`. What is behind its
    /// `bytes` bytes of whole records is cut.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub(crate) fn seal(paths: &SetPaths, generation: u64, bytes: u64, next: u64) -> Result<()> {
        Self::resume(paths, generation, bytes)?.append([Record::Seal { next }])
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// How many records it has, the header among them.
    pub(crate) fn records(&self) -> u64 {
        self.bytes / RECORD_BYTES as u64
    }

    /// Whether what a failed write left behind could not be cut off yet. The slots that it names must not be written.
    pub(crate) fn is_torn(&self) -> bool {
        self.torn
    }

    /// The file, to be synced without holding what guards the journal.
    pub(crate) fn file(&self) -> Option<Arc<File>> {
        self.file.clone()
    }

    /// Appends records with one write. After an error none of them counts: what was written of them is cut off, and as
    /// long as that fails too, nothing more is appended.
    ///
    /// # Errors
    /// `Io`, `NoSpace`; `Unsupported` for a store that only reads.
    pub(crate) fn append(&mut self, records: impl IntoIterator<Item = Record>) -> Result<()> {
        self.buffer.clear();
        for record in records {
            self.buffer.extend_from_slice(&record.encode());
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let Some(file) = self.file.clone() else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a store in the role of a reader changes nothing",
            ));
        };
        let io = |error: std::io::Error| {
            Error::io("append", format!("journal of generation {}", self.generation), error)
        };
        if self.torn {
            file.set_len(self.bytes).map_err(io)?;
            self.torn = false;
        }
        let end = self.bytes + self.buffer.len() as u64;
        if end + STEP_BYTES / 2 > self.allocated {
            let target = (end + STEP_BYTES).next_multiple_of(STEP_BYTES);
            // Best effort: file systems without it, and full ones, say so at the write.
            if reserve(&file, self.allocated, target) {
                self.allocated = target;
            }
        }
        if let Err(error) = file.write_all_at(&self.buffer, self.bytes) {
            self.torn = file.set_len(self.bytes).is_err();
            // The cut has given back what was reserved, which is what retirements are written into.
            if !reserve(&file, self.bytes, self.allocated) {
                self.allocated = self.bytes;
            }
            return Err(io(error));
        }
        self.bytes = end;
        Ok(())
    }
}

/// Takes space ahead, without lengthening the file.
fn reserve(file: &File, from: u64, to: u64) -> bool {
    to <= from || rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, from, to - from).is_ok()
}
