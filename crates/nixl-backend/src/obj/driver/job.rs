//! One page on its way.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, PageKey};

use super::super::staging::Buffer;
use super::super::wire::Flight;
use super::super::{NAME, format};
use super::batch::Place;

/// What is to be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Load,
    Store { overwrite: bool },
}

impl Work {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Store { .. } => "store",
        }
    }
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) place: Place,
    pub(super) key: PageKey,
    pub(super) object: String,
    /// Of the page.
    pub(super) bytes: usize,
    pub(super) work: Work,
    /// Time that it may still be on its way; waiting for others costs none.
    pub(super) left: Duration,
    /// How often it was moved.
    pub(super) tries: u32,
}

/// Stores of a key that wait for the one that is under way.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) waiting: VecDeque<Job>,
    /// The one under way is over its time, and may still put its object: none must overtake it.
    pub(super) hangs: bool,
}

impl Job {
    /// Length of its object.
    pub(super) fn object_bytes(&self) -> usize {
        format::HEAD_BYTES + self.bytes
    }

    pub(super) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, message).with_backend(NAME).with_operation(self.work.name()).with_key(self.key)
    }
}

/// A page whose object is on its way.
pub(super) struct Moving {
    pub(super) job: Job,
    pub(super) flight: Box<dyn Flight>,
    pub(super) buffer: Buffer,
    pub(super) since: Instant,
    /// Its time was over, and the caller has its memory back: its end is waited for and then forgotten.
    pub(super) overdue: bool,
}

/// Keys whose objects are there and not what was stored: the next store replaces them. The oldest are forgotten.
#[derive(Debug, Default)]
pub(super) struct BadKeys {
    keys: HashSet<PageKey>,
    order: VecDeque<PageKey>,
}

impl BadKeys {
    const MOST: usize = 65_536;

    pub(super) fn insert(&mut self, key: PageKey) {
        if self.keys.insert(key) {
            self.order.push_back(key);
        }
        while self.order.len() > Self::MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.keys.remove(&oldest);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &PageKey) {
        // Its place in the order stays: it then only takes a key away that came again, a little early.
        self.keys.remove(key);
    }

    pub(super) fn contains(&self, key: &PageKey) -> bool {
        self.keys.contains(key)
    }
}
