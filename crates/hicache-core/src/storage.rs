//! Pages by key: what a user of the cache wants.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::key::PageKey;
use crate::memory::{PageMemory, Registration};
use crate::namespace::Namespace;
use crate::region::Region;
use crate::transfer::{Answer, Transfer};

/// What became of one page of a batch.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Loaded or stored, every byte of it.
    Done,
    /// Not there. A miss, not an error.
    Absent,
    /// Failed; after a failed load the memory holds anything.
    Failed(Error),
}

impl Outcome {
    /// Whether it is [`Outcome::Done`].
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// The error of a failed page.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// One page to load or store.
#[derive(Debug)]
pub struct PageRequest {
    /// Its key.
    pub key: PageKey,
    /// Its memory, registered with the storage: leased for writing to load, for reading or writing to store.
    pub memory: PageMemory,
    /// The text behind the key, if there is one, so that `list` can show it.
    pub name: Option<Box<str>>,
}

impl PageRequest {
    /// A page by its hash.
    pub fn new(key: PageKey, memory: PageMemory) -> Self {
        Self { key, memory, name: None }
    }

    /// A page by a generic string.
    ///
    /// # Errors
    /// As [`PageKey::from_text`].
    pub fn named(name: &str, memory: PageMemory) -> Result<Self> {
        Ok(Self { key: PageKey::from_text(name)?, memory, name: Some(name.into()) })
    }
}

/// The answer to a batch, in the order of the batch.
#[derive(Debug)]
pub struct PageBatch {
    /// What became of each page.
    pub outcomes: Vec<Outcome>,
    /// The memory of each page; `None` where an operation was lost and the memory may still be in use.
    pub memory: Vec<Option<PageMemory>>,
}

impl PageBatch {
    /// How many pages from the start are done.
    pub fn leading_done(&self) -> usize {
        self.outcomes.iter().take_while(|outcome| outcome.is_done()).count()
    }

    /// Every page of `requests` failed for the same reason.
    pub fn failed(requests: Vec<PageRequest>, error: &Error) -> Self {
        Self {
            outcomes: requests.iter().map(|_| Outcome::Failed(error.clone())).collect(),
            memory: requests.into_iter().map(|request| Some(request.memory)).collect(),
        }
    }
}

impl Answer for PageBatch {
    fn abandoned(len: usize) -> Self {
        let error = Error::new(ErrorKind::Abandoned, "the storage lost the operation");
        Self {
            outcomes: (0..len).map(|_| Outcome::Failed(error.clone())).collect(),
            memory: (0..len).map(|_| None).collect(),
        }
    }
}

/// How pages are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// Replace a page that is there. Otherwise it is left as it is and answered `Done`.
    pub overwrite: bool,
}

/// A place in a listing: opaque, handed back to get what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListCursor(pub String);

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedPage {
    /// Name of its pool.
    pub pool: String,
    /// The text that it was stored under, else its hash in hexadecimal.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The pages, in no particular order.
    pub pages: Vec<ListedPage>,
    /// Where the rest begins; `None` when this was all.
    pub next: Option<ListCursor>,
}

/// Sizes and counts of a storage. Counts are since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StorageStat {
    /// Pages that can be loaded now.
    pub pages: u64,
    /// Their bytes.
    pub page_bytes: u64,
    /// Pages that other processes store and this one can load.
    pub foreign_pages: u64,
    /// Their bytes.
    pub foreign_page_bytes: u64,
    /// Pages that fit, at the sizes seen so far; `None` where there is no limit or no size is known yet.
    pub slots: Option<u64>,
    /// Limit on what is taken from the medium, in bytes.
    pub capacity_bytes: Option<u64>,
    /// What is taken from the medium now, in bytes.
    pub physical_bytes: u64,
    /// Pages loaded and found right.
    pub hit_pages: u64,
    /// Of those, pages that another process stores.
    pub foreign_hit_pages: u64,
    /// Of a storage with a far tier: pages that it wrote there, not those that were there already.
    pub far_stored_pages: u64,
    /// Pages asked for that were not there.
    pub missed_pages: u64,
    /// Pages written.
    pub stored_pages: u64,
    /// Pages that were there already when they were to be stored.
    pub present_pages: u64,
    /// Pages evicted to make room.
    pub evicted_pages: u64,
    /// Pages whose bytes were not those that were stored.
    pub corrupt_pages: u64,
    /// Pages that failed for another reason.
    pub failed_pages: u64,
    /// Operations that were lost.
    pub abandoned_pages: u64,
    /// Pages answered `Unavailable` without trying, because their medium was cut off.
    pub refused_pages: u64,
    /// How often a part of the medium was cut off, for one direction, because it failed or hung.
    pub breaker_opened: u64,
    /// How many parts of the medium are cut off now, reading and writing counted apart.
    pub breakers_open: u64,
    /// Bytes loaded.
    pub read_bytes: u64,
    /// Bytes stored.
    pub written_bytes: u64,
    /// Records that were torn, damaged or of no meaning when it was opened, and were skipped.
    pub bad_records: u64,
    /// Snapshots that could not be used when it was opened; an older one, or the journals, stood in.
    pub bad_snapshots: u64,
    /// Manifests that could not be read when it was opened, and were written anew.
    pub bad_manifests: u64,
    /// Pages that it had a record of when it was opened, and no place any more.
    pub lost_pages: u64,
}

