//! One entry a slot: 64 bytes, so that a page costs less than 100 with its share of the hash table and the policy.

use hicache_hashing::Digest;

use super::policy::SlotId;
use crate::format::{Place, Put};

/// What a slot is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// Empty.
    #[default]
    Free,
    /// Being written; nobody finds it.
    Writing,
    /// Holds a page that the index finds.
    Live,
    /// Holds a page that nobody finds any more, and that somebody still reads.
    Leaving,
}

/// What a slot holds. Meaningful while it is not free. One cache line, and not the ends of two.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(crate) struct SlotMeta {
    pub(crate) digest: Digest,
    pub(crate) checksum: u64,
    pub(crate) sequence: u64,
    /// When the page was last used, on the store's own clock.
    pub(crate) used: u64,
    pub(crate) bytes: u32,
    pub(crate) pins: u16,
    pub(crate) pool: u8,
    pub(crate) state: SlotState,
}

const _: () = assert!(size_of::<SlotMeta>() == 64);

impl SlotMeta {
    pub(crate) fn put(&self, slot: SlotId) -> Put {
        Put {
            pool: self.pool,
            place: Place::from_id(slot),
            bytes: self.bytes,
            checksum: self.checksum,
            sequence: self.sequence,
            digest: self.digest,
        }
    }
}

/// The slots of all segments, by segment.
#[derive(Debug, Default)]
pub(crate) struct SlotTable {
    segments: Vec<Box<[SlotMeta]>>,
}

impl SlotTable {
    pub(crate) fn add_segment(&mut self, segment: u16, slots: u32) {
        let at = usize::from(segment);
        if self.segments.len() <= at {
            self.segments.resize_with(at + 1, Box::default);
        }
        self.segments[at] = vec![SlotMeta::default(); slots as usize].into_boxed_slice();
    }

    pub(crate) fn remove_segment(&mut self, segment: u16) {
        if let Some(slots) = self.segments.get_mut(usize::from(segment)) {
            *slots = Box::default();
        }
    }

    pub(crate) fn segment(&self, segment: u16) -> &[SlotMeta] {
        self.segments.get(usize::from(segment)).map_or(&[], |slots| slots)
    }

    pub(crate) fn get(&self, slot: SlotId) -> Option<&SlotMeta> {
        self.segments.get((slot >> 16) as usize)?.get((slot & 0xffff) as usize)
    }

    pub(crate) fn get_mut(&mut self, slot: SlotId) -> Option<&mut SlotMeta> {
        self.segments.get_mut((slot >> 16) as usize)?.get_mut((slot & 0xffff) as usize)
    }
}
