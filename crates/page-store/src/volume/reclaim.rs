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
                shrink(&set.namespace, &set.directory, wanted).map(|freed| freed > 0)
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

/// Takes what a new set takes from the sets of other namespaces that nobody writes, if the root is full. If living
/// writers have everything, there is the room that each of them leaves. The rest comes when pages come.
pub(super) fn make_room_for_set(ledger: &OpenLedger<'_>, namespace: &Path) {
    let dead: Vec<_> = ledger.census.dead().into_iter().cloned().collect();
    if dead.iter().any(|set| set.namespace == namespace) {
        return; // It is continued: none is begun.
    }
    let over = (ledger.census.all_bytes() + NEW_SET_BYTES).saturating_sub(ledger.capacity_bytes());
    let mut wanted = over.min(NEW_SET_BYTES);
    for set in dead.iter().filter(|set| set.takes.segment_bytes > 0) {
        if wanted == 0 {
            break;
        }
        match shrink(&set.namespace, &set.directory, wanted) {
            Ok(freed) => wanted = wanted.saturating_sub(freed),
            Err(error) => {
                tracing::warn!(set = %set.directory.display(), %error, "no space from a set that nobody writes");
            }
        }
    }
}

/// Removes the coldest segments of a set that nobody writes, or all of it. Answers how many bytes went.
fn shrink(namespace: &Path, directory: &Path, wanted: u64) -> Result<u64> {
    let named = namespace.file_name().and_then(|name| name.to_str()?.parse::<Fingerprint>().ok());
    let Some(fingerprint) = named else { return Ok(0) };
    let Some(lock) = SetLock::try_take(directory)? else { return Ok(0) };
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
    Ok(freed)
}
