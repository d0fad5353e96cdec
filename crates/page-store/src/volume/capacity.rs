//! Making room: empty slots, one more segment, eviction, or a segment of another size.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use super::{State, Volume};
use crate::config::LEAST_PAGES;
use crate::format::{Put, Record};
use crate::set::{
    Life, Neighbour, OpenLedger, SegmentName, SetUse, create_segment, lies_at, remove_segment_file,
};

/// Journal and snapshot, and both once more while a generation begins: 64 bytes a slot each.
const METADATA_BYTES_A_SLOT: u64 = 4 * 64;
/// What a set takes when it is begun, with the directory of its namespace.
pub(super) const NEW_SET_BYTES: u64 = 64 << 10;
/// First steps of journals, blocks that are taken whole, extents of fragmented segments; and every writer leaves room for
/// one that comes, which then asks for its share.
const METADATA_BYTES: u64 = (128 << 10) + NEW_SET_BYTES;
/// Segments are so small that at least so many make up the store: what is given back is given back in segments.
const LEAST_SEGMENTS: u64 = 32;
/// A size that evicts looks at the others about so often while all its pages go.
const LOOKS: u64 = 16;
/// Roughly how many segments make up a large store: well below half of the files that a process may usually open.
const MOST_SEGMENTS: u64 = 256;
/// Most slots that a record's 16 bits can name.
const MOST_SLOTS: u64 = 1 << 16;
/// A root that was full is summed again after this long: others may have given something back.
const FULL_FOR: Duration = Duration::from_secs(1);
/// The same when others have just been asked to give something back; then twice as long, and so on.
const STARVED_FOR: Duration = Duration::from_millis(20);
/// How long the root's lock is waited for.
const LEDGER_WITHIN: Duration = Duration::from_millis(200);

/// What two journals may take however few slots there are: so much of the capacity, within these limits.
const JOURNAL_SHARE: u64 = 2048;
const LEAST_JOURNAL_BYTES: u64 = 16 << 10;
const MOST_LEAST_JOURNAL_BYTES: u64 = 1 << 20;

/// What a slot takes of the capacity.
fn bytes_a_slot(slot_bytes: u32) -> u64 {
    u64::from(slot_bytes) + METADATA_BYTES_A_SLOT
}

/// What so many forgotten keys take, as [`extra_bytes`] counts.
pub(super) fn forgotten_bytes(keys: u64) -> u64 {
    keys * METADATA_BYTES_A_SLOT / 2
}

/// What names and forgotten keys take: as long as the capacity has room for them and for them once more, the names log
/// can be written anew and a snapshot beside a journal.
pub(super) fn extra_bytes(name_bytes: u64, forgotten_keys: u64) -> u64 {
    name_bytes + forgotten_bytes(forgotten_keys)
}

/// What a set takes.
pub(super) struct Own {
    pub(super) segments: u64,
    metadata_now: u64,
    /// What it may come to, and at least what it is now.
    pub(super) metadata: u64,
}

