//! The names log of a set.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use hicache_core::{Error, Result};
use hicache_hashing::Digest;

use super::paths::SetPaths;
use crate::format::{encode_name, name_bytes, parse_names};

/// Appends names, and reads them back when somebody lists.
#[derive(Debug)]
pub(crate) struct NamesLog {
    paths: SetPaths,
    file: Option<File>,
    bytes: u64,
}

impl NamesLog {
    pub(crate) fn open(paths: SetPaths) -> Self {
        let bytes = fs::metadata(paths.names()).map_or(0, |metadata| metadata.len());
        Self { paths, file: None, bytes }
    }

    /// Length of the log.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends the names of pages just stored, with one write.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub(crate) fn append<'a>(&mut self, names: impl Iterator<Item = (&'a Digest, &'a str)>) -> Result<()> {
        let mut buffer = Vec::new();
        for (digest, text) in names {
            encode_name(digest, text, &mut buffer);
        }
        if buffer.is_empty() {
            return Ok(());
        }
        let path = self.paths.names();
        let io = |error| Error::io("append", path.display().to_string(), error);
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io)?,
        };
        file.write_all_at(&buffer, self.bytes).map_err(io)?;
        self.file = Some(file);
        self.bytes += buffer.len() as u64;
        Ok(())
    }

    /// Bytes of the log that are no entries.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn bad_bytes(&self) -> Result<u64> {
        match fs::read(self.paths.names()) {
            Ok(raw) => {
                let good: u64 = parse_names(&raw).iter().map(|entry| name_bytes(&entry.text)).sum();
                Ok((raw.len() as u64).saturating_sub(good))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::io("read", self.paths.names().display().to_string(), error)),
        }
    }

    /// All names, by digest.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn read(&self) -> Result<HashMap<Digest, String>> {
        match fs::read(self.paths.names()) {
            Ok(raw) => Ok(parse_names(&raw).into_iter().map(|entry| (entry.digest, entry.text)).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashMap::new()),
            Err(error) => Err(Error::io("read", self.paths.names().display().to_string(), error)),
        }
    }

    /// Writes the log anew with the names of the pages that `live` says are there.
    ///
    /// # Errors
    /// `Io`, `NoSpace`; the log stays as it was.
    pub(crate) fn compact(&mut self, live: impl Fn(&Digest) -> bool) -> Result<()> {
        let mut buffer = Vec::new();
        for (digest, text) in self.read()? {
            if live(&digest) {
                encode_name(&digest, &text, &mut buffer);
            }
        }
        let aside = self.paths.names_aside();
        let written = fs::write(&aside, &buffer).and_then(|()| fs::rename(&aside, self.paths.names()));
        if let Err(error) = written {
            let _ = fs::remove_file(&aside);
            return Err(Error::io("compact", self.paths.names().display().to_string(), error));
        }
        self.file = None;
        self.bytes = buffer.len() as u64;
        Ok(())
    }
}
