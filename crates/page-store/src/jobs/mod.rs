//! What runs on the completion worker: loads and stores, from the plan to the answer.

mod breaker;
mod load;
mod moves;
mod parts;
mod runs;
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
