//! How a page store is opened.

use std::path::PathBuf;

use hicache_core::{Error, Namespace, Result};
use serde::{Deserialize, Serialize};

use crate::catalog::{EvictionPolicy, Lru};

/// When a stored page is answered `Done`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// When its bytes and its record are with the kernel. They survive the death of the process; a power failure may
    /// cost the newest pages, never bring a wrong one back.
    #[default]
    None,
    /// When its bytes, then its record, are on the disk. One sync serves all pages of a batch.
    Group,
}

/// What a process does with the pages of its namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Stores and loads.
    #[default]
    Writer,
    /// Loads what the writers of the namespace stored, and takes no space: ranks that hold the same bytes as another.
    /// Storing, deleting and clearing are `Unsupported`.
    Reader,
}

/// How a page store is opened.
#[derive(Clone, Debug)]
pub struct PageStoreConfig {
    /// Directories, one a disk. Pages are spread over them by their keys. They are made if they are not there.
    pub roots: Vec<PathBuf>,
    /// What the pages are of.
    pub namespace: Namespace,
    /// Limit on physical bytes under all roots together, metadata included; each root gets an equal share. `None`: what
    /// the roots take now and nine tenths of what their file systems have free when the store is opened.
    pub capacity_bytes: Option<u64>,
    /// Size of a segment file. Smaller where the capacity is below 16 of them, larger where it is over 256, and never
    /// more than 65,536 slots.
    pub segment_bytes: u64,
    /// Whether this process stores, or only loads.
    pub role: Role,
    /// When a stored page is answered.
    pub durability: Durability,
    /// Whether loaded pages are compared with their checksums. Always on with engines that report no lengths.
    pub verify: bool,
    /// How long a batch may go without any progress before it counts as lost.
    pub io_timeout_ms: u64,
    /// Memory for pages that an engine can't take as they lie: so much a page size and kind of need.
    pub staging_bytes: u64,
    /// Length of the pages to come, if it is known: then a capacity below 16 of them is refused at once.
    pub page_bytes: Option<u64>,
    /// Makes the eviction policy, one for each size of page.
    pub policy: fn() -> Box<dyn EvictionPolicy>,
}

/// A store holds at least this many pages, or is refused.
pub const LEAST_PAGES: u64 = 16;

impl PageStoreConfig {
    /// The defaults: 256 MiB segments, checksums on, no sync, 30 s without progress, LRU.
    pub fn new(roots: impl IntoIterator<Item = PathBuf>, namespace: Namespace) -> Self {
        Self {
            roots: roots.into_iter().collect(),
            namespace,
            capacity_bytes: None,
            segment_bytes: 256 << 20,
            role: Role::Writer,
            durability: Durability::None,
            verify: true,
            io_timeout_ms: 30_000,
            staging_bytes: 16 << 20,
            page_bytes: None,
            policy: Lru::boxed,
        }
    }

    /// Refuses what can't work, before anything is opened.
    ///
    /// # Errors
    /// `Config`, naming the field, the value and what would be right.
    pub fn validate(&self) -> Result<()> {
        self.namespace.validate()?;
        if self.roots.is_empty() {
            return Err(Error::config("roots is empty; name at least one directory"));
        }
        if self.segment_bytes == 0 {
            return Err(Error::config("segment_bytes is 0; a segment holds at least one page"));
        }
        if self.io_timeout_ms == 0 {
            return Err(Error::config("io_timeout_ms is 0; nothing could complete. The default is 30000"));
        }
        if self.staging_bytes == 0 {
            return Err(Error::config("staging_bytes is 0; pages that must be staged could not move"));
        }
        match self.page_bytes {
            Some(bytes) if bytes == 0 || bytes > u64::from(u32::MAX) - 4095 => Err(Error::config(format!(
                "page_bytes is {bytes}; a page has 1 to {} bytes",
                u32::MAX - 4095
            ))),
            _ => Ok(()),
        }
    }
}
