//! What runs on the completion worker: loads and stores, from the plan to the answer.

mod breaker;
mod load;
mod moves;
mod staging;
mod store;
mod volumes;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hicache_core::{Engine, Error, OwnerId, PageKey, PageRequest, Registration, Result};
use hicache_hashing::{RootId, route};

pub(crate) use breaker::{Breakers, Permit};
pub(crate) use load::load;
pub(crate) use staging::Staging;
pub(crate) use store::store;
pub(crate) use volumes::{VolumeList, Volumes};
pub(crate) use watch::{Progress, watched};

/// Into how many parts a batch is cut, or a few more.
const PARTS: usize = 4;
/// Fewer bytes are no part of their own; as many has the first part of a store, which is summed while nothing moves.
const LEAST_PART_BYTES: usize = 1 << 20;
/// What the last part of a load has, at most: it is verified while nothing moves any more.
const LAST_PART_BYTES: usize = 8 << 20;
/// Most pages in a part.
const MOST_PART_PAGES: usize = 128;

/// What all jobs of a store share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) owner: OwnerId,
    pub(crate) engines: Vec<Arc<dyn Engine>>,
    pub(crate) volumes: Volumes,
    pub(crate) roots: Vec<RootId>,
    pub(crate) verify: bool,
    pub(crate) io_timeout: Duration,
    pub(crate) staging: Staging,
    pub(crate) breakers: Breakers,
    /// Batches under way.
    pub(crate) batches: AtomicUsize,
}

/// What a registration with the store is made of: one with each engine that takes the memory.
#[derive(Debug)]
pub(crate) struct EngineRegistrations(pub(crate) Vec<Option<Registration>>);

impl Shared {
    /// The volume that a key belongs to.
    pub(crate) fn volume_of(&self, key: &PageKey) -> usize {
        if self.roots.len() == 1 { 0 } else { route(&key.digest, &self.roots) }
    }

    /// Whether a batch is the only one under way.
    fn is_alone(&self) -> bool {
        self.batches.load(Ordering::Relaxed) <= 1
    }

    /// What every request must fulfil. Answers the page's length.
    fn check(&self, request: &PageRequest) -> Result<u32> {
        if request.memory.owner() != self.owner {
            return Err(Error::config("the memory is registered with another storage").with_key(request.key));
        }
        let bytes = request.memory.bytes();
        match u32::try_from(bytes) {
            Ok(fits) if fits <= u32::MAX - 4095 => Ok(fits),
            _ => Err(Error::config(format!(
                "a page of {bytes} bytes is over the limit of {}",
                u32::MAX - 4095
            ))
            .with_key(request.key)),
        }
    }
}

/// Which end of a batch has the part whose checksums are computed while nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposed {
    /// A store sums a part before it is written.
    First,
    /// A load verifies a part after it was read.
    Last,
}

/// Cuts pages into parts, so that the checksums of one are computed while others move. Each part costs wake-ups and
/// allocations, so there are few of them, however long the pages are. The exposed one, whose checksums nothing
/// hides, is small; what a store sums next grows with what is being written meanwhile.
///
/// Beside other batches, `alone` false, theirs are what moves meanwhile, and nothing is cut.
fn parts<T>(mut pages: Vec<T>, bytes: usize, exposed: Exposed, alone: bool) -> Vec<Vec<T>> {
    let pages_in = |part_bytes: usize| part_bytes / bytes.max(1);
    let mut most = MOST_PART_PAGES;
    if alone {
        most = pages.len().div_ceil(PARTS).max(pages_in(LEAST_PART_BYTES)).clamp(1, MOST_PART_PAGES);
    }
    let last = (alone && exposed == Exposed::Last && pages.len() > most)
        .then(|| pages.split_off(pages.len() - pages_in(LAST_PART_BYTES).clamp(1, most)));
    let mut next = most;
    if alone && exposed == Exposed::First {
        next = pages_in(LEAST_PART_BYTES).clamp(1, most);
    }
    let mut parts = Vec::with_capacity(pages.len() / most + PARTS);
    while pages.len() > next {
        let rest = pages.split_off(next);
        parts.push(std::mem::replace(&mut pages, rest));
        next = (2 * next).min(most);
    }
    parts.push(pages);
    parts.extend(last);
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_in_order() {
        for exposed in [Exposed::First, Exposed::Last] {
            for (count, bytes) in [(0, 1), (1, 1), (1, 1 << 21), (7, 1 << 20), (128, 1 << 19), (1000, 4096)] {
                let parts = parts((0..count).collect(), bytes, exposed, count % 2 == 0);
                assert!(parts.iter().all(|part| (1..=MOST_PART_PAGES).contains(&part.len())));
                assert_eq!(parts.concat(), (0..count).collect::<Vec<_>>());
            }
        }
        let lengths = |exposed, bytes, alone| {
            parts(vec![(); 128], bytes, exposed, alone).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(Exposed::First, 2 << 20, true), [1, 2, 4, 8, 16, 32, 32, 32, 1]);
        assert_eq!(lengths(Exposed::First, 64 << 10, true), [16, 32, 32, 32, 16]);
        assert_eq!(lengths(Exposed::First, 512, true), [128]);
        assert_eq!(lengths(Exposed::Last, 2 << 20, true), [32, 32, 32, 28, 4]);
        assert_eq!(lengths(Exposed::Last, 512 << 10, true), [32, 32, 32, 16, 16]);
        assert_eq!(lengths(Exposed::Last, 512, true), [128]);
        for exposed in [Exposed::First, Exposed::Last] {
            assert_eq!(lengths(exposed, 1, true).iter().sum::<usize>(), 128);
            assert_eq!(lengths(exposed, 2 << 20, false), [128]);
        }
    }
}
