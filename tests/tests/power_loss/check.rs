//! Opens what the power failure left, and loads everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hicache_core::{Access, ErrorKind, Outcome, Region, Registration, Storage, StoreOptions};
use hicache_page_store::PageStore;

use super::history::{Expectation, History};
use super::pages::{KEYS, LONGEST, content, key, length, lengths, request, text};
use super::workload::{Plan, open};

/// What was found, over all images.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) images: u64,
    pub(crate) found: u64,
    pub(crate) absent: u64,
    /// Found out by their checksums, and gone at the next load.
    pub(crate) corrupt: u64,
    /// Pages that had to be there.
    pub(crate) answered: u64,
    /// Bytes that were never stored under their key. Only ever without checksums.
    pub(crate) wrong: u64,
    pub(crate) lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Version(u64),
    Absent,
    Corrupt,
    Wrong,
}

/// Opens the store of `plan` in `root`, checks every page against `history`, and goes on with it. What is wrong comes
/// back as text.
pub(crate) async fn check(
    root: &Path,
    plan: Plan,
    verify: bool,
    history: &History,
    tally: &mut Tally,
) -> Vec<String> {
    let mut config = plan.config(root);
    config.verify = verify;
    let region = Region::allocate(KEYS as usize, LONGEST.next_multiple_of(4096)).unwrap();
    let mut problems = Vec::new();
    let store = open(config.clone()).await;
    let registration = store.register(&region).unwrap();
    let first = load(&store, &registration, history).await;
    for (number, expected) in history.expectations() {
        count(tally, number, expected, first[&number], plan.group, &mut problems);
    }
    names(&store, &mut problems).await;
    let again = load(&store, &registration, history).await;
    store.close().await.unwrap();
    drop(registration);
    // Once more from what was repaired.
    let store = open(config).await;
    let registration = store.register(&region).unwrap();
    let reopened = load(&store, &registration, history).await;
    for (number, &before) in &first {
        let left = if before == Found::Corrupt { Found::Absent } else { before };
        for (when, now) in [("loaded again", again[number]), ("after a restart", reopened[number])] {
            if now != left {
                problems.push(format!("page {number} was {before:?}, and {when} {now:?}"));
            }
        }
    }
    new_pages(&store, &registration, &mut problems).await;
    store.close().await.unwrap();
    tally.images += 1;
    problems
}

fn count(
    tally: &mut Tally,
    number: u64,
    expected: &Expectation,
    found: Found,
    group: bool,
    problems: &mut Vec<String>,
) {
    match found {
        Found::Version(_) => tally.found += 1,
        Found::Absent => tally.absent += 1,
        Found::Corrupt => tally.corrupt += 1,
        Found::Wrong => {
            tally.wrong += 1;
            problems.push(format!("page {number} has bytes that were never stored under it"));
        }
    }
    if !group {
        return;
    }
    tally.answered += u64::from(expected.must);
    let kept = match found {
        Found::Version(version) => expected.is_new_enough(version),
        _ => !expected.must,
    };
    if !kept {
        tally.lost += 1;
        problems.push(format!(
            "page {number} is {found:?}; {:?} was answered{}",
            expected.answered(),
            if expected.must { "" } else { ", then evicted or deleted" }
        ));
    }
}

async fn load(
    store: &Arc<PageStore>,
    registration: &Registration,
    history: &History,
) -> BTreeMap<u64, Found> {
    let mut found = BTreeMap::new();
    // A version may have another length than the one before: then the store says so, and the other one is asked for.
    for way in 0..2 {
        let left: Vec<u64> = (0..KEYS).filter(|number| !found.contains_key(number)).collect();
        let requests = left.iter().enumerate().map(|(slot, &number)| {
            request(number, registration.page(slot, lengths(number)[way], Access::Write).unwrap())
        });
        let loaded = store.load(requests.collect()).await;
        for ((&number, outcome), memory) in left.iter().zip(&loaded.outcomes).zip(&loaded.memory) {
            let seen = match outcome {
                Outcome::Done => {
                    let mut bytes = vec![0; lengths(number)[way]];
                    memory.as_ref().unwrap().copy_to(&mut bytes).unwrap();
                    let expected = history.expectation(number);
                    let version = expected.begun.iter().rfind(|&&version| content(number, version) == bytes);
                    version.map_or(Found::Wrong, |&version| Found::Version(version))
                }
                Outcome::Absent => Found::Absent,
                Outcome::Failed(error) => match error.kind() {
                    ErrorKind::Corrupt => Found::Corrupt,
                    ErrorKind::Config if way == 0 => continue,
                    _ => panic!("page {number}: {error}"),
                },
            };
            found.insert(number, seen);
        }
    }
    found
}

/// A listing shows the text of a key or its hash, and nothing else.
async fn names(store: &Arc<PageStore>, problems: &mut Vec<String>) {
    let listing = store.list("", None, usize::MAX).await.unwrap();
    let right = |name: &str| {
        (0..KEYS).any(|number| {
            text(number).as_deref() == Some(name) || hicache_hashing::to_hex(&key(number).digest) == name
        })
    };
    problems.extend(
        listing.pages.iter().filter(|page| !right(&page.name)).map(|page| format!("listed: {page:?}")),
    );
}

/// The store goes on: what is stored now is there.
async fn new_pages(store: &Arc<PageStore>, registration: &Registration, problems: &mut Vec<String>) {
    const NEW: u64 = u32::MAX as u64;
    for number in [1, 2, 3, 5] {
        let bytes = length(number, NEW);
        let wanted = content(number, NEW);
        let mut memory = registration.page(0, bytes, Access::Write).unwrap();
        memory.copy_from(&wanted).unwrap();
        let stored = store.store(vec![request(number, memory)], StoreOptions { overwrite: true }).await;
        drop(stored.memory);
        let memory = registration.page(0, bytes, Access::Write).unwrap();
        let loaded = store.load(vec![request(number, memory)]).await;
        let mut seen = vec![0; bytes];
        loaded.memory[0].as_ref().unwrap().copy_to(&mut seen).unwrap();
        if !stored.outcomes[0].is_done() || !loaded.outcomes[0].is_done() || seen != wanted {
            problems.push(format!("new page {number}: {:?}, {:?}", stored.outcomes, loaded.outcomes));
        }
    }
}