pub(super) enum Growth {
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
        if !self.lock().fits {
            match self.fit(slot_bytes) {
                // Somebody sits on the root's lock: what there is will do until the next batch.
                Err(error) if error.kind() == ErrorKind::Busy => {}
                fitted => fitted?,
            }
        }
        let mut refused = None;
        loop {
            if self.free_slots(slot_bytes) >= wanted {
                return Ok(wanted);
            }
            match self.grow(slot_bytes) {
                Ok(Growth::Grown) => {}
                Ok(Growth::Full) => break,
                // A full disk is the limit, a little earlier than thought; a failing one leaves what is there.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Io | ErrorKind::Busy) =>
                {
                    self.lock().is_full(FULL_FOR);
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
        let nothing_to_come = |state: &State| {
            // While operations hold slots of other sizes, their segments may be had when those are done.
            let classes = state.catalog.classes();
            !classes.contains_key(&slot_bytes) && classes.values().all(|class| class.busy == 0)
        };
        if free == 0 && nothing_to_come(&self.lock()) {
            let mut text = format!("no room for a page of {slot_bytes} bytes");
            let starved = self.is_starved();
            if starved {
                text += "; other writers have the root and were asked to give their share back";
            }
            let error = Error::new(ErrorKind::NoSpace, text).with_retryable(starved);
            return Err(refused.unwrap_or(error));
        }
        Ok(free)
    }

    fn free_slots(&self, slot_bytes: u32) -> u64 {
        self.lock().catalog.class(slot_bytes).map_or(0, |class| class.free())
    }

    /// How many slots of this size the volume could have, all in all.
    pub(crate) fn slots(&self, slot_bytes: u32) -> Result<u64> {
        let ledger = self.open_ledger()?;
        let state = self.lock();
        let own = state.catalog.class(slot_bytes).map_or(0, |class| class.slots);
        Ok(own + self.room(&state, &ledger) / bytes_a_slot(slot_bytes))
    }

    /// How long a journal may become however few slots there are.
    pub(super) fn least_journal_bytes(&self) -> u64 {
        (self.ledger.capacity_bytes() / JOURNAL_SHARE).clamp(LEAST_JOURNAL_BYTES, MOST_LEAST_JOURNAL_BYTES)
    }

    /// Metadata that is there before the first slot.
    fn metadata_bytes(&self) -> u64 {
        METADATA_BYTES + 2 * (self.least_journal_bytes() - LEAST_JOURNAL_BYTES)
    }

    /// Takes the root's lock and sums. Waits for it only shortly: whoever stores must not hang with a process that is
    /// stopped.
    pub(super) fn open_ledger(&self) -> Result<OpenLedger<'_>> {
        let ledger = self.ledger.lock(self.paths.directory(), LEDGER_WITHIN)?;
        let (limit, own) = (ledger.capacity_bytes(), self.ledger.capacity_bytes());
        if self.capacity_now.swap(limit, Ordering::Relaxed) != limit && limit < own {
            tracing::warn!(
                root = %self.root().display(),
                capacity_bytes = own,
                limit,
                "another writer of this root has a smaller capacity; it counts for all"
            );
        }
        Ok(ledger)
    }

    /// What this set takes.
    pub(super) fn own(&self, state: &State) -> Own {
        let slots: u64 = state.catalog.classes().values().map(|class| class.slots).sum();
        let now = SetUse::of(self.paths.directory()).unwrap_or_default();
        let later = self.later(slots, state.extra_room);
        Own {
            segments: now.segment_bytes,
            metadata_now: now.metadata_bytes,
            metadata: later.max(now.metadata_bytes),
        }
    }

    /// What the metadata of a set may come to.
    fn later(&self, slots: u64, extra: u64) -> u64 {
        self.metadata_bytes() + slots * METADATA_BYTES_A_SLOT + 2 * extra
    }

    /// What a set of somebody else takes, and may come to take as it is.
    pub(super) fn taken_by(&self, set: &Neighbour) -> u64 {
        let SetUse { segment_bytes, slots, metadata_bytes, name_bytes, .. } = set.takes;
        match set.life {
            Life::Dead => segment_bytes + metadata_bytes,
            Life::Live { .. } => segment_bytes + metadata_bytes.max(self.later(slots, name_bytes)),
        }
    }

    /// Everything under the root but the own set.
    pub(super) fn taken_by_others(&self, ledger: &OpenLedger<'_>) -> u64 {
        let sets: u64 = ledger.census.sets.iter().map(|set| self.taken_by(set)).sum();
        ledger.census.other_bytes + sets
    }

    /// Bytes that more slots may take, with their metadata. A disk that is nearly full is a limit too: what the journal
    /// needs must stay free.
    pub(super) fn room(&self, state: &State, ledger: &OpenLedger<'_>) -> u64 {
        let own = self.own(state);
        let taken = self.taken_by_others(ledger) + own.segments + own.metadata;
        let left = ledger.capacity_bytes().saturating_sub(taken);
        left.min(ledger.free.saturating_sub(own.metadata - own.metadata_now))
    }

    /// Refuses a capacity that holds fewer than 16 pages.
    ///
    /// # Errors
    /// `Config` with the least capacity; `Io`.
    pub(crate) fn check_capacity(&self, slot_bytes: u32) -> Result<()> {
        let ledger = self.open_ledger()?;
        // What the set's own pages take can be evicted for this one, and what others have too much of comes back.
        let taken = ledger.census.other_bytes + self.metadata_bytes() + 2 * self.lock().extra_room;
        let slots = ledger.capacity_bytes().saturating_sub(taken) / bytes_a_slot(slot_bytes);
        if slots >= LEAST_PAGES {
            return Ok(());
        }
        // A little more, since the share of the journals grows with the capacity.
        let least = taken + LEAST_PAGES * bytes_a_slot(slot_bytes);
        let least = least + 4 * least / JOURNAL_SHARE;
        Err(Error::config(format!(
            "capacity_bytes is {}, which in {} is room for {slots} pages of {slot_bytes} bytes; a store holds at \
             least {LEAST_PAGES}: give it at least {}",
            ledger.capacity_bytes().saturating_mul(self.options.roots),
            self.root().display(),
            least * self.options.roots,
        )))
    }

    /// Gives segments up if the root takes more than it may: it was filled under a larger limit.
    fn fit(&self, slot_bytes: u32) -> Result<()> {
        // Before anything is given up for a store that is then refused.
        self.check_capacity(slot_bytes)?;
        let mut ledger = self.open_ledger()?;
        let over = |ledger: &OpenLedger<'_>, state: &State| {
            let own = self.own(state);
            let taken = self.taken_by_others(ledger) + own.segments + own.metadata;
            taken.saturating_sub(ledger.capacity_bytes())
        };
        {
            let mut state = self.lock();
            let own = self.own(&state);
            let now = self.taken_by_others(&ledger) + own.segments + own.metadata_now;
            if now <= ledger.capacity_bytes() {
                state.fits = true;
                return Ok(());
            }
        }
        loop {
            let over = over(&ledger, &self.lock());
            if over == 0 || !self.reclaim_dead(&mut ledger, over)? {
                break;
            }
        }
        let fair = self.share(&ledger).fair;
        let mut state = self.lock();
        while over(&ledger, &state) > 0 {
            let own = self.own(&state);
            if ledger.census.living().next().is_some() && own.segments + own.metadata <= fair {
                // The others are above their shares.
                break;
            }
            let Some((segment, _)) = state.catalog.coldest_segment(None) else {
                // Those that are left are in use; there is a next time.
                return Ok(());
            };
            self.give_up(&mut state, segment)?;
        }
        state.fits = true;
        Ok(())
    }

