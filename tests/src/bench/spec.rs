//! What a competitor is told: which it is, and what it does.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// The page store over the io_uring engine.
    Store,
    /// A ring of the kernel's and nothing else: the very slots of a store in the same directory, else slots of a file of
    /// its own. With `verify`, a checksum of what was read, on the same thread.
    RawRing,
    /// One file a page, `std::fs`, on two threads.
    Files,
    /// One file a page: open, read or write, and close, linked in a ring.
    LinkedFiles,
    /// fio, with its io_uring engine.
    Fio,
    /// foyer's disk tier.
    #[cfg(feature = "foyer")]
    Foyer,
    /// The checksum of pages in memory.
    Checksum,
    /// Pages in memory, looked at once.
    Reading,
    /// The index of the store, read from end to end as `cat` does.
    Cat,
    /// The page hashes of a prompt, and SHA-256 over the same bytes.
    PageHash,
    /// See [`Kind::PageHash`].
    Sha256,
}

/// What it does in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Work {
    /// Reads pages that are there, in no order.
    Get,
    /// Writes pages into slots that had others.
    Reuse,
    /// Writes pages where nothing was.
    FirstFill,
    /// Half of the batches read, half write.
    Mixed,
    /// Asks whether pages are there, 10,000 at once.
    Exists,
    /// Opens what is there.
    Open,
    /// Reads batch after batch; the slowest of a hundred counts.
    Latency,
    /// The same, while others write as much as they can.
    LatencyUnderWrites,
    /// Nothing.
    Idle,
    /// Computes.
    Hash,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) kind: Kind,
    pub(super) work: Work,
    pub(super) page_bytes: usize,
    /// Pages that the pool holds.
    pub(super) pages: u64,
    /// Pages of a round.
    pub(super) round_pages: u64,
    /// Pages of a batch.
    pub(super) batch: usize,
    /// Batches at once.
    pub(super) in_flight: usize,
    /// Operations that a ring keeps in flight.
    pub(super) depth: u32,
    /// Pieces that a page has in memory: 2 are keys and values.
    pub(super) pieces: usize,
    /// Past the page cache.
    pub(super) direct: bool,
    /// On huge pages.
    pub(super) huge: bool,
    pub(super) verify: bool,
    /// The pages of a batch are anywhere in the pool; else they were stored one after another, as those of a prompt are.
    #[serde(default = "yes")]
    pub(super) scattered: bool,
    pub(super) directory: PathBuf,
}

impl Spec {
    /// Bytes of a round.
    pub(super) fn round_bytes(&self) -> u64 {
        self.round_pages * self.page_bytes as u64
    }
}

fn yes() -> bool {
    true
}
