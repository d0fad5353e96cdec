//! Who is evicted first.

use std::fmt;

/// A slot: segment number in the upper 16 bits, slot number in the lower.
pub type SlotId = u32;

/// The order in which pages of one size class are evicted. It sees slots, not keys, and is told of everything that
/// happens to them; it decides nothing else. Deterministic: equal calls give equal victims.
pub trait EvictionPolicy: Send + fmt::Debug {
    /// Slots `segment << 16` up to `segment << 16 | (slots - 1)` exist from now on, empty.
    fn add_segment(&mut self, segment: u16, slots: u32);

    /// They don't any more. All of them are empty.
    fn remove_segment(&mut self, segment: u16);

    /// A page was put into the slot. It is the most recent.
    fn insert(&mut self, slot: SlotId);

    /// The page in the slot was used. Callers touch a list from its end to its front, so that the head of a chain of
    /// pages is more recent than its tail.
    fn touch(&mut self, slot: SlotId);

    /// The slot is empty.
    fn remove(&mut self, slot: SlotId);

    /// At most `most` slots to empty, in that order, of those that `allowed` admits (others are being read). Changes
    /// nothing: the ones that are emptied are removed later.
    fn victims(&self, most: usize, allowed: &dyn Fn(SlotId) -> bool) -> Vec<SlotId>;
}

const NONE: SlotId = SlotId::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    colder: SlotId,
    hotter: SlotId,
}

/// Least recently used first: a list through the slots, 8 bytes each.
#[derive(Debug)]
pub struct Lru {
    segments: Vec<Box<[Link]>>,
    coldest: SlotId,
    hottest: SlotId,
}

impl Lru {
    /// An empty order.
    pub fn new() -> Self {
        Self { segments: Vec::new(), coldest: NONE, hottest: NONE }
    }

    /// As the page store's configuration wants it.
    pub fn boxed() -> Box<dyn EvictionPolicy> {
        Box::new(Self::new())
    }

    fn link(&mut self, slot: SlotId) -> Option<&mut Link> {
        self.segments.get_mut((slot >> 16) as usize)?.get_mut((slot & 0xffff) as usize)
    }

    fn linked(&self, slot: SlotId) -> Option<Link> {
        self.segments.get((slot >> 16) as usize)?.get((slot & 0xffff) as usize).copied()
    }
}

impl Default for Lru {
    fn default() -> Self {
        Self::new()
    }
}

impl EvictionPolicy for Lru {
    fn add_segment(&mut self, segment: u16, slots: u32) {
        let at = usize::from(segment);
        if self.segments.len() <= at {
            self.segments.resize_with(at + 1, Box::default);
        }
        self.segments[at] = vec![Link { colder: NONE, hotter: NONE }; slots as usize].into_boxed_slice();
    }

    fn remove_segment(&mut self, segment: u16) {
        if let Some(links) = self.segments.get_mut(usize::from(segment)) {
            *links = Box::default();
        }
    }

    fn insert(&mut self, slot: SlotId) {
        let hottest = self.hottest;
        let Some(link) = self.link(slot) else { return };
        *link = Link { colder: hottest, hotter: NONE };
        match self.link(hottest) {
            Some(before) => before.hotter = slot,
            None => self.coldest = slot,
        }
        self.hottest = slot;
    }

    fn touch(&mut self, slot: SlotId) {
        if self.hottest != slot {
            self.remove(slot);
            self.insert(slot);
        }
    }

    fn remove(&mut self, slot: SlotId) {
        let Some(Link { colder, hotter }) = self.linked(slot) else { return };
        if colder == NONE && self.coldest != slot {
            return; // Not in the list.
        }
        match self.link(colder) {
            Some(link) => link.hotter = hotter,
            None => self.coldest = hotter,
        }
        match self.link(hotter) {
            Some(link) => link.colder = colder,
            None => self.hottest = colder,
        }
        if let Some(link) = self.link(slot) {
            *link = Link { colder: NONE, hotter: NONE };
        }
    }

    fn victims(&self, most: usize, allowed: &dyn Fn(SlotId) -> bool) -> Vec<SlotId> {
        let first = (self.coldest != NONE).then_some(self.coldest);
        let hotter = |&slot: &SlotId| self.linked(slot).map(|link| link.hotter).filter(|&next| next != NONE);
        std::iter::successors(first, hotter).filter(|&slot| allowed(slot)).take(most).collect()
    }
}

/// No order: for the sets of others, whose writers evict.
#[derive(Debug)]
pub(crate) struct Unordered;

impl Unordered {
    pub(crate) fn boxed() -> Box<dyn EvictionPolicy> {
        Box::new(Self)
    }
}

impl EvictionPolicy for Unordered {
    fn add_segment(&mut self, _: u16, _: u32) {}

    fn remove_segment(&mut self, _: u16) {}

    fn insert(&mut self, _: SlotId) {}

    fn touch(&mut self, _: SlotId) {}

    fn remove(&mut self, _: SlotId) {}

    fn victims(&self, _: usize, _: &dyn Fn(SlotId) -> bool) -> Vec<SlotId> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_orders_as_a_plain_list_does(ops in prop::collection::vec((0..4_u8, 0..6_u32), 0..200)) {
            let mut lru = Lru::new();
            lru.add_segment(1, 6);
            let mut list: Vec<SlotId> = Vec::new();
            for (op, slot) in ops {
                let slot = 1 << 16 | slot;
                let there = list.contains(&slot);
                match op {
                    0 if !there => { lru.insert(slot); list.push(slot); }
                    1 if there => { lru.touch(slot); list.retain(|&s| s != slot); list.push(slot); }
                    2 => { lru.remove(slot); list.retain(|&s| s != slot); }
                    _ => prop_assert_eq!(
                        lru.victims(2, &|s| s != slot),
                        list.iter().copied().filter(|&s| s != slot).take(2).collect::<Vec<_>>()
                    ),
                }
            }
            prop_assert_eq!(lru.victims(usize::MAX, &|_| true), list);
        }
    }
}