    /// Length of a whole segment.
    fn usual_segment_bytes(&self, slot_bytes: u32) -> u64 {
        let capacity = self.capacity_now.load(Ordering::Relaxed);
        let whole = capacity / bytes_a_slot(slot_bytes);
        // A file is open for each segment, and again for direct I/O: large stores get larger ones.
        let segment_bytes = self.options.segment_bytes.max(capacity / MOST_SEGMENTS);
        let slots =
            (segment_bytes / u64::from(slot_bytes)).min(whole.div_ceil(LEAST_SEGMENTS)).clamp(1, MOST_SLOTS);
        slots * u64::from(slot_bytes)
    }

    /// Adds a segment if the capacity allows one.
    fn grow(&self, slot_bytes: u32) -> Result<Growth> {
        let first_of_its_size = {
            let state = self.lock();
            if state.full_since.is_some_and(|since| since.elapsed() < state.full_for) {
                return Ok(Growth::Full);
            }
            state.catalog.class(slot_bytes).is_none()
        };
        // A segment is made by its path.
        self.look_whether_there()?;
        if first_of_its_size {
            self.check_capacity(slot_bytes)?;
        }
        let mut ledger = self.open_ledger()?;
        let most = self.may_grow_by(&ledger)?;
        let slot = bytes_a_slot(slot_bytes);
        let mut room = self.room(&self.lock(), &ledger);
        while most >= slot
            && room < slot
            && self.reclaim_dead(&mut ledger, slot.max(self.usual_segment_bytes(slot_bytes)))?
        {
            room = self.room(&self.lock(), &ledger);
        }
        let slots = room.min(most) / slot;
        let starved_before = self.is_starved();
        if starved_before || slots == 0 {
            self.claim_share(&ledger, slot, slots == 0);
        }
        let name = {
            let mut state = self.lock();
            if slots == 0 {
                // Whoever was asked answers within milliseconds, or not soon.
                let waited = if starved_before { 2 * state.full_for } else { STARVED_FOR };
                let starved = self.is_starved();
                state.is_full(if starved { waited.min(FULL_FOR) } else { FULL_FOR });
                return Ok(Growth::Full);
            }
            let Some(segment) = state.next_segment() else {
                return Err(Error::new(ErrorKind::NoSpace, "all 65,536 segment numbers are in use"));
            };
            SegmentName { slot_bytes, segment }
        };
        let slots = slots.min(self.usual_segment_bytes(slot_bytes) / u64::from(slot_bytes)).min(MOST_SLOTS);
        let path = self.paths.segment(name);
        let (file, allocation) = create_segment(path, slots * u64::from(slot_bytes))?;
        tracing::debug!(segment = %name, slots, ?allocation, "segment added");
        let mut state = self.lock();
        state.segments.insert(name.segment, std::sync::Arc::new(file));
        state.durable.named();
        state.catalog.add_segment(name.segment, slot_bytes, slots as u32);
        state.full_since = None;
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
        self.retire_with(state, pages, std::iter::empty())
    }

