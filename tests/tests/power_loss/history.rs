//! What must and what may be in the store after the power failed: from what the workload said, and from the records
//! that the store wrote into its journals. The layout of a record is that of `docs/on-disk-format.md`.

use std::collections::{BTreeSet, HashMap};

use hicache_hashing::{Digest, checksum};

use super::pages::{KEYS, content, key};
use super::recorder::Note;

const RECORD_BYTES: usize = 64;
const PUT: u8 = 1;
const RETIRE: u8 = 2;
const CLEAR: u8 = 3;

/// What is known of one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expectation {
    /// Versions whose store had begun. Nothing else may ever be found.
    pub(crate) begun: BTreeSet<u64>,
    /// Versions in the order of their records; the first begun is not always the first there.
    puts: Vec<u64>,
    /// With `durability = "group"`: of these, what was there before this one is not found any more.
    least: usize,
    /// With `durability = "group"`: it was answered, and not deleted or evicted since.
    pub(crate) must: bool,
    now: Now,
}

impl Expectation {
    /// Whether this version is as new as what was answered.
    pub(crate) fn is_new_enough(&self, version: u64) -> bool {
        self.puts.iter().rposition(|&put| put == version).is_some_and(|at| at >= self.least)
    }

    /// The version that was answered, if one was.
    pub(crate) fn answered(&self) -> Option<u64> {
        self.puts.get(self.least).copied()
    }
}

/// The page of a key as the journals have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Now {
    /// No record of this run was of it.
    #[default]
    AsBefore,
    There(u64),
    Gone,
}

/// What is known of all keys.
#[derive(Clone, Debug)]
pub(crate) struct History {
    keys: Vec<Expectation>,
    numbers: HashMap<Digest, u64>,
    checksums: HashMap<(u64, u64), u64>,
}

impl History {
    pub(crate) fn new() -> Self {
        Self {
            keys: vec![Expectation::default(); KEYS as usize],
            numbers: (0..KEYS).map(|number| (key(number).digest, number)).collect(),
            checksums: HashMap::new(),
        }
    }

    pub(crate) fn expectations(&self) -> impl Iterator<Item = (u64, &Expectation)> {
        (0..).zip(&self.keys)
    }

    pub(crate) fn expectation(&self, number: u64) -> &Expectation {
        &self.keys[number as usize]
    }

    /// Goes on after a power failure: what the journals say begins anew.
    pub(crate) fn restart(&mut self) {
        for key in &mut self.keys {
            key.now = Now::AsBefore;
        }
    }

    pub(crate) fn apply(&mut self, note: &Note) {
        match note {
            Note::Said(line) => self.said(line),
            Note::Journal(bytes) => {
                for record in bytes.as_chunks::<RECORD_BYTES>().0 {
                    self.record(record);
                }
            }
        }
    }

    fn said(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let (page, version) = (number(1), number(2));
        let key = &mut self.keys[page as usize];
        match words[0] {
            "begin" => {
                key.begun.insert(version);
                self.checksums.insert((page, checksum(&content(page, version))), version);
            }
            "done" => match key.now {
                // What is answered is what is there: without `overwrite` that may be an older version.
                Now::There(there) => {
                    let replaced = number(3) == 1;
                    assert!(
                        !replaced || there == version,
                        "page {page}: {version} is done, {there} is there"
                    );
                    key.least = key.puts.len() - 1;
                    key.must = true;
                }
                // There already, says the index. A page that was evicted or cleared just before the failure may be seen
                // again, its slot written since, and nobody has compared it with its checksum yet.
                Now::AsBefore => {}
                // Evicted before it was answered.
                Now::Gone => {}
            },
            other => panic!("the workload says {other:?}"),
        }
    }

    fn record(&mut self, record: &[u8; RECORD_BYTES]) {
        let digest: Digest = record[28..60].try_into().expect("32 bytes");
        let page = self.numbers.get(&digest).copied();
        match (record[0], page) {
            (PUT, Some(page)) => {
                let sum = u64::from_le_bytes(record[12..20].try_into().expect("8 bytes"));
                // A version that nobody stored: no load may find it.
                let Some(&version) = self.checksums.get(&(page, sum)) else {
                    panic!("page {page} was put with a checksum of no version")
                };
                let key = &mut self.keys[page as usize];
                key.now = Now::There(version);
                key.puts.push(version);
            }
            (RETIRE, Some(page)) => self.gone(page),
            (CLEAR, _) => (0..KEYS).for_each(|page| self.gone(page)),
            _ => {}
        }
    }

    fn gone(&mut self, page: u64) {
        let key = &mut self.keys[page as usize];
        key.must = false;
        key.now = Now::Gone;
    }
}
