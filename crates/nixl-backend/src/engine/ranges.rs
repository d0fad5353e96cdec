//! Ranges of memory, each known to the backend once, whatever regions lie over each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use hicache_core::{Error, ErrorKind, Region, Result};

use crate::agent::BackendHandle;
use crate::memory::{MemoryRegistration, MemoryType};
use crate::request::Descriptor;

/// Makes a range known; what it answers undoes that when dropped.
pub(crate) trait Register {
    type Kept;

    fn register(&self, region: &Arc<Region>, address: usize, bytes: usize) -> Result<Self::Kept>;
}

impl Register for BackendHandle {
    type Kept = MemoryRegistration;

    fn register(&self, region: &Arc<Region>, address: usize, bytes: usize) -> Result<MemoryRegistration> {
        self.register_range(region, address, bytes)
    }
}

/// The library finds a descriptor's memory by the one range that it lies in: with a range inside another, or the same
/// twice, it finds neither. So memory is cut in ranges that never overlap: a region adds those that no other has yet, and
/// counts as a user of the rest. A piece that lies across two ranges becomes two descriptors.
pub(crate) struct Ranges<K> {
    by_device: BTreeMap<(u32, u64), BTreeMap<usize, Range<K>>>,
}

struct Range<K> {
    end: usize,
    users: usize,
    kept: Arc<K>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self { by_device: BTreeMap::new() }
    }
}

fn place(region: &Region) -> ((u32, u64), usize, usize) {
    let (kind, device) = MemoryType::of(region.kind());
    let start = region.base().as_ptr() as usize;
    ((kind.code(), device), start, start + region.bytes())
}

impl<K> Ranges<K> {
    /// Makes all of `region` known that is not. What is registered lives until the last region over it is forgotten.
    ///
    /// # Errors
    /// As the backend's; nothing is known that was not before.
    pub(crate) fn add(&mut self, backend: &impl Register<Kept = K>, region: &Arc<Region>) -> Result<()> {
        let (device, start, end) = place(region);
        let ranges = self.by_device.entry(device).or_default();
        let mut gaps = Vec::new();
        let mut at = start;
        for (&from, range) in overlapping(ranges, start, end) {
            if from > at {
                gaps.push((at, from));
            }
            at = at.max(range.end);
        }
        if at < end {
            gaps.push((at, end));
        }
        let made = gaps.into_iter().map(|(from, end)| {
            let kept = Arc::new(backend.register(region, from, end - from)?);
            Ok((from, Range { end, users: 0, kept }))
        });
        let made: Vec<_> = made.collect::<Result<_>>()?;
        ranges.extend(made);
        overlapping_mut(ranges, start, end).for_each(|(_, range)| range.users += 1);
        Ok(())
    }

    /// The region is not used any more. Answers what may be undone now.
    pub(crate) fn remove(&mut self, region: &Region) -> Vec<Arc<K>> {
        let (device, start, end) = place(region);
        let Some(ranges) = self.by_device.get_mut(&device) else { return Vec::new() };
        let mut unused = Vec::new();
        for (&from, range) in overlapping_mut(ranges, start, end) {
            range.users -= 1;
            if range.users == 0 {
                unused.push(from);
            }
        }
        let removed = unused.into_iter().filter_map(|from| ranges.remove(&from)).map(|range| range.kept);
        let removed = removed.collect();
        if ranges.is_empty() {
            self.by_device.remove(&device);
        }
        removed
    }

    /// Descriptors of `bytes` bytes at `address`, a part of `region`, appended to `descriptors`; what they lie in to
    /// `kept`.
    ///
    /// # Errors
    /// `Unexpected` for memory that was not added.
    pub(crate) fn describe(
        &self,
        region: &Region,
        (address, bytes): (usize, usize),
        descriptors: &mut Vec<Descriptor>,
        kept: &mut Vec<Arc<K>>,
    ) -> Result<()> {
        let (device, _, _) = place(region);
        let end = address + bytes;
        let mut at = address;
        if let Some(ranges) = self.by_device.get(&device) {
            for (&from, range) in overlapping(ranges, address, end) {
                if from > at {
                    break;
                }
                let stop = range.end.min(end);
                descriptors.push(Descriptor { address: at, bytes: stop - at, device: device.1 });
                if !kept.last().is_some_and(|last| Arc::ptr_eq(last, &range.kept)) {
                    kept.push(Arc::clone(&range.kept));
                }
                at = stop;
            }
        }
        if at == end {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unexpected, "memory of an extent is not known to its engine's backend"))
    }

    /// Everything, to be undone.
    pub(crate) fn clear(&mut self) {
        self.by_device.clear();
    }
}

/// Ranges that share a byte with `start..end`, in order.
fn overlapping<K>(
    ranges: &BTreeMap<usize, Range<K>>,
    start: usize,
    end: usize,
) -> impl Iterator<Item = (&usize, &Range<K>)> {
    let first = first_of(ranges, start);
    ranges.range(first..end.max(first)).filter(move |(_, range)| range.end > start)
}

fn overlapping_mut<K>(
    ranges: &mut BTreeMap<usize, Range<K>>,
    start: usize,
    end: usize,
) -> impl Iterator<Item = (&usize, &mut Range<K>)> {
    let first = first_of(ranges, start);
    ranges.range_mut(first..end.max(first)).filter(move |(_, range)| range.end > start)
}

/// Where the range starts that `start` lies in, if it is one that begins before it.
fn first_of<K>(ranges: &BTreeMap<usize, Range<K>>, start: usize) -> usize {
    ranges.range(..=start).next_back().map_or(start, |(&from, _)| from)
}

#[cfg(test)]
#[path = "ranges_tests.rs"]
mod tests;