/// A place that keeps pages.
///
/// # Contract
/// - [`Storage::load`] and [`Storage::store`] return at once, take the memory, and answer once, for every page, in
///   order. Dropping the transfer changes nothing: what was begun is finished, and its memory then freed.
/// - A load answers `Done` only if every byte is a byte that was stored under the key, and the lengths are equal. A
///   page of another length is a `Config` error for that page. After anything but `Done` the memory holds anything.
/// - A store answers `Done` when a load that begins afterwards finds the page, unless it was evicted, deleted or
///   replaced meanwhile. Without overwrite, a key that is there is `Done` and unchanged.
/// - Equal keys in one batch: of a load each is answered; of a store without overwrite the first is stored, with
///   overwrite the last one stays.
/// - A miss is never an error, and an error never a miss.
/// - [`Storage::exists`] is a hint; the load decides.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug + 'static {
    /// Name of the storage, as `hicache probe` prints it.
    fn name(&self) -> &'static str;

    /// What its pages are of, where it was opened for one namespace; `None` where it does not know.
    fn namespace(&self) -> Option<&Namespace> {
        None
    }

    /// Makes memory known. Once a region, before its first transfer.
    ///
    /// # Errors
    /// `Unsupported` for a kind of memory that it does not move, `Closed`.
    fn register(&self, region: &Arc<Region>) -> Result<Registration>;

    /// Loads pages.
    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch>;

    /// Stores pages.
    fn store(&self, requests: Vec<PageRequest>, options: StoreOptions) -> Transfer<PageBatch>;

    /// Which keys are there, where the answer is in memory; `None` where it takes I/O. Counts as use: pages that are
    /// asked for are evicted later.
    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>>;

    /// Which keys are there.
    ///
    /// # Errors
    /// `Closed`, and whatever a remote storage reports.
    async fn exists(&self, keys: &[PageKey]) -> Result<Vec<bool>> {
        self.exists_now(keys).unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Unsupported, format!("{} does not tell what it holds", self.name())))
        })
    }

    /// How many keys from the start are there, without asking for those behind the first miss.
    ///
    /// # Errors
    /// As [`Storage::exists`].
    async fn exists_prefix(&self, keys: &[PageKey]) -> Result<usize> {
        Ok(self.exists(keys).await?.into_iter().take_while(|&there| there).count())
    }

    /// Deletes pages; `Absent` for one that was not there.
    ///
    /// # Errors
    /// `Closed`, `Unsupported`, or an error of the medium that concerns all pages.
    async fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>>;

    /// Deletes every page of this namespace and of no other. Answers how many there were.
    ///
    /// # Errors
    /// As [`Storage::delete`].
    async fn clear(&self) -> Result<u64>;

    /// Lists at most `limit` pages whose name starts with `prefix`, from `cursor` on.
    ///
    /// # Errors
    /// As [`Storage::delete`]; `Config` for a limit of 0 and a cursor that is not from this storage.
    async fn list(&self, prefix: &str, cursor: Option<&ListCursor>, limit: usize) -> Result<Listing>;

    /// Sizes and counts.
    fn stat(&self) -> StorageStat;

    /// Stops intake, drains what is in flight and closes the medium. Every later call is answered `Closed`.
    ///
    /// # Errors
    /// What the medium reports; the storage is closed all the same.
    async fn close(&self) -> Result<()>;
}

const _: Option<&dyn Storage> = None; // The trait is dyn-compatible.
