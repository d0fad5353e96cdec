//! The index and the life of slots: free → writing → live → (leaving →) free.

use std::collections::BTreeMap;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use hicache_core::PoolName;
use hicache_hashing::Digest;

use super::mask::NamedKey;
use super::policy::{EvictionPolicy, SlotId};
use super::slots::{SlotMeta, SlotState, SlotTable};
use crate::format::{Place, Put};

/// The slots of one size.
#[derive(Debug)]
pub(crate) struct Class {
    /// Emptied slots; those of a segment that were never used follow in `fresh`.
    freed: Vec<SlotId>,
    /// Segments with slots never used, and the next such slot of each.
    fresh: Vec<(u16, u32, u32)>,
    pub(crate) policy: Box<dyn EvictionPolicy>,
    pub(crate) segments: Vec<u16>,
    pub(crate) slots: u64,
    pub(crate) live: u64,
    /// Slots that are being written, or left and still read.
    pub(crate) busy: u64,
}

impl Class {
    /// How many slots are empty.
    pub(crate) fn free(&self) -> u64 {
        self.slots - self.live - self.busy
    }

    /// Lists the empty slots of a segment.
    fn list_free(&mut self, segment: u16, metas: &[SlotMeta]) {
        let used = metas.iter().rposition(|meta| meta.state != SlotState::Free).map_or(0, |last| last + 1);
        let holes = (0..used).rev().filter(|&slot| metas[slot].state == SlotState::Free);
        self.freed.extend(holes.map(|slot| Place { segment, slot: slot as u16 }.id()));
        if used < metas.len() {
            self.fresh.push((segment, used as u32, metas.len() as u32));
        }
    }
}

/// A page that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) slot: SlotId,
    pub(crate) bytes: u32,
    pub(crate) checksum: u64,
    pub(crate) sequence: u64,
}

/// What a put did to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PutEffect {
    /// The key had a page before, which is gone.
    pub(crate) replaced: bool,
}

/// Index, slots and classes of one set. Knows no files.
#[derive(Debug)]
pub(crate) struct Catalog {
    table: HashTable<SlotId>,
    slots: SlotTable,
    classes: BTreeMap<u32, Class>,
    class_of_segment: BTreeMap<u16, u32>,
    new_policy: fn() -> Box<dyn EvictionPolicy>,
    pools: Vec<PoolName>,
    clock: u64,
    pages: u64,
    page_bytes: u64,
    /// While a journal is replayed the lists of free slots are not kept; [`Catalog::finish_replay`] makes them.
    replaying: bool,
}

