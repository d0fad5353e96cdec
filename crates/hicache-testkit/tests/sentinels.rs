//! The suites and the model find what they are there to find: each storage here is broken in one way.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hicache_core::{
    Direction, ErrorKind, ListCursor, Listing, MemoryStorage, Outcome, PageBatch, PageKey, PageRequest,
    Region, Registration, Result, Storage, StorageStat, StoreOptions, Transfer,
};
use hicache_testkit::conformance::{
    CaseOutcome, EngineTraits, EngineUnderTest, StorageTraits, StorageUnderTest, SuiteReport, engine_suite,
    storage_suite,
};
use hicache_testkit::{
    EngineFault, FaultPlan, FaultyEngine, FaultyStorage, Op, Semantics, StorageFault, ThreadEngine, Universe,
    run_sequence,
};

fn failed(report: &SuiteReport) -> Vec<&'static str> {
    report.failed().map(|(name, _)| name).collect()
}

#[test]
#[should_panic = "only 1 of 2 cases ran"]
fn a_suite_that_ran_too_little_fails() {
    let cases = vec![("a", CaseOutcome::Passed), ("b", CaseOutcome::Skipped("no b here".to_owned()))];
    SuiteReport { subject: "x".to_owned(), cases }.assert_complete(2);
}

#[test]
#[should_panic = "proves nothing"]
fn a_suite_that_need_not_run_anything_fails() {
    SuiteReport { subject: "x".to_owned(), cases: Vec::new() }.assert_complete(0);
}

#[tokio::test]
async fn a_storage_with_one_wrong_bit_is_found() {
    let make = async || {
        let plan = FaultPlan::every(Direction::Read, StorageFault::Corrupt(12_345));
        StorageUnderTest::new(FaultyStorage::new(Arc::new(MemoryStorage::new()), plan))
    };
    let report = storage_suite("corrupt", &StorageTraits::default(), make).await;
    assert!(failed(&report).len() > 20, "{report}");
}

#[tokio::test]
async fn an_engine_that_answers_too_early_or_never_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let mut traits = EngineTraits::new(directory.path());
    traits.case_limit = Duration::from_millis(300);
    for fault in [EngineFault::Dropped, EngineFault::Swallowed, EngineFault::Short { bytes: 100 }] {
        let make = async || {
            let plan = FaultPlan::custom(move |operation| {
                (operation.number == 0 && operation.direction == Direction::Write).then_some(fault)
            });
            EngineUnderTest::new(FaultyEngine::new(ThreadEngine::new().unwrap(), plan))
        };
        let report = engine_suite("faulty", &traits, make).await;
        assert!(failed(&report).len() > 10, "{fault:?}: {report}");
    }
}

/// What a [`Broken`] storage does wrong.
#[derive(Clone, Copy, Debug)]
enum Break {
    IgnoresOverwrite,
    AlwaysOverwrites,
    ForgetsDelete,
    ForgetsClear,
    MixesPools,
    LosesEveryTenth,
    ListsTwice,
    KeepsMemory,
    StaysOpen,
    PanicsOnEmpty,
    ExistsLies,
}

#[derive(Debug)]
struct Broken {
    inner: MemoryStorage,
    how: Break,
    kept: std::sync::Mutex<Vec<PageRequest>>,
}

#[async_trait]
impl Storage for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.inner.register(region)
    }

    fn load(&self, mut requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        if let (Break::MixesPools, true) = (self.how, requests.len() == 2) {
            requests.iter_mut().for_each(|request| request.key = PageKey::kv(request.key.digest));
        }
        self.inner.load(requests)
    }

    fn store(&self, mut requests: Vec<PageRequest>, mut options: StoreOptions) -> Transfer<PageBatch> {
        match self.how {
            Break::IgnoresOverwrite => options.overwrite = false,
            Break::AlwaysOverwrites => options.overwrite = true,
            Break::PanicsOnEmpty => assert!(!requests.is_empty(), "nothing to store"),
            Break::LosesEveryTenth if requests.len() >= 10 => {
                let len = requests.len();
                let lost = requests.pop();
                let mut answer = self.inner.store(requests, options).wait();
                answer.outcomes.insert(len - 1, Outcome::Done);
                answer.memory.insert(len - 1, lost.map(|request| request.memory));
                return Transfer::ready(answer);
            }
            Break::KeepsMemory if requests.len() == 32 => {
                let kept = requests.remove(0);
                self.kept.lock().unwrap().push(kept);
            }
            _ => {}
        }
        self.inner.store(requests, options)
    }

    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        match self.how {
            Break::ExistsLies => Some(Ok(vec![true; keys.len()])),
            _ => self.inner.exists_now(keys),
        }
    }

    async fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        match self.how {
            Break::ForgetsDelete => {
                let there = self.inner.exists(keys).await?;
                Ok(there
                    .into_iter()
                    .map(|there| if there { Outcome::Done } else { Outcome::Absent })
                    .collect())
            }
            _ => self.inner.delete(keys).await,
        }
    }

    async fn clear(&self) -> Result<u64> {
        match self.how {
            Break::ForgetsClear => Ok(self.inner.stat().pages),
            _ => self.inner.clear().await,
        }
    }

    async fn list(&self, prefix: &str, cursor: Option<&ListCursor>, limit: usize) -> Result<Listing> {
        let mut listing = self.inner.list(prefix, cursor, limit).await?;
        if let (Break::ListsTwice, Some(page), true) =
            (self.how, listing.pages.first(), listing.pages.len() < limit)
        {
            listing.pages.push(page.clone());
        }
        Ok(listing)
    }

    fn stat(&self) -> StorageStat {
        self.inner.stat()
    }

    async fn close(&self) -> Result<()> {
        match self.how {
            Break::StaysOpen => Ok(()),
            _ => self.inner.close().await,
        }
    }
}

