//! Taking over the set of a dead process of the same namespace: its segments move into the own set.

use std::fs::{self, File};
use std::sync::Arc;

use hicache_core::{Error, ErrorKind, PoolName, Result};

use super::Volume;
use crate::catalog::Catalog;
use crate::config::Durability;
use crate::format::{Place, Put, Record, name_bytes};
use crate::set::{
    Follower, NamesLog, SegmentName, SetLock, SetPaths, mask_records, open_segment, remove_segment_file,
    remove_set, replay,
};

impl Volume {
    /// Moves everything that can be seen of a set into the own one, and removes it. A crash in between leaves each
    /// segment in one of the two. Answers how many pages came.
    ///
    /// # Errors
    /// `Io`, `NoSpace`; what is not moved yet stays where it is.
    pub(super) fn adopt(&self, dead: SetLock) -> Result<u64> {
        let paths = SetPaths::new(dead.directory().to_owned());
        let io = |error| Error::io("adopt", format!("set {}", paths.directory().display()), error);
        let replayed = replay(&paths, self.fingerprint, self.options.policy)?;
        let mut neighbours = self.neighbours();
        neighbours.look(&self.sequence);
        // Whoever follows the dead set knows what it hides; whoever comes later must find it here.
        neighbours.mask.merge(&replayed.mask);
        neighbours.pending.merge(&replayed.mask);
        let others = neighbours.followers().filter(|other| other.paths().directory() != paths.directory());
        let catalogs = others.map(Follower::catalog);
        let hidden = replayed.mask.still_hides(catalogs);
        let mut uses = Vec::new();
        let mut names = NamesLog::open(paths.clone()).read()?;

        let mut state = self.lock();
        for name in replayed.catalog.pools() {
            self.pool_of_adopted(&mut state, *name)?;
        }
        let records = mask_records(&state.catalog, &hidden);
        self.append(&mut state, records)?;
        state.forgotten += hidden.forgotten_keys() as u64;
        for &(name, bytes) in &replayed.segments {
            replayed.catalog.uses_of_segment(name.segment, &mut uses);
            let pages: Vec<(PoolName, Put)> = replayed
                .catalog
                .pages_of_segment(name.segment)
                .into_iter()
                .filter_map(|put| Some((*replayed.catalog.pools().get(usize::from(put.pool))?, put)))
                .filter(|(pool, put)| neighbours.mask.shows(&(*pool, put.digest), put.sequence))
                .filter(|(pool, put)| state.catalog.peek_named(&(*pool, put.digest)).is_none())
                .collect();
            let slots = (bytes / u64::from(name.slot_bytes.max(1))).min(1 << 16) as u32;
            if pages.is_empty() || slots == 0 {
                remove_segment_file(&paths.segment(name)).map_err(io)?;
                continue;
            }
            let Some(segment) = state.next_segment() else {
                return Err(Error::new(ErrorKind::NoSpace, "all 65,536 segment numbers are in use"));
            };
            let renumbered = |(pool, put): &(PoolName, Put)| {
                let place = Place { segment, ..put.place };
                Some(Put { pool: state.catalog.pool_id(pool)?, place, ..*put })
            };
            let puts: Vec<Put> = pages.iter().filter_map(renumbered).collect();
            self.append(&mut state, puts.iter().copied().map(Record::Put))?;
            if self.options.durability == Durability::Group {
                // A segment that has moved is one that its old records no longer find.
                state.journal.file().map_or(Ok(()), |file| file.sync_data()).map_err(io)?;
            }
            let path = self.paths.segment(SegmentName { segment, ..name });
            let moved = fs::rename(paths.segment(name), &path).map_err(io);
            let opened = moved.and_then(|()| open_segment(path));
            let file = match opened {
                Ok((file, _)) => file,
                Err(error) => {
                    // The records name a segment that is not there, which is nothing; but it may come one day.
                    let retired = self.retire(&mut state, &puts);
                    return retired.and(Err(error));
                }
            };
            // Whoever read the records before looks for the segment now.
            self.sequence.publish();
            state.segments.insert(segment, Arc::new(file));
            state.catalog.add_filled_segment(segment, name.slot_bytes, slots, &puts);
        }
        warm(&mut state.catalog, &replayed.catalog, uses);
        names.retain(|digest, _| state.catalog.peek_named(&(PoolName::TEXT, *digest)).is_some());
        let more: u64 = names.values().map(|text| name_bytes(text)).sum();
        state.extra_room = state.extra_room.max(state.names.bytes() + more);
        if let Err(error) = state.names.append(names.iter().map(|(digest, text)| (digest, &**text))) {
            tracing::warn!(set = %paths.directory().display(), %error, "names of adopted pages are not logged");
        }
        state.changed = true;
        if self.options.durability == Durability::Group {
            let synced = state.journal.file().map_or(Ok(()), |file| file.sync_data());
            let synced = synced.and_then(|()| File::open(self.paths.directory())?.sync_all());
            synced.map_err(io)?;
        }
        let pages = replayed.catalog.pages();
        drop(state);
        remove_set(&paths).map_err(io)?;
        neighbours.drop_set(paths.directory());
        self.sequence.sets_changed();
        drop(neighbours);
        drop(dead);
        self.released.notify_waiters();
        tracing::info!(set = %paths.directory().display(), pages, "a set that nobody writes was adopted");
        Ok(pages)
    }

    fn pool_of_adopted(&self, state: &mut super::State, name: PoolName) -> Result<()> {
        if state.catalog.pool_id(&name).is_some() {
            return Ok(());
        }
        let id = u8::try_from(state.catalog.pools().len());
        let id = id.map_err(|_| Error::new(ErrorKind::NoSpace, "a store has 256 pools"))?;
        self.append(state, [Record::Pool { id, name }])?;
        state.catalog.add_pool(name);
        Ok(())
    }
}

/// Brings adopted pages into the order in which they were used.
fn warm(own: &mut Catalog, adopted: &Catalog, mut uses: Vec<(u64, u32)>) {
    uses.sort_unstable();
    for put in uses.into_iter().filter_map(|(_, slot)| adopted.live(slot)) {
        let pool = adopted.pools().get(usize::from(put.pool)).and_then(|name| own.pool_id(name));
        if let Some(slot) = pool.and_then(|pool| own.find(pool, &put.digest)) {
            own.touch(slot);
        }
    }
}