fn hash(pool: u8, digest: &Digest) -> u64 {
    // A digest is as good as random; the pool id keeps side pools of equal hashes out of one chain.
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(head) ^ u64::from(pool).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Catalog {
    pub(crate) fn new(new_policy: fn() -> Box<dyn EvictionPolicy>) -> Self {
        Self {
            table: HashTable::new(),
            slots: SlotTable::default(),
            classes: BTreeMap::new(),
            class_of_segment: BTreeMap::new(),
            new_policy,
            pools: Vec::new(),
            clock: 0,
            pages: 0,
            page_bytes: 0,
            replaying: true,
        }
    }

    /// Ends the replay: from here on slots are taken and given back.
    pub(crate) fn finish_replay(&mut self) {
        self.replaying = false;
        for class in self.classes.values_mut() {
            (class.freed, class.fresh) = (Vec::new(), Vec::new());
            for segment in class.segments.clone() {
                class.list_free(segment, self.slots.segment(segment));
            }
        }
    }

    /// Adds a segment that has pages. Their keys are in no other slot.
    pub(crate) fn add_filled_segment(&mut self, segment: u16, slot_bytes: u32, slots: u32, pages: &[Put]) {
        let replaying = std::mem::replace(&mut self.replaying, true);
        self.add_segment(segment, slot_bytes, slots);
        for put in pages {
            self.publish(put);
        }
        self.replaying = replaying;
        if !replaying && let Some(class) = self.classes.get_mut(&slot_bytes) {
            class.list_free(segment, self.slots.segment(segment));
        }
    }

    pub(crate) fn reserve(&mut self, pages: usize) {
        let slots = &self.slots;
        self.table.reserve(pages, |&slot| slots.get(slot).map_or(0, |meta| hash(meta.pool, &meta.digest)));
    }

    // Pools.

    pub(crate) fn pools(&self) -> &[PoolName] {
        &self.pools
    }

    pub(crate) fn pool_id(&self, name: &PoolName) -> Option<u8> {
        self.pools.iter().position(|pool| pool == name).and_then(|at| u8::try_from(at).ok())
    }

    /// Gives `name` an id; `None` when 256 pools have one.
    pub(crate) fn add_pool(&mut self, name: PoolName) -> Option<u8> {
        let id = u8::try_from(self.pools.len()).ok()?;
        self.pools.push(name);
        Some(id)
    }

    /// As a journal says it: ids come in order, and are said again in later generations.
    pub(crate) fn replay_pool(&mut self, id: u8, name: PoolName) -> bool {
        match self.pools.get(usize::from(id)) {
            Some(known) => *known == name,
            None => self.pools.len() == usize::from(id) && self.add_pool(name).is_some(),
        }
    }

    // Segments.

    pub(crate) fn classes(&self) -> &BTreeMap<u32, Class> {
        &self.classes
    }

    pub(crate) fn class(&self, slot_bytes: u32) -> Option<&Class> {
        self.classes.get(&slot_bytes)
    }

    pub(crate) fn slots_of_segment(&self, segment: u16) -> u64 {
        self.slots.segment(segment).len() as u64
    }

    pub(crate) fn slot_bytes(&self, segment: u16) -> Option<u32> {
        self.class_of_segment.get(&segment).copied()
    }

    pub(crate) fn add_segment(&mut self, segment: u16, slot_bytes: u32, slots: u32) {
        self.slots.add_segment(segment, slots);
        self.class_of_segment.insert(segment, slot_bytes);
        let new_policy = self.new_policy;
        let class = self.classes.entry(slot_bytes).or_insert_with(|| Class {
            freed: Vec::new(),
            fresh: Vec::new(),
            policy: new_policy(),
            segments: Vec::new(),
            slots: 0,
            live: 0,
            busy: 0,
        });
        class.policy.add_segment(segment, slots);
        class.segments.push(segment);
        if !self.replaying {
            class.fresh.push((segment, 0, slots));
        }
        class.slots += u64::from(slots);
    }

    /// Forgets a segment none of whose slots is in use. Answers false, and does nothing, if one is.
    pub(crate) fn remove_segment(&mut self, segment: u16) -> bool {
        let metas = self.slots.segment(segment);
        if metas.iter().any(|meta| meta.state != SlotState::Free) {
            return false;
        }
        let slots = metas.len() as u64;
        let Some(slot_bytes) = self.class_of_segment.remove(&segment) else { return false };
        if let Some(class) = self.classes.get_mut(&slot_bytes) {
            class.policy.remove_segment(segment);
            class.freed.retain(|slot| slot >> 16 != u32::from(segment));
            class.fresh.retain(|fresh| fresh.0 != segment);
            class.segments.retain(|&other| other != segment);
            class.slots -= slots;
            if class.segments.is_empty() {
                self.classes.remove(&slot_bytes);
            }
        }
        self.slots.remove_segment(segment);
        true
    }

    // Finding.

    /// In which slot the page is, not counted as a use.
    pub(crate) fn find(&self, pool: u8, digest: &Digest) -> Option<SlotId> {
        let slots = &self.slots;
        self.table
            .find(hash(pool, digest), |&slot| {
                slots.get(slot).is_some_and(|meta| meta.pool == pool && meta.digest == *digest)
            })
            .copied()
    }

    /// Counts a use of the page in a slot; what it is.
    pub(crate) fn touch(&mut self, slot: SlotId) -> Option<Found> {
        self.clock += 1;
        let meta = self.slots.get_mut(slot)?;
        meta.used = self.clock;
        let found = Found { slot, bytes: meta.bytes, checksum: meta.checksum, sequence: meta.sequence };
        if let Some(class) = self.class_of_slot(slot) {
            class.policy.touch(slot);
        }
        Some(found)
    }

    /// Where the page is, not counted as a use.
    pub(crate) fn peek(&self, pool: u8, digest: &Digest) -> Option<Put> {
        let slot = self.find(pool, digest)?;
        Some(self.slots.get(slot)?.put(slot))
    }

    /// As [`Catalog::peek`], by the pool's name.
    pub(crate) fn peek_named(&self, (pool, digest): &NamedKey) -> Option<Put> {
        self.peek(self.pool_id(pool)?, digest)
    }

    fn class_of_slot(&mut self, slot: SlotId) -> Option<&mut Class> {
        let slot_bytes = self.class_of_segment.get(&Place::from_id(slot).segment)?;
        self.classes.get_mut(slot_bytes)
    }

    // The life of a slot.

    /// Takes an empty slot for writing.
    pub(crate) fn take(&mut self, slot_bytes: u32) -> Option<SlotId> {
        let class = self.classes.get_mut(&slot_bytes)?;
        let slot = match class.freed.pop() {
            Some(slot) => slot,
            None => {
                let (segment, next, slots) = class.fresh.first_mut()?;
                let slot = Place { segment: *segment, slot: *next as u16 }.id();
                *next += 1;
                if *next == *slots {
                    class.fresh.remove(0);
                }
                slot
            }
        };
        class.busy += 1;
        self.slots.get_mut(slot)?.state = SlotState::Writing;
        Some(slot)
    }

    /// Gives a slot that was taken back, unwritten or with bytes that nobody shall find.
    pub(crate) fn give_back(&mut self, slot: SlotId) {
        if let Some(meta) = self.slots.get_mut(slot).filter(|meta| meta.state == SlotState::Writing) {
            *meta = SlotMeta::default();
            if let Some(class) = self.class_of_slot(slot) {
                class.busy -= 1;
                class.freed.push(slot);
            }
        }
    }

    /// The page in `put` is found from now on. Its slot was taken before, or (in replay) is free or holds a page that
    /// the journal has no retirement of: the later record wins.
    pub(crate) fn publish(&mut self, put: &Put) -> PutEffect {
        let slot = put.place.id();
        let taken = match self.slots.get(slot).map(|meta| meta.state) {
            None => return PutEffect::default(),
            Some(SlotState::Live) => {
                self.unpublish_slot(slot);
                false
            }
            Some(SlotState::Free) => false,
            Some(SlotState::Writing | SlotState::Leaving) => true,
        };
        let old = self.find(put.pool, &put.digest);
        if let Some(old) = old {
            self.unpublish_slot(old);
        }
        self.clock += 1;
        if let Some(meta) = self.slots.get_mut(slot) {
            *meta = SlotMeta {
                digest: put.digest,
                checksum: put.checksum,
                sequence: put.sequence,
                used: self.clock,
                bytes: put.bytes,
                pins: 0,
                pool: put.pool,
                state: SlotState::Live,
            };
        }
        let slots = &self.slots;
        let entry = self.table.entry(
            hash(put.pool, &put.digest),
            |&other| other == slot,
            |&other| slots.get(other).map_or(0, |meta| hash(meta.pool, &meta.digest)),
        );
        if let Entry::Vacant(vacant) = entry {
            vacant.insert(slot);
        }
        if let Some(class) = self.class_of_slot(slot) {
            class.busy -= u64::from(taken);
            class.live += 1;
            class.policy.insert(slot);
        }
        self.pages += 1;
        self.page_bytes += u64::from(put.bytes);
        PutEffect { replaced: old.is_some() }
    }

    /// Nobody finds the page any more; its slot is empty at once, or when its last reader is done.
    pub(crate) fn unpublish(&mut self, pool: u8, digest: &Digest) -> Option<Put> {
        let slot = self.find(pool, digest)?;
        let put = self.slots.get(slot)?.put(slot);
        self.unpublish_slot(slot);
        Some(put)
    }

    fn unpublish_slot(&mut self, slot: SlotId) {
        let Some(meta) = self.slots.get(slot).copied().filter(|meta| meta.state == SlotState::Live) else {
            return;
        };
        if let Ok(entry) = self.table.find_entry(hash(meta.pool, &meta.digest), |&other| other == slot) {
            entry.remove();
        }
        self.pages -= 1;
        self.page_bytes -= u64::from(meta.bytes);
        let (pinned, replaying) = (meta.pins > 0, self.replaying);
        if let Some(meta) = self.slots.get_mut(slot) {
            if pinned {
                meta.state = SlotState::Leaving;
            } else {
                *meta = SlotMeta::default();
            }
        }
        if let Some(class) = self.class_of_slot(slot) {
            class.policy.remove(slot);
            class.live -= 1;
            if pinned {
                class.busy += 1;
            } else if !replaying {
                class.freed.push(slot);
            }
        }
    }

    /// The slot is being read: it is not evicted, and not written when its page is deleted.
    pub(crate) fn pin(&mut self, slot: SlotId) -> bool {
        match self.slots.get_mut(slot).and_then(|meta| Some((meta.pins.checked_add(1)?, meta))) {
            Some((pins, meta)) => {
                meta.pins = pins;
                true
            }
            None => false,
        }
    }

    pub(crate) fn unpin(&mut self, slot: SlotId) {
        let Some(meta) = self.slots.get_mut(slot) else { return };
        meta.pins = meta.pins.saturating_sub(1);
        if meta.pins == 0 && meta.state == SlotState::Leaving {
            *meta = SlotMeta::default();
            if let Some(class) = self.class_of_slot(slot) {
                class.busy -= 1;
                class.freed.push(slot);
            }
        }
    }

    /// Every page put under a lower number is gone. Slots that are being read follow when their readers are done.
    /// Answers how many there were.
    pub(crate) fn clear(&mut self, sequence: u64) -> u64 {
        let before = self.pages;
        for segment in self.segment_ids().collect::<Vec<_>>() {
            let base = Place { segment, slot: 0 }.id();
            let slots = self.slots.segment(segment).len() as u32;
            for slot in (0..slots).map(|slot| base | slot) {
                if self.slots.get(slot).is_some_and(|meta| meta.sequence < sequence) {
                    self.unpublish_slot(slot);
                }
            }
        }
        before - self.pages
    }

    /// The lowest number that a page here was put under.
    pub(crate) fn oldest_sequence(&self) -> Option<u64> {
        let metas = self.segment_ids().flat_map(|segment| self.slots.segment(segment));
        metas.filter(|meta| meta.state == SlotState::Live).map(|meta| meta.sequence).min()
    }

    pub(crate) fn has_slot(&self, slot: SlotId) -> bool {
        self.slots.get(slot).is_some()
    }

    // Evicting.

    /// At most `most` pages of this class to evict, in that order; pages that are being read stay.
    pub(crate) fn victims(&self, slot_bytes: u32, most: usize) -> Vec<Put> {
        let slots = &self.slots;
        let evictable =
            |slot| slots.get(slot).is_some_and(|meta| meta.state == SlotState::Live && meta.pins == 0);
        let victims = self.classes.get(&slot_bytes).map(|class| class.policy.victims(most, &evictable));
        victims.into_iter().flatten().filter_map(|slot| self.live(slot)).collect()
    }

    /// When the page that this class would evict first was last used.
    pub(crate) fn coldest_use(&self, slot_bytes: u32) -> Option<u64> {
        let coldest = self.victims(slot_bytes, 1).first().map(|put| put.place.id())?;
        self.slots.get(coldest).map(|meta| meta.used)
    }

    /// The segment of another class whose hottest page is the coldest, with that page's last use. Segments with a
    /// slot in use by an operation don't count.
    pub(crate) fn coldest_segment(&self, except_class: Option<u32>) -> Option<(u16, u64)> {
        self.classes
            .iter()
            .filter(|(slot_bytes, _)| Some(**slot_bytes) != except_class)
            .flat_map(|(_, class)| &class.segments)
            .filter_map(|&segment| {
                let metas = self.slots.segment(segment);
                let idle = metas.iter().all(|meta| match meta.state {
                    SlotState::Free => true,
                    SlotState::Live => meta.pins == 0,
                    SlotState::Writing | SlotState::Leaving => false,
                });
                idle.then(|| (segment, metas.iter().map(|meta| meta.used).max().unwrap_or_default()))
            })
            .min_by_key(|&(segment, used)| (used, segment))
    }

    /// The pages in a segment.
    pub(crate) fn pages_of_segment(&self, segment: u16) -> Vec<Put> {
        let base = Place { segment, slot: 0 }.id();
        let metas = self.slots.segment(segment).iter().enumerate();
        metas
            .filter(|(_, meta)| meta.state == SlotState::Live)
            .map(|(i, meta)| meta.put(base | i as u32))
            .collect()
    }

    // Sizes and snapshots.

    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    pub(crate) fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    pub(crate) fn segment_ids(&self) -> impl Iterator<Item = u16> {
        self.class_of_segment.keys().copied()
    }

    /// Last use and slot of every live page of a segment: what a snapshot sorts by.
    pub(crate) fn uses_of_segment(&self, segment: u16, out: &mut Vec<(u64, SlotId)>) {
        let base = Place { segment, slot: 0 }.id();
        let live =
            self.slots.segment(segment).iter().enumerate().filter(|(_, meta)| meta.state == SlotState::Live);
        out.extend(live.map(|(i, meta)| (meta.used, base | i as u32)));
    }

    /// Every live page, the least recently used first: what a snapshot holds.
    pub(crate) fn coldest_first(&self) -> impl Iterator<Item = Put> {
        let mut uses = Vec::new();
        for segment in self.segment_ids() {
            self.uses_of_segment(segment, &mut uses);
        }
        uses.sort_unstable();
        uses.into_iter().filter_map(|(_, slot)| self.live(slot))
    }

    /// The page in a slot, if one is found there now.
    pub(crate) fn live(&self, slot: SlotId) -> Option<Put> {
        self.slots.get(slot).filter(|meta| meta.state == SlotState::Live).map(|meta| meta.put(slot))
    }

    /// The first live page at or after a slot, for listings.
    pub(crate) fn next_live(&self, from: SlotId) -> Option<Put> {
        let first = Place::from_id(from);
        self.class_of_segment.range(first.segment..).find_map(|(&segment, _)| {
            let start = if segment == first.segment { first.slot } else { 0 };
            let metas = self.slots.segment(segment).get(usize::from(start)..)?;
            let at = metas.iter().position(|meta| meta.state == SlotState::Live)?;
            self.live(Place { segment, slot: start + at as u16 }.id())
        })
    }
}
