//! The suite for storages.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::Storage;

use super::report::{CaseOutcome, SuiteReport};
use super::run::{CaseFuture, run_case};
use super::storage_ground::Ground;
use super::{storage_keys as keys, storage_life as life, storage_pages as pages};

/// What a storage is allowed not to do. The default is everything; write what differs:
/// `StorageTraits { lists: false, ..StorageTraits::default() }`.
#[derive(Clone, Debug)]
pub struct StorageTraits {
    /// Most pages that the suite may have in it at one time without any being evicted.
    pub most_pages: usize,
    /// Longest page.
    pub most_page_bytes: usize,
    /// Whether pages of several lengths can be in it at one time.
    pub several_lengths: bool,
    /// Whether a page can be replaced. Where not, a store with overwrite must be refused, never ignored.
    pub overwrites: bool,
    /// Whether it deletes and clears. Where not, it must say `Unsupported`.
    pub deletes: bool,
    /// Whether it lists. Where not, it must say `Unsupported`.
    pub lists: bool,
    /// Whether [`Storage::stat`] counts pages, hits, misses and stores.
    pub counts: bool,
    /// Longest that one case may take.
    pub case_limit: Duration,
}

impl Default for StorageTraits {
    fn default() -> Self {
        Self {
            most_pages: usize::MAX,
            most_page_bytes: usize::MAX,
            several_lengths: true,
            overwrites: true,
            deletes: true,
            lists: true,
            counts: true,
            case_limit: Duration::from_secs(120),
        }
    }
}

/// A fresh, empty storage for one case, and what must live as long (a temporary directory, a server).
pub struct StorageUnderTest {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) keep: Box<dyn Any + Send>,
}

impl StorageUnderTest {
    /// A storage that needs nothing else.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, keep: Box::new(()) }
    }

    /// Keeps `thing` until the case is over; it is dropped after the storage.
    pub fn keeping(mut self, thing: impl Any + Send) -> Self {
        self.keep = Box::new((self.keep, thing));
        self
    }
}

/// What a case needs of the traits.
pub(super) struct Needs {
    pub(super) pages: usize,
    pub(super) page_bytes: usize,
    pub(super) several_lengths: bool,
    pub(super) overwrites: bool,
    pub(super) deletes: bool,
    pub(super) lists: bool,
    pub(super) counts: bool,
}

/// A few short pages.
pub(super) const FEW: Needs = Needs {
    pages: 64,
    page_bytes: 4096,
    several_lengths: false,
    overwrites: false,
    deletes: false,
    lists: false,
    counts: false,
};

impl Needs {
    fn missing(&self, traits: &StorageTraits) -> Option<String> {
        if self.pages > traits.most_pages {
            return Some(format!(
                "needs room for {} pages, there is room for {}",
                self.pages, traits.most_pages
            ));
        }
        if self.page_bytes > traits.most_page_bytes {
            return Some(format!("needs pages of {} bytes, {} fit", self.page_bytes, traits.most_page_bytes));
        }
        let missing = [
            (self.several_lengths && !traits.several_lengths, "keeps pages of one length only"),
            (self.overwrites && !traits.overwrites, "does not overwrite"),
            (self.deletes && !traits.deletes, "does not delete"),
            (self.lists && !traits.lists, "does not list"),
            (self.counts && !traits.counts, "does not count"),
        ];
        missing.iter().find(|(missing, _)| *missing).map(|(_, reason)| (*reason).to_owned())
    }
}

type Case = for<'a> fn(&'a Ground) -> CaseFuture<'a>;

macro_rules! cases {
    ($($name:literal, $needs:expr, $case:path;)+) => {
        &[$(($name, $needs, (|ground| Box::pin($case(ground))) as Case)),+]
    };
}

const CASES: &[(&str, Needs, Case)] = cases![
    "an empty batch is answered with nothing", FEW, pages::empty_batch;
    "one page comes back", FEW, pages::one_page;
    "128 pages come back", Needs { pages: 128, ..FEW }, pages::batch_of_128;
    "10,000 pages come back", Needs { pages: 10_000, page_bytes: 512, ..FEW }, pages::batch_of_10_000;
    "a miss is absent, not an error", FEW, pages::miss;
    "lengths around powers of two come back", Needs { page_bytes: 1 << 20, several_lengths: true, ..FEW },
        pages::odd_lengths;
    "lengths of a batch may differ", Needs { page_bytes: 65_536, several_lengths: true, ..FEW },
        pages::mixed_lengths;
    "pages in several pieces come back", FEW, pages::several_pieces;
    "pieces may differ between store and load", FEW, pages::pieces_differ;
    "another length is a config error of that page", FEW, pages::wrong_length;
    "memory leased for reading can be stored", FEW, pages::store_from_read_lease;
    "a load into a read lease is refused", FEW, pages::load_into_read_lease;
    "memory of another owner is refused", FEW, pages::another_owner;
    "a refused duplicate does not hide a good one", FEW, pages::refused_duplicate;
    "without overwrite the first stays", FEW, keys::no_overwrite;
    "with overwrite the last stays", Needs { overwrites: true, ..FEW }, keys::overwrite;
    "an overwrite may change the length", Needs { overwrites: true, several_lengths: true, ..FEW },
        keys::overwrite_length;
    "duplicates in a load are each answered", FEW, keys::duplicate_loads;
    "duplicates in a store: the first is stored", FEW, keys::duplicate_stores;
    "duplicates in an overwrite: the last stays", Needs { overwrites: true, ..FEW }, keys::duplicate_overwrites;
    "pools keep equal digests apart", FEW, keys::pools;
    "text keys of 1 to 512 bytes", FEW, keys::text_keys;
    "exists tells what is there", FEW, keys::exists;
    "delete takes what is named and nothing else", Needs { deletes: true, ..FEW }, keys::delete;
    "clear takes everything and counts it", Needs { deletes: true, ..FEW }, keys::clear;
    "list shows names, prefixes and parts", Needs { lists: true, ..FEW }, keys::list;
    "what it can't do is refused by name", FEW, keys::unsupported;
    "counts add up", Needs { counts: true, ..FEW }, life::counts;
    "threads that store and load the same keys", Needs { overwrites: true, ..FEW }, life::threads;
    "dropped transfers go on and give their memory back", FEW, life::dropped_transfers;
    "memory outlives every handle of the caller", FEW, life::dropped_handles;
    "after close everything is closed", FEW, life::close;
    "close drains what is under way", FEW, life::close_drains;
];

/// Takes a storage through every case that its traits allow, each with a fresh one from `make`.
///
/// ```
/// use std::sync::Arc;
/// use hicache_core::MemoryStorage;
/// use hicache_testkit::conformance::{StorageTraits, StorageUnderTest, storage_suite};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let make = async || StorageUnderTest::new(Arc::new(MemoryStorage::new()));
/// storage_suite("memory", &StorageTraits::default(), make).await.assert_complete(33);
/// # }
/// ```
pub async fn storage_suite(
    subject: &str,
    traits: &StorageTraits,
    make: impl AsyncFn() -> StorageUnderTest,
) -> SuiteReport {
    let mut report = SuiteReport { subject: subject.to_owned(), cases: Vec::new() };
    for (name, needs, case) in CASES {
        let outcome = match needs.missing(traits) {
            Some(reason) => CaseOutcome::Skipped(reason),
            None => {
                let ground = Ground::new(make().await, traits.clone());
                let outcome = run_case(case(&ground), traits.case_limit).await;
                ground.end().await;
                outcome
            }
        };
        report.cases.push((name, outcome));
    }
    report
}