    /// As [`Volume::retire`], with other records in the same write.
    pub(super) fn retire_with(
        &self,
        state: &mut State,
        pages: &[Put],
        others: impl Iterator<Item = Record>,
    ) -> Result<()> {
        let first = self.sequence.take(pages.len() as u64);
        let records = (first..).zip(pages).map(|(sequence, put)| Record::Retire {
            pool: put.pool,
            place: put.place,
            sequence,
            digest: put.digest,
        });
        let records: Vec<Record> = records.chain(others).collect();
        if records.is_empty() {
            return Ok(());
        }
        self.append(state, records)?;
        for put in pages {
            state.catalog.unpublish(put.pool, &put.digest);
        }
        state.changed = true;
        Ok(())
    }

    /// Takes whole segments from other sizes if this one has none, or if every page in them was used longer ago than the
    /// page that this size would evict next.
    fn reclaim_if_colder(&self, slot_bytes: u32) -> Result<()> {
        let has_some = {
            let mut state = self.lock();
            if state.catalog.classes().keys().all(|&other| other == slot_bytes) {
                return Ok(());
            }
            let class = state.catalog.class(slot_bytes).map(|class| (class.slots, class.free()));
            if let Some((slots, free)) = class {
                // Looking goes through every slot of the other sizes, so not at every batch.
                let due = slots.div_ceil(LOOKS).max(LEAST_PAGES);
                if free > 0 || state.evicted_since_look < due {
                    return Ok(());
                }
            }
            state.evicted_since_look = 0;
            class.is_some()
        };
        let (mut grown, mut freed) = (0, 0);
        // A large slot may take the place of many segments of small ones. If that did not help, nothing of the kind does.
        let enough = bytes_a_slot(slot_bytes) + 2 * self.usual_segment_bytes(slot_bytes);
        while grown < LEAST_SEGMENTS / LOOKS && freed < enough {
            {
                let mut state = self.lock();
                let coldest_own = state.catalog.coldest_use(slot_bytes);
                let Some((segment, hottest)) = state.catalog.coldest_segment(Some(slot_bytes)) else { break };
                if has_some && coldest_own.is_some_and(|own| own <= hottest) {
                    break;
                }
                let slots = state.catalog.slots_of_segment(segment);
                freed += slots * u64::from(state.catalog.slot_bytes(segment).unwrap_or_default());
                self.give_up(&mut state, segment)?;
            }
            match self.grow(slot_bytes) {
                Ok(Growth::Grown) if !has_some => break,
                Ok(Growth::Grown) => (grown, freed) = (grown + 1, 0),
                Ok(Growth::Full) => {}
                Err(error) if error.kind() == ErrorKind::NoSpace => {}
                // No more is given up for nothing.
                Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::Io) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Evicts every page of a segment, none of which is in use, and removes it.
    pub(super) fn give_up(&self, state: &mut State, segment: u16) -> Result<()> {
        let pages = state.catalog.pages_of_segment(segment);
        self.retire(state, &pages)?;
        state.counters.evicted_pages += pages.len() as u64;
        self.drop_segment(state, segment);
        state.full_since = None;
        Ok(())
    }

    /// Sees to it that names and forgotten keys may take `more` bytes: they are on the medium like everything else. If
    /// nothing is left, the names log is written anew without the names of pages that are gone, and then pages go for it.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: the names of these pages are not kept then; keys of others are not forgotten.
    pub(super) fn make_extra_room(&self, more: u64) -> Result<()> {
        {
            let mut state = self.lock();
            if state.extra_bytes() + more <= state.extra_room {
                return Ok(());
            }
            self.compact_names(&mut state)?;
            // Most of it is gone pages: the room that there is will do. Otherwise this would be done ever so often.
            if state.extra_bytes() + more <= state.extra_room / 4 * 3 {
                return Ok(());
            }
        }
        let mut ledger = self.open_ledger()?;
        let mut state = self.lock();
        let room = (state.extra_bytes() + more) / 2 * 3;
        let wanted = 2 * (room - state.extra_room);
        while self.room(&state, &ledger) < wanted {
            let Some((segment, _)) = state.catalog.coldest_segment(None) else {
                return Err(Error::new(ErrorKind::NoSpace, "no room for the names of pages"));
            };
            let before = self.own(&state).segments;
            self.give_up(&mut state, segment)?;
            ledger.free += before - self.own(&state).segments;
        }
        state.extra_room = room;
        Ok(())
    }

    /// Removes a segment with nothing in it.
    pub(super) fn drop_segment(&self, state: &mut State, segment: u16) {
        if state.catalog.remove_segment(segment)
            && let Some(file) = state.segments.remove(&segment)
            // Another store may have made itself at home where this one was.
            && lies_at(file.file(), file.path())
            && let Err(error) = remove_segment_file(file.path())
        {
            // The next to open the set finds it, empty, and uses it.
            tracing::warn!(path = %file.path().display(), %error, "a segment was not removed");
        }
    }
}

impl State {
    /// Nothing is tried for so long.
    fn is_full(&mut self, full_for: Duration) {
        self.full_since = Some(Instant::now());
        self.full_for = full_for;
    }

    /// What names and forgotten keys take now.
    fn extra_bytes(&self) -> u64 {
        extra_bytes(self.names.bytes(), self.forgotten)
    }

    /// A number that no segment has; one that none ever had, as long as there is one.
    pub(super) fn next_segment(&mut self) -> Option<u16> {
        if let Ok(fresh) = u16::try_from(self.next_segment) {
            self.next_segment += 1;
            return Some(fresh);
        }
        (0..=u16::MAX).find(|segment| !self.segments.contains_key(segment))
    }
}
