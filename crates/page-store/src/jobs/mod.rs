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

/// Fewer bytes than this move in one part.
const WORTH_PARTS_BYTES: usize = 1 << 20;
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

/// Cuts pages into parts, so that the checksums of one are computed while another moves. Each part costs wake-ups, and
/// a checksum is several times as fast as a disk: so there are few parts, and only the exposed one is small.
///
/// Beside other batches, `alone` false, theirs are what moves meanwhile, and nothing is cut.
fn parts<T>(mut pages: Vec<T>, bytes: usize, exposed: Exposed, alone: bool) -> Vec<Vec<T>> {
    let mut parts = Vec::with_capacity(pages.len() / MOST_PART_PAGES + 2);
    let worth = alone && pages.len() * bytes >= WORTH_PARTS_BYTES;
    let small = if worth { pages.len().min(MOST_PART_PAGES) / 8 } else { 0 };
    let last = (exposed == Exposed::Last).then(|| pages.split_off(pages.len() - small));
    if exposed == Exposed::First {
        let rest = pages.split_off(small);
        parts.push(std::mem::replace(&mut pages, rest));
    }
    while pages.len() > MOST_PART_PAGES {
        let rest = pages.split_off(MOST_PART_PAGES);
        parts.push(std::mem::replace(&mut pages, rest));
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
        let lengths =
            |exposed| parts(vec![(); 128], 1 << 19, exposed, true).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(Exposed::First), [16, 112]);
        assert_eq!(lengths(Exposed::Last), [112, 16]);
    }
}
