//! The pages of a set as its files say, and whether they are what was stored: what [`crate::inspect`] and
//! [`crate::repair`] share.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use hicache_core::{ListedPage, PoolName, Result};
use hicache_hashing::{Digest, Fingerprint, checksum, to_hex};

use crate::catalog::Lru;
use crate::format::{Place, Put};
use crate::set::{NamesLog, Replayed, SegmentName, SetPaths, replay};

/// A set, replayed from its files.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) paths: SetPaths,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) replayed: Replayed,
}

/// What the bytes of a page are.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Those that were stored.
    Good,
    /// Others, or fewer.
    Wrong,
    /// The medium does not say.
    Unreadable(io::Error),
}

impl Audit {
    /// Replays the set. Takes no lock and changes nothing.
    ///
    /// # Errors
    /// As [`replay`].
    pub(crate) fn of(paths: SetPaths, fingerprint: Fingerprint) -> Result<Self> {
        let replayed = replay(&paths, fingerprint, Lru::boxed)?;
        Ok(Self { paths, fingerprint, replayed })
    }

    /// Every page that a reader finds.
    pub(crate) fn puts(&self) -> impl Iterator<Item = Put> {
        let catalog = &self.replayed.catalog;
        std::iter::successors(catalog.next_live(0), |put| catalog.next_live(put.place.id().checked_add(1)?))
    }

    /// Reads pages, each through the files that this is given again and again.
    pub(crate) fn reader(&self) -> PageReader<'_> {
        PageReader { audit: self, files: HashMap::new(), buffer: Vec::new() }
    }

    /// How listings show pages.
    ///
    /// # Errors
    /// `Io` if the names can't be read.
    pub(crate) fn naming(&self) -> Result<Naming<'_>> {
        let names = NamesLog::open(self.paths.clone()).read()?;
        Ok(Naming { names, pools: self.replayed.catalog.pools() })
    }
}

/// Names of pages.
pub(crate) struct Naming<'a> {
    names: HashMap<Digest, String>,
    pools: &'a [PoolName],
}

impl Naming<'_> {
    pub(crate) fn listed(&self, put: &Put) -> ListedPage {
        let pool = self.pools.get(usize::from(put.pool)).copied().unwrap_or(PoolName::KV);
        let text = self.names.get(&put.digest).filter(|_| pool == PoolName::TEXT);
        let name = text.cloned().unwrap_or_else(|| to_hex(&put.digest));
        ListedPage { pool: pool.to_string(), name, bytes: u64::from(put.bytes) }
    }
}

/// Open segments and a buffer.
pub(crate) struct PageReader<'a> {
    audit: &'a Audit,
    files: HashMap<u16, io::Result<File>>,
    buffer: Vec<u8>,
}

impl PageReader<'_> {
    pub(crate) fn look(&mut self, put: &Put) -> Seen {
        let Place { segment, slot } = put.place;
        let Some(slot_bytes) = self.audit.replayed.catalog.slot_bytes(segment) else { return Seen::Wrong };
        let path = self.audit.paths.segment(SegmentName { slot_bytes, segment });
        let read = match self.files.entry(segment).or_insert_with(|| File::open(path)) {
            Ok(file) => {
                self.buffer.resize(put.bytes as usize, 0);
                file.read_exact_at(&mut self.buffer, u64::from(slot) * u64::from(slot_bytes))
            }
            Err(error) => Err(error.kind().into()),
        };
        match read {
            Ok(()) if checksum(&self.buffer) == put.checksum => Seen::Good,
            Ok(()) => Seen::Wrong,
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => Seen::Wrong,
                _ => Seen::Unreadable(error),
            },
        }
    }
}
