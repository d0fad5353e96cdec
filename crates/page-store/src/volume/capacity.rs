//! Making room: empty slots, one more segment, eviction, or a segment of another size.

use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use super::{State, Volume};
use crate::config::LEAST_PAGES;
use crate::format::{Put, Record};
use crate::set::{SegmentName, create_segment, physical_bytes};

/// Journal and snapshot, and both once more while a generation begins: 64 bytes a slot each.
const METADATA_BYTES_A_SLOT: u64 = 4 * 64;
/// First steps of journals, blocks that are taken whole, extents of fragmented segments.
const METADATA_BYTES: u64 = 128 << 10;
/// Segments are so small that at least so many make up the store: what is given back is given back in segments.
const LEAST_SEGMENTS: u64 = 16;
/// Most slots that a record's 16 bits can name.
const MOST_SLOTS: u64 = 1 << 16;
/// A root that was full is summed again after this long: others may have given something back.
const FULL_FOR: Duration = Duration::from_secs(1);

enum Growth {
    Grown,
    Full,
}

impl Volume {
    /// Makes empty slots for pages of this size: at least one if there is any way, at most `wanted`. Answers how many
    /// there are. 0 means that all slots are in use by operations under way.
    ///
    /// # Errors
    /// `NoSpace` if the size can never have a slot; `Config` if the capacity is below 16 pages; `Io`.
    pub(crate) fn make_room(&self, slot_bytes: u32, wanted: u64) -> Result<u64> {
        let mut refused = None;
        loop {
            if self.free_slots(slot_bytes) >= wanted {
                return Ok(wanted);
            }
            match self.grow(slot_bytes) {
                Ok(Growth::Grown) => {}
                Ok(Growth::Full) => break,
                // A full disk is the limit, a little earlier than thought; a failing one leaves what is there.
                Err(error) if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Io) => {
                    self.lock().full_since = Some(Instant::now());
                    refused = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.reclaim_if_colder(slot_bytes)?;
        if self.free_slots(slot_bytes) < wanted {
            self.evict(slot_bytes, wanted)?;
        }
        let free = self.free_slots(slot_bytes).min(wanted);
        if free == 0 && self.lock().catalog.class(slot_bytes).is_none() {
            let error = Error::new(ErrorKind::NoSpace, format!("no room for a page of {slot_bytes} bytes"));
            return Err(refused.unwrap_or(error));
        }
        Ok(free)
    }

    fn free_slots(&self, slot_bytes: u32) -> u64 {
        self.lock().catalog.class(slot_bytes).map_or(0, |class| class.free())
    }

    /// How many slots of this size the volume could have, all in all.
    pub(crate) fn slots(&self, slot_bytes: u32) -> Result<u64> {
        let ledger = self.ledger.lock()?;
        let state = self.lock();
        let own = state.catalog.class(slot_bytes).map_or(0, |class| class.slots);
        Ok(own + self.room_for(&state, slot_bytes, ledger.left()))
    }

    /// How many more slots fit into `left` bytes, with the metadata that they and the present ones may come to take.
    fn room_for(&self, state: &State, slot_bytes: u32, left: u64) -> u64 {
        let slots: u64 = state.catalog.classes().values().map(|class| class.slots).sum();
        let segments: u64 = state.segments.values().filter_map(|segment| physical_bytes(segment.path()).ok()).sum();
        let own = physical_bytes(self.paths.directory()).unwrap_or(0);
        let metadata_now = own.saturating_sub(segments);
        let metadata_later = METADATA_BYTES + slots * METADATA_BYTES_A_SLOT + 2 * state.names.bytes();
        let reserved = metadata_later.saturating_sub(metadata_now);
        left.saturating_sub(reserved) / (u64::from(slot_bytes) + METADATA_BYTES_A_SLOT)
    }

    /// Refuses a capacity that holds fewer than 16 pages.
    ///
    /// # Errors
    /// `Config` with the least capacity; `Io`.
    pub(crate) fn check_capacity(&self, slot_bytes: u32) -> Result<()> {
        let others = {
            let state = self.lock();
            let classes = state.catalog.classes();
            classes.iter().map(|(size, class)| u64::from(*size) * class.slots).sum::<u64>()
        };
        // What pages of other sizes take can be evicted for this one.
        let ledger = self.ledger.lock()?;
        let state = self.lock();
        let slots = self.room_for(&state, slot_bytes, ledger.left() + others);
        if slots >= LEAST_PAGES {
            return Ok(());
        }
        let taken = ledger.used.saturating_sub(others);
        let least = taken + METADATA_BYTES + LEAST_PAGES * (u64::from(slot_bytes) + METADATA_BYTES_A_SLOT);
        Err(Error::config(format!(
            "capacity_bytes is {} for {}, room for {slots} pages of {slot_bytes} bytes; a store holds at least \
             {LEAST_PAGES}: give it at least {least}",
            self.ledger.capacity_bytes(),
            self.root().display(),
        )))
    }

    /// Adds a segment if the capacity allows one.
    fn grow(&self, slot_bytes: u32) -> Result<Growth> {
        let first_of_its_size = {
            let state = self.lock();
            if state.full_since.is_some_and(|since| since.elapsed() < FULL_FOR) {
                return Ok(Growth::Full);
            }
            state.catalog.class(slot_bytes).is_none()
        };
        if first_of_its_size {
            self.check_capacity(slot_bytes)?;
        }
        let ledger = self.ledger.lock()?;
        let (name, slots) = {
            let mut state = self.lock();
            let room = self.room_for(&state, slot_bytes, ledger.left());
            if room == 0 {
                state.full_since = Some(Instant::now());
                return Ok(Growth::Full);
            }
            let whole = self.ledger.capacity_bytes() / (u64::from(slot_bytes) + METADATA_BYTES_A_SLOT);
            let usual = (self.options.segment_bytes / u64::from(slot_bytes))
                .min(whole.div_ceil(LEAST_SEGMENTS))
                .clamp(1, MOST_SLOTS);
            let Some(segment) = state.next_segment() else {
                return Err(Error::new(ErrorKind::NoSpace, "all 65,536 segment numbers are in use"));
            };
            (SegmentName { slot_bytes, segment }, usual.min(room))
        };
        let path = self.paths.segment(name);
        let (file, allocation) = create_segment(path, slots * u64::from(slot_bytes))?;
        tracing::debug!(segment = %name, slots, ?allocation, "segment added");
        let mut state = self.lock();
        state.segments.insert(name.segment, std::sync::Arc::new(file));
        state.catalog.add_segment(name.segment, slot_bytes, slots as u32);
        Ok(Growth::Grown)
    }

    /// Evicts pages of this size until `wanted` slots are empty, as far as that goes.
    fn evict(&self, slot_bytes: u32, wanted: u64) -> Result<()> {
        let mut state = self.lock();
        let free = state.catalog.class(slot_bytes).map_or(0, |class| class.free());
        let most = usize::try_from(wanted.saturating_sub(free)).unwrap_or(usize::MAX);
        let victims = state.catalog.victims(slot_bytes, most);
        self.retire(&mut state, &victims)?;
        state.counters.evicted_pages += victims.len() as u64;
        state.evicted_since_look += victims.len() as u64;
        Ok(())
    }

    /// Writes down that pages are gone, then forgets them. Only then may their slots be written.
    pub(super) fn retire(&self, state: &mut State, pages: &[Put]) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        let first = self.sequence.take(pages.len() as u64);
        let records = (first..).zip(pages).map(|(sequence, put)| Record::Retire {
            pool: put.pool,
            place: put.place,
            sequence,
            digest: put.digest,
        });
        state.journal.append(records)?;
        for put in pages {
            state.catalog.unpublish(put.pool, &put.digest);
        }
        state.changed = true;
        Ok(())
    }

    /// Takes a whole segment from another size if this one has none, or if every page in it was used longer ago than
    /// the page that this size would evict next.
    fn reclaim_if_colder(&self, slot_bytes: u32) -> Result<()> {
        {
            let mut state = self.lock();
            if state.catalog.classes().keys().all(|&other| other == slot_bytes) {
                return Ok(());
            }
            let coldest_own = state.catalog.coldest_use(slot_bytes);
            let class = state.catalog.class(slot_bytes);
            if let Some(class) = class {
                // Looking goes through every slot of the other sizes, so not at every batch.
                let due = class.slots.div_ceil(LEAST_SEGMENTS).max(LEAST_PAGES);
                if class.free() > 0 || state.evicted_since_look < due {
                    return Ok(());
                }
            }
            state.evicted_since_look = 0;
            let Some((segment, hottest)) = state.catalog.coldest_segment(Some(slot_bytes)) else { return Ok(()) };
            if coldest_own.is_some_and(|own| own <= hottest) {
                return Ok(());
            }
            let pages = state.catalog.pages_of_segment(segment);
            self.retire(&mut state, &pages)?;
            state.counters.evicted_pages += pages.len() as u64;
            self.drop_segment(&mut state, segment);
            state.full_since = None;
        }
        match self.grow(slot_bytes) {
            Err(error) if error.kind() != ErrorKind::NoSpace => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a segment with nothing in it.
    pub(super) fn drop_segment(&self, state: &mut State, segment: u16) {
        if state.catalog.remove_segment(segment)
            && let Some(file) = state.segments.remove(&segment)
            && let Err(error) = std::fs::remove_file(file.path())
        {
            // The next to open the set finds it, empty, and uses it.
            tracing::warn!(path = %file.path().display(), %error, "a segment was not removed");
        }
    }
}

impl State {
    /// A number that no segment has; one that none ever had, as long as there is one.
    fn next_segment(&mut self) -> Option<u16> {
        if let Ok(fresh) = u16::try_from(self.next_segment) {
            self.next_segment += 1;
            return Some(fresh);
        }
        (0..=u16::MAX).find(|segment| !self.segments.contains_key(segment))
    }
}