fn broken(how: Break) -> Arc<dyn Storage> {
    Arc::new(Broken { inner: MemoryStorage::new(), how, kept: std::sync::Mutex::default() })
}

#[tokio::test]
async fn each_broken_storage_is_found_by_the_case_that_is_for_it() {
    for (how, case) in [
        (Break::IgnoresOverwrite, "with overwrite the last stays"),
        (Break::AlwaysOverwrites, "without overwrite the first stays"),
        (Break::ForgetsDelete, "delete takes what is named and nothing else"),
        (Break::ForgetsClear, "clear takes everything and counts it"),
        (Break::MixesPools, "pools keep equal digests apart"),
        (Break::LosesEveryTenth, "128 pages come back"),
        (Break::ListsTwice, "list shows names, prefixes and parts"),
        (Break::KeepsMemory, "memory outlives every handle of the caller"),
        (Break::StaysOpen, "after close everything is closed"),
        (Break::PanicsOnEmpty, "an empty batch is answered with nothing"),
        (Break::ExistsLies, "exists tells what is there"),
    ] {
        let make = async || StorageUnderTest::new(broken(how));
        // Memory that never comes back is waited for as long as the case may take.
        let traits = StorageTraits { case_limit: Duration::from_secs(2), ..StorageTraits::default() };
        let report = storage_suite("broken", &traits, make).await;
        assert!(failed(&report).contains(&case), "{how:?} was not found by {case:?}\n{report}");
        assert!(report.passed() > 10, "{how:?} breaks too much to show anything\n{report}");
    }
}

#[tokio::test]
async fn the_model_finds_broken_storages() {
    let universe = Universe::default();
    let exact = Semantics { forgets_at_reopen: true, ..Semantics::default() };
    let pages = |keys: &[usize]| keys.iter().map(|&key| (key, 4)).collect::<Vec<_>>();
    let keep = |keys: &[usize]| Op::Store { pages: pages(keys), overwrite: false };
    let replace = |keys: &[usize]| Op::Store { pages: pages(keys), overwrite: true };
    for (how, ops) in [
        (Break::IgnoresOverwrite, vec![keep(&[1]), replace(&[1])]),
        (Break::AlwaysOverwrites, vec![keep(&[1]), keep(&[1])]),
        (Break::ForgetsDelete, vec![keep(&[1]), Op::Delete(vec![1])]),
        (Break::ForgetsClear, vec![keep(&[1]), Op::Clear]),
        (Break::LosesEveryTenth, vec![keep(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])]),
        (Break::ListsTwice, vec![keep(&[1]), Op::List(0)]),
        (Break::ExistsLies, vec![Op::Exists(vec![3])]),
    ] {
        let played = run_sequence(async || broken(how), exact, &universe, &ops).await;
        assert!(played.is_err(), "{how:?} was not found");
        let good = async || Arc::new(MemoryStorage::new()) as Arc<dyn Storage>;
        let played = run_sequence(good, exact, &universe, &ops).await;
        assert!(played.is_ok(), "{how:?}: {played:?}");
    }
    let corrupt = async || {
        let plan = FaultPlan::every(Direction::Read, StorageFault::Corrupt(3));
        FaultyStorage::new(Arc::new(MemoryStorage::new()), plan) as Arc<dyn Storage>
    };
    let lenient = Semantics { evicts: true, fails: true, forgets_at_reopen: true };
    let found =
        run_sequence(corrupt, lenient, &universe, &[keep(&[1]), Op::Load(vec![1])]).await.unwrap_err();
    assert!(found.contains("WRONG BYTES"), "{found}");
    let failing = async || {
        let plan = FaultPlan::every(Direction::Read, StorageFault::Fail(ErrorKind::Io));
        FaultyStorage::new(Arc::new(MemoryStorage::new()), plan) as Arc<dyn Storage>
    };
    let played = run_sequence(failing, lenient, &universe, &[keep(&[1]), Op::Load(vec![1])]).await.unwrap();
    assert!(played.failures > 0);
    assert!(run_sequence(failing, exact, &universe, &[keep(&[1]), Op::Load(vec![1])]).await.is_err());
}
