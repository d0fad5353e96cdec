//! Taking space from the sets of dead processes.

use std::path::Path;

use hicache_core::{Error, Result};
use hicache_hashing::Fingerprint;

use super::Volume;
use super::capacity::NEW_SET_BYTES;
use crate::catalog::Lru;
use crate::set::{
    OpenLedger, SegmentName, Sequence, SetLock, SetPaths, existing_sets, remove_segment_file, remove_set,
    renew, replay,
};

/// A set of a dead process is read to find out what is coldest in it: so at least such a part of it goes at once.
const LEAST_PART: u64 = 8;

impl Volume {
    /// Takes about `wanted` bytes from sets that nobody writes: adopts those of this namespace, whose pages are then
    /// evicted like others, and shrinks those of other namespaces, oldest first. Answers whether there was any; the
    /// ledger is summed again then.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn reclaim_dead(&self, ledger: &mut OpenLedger<'_>, wanted: u64) -> Result<bool> {
        let namespace = self.paths.directory().parent();
        let dead: Vec<_> = ledger.census.dead().into_iter().cloned().collect();
        let mut any = false;
        for set in &dead {
            // A set without segments has nothing to give.
            let (ours, empty) = (Some(&*set.namespace) == namespace, set.takes.segment_bytes == 0);
            if !ours && (any || empty) {
                continue;
            }
            let taken = if ours {
                SetLock::try_take(&set.directory)
                    .and_then(|lock| lock.map(|lock| self.adopt(lock)).transpose())
                    .map(|adopted| adopted.is_some())
            } else {
                shrink(&set.namespace, &set.directory, wanted)
            };
            match taken {
                Ok(taken) => any |= taken,
                Err(error) => {
                    tracing::warn!(set = %set.directory.display(), %error, "no space from a set that nobody writes");
                }
            }
        }
        if any {
            ledger.sum_again(self.paths.directory())?;
        }
        Ok(any)
    }
}

/// Takes from the sets of other namespaces that nobody writes what a set that is about to be begun takes. If living
/// writers have everything, there is the room that each of them leaves.
///
/// # Errors
/// `Io`.
pub(super) fn make_room_for_set(ledger: &mut OpenLedger<'_>, namespace: &Path) -> Result<()> {
    let over = |ledger: &OpenLedger<'_>| {
        (ledger.census.all_bytes() + NEW_SET_BYTES).saturating_sub(ledger.capacity_bytes())
    };
    let dead: Vec<_> = ledger.census.dead().into_iter().cloned().collect();
    for set in dead.iter().filter(|set| set.namespace != namespace && set.takes.segment_bytes > 0) {
        let wanted = over(ledger);
        if wanted == 0 {
            break;
        }
        if let Err(error) = shrink(&set.namespace, &set.directory, wanted) {
            tracing::warn!(set = %set.directory.display(), %error, "no space from a set that nobody writes");
        }
        ledger.sum_again(namespace)?;
    }
    Ok(())
}

/// Removes the coldest segments of a set that nobody writes, or all of it. Answers whether anything went.
fn shrink(namespace: &Path, directory: &Path, wanted: u64) -> Result<bool> {
    let named = namespace.file_name().and_then(|name| name.to_str()?.parse::<Fingerprint>().ok());
    let Some(fingerprint) = named else { return Ok(false) };
    let Some(lock) = SetLock::try_take(directory)? else { return Ok(false) };
    let paths = SetPaths::new(directory.to_owned());
    let io = |error| Error::io("shrink", format!("set {}", directory.display()), error);
    let mut replayed = replay(&paths, fingerprint, Lru::boxed)?;
    let total: u64 = replayed.segments.iter().map(|(_, bytes)| bytes).sum();
    let target = wanted.max(total / LEAST_PART);
    let mut gone: Vec<SegmentName> = Vec::new();
    let mut freed = 0;
    while freed < target {
        let Some((segment, _)) = replayed.catalog.coldest_segment(None) else { break };
        for put in replayed.catalog.pages_of_segment(segment) {
            replayed.catalog.unpublish(put.pool, &put.digest);
        }
        replayed.catalog.remove_segment(segment);
        if let Some(&(name, bytes)) = replayed.segments.iter().find(|(name, _)| name.segment == segment) {
            gone.push(name);
            freed += bytes;
        }
    }
    // Its records may hide pages in other sets of its namespace: then they stay, without segments.
    let alone = existing_sets(namespace)?.len() == 1;
    tracing::info!(set = %directory.display(), freed, total, "space is taken from a set that nobody writes");
    if alone && replayed.catalog.classes().is_empty() {
        remove_set(&paths).map_err(io)?;
    } else {
        if let Err(error) = renew(&paths, fingerprint, &replayed, |_| true) {
            // On a disk without a block left. What its records then name is not there, which is a miss.
            tracing::debug!(set = %directory.display(), %error, "its records still name what is removed");
        }
        for name in &gone {
            remove_segment_file(&paths.segment(*name)).map_err(io)?;
        }
    }
    Sequence::open(namespace, 0)?.sets_changed();
    drop(lock);
    Ok(freed > 0)
}
