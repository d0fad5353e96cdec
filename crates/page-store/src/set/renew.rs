//! A new generation of a set whose lock is held and that nobody writes: what is to stay of it, in a snapshot.

use hicache_core::{Error, Result};
use hicache_hashing::Fingerprint;

use super::journal::Journal;
use super::paths::SetPaths;
use super::replay::{JournalEnd, Replayed};
use super::snapshotter::{remove_older, write_snapshot};
use crate::catalog::{Catalog, Mask};
use crate::format::{Put, Record};

/// The pools, as a journal says them.
pub(crate) fn pool_records(catalog: &Catalog) -> Vec<Record> {
    let pools = catalog.pools().iter().enumerate();
    pools.filter_map(|(id, &name)| Some(Record::Pool { id: u8::try_from(id).ok()?, name })).collect()
}

/// What is hidden, as a journal says it.
pub(crate) fn mask_records(catalog: &Catalog, mask: &Mask) -> Vec<Record> {
    let clear = (mask.floor > 0).then_some(Record::Clear { sequence: mask.floor });
    let forgotten = mask.forgotten().filter_map(|((pool, digest), sequence)| {
        // Of a pool that this set has nothing of, it has made nobody forget anything.
        Some(Record::Forget { pool: catalog.pool_id(pool)?, sequence, digest: *digest })
    });
    clear.into_iter().chain(forgotten).collect()
}

/// The generation above everything that is there; `None` where there is nothing.
///
/// # Errors
/// `Io`.
pub(crate) fn highest_generation(paths: &SetPaths) -> Result<Option<u64>> {
    let io = |error| Error::io("list", format!("set {}", paths.directory().display()), error);
    let journals = paths.generations(SetPaths::JOURNAL).map_err(io)?;
    let snapshots = paths.generations(SetPaths::SNAPSHOT).map_err(io)?;
    Ok(journals.into_iter().chain(snapshots).max())
}

/// Leads those who follow unsealed journals on to generation `next`.
pub(crate) fn seal_all(paths: &SetPaths, journals: &[JournalEnd], next: u64) {
    for end in journals.iter().filter(|end| !end.sealed && end.bytes > 0) {
        if let Err(error) = Journal::seal(paths, end.generation, end.bytes, next) {
            // They begin anew when it is removed.
            tracing::debug!(set = %paths.directory().display(), generation = end.generation, %error, "not sealed");
        }
    }
}

/// Begins a generation above everything there, whose snapshot has the pages that `keep` says, and removes the
/// generations before. Until the snapshot was read back, those are what counts.
///
/// # Errors
/// `Io`, `NoSpace`.
pub(crate) fn renew(
    paths: &SetPaths,
    fingerprint: Fingerprint,
    replayed: &Replayed,
    keep: impl Fn(&Put) -> bool,
) -> Result<u64> {
    let next = highest_generation(paths)?.map_or(0, |generation| generation + 1);
    let mut journal = Journal::begin(paths, next, fingerprint)?;
    journal.append(pool_records(&replayed.catalog))?;
    let hidden = mask_records(&replayed.catalog, &replayed.mask);
    let live = replayed.catalog.coldest_first().filter(keep).map(Record::Put);
    let records = pool_records(&replayed.catalog).into_iter().chain(hidden).chain(live);
    write_snapshot(paths, next, fingerprint, records, || Ok(()))?;
    seal_all(paths, &replayed.journals, next);
    remove_older(paths, next);
    Ok(next)
}
