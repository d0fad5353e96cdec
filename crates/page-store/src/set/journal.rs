//! The journal of a set: records appended, generation after generation.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use hicache_core::{Error, Result};
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
    file: Arc<File>,
    generation: u64,
    bytes: u64,
    allocated: u64,
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
        let mut journal =
            Self { file: Arc::new(file), generation, bytes: 0, allocated: 0, buffer: Vec::new() };
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
        Ok(Self { file: Arc::new(file), generation, bytes, allocated: bytes, buffer: Vec::new() })
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// How many records it has, the header among them.
    pub(crate) fn records(&self) -> u64 {
        self.bytes / RECORD_BYTES as u64
    }

    /// The file, to be synced without holding what guards the journal.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Appends records with one write. After an error none of them counts.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub(crate) fn append(&mut self, records: impl IntoIterator<Item = Record>) -> Result<()> {
        self.buffer.clear();
        for record in records {
            self.buffer.extend_from_slice(&record.encode());
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let end = self.bytes + self.buffer.len() as u64;
        if end + STEP_BYTES / 2 > self.allocated {
            let target = (end + STEP_BYTES).next_multiple_of(STEP_BYTES);
            let grown = rustix::fs::fallocate(
                &self.file,
                FallocateFlags::KEEP_SIZE,
                self.allocated,
                target - self.allocated,
            );
            // Best effort: file systems without it, and full ones, say so at the write.
            if grown.is_ok() {
                self.allocated = target;
            }
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.bytes) {
            self.take_back();
            return Err(Error::io("append", format!("journal of generation {}", self.generation), error));
        }
        self.bytes = end;
        Ok(())
    }

    /// Cuts off what an append wrote before it failed. A replay would believe it: pages would be found that were
    /// refused, in slots that have been written since.
    fn take_back(&mut self) {
        if !self.file.metadata().is_ok_and(|metadata| metadata.len() > self.bytes) {
            return;
        }
        if let Err(error) = self.file.set_len(self.bytes) {
            tracing::warn!(generation = self.generation, %error, "half an append stays until the next one");
            return;
        }
        // The space that was taken ahead has gone with it. It was just there, so it can be had again.
        let ahead = self.allocated.saturating_sub(self.bytes);
        let again = rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.bytes, ahead);
        if again.is_err() {
            self.allocated = self.bytes;
        }
    }
}
