//! What runs under the recorder: a store with random batches, which says what it asks before it does, and what it was
//! answered after.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use futures::future::join_all;
use hicache_core::{Access, Namespace, Outcome, Region, Registration, Storage, StoreOptions};
use hicache_page_store::{Durability, PageStore, PageStoreConfig};
use hicache_posix_uring::{PreadConfig, PreadEngine};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::image::below;
use super::pages::{KEYS, LONGEST, content, key, length, request};
use super::recorder::{ANSWERS, DISK};

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// `durability = "group"`.
    pub(crate) group: bool,
    /// With room for a third of the pages, and with deletes and clears; else pages are only stored and replaced.
    pub(crate) tight: bool,
    /// The first version that it stores.
    pub(crate) first_version: u64,
}

impl Plan {
    const NAMES: [&str; 4] = ["seed", "group", "tight", "first_version"];

    /// As arguments of the test's binary.
    pub(crate) fn arguments(&self) -> [String; 4] {
        let values = [self.seed, self.group.into(), self.tight.into(), self.first_version];
        std::array::from_fn(|at| format!("{}={}", Self::NAMES[at], values[at]))
    }

    /// From the arguments of this process; `None` if it has none of that kind.
    pub(crate) fn of_this_process() -> Option<Self> {
        let value = |at: usize| u64::from_str(&hicache_tests::argument(Self::NAMES[at])?).ok();
        Some(Self { seed: value(0)?, group: value(1)? == 1, tight: value(2)? == 1, first_version: value(3)? })
    }

    /// How its store is opened.
    pub(crate) fn config(&self, root: &Path) -> PageStoreConfig {
        let mut config = PageStoreConfig::new([root.join("cache/pages")], Namespace::new("power"));
        config.capacity_bytes = Some(if self.tight { 640 << 10 } else { 16 << 20 });
        config.segment_bytes = 64 << 10;
        config.durability = if self.group { Durability::Group } else { Durability::None };
        config
    }
}

/// Most pages of a batch, and most batches at once.
const BATCH: usize = 6;
const LANES: usize = 3;
/// Most batches that one after the other go the same lane, so that lanes are at different points.
const IN_TURN: usize = 3;
const STEPS: usize = 80;

pub(crate) async fn open(config: PageStoreConfig) -> Arc<PageStore> {
    let engine = PreadEngine::open(PreadConfig { threads: 2, ..PreadConfig::default() }).unwrap();
    PageStore::open(config, vec![Arc::new(engine)]).await.unwrap()
}

/// Runs a plan in `directory`.
pub(crate) async fn run(plan: Plan, directory: &Path) {
    let answers = OpenOptions::new().create(true).append(true).open(directory.join(ANSWERS)).unwrap();
    let region = Region::allocate(LANES * BATCH, LONGEST.next_multiple_of(4096)).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut version = plan.first_version;
    let config = plan.config(&directory.join(DISK));
    let mut store = open(config.clone()).await;
    let mut registration = store.register(&region).unwrap();
    for _ in 0..STEPS {
        if below(&mut random, 40) == 0 {
            drop(registration);
            store.close().await.unwrap();
            store = open(config.clone()).await;
            registration = store.register(&region).unwrap();
        }
        let bench = Bench { store: &store, registration: &registration, answers: &answers };
        if plan.tight && below(&mut random, 60) == 0 {
            store.clear().await.unwrap();
        }
        let mut keys: Vec<u64> = (0..KEYS).collect();
        let lanes = 1 + below(&mut random, LANES);
        // Sometimes all batches at once are of the same pages.
        let same = below(&mut random, 6) == 0;
        let mut drawn: Vec<u64> = Vec::new();
        let work = (0..lanes).map(|lane| {
            let batches = (0..1 + below(&mut random, IN_TURN)).map(|_| {
                if !same || drawn.is_empty() {
                    let pages = 1 + below(&mut random, BATCH);
                    drawn = (0..pages).map(|_| keys.swap_remove(below(&mut random, keys.len()))).collect();
                }
                match below(&mut random, 12) {
                    0 if plan.tight => Batch::Delete(drawn.clone()),
                    1 | 2 => Batch::Load(drawn.clone()),
                    way => {
                        let pages = drawn.iter().map(|&number| {
                            version += 1;
                            (number, version)
                        });
                        // Equal pages at once, each replacing the other, have no order.
                        Batch::Store(pages.collect(), way % 2 == 0 && !same)
                    }
                }
            });
            bench.run(lane, batches.collect())
        });
        let work: Vec<_> = work.collect();
        join_all(work).await;
    }
    drop(registration);
    store.close().await.unwrap();
}

enum Batch {
    /// Pages with their versions, and whether they replace others.
    Store(Vec<(u64, u64)>, bool),
    Load(Vec<u64>),
    Delete(Vec<u64>),
}

#[derive(Clone, Copy)]
struct Bench<'a> {
    store: &'a Arc<PageStore>,
    registration: &'a Registration,
    answers: &'a File,
}

impl<'a> Bench<'a> {
    /// In one write, so that the record has it at one place.
    fn say(&self, lines: &str) {
        let mut answers = self.answers;
        answers.write_all(lines.as_bytes()).unwrap();
    }

    async fn run(self, lane: usize, batches: Vec<Batch>) {
        for batch in batches {
            match batch {
                Batch::Store(pages, overwrite) => self.store(lane, &pages, overwrite).await,
                Batch::Load(numbers) => self.load(lane, &numbers).await,
                Batch::Delete(numbers) => self.delete(&numbers).await,
            }
        }
    }

    async fn store(self, lane: usize, pages: &[(u64, u64)], overwrite: bool) {
        let requests = pages.iter().enumerate().map(|(at, &(number, version))| {
            let bytes = length(number, version);
            let mut memory = self.registration.page(lane * BATCH + at, bytes, Access::Write).unwrap();
            memory.copy_from(&content(number, version)).unwrap();
            request(number, memory)
        });
        let requests: Vec<_> = requests.collect();
        let begun = pages.iter().map(|(number, version)| format!("begin {number} {version}\n"));
        self.say(&begun.collect::<String>());
        let stored = self.store.store(requests, StoreOptions { overwrite }).await;
        let mut answered = String::new();
        for (&(number, version), outcome) in pages.iter().zip(&stored.outcomes) {
            assert!(outcome.is_done(), "page {number}: {outcome:?}");
            answered += &format!("done {number} {version} {}\n", u8::from(overwrite));
        }
        self.say(&answered);
    }

    async fn load(self, lane: usize, numbers: &[u64]) {
        let requests = numbers.iter().enumerate().map(|(at, &number)| {
            let memory = self.registration.page(lane * BATCH + at, length(number, 1), Access::Write).unwrap();
            request(number, memory)
        });
        drop(self.store.load(requests.collect()).await);
    }

    async fn delete(self, numbers: &[u64]) {
        let keys: Vec<_> = numbers.iter().map(|&number| key(number)).collect();
        let deleted = self.store.delete(&keys).await.unwrap();
        assert!(deleted.iter().all(|outcome| !matches!(outcome, Outcome::Failed(_))), "{deleted:?}");
    }
}
